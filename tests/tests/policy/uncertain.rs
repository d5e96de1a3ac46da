//! Hardware that stops answering in the middle of a move: who may reach what is uncertain then, and nothing is freed or moved before it is certain.

use xen_iommu::{AssignError, DomId, DomainError, GroupPolicy, HardwareError, Mode, Note, Owner};

use crate::failures::{GUEST, with_world};
use crate::world::{A, DEVICES, E, F, HARDWARE_DOMAIN, World, space};

/// The hardware answers `calls` more times.
fn dies_after(world: &World<'_>, calls: u64) {
    let mut told = world.told.lock().unwrap();
    (told.left, told.dies) = (Some(calls), true);
}

fn recovers(world: &World<'_>) {
    let mut told = world.told.lock().unwrap();
    (told.left, told.dies) = (None, false);
}

const TIMED_OUT: HardwareError = HardwareError::TimedOut { unit: 0, operation: "anything" };

#[test]
fn a_device_that_may_be_astray_is_locked_away_until_it_is_fetched_back() {
    with_world(GroupPolicy::Refuse, |world| {
        let policy = &world.policy;
        policy.create_domain(DomId(2), space(world.frames).unwrap()).unwrap();
        let (before, free) = (world.snapshot(), world.frames.free_count());
        // One flush for the mappings, then the requester's switch.
        dies_after(world, 1);
        let mut uncertain = 0;
        let refused = policy.assign(&[A], GUEST, Mode::Strict, &mut |note| {
            uncertain += usize::from(matches!(note, Note::Uncertain { source, .. } if source == A));
        });
        assert!(
            matches!(refused, Err(AssignError::Hardware { device: A, error }) if error == TIMED_OUT),
            "{refused:?}"
        );
        assert_eq!(uncertain, 1);
        assert!(policy.is_uncertain(A) && !policy.is_uncertain(E));
        assert_eq!(policy.owner(A), Some(Owner::Domain(HARDWARE_DOMAIN)));

        // As long as the hardware is dead: no move, and the domain whose tables it may walk stays. Others go.
        let again = policy.assign(&[A], DomId(2), Mode::Strict, &mut |_| {});
        assert!(matches!(again, Err(AssignError::Hardware { device: A, .. })), "{again:?}");
        let destroyed = policy.destroy_domain(GUEST, &mut |_| {}).map(drop);
        assert!(
            matches!(destroyed, Err(DomainError::Device(AssignError::Hardware { device: A, .. }))),
            "{destroyed:?}"
        );
        assert!(policy.with_space(GUEST, |_| ()).is_some());
        drop(policy.destroy_domain(DomId(2), &mut |_| {}).unwrap());
        assert!(policy.is_uncertain(A));

        recovers(world);
        drop(policy.destroy_domain(GUEST, &mut |_| {}).unwrap());
        assert!(!policy.is_uncertain(A));
        assert_eq!(world.snapshot(), before);
        assert!(world.frames.free_count() > free, "both domains' tables came back");
        world.check(true);
    });
}

#[test]
fn a_move_fetches_back_what_it_moves() {
    with_world(GroupPolicy::Refuse, |world| {
        dies_after(world, 1);
        world.policy.assign(&[E, F], GUEST, Mode::Strict, &mut |_| {}).unwrap_err();
        assert!(world.policy.is_uncertain(E) && world.policy.is_uncertain(F), "one requester");
        recovers(world);
        world.policy.assign(&[E, F], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        assert!(!world.policy.is_uncertain(E));
        world.check(true);
    });
}

#[test]
fn tables_that_a_lost_device_may_still_walk_are_kept() {
    with_world(GroupPolicy::Refuse, |world| {
        let (device, source) = DEVICES[0];
        world.policy.remove_device(device, &mut |_| {}).unwrap();
        let free = world.frames.free_count();
        let add = || world.policy.add_device(device, source, || space(world.frames), &mut |_| {});
        // Two flushes, for the quarantine and the hardware domain, then the requester, which cannot be blocked again.
        dies_after(world, 2);
        add().unwrap_err();
        assert_eq!(world.policy.owner(device), None);
        assert!(world.frames.free_count() < free, "its quarantine's tables are kept");
        recovers(world);
        add().unwrap();
        assert!(!world.policy.is_uncertain(device));
        world.policy.remove_device(device, &mut |_| {}).unwrap();
        assert_eq!(world.frames.free_count(), free);
    });
}
