//! Calls of the policy, each with something failing or nothing, and what must hold after each.

use std::mem::MaybeUninit;

use xen_iommu::{DomId, GroupPolicy, Mode, Owner, Sbdf};

use crate::world::{DEVICES, Frames, HARDWARE_DOMAIN, World, space};

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Assign(Vec<Sbdf>, u16, Mode),
    Deassign(Vec<Sbdf>, u16),
    Create(u16),
    Destroy(u16),
    Add(usize),
    Remove(usize),
}

/// What fails during a call: allocations from the n-th on, or the hardware's n-th call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failure {
    None,
    Frames(u64),
    Hardware(u64),
}

/// Makes a call; whether it was refused.
pub(crate) fn make(world: &World<'_>, call: &Call) -> bool {
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

/// Calls, each with its failure, on a new machine, with all checked after each; at last everything goes back to where it began.
pub(crate) fn run(groups: GroupPolicy, strict: bool, calls: &[(Call, Failure)]) {
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
            Failure::Frames(left) => world.frames.limit(Some(*left)),
            Failure::Hardware(left) => world.told.lock().unwrap().left = Some(*left),
        }
        let refused = make(&world, call);
        world.frames.limit(None);
        world.told.lock().unwrap().left = None;
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
    put_back(&world, free);
}

/// All back to where it began: no frame is lost.
pub(crate) fn put_back(world: &World<'_>, free: usize) {
    let frames = world.frames;
    for id in [1, 2] {
        drop(world.policy.destroy_domain(DomId(id), &mut |_| {}));
    }
    for (device, _) in DEVICES {
        let _ = world.policy.remove_device(device, &mut |_| {});
    }
    for (device, source) in DEVICES {
        world.policy.add_device(device, source, || space(frames), &mut |_| {}).unwrap();
    }
    world.check(true);
    let end = world.snapshot();
    assert!(end.owners.iter().all(|(_, _, owner)| *owner == Owner::Domain(HARDWARE_DOMAIN)));
    assert_eq!(frames.free_count(), free, "frames were lost");
}
