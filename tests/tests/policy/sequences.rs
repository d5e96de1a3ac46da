//! Random calls, with random failures, checked after each.

use std::mem::MaybeUninit;

use proptest::prelude::*;
use xen_iommu::{DomId, GroupPolicy, Mode, Owner, Sbdf};

use crate::world::{DEVICES, Frames, HARDWARE_DOMAIN, World, space};

#[derive(Clone, Debug)]
enum Call {
    Assign(Vec<Sbdf>, u16, Mode),
    Deassign(Vec<Sbdf>, u16),
    Create(u16),
    Destroy(u16),
    Add(usize),
    Remove(usize),
}

/// What fails during a call: allocations from the n-th on, or the hardware's n-th call.
#[derive(Clone, Copy, Debug)]
enum Failure {
    None,
    Frames(u64),
    Hardware(u64),
}

fn devices() -> impl Strategy<Value = Vec<Sbdf>> {
    let all: Vec<Sbdf> = DEVICES.iter().map(|(device, _)| *device).collect();
    prop_oneof![
        prop::sample::subsequence(all.clone(), 1..=3),
        // Whole groups, so that many calls go through.
        prop::sample::select(vec![
            vec![all[0]],
            vec![all[1], all[2], all[3]],
            vec![all[4], all[5]],
            vec![all[6]],
            vec![all[7]],
        ]),
    ]
}

fn call(relaxed: bool) -> impl Strategy<Value = Call> {
    let mode = if relaxed {
        prop_oneof![Just(Mode::Strict), Just(Mode::Relaxed)].boxed()
    } else {
        Just(Mode::Strict).boxed()
    };
    prop_oneof![
        5 => (devices(), 0_u16..3, mode).prop_map(|(devices, domain, mode)| Call::Assign(devices, domain, mode)),
        3 => (devices(), 0_u16..3).prop_map(|(devices, domain)| Call::Deassign(devices, domain)),
        1 => (0_u16..3).prop_map(Call::Create),
        1 => (0_u16..3).prop_map(Call::Destroy),
        1 => (0..DEVICES.len()).prop_map(Call::Add),
        1 => (0..DEVICES.len()).prop_map(Call::Remove),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        3 => Just(Failure::None),
        1 => (0_u64..12).prop_map(Failure::Frames),
        1 => (0_u64..8).prop_map(Failure::Hardware),
    ]
}

/// Makes a call; whether it was refused.
fn make(world: &World<'_>, call: &Call) -> bool {
    let policy = &world.policy;
    let mut ignore = |_| {};
    match call {
        Call::Assign(devices, domain, mode) => {
            policy.assign(devices, DomId(*domain), *mode, &mut ignore).is_err()
        }
        Call::Deassign(devices, domain) => policy.deassign(devices, DomId(*domain), &mut ignore).is_err(),
        Call::Create(domain) => match space(world.frames) {
            Some(space) => policy.create_domain(DomId(*domain), space).is_err(),
            None => true,
        },
        Call::Destroy(domain) => {
            // Some devices may be in quarantine already when a later one fails, so a refusal may have changed something.
            drop(policy.destroy_domain(DomId(*domain), &mut ignore));
            false
        }
        Call::Add(index) => {
            let (device, source) = DEVICES[*index];
            policy.add_device(device, source, || space(world.frames), &mut ignore).is_err()
        }
        Call::Remove(index) => policy.remove_device(DEVICES[*index].0, &mut ignore).is_err(),
    }
}

fn run(groups: GroupPolicy, strict: bool, calls: &[(Call, Failure)]) {
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let world = World::new(&frames, &mut memory, groups);
    let free = frames.free_count();
    for id in [1, 2] {
        world.policy.create_domain(DomId(id), space(&frames).unwrap()).unwrap();
    }
    for (call, failure) in calls {
        let (before, free_before) = (world.snapshot(), frames.free_count());
        match failure {
            Failure::None => {}
            Failure::Frames(left) => world.frames.left.set(Some(*left)),
            Failure::Hardware(left) => world.told.borrow_mut().left = Some(*left),
        }
        let refused = make(&world, call);
        world.frames.left.set(None);
        world.told.borrow_mut().left = None;
        world.check(strict);
        if refused {
            assert_eq!(world.snapshot(), before, "{call:?} was refused under {failure:?}");
            // Frames that an earlier flush, which failed, kept back may have come free.
            assert!(
                frames.free_count() >= free_before,
                "{call:?} was refused under {failure:?} and lost frames"
            );
        }
    }
    // All back to where it began: no frame is lost.
    for id in [1, 2] {
        drop(world.policy.destroy_domain(DomId(id), &mut |_| {}));
    }
    for (device, _) in DEVICES {
        let _ = world.policy.remove_device(device, &mut |_| {});
    }
    for (device, source) in DEVICES {
        world.policy.add_device(device, source, || space(&frames), &mut |_| {}).unwrap();
    }
    world.check(true);
    let end = world.snapshot();
    assert!(end.owners.iter().all(|(_, _, owner)| *owner == Owner::Domain(HARDWARE_DOMAIN)));
    assert_eq!(frames.free_count(), free, "frames were lost");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn strict_calls(calls in prop::collection::vec((call(false), failure()), 1..40)) {
        run(GroupPolicy::Refuse, true, &calls);
    }

    #[test]
    fn strict_calls_that_move_whole_groups(calls in prop::collection::vec((call(false), failure()), 1..40)) {
        run(GroupPolicy::MoveWhole, true, &calls);
    }

    #[test]
    fn relaxed_calls(calls in prop::collection::vec((call(true), failure()), 1..40)) {
        run(GroupPolicy::Refuse, false, &calls);
    }
}
