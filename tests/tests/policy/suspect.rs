//! Hardware that stops answering in the middle of a move: who may reach what nobody knows then, and nothing
//! is freed or moved before it is certain.

use testkit::world::check::Rules;
use testkit::world::devices::{A, B, D, E, F, G, J, OF_F, P, X, Y, function, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, TIMED_OUT, with_world};
use xen_iommu::{AddError, AssignError, DomainError, Mode, Note, Owner};

#[test]
fn a_device_that_may_be_astray_is_locked_away_until_it_is_fetched_back() {
    with_world(machine(), |world| {
        let policy = &world.policy;
        let (before, free) = (world.snapshot(), world.frames.free_count());
        // One flush for the mappings, then the requester's switch.
        world.die_after(1);
        let mut suspect = 0;
        let refused = policy.assign(&[A], GUEST, Mode::Strict, &mut |note| {
            suspect += usize::from(matches!(note, Note::Suspect { source_id: A, .. }));
        });
        assert!(
            matches!(refused, Err(AssignError::Hardware { device: A, error }) if error == TIMED_OUT),
            "{refused:?}"
        );
        assert_eq!(suspect, 1);
        assert!(policy.is_suspect(A) && !policy.is_suspect(E));
        assert_eq!(policy.owner(A), Some(Owner::Domain(HARDWARE_DOMAIN)));

        // As long as the hardware is dead: no move, and the domain whose tables it may walk stays. Others go.
        let again = policy.assign(&[A], OTHER, Mode::Strict, &mut |_| {});
        assert!(matches!(again, Err(AssignError::Hardware { device: A, .. })), "{again:?}");
        let destroyed = policy.destroy_domain(GUEST, &mut |_| {}).map(drop);
        assert!(
            matches!(destroyed, Err(DomainError::Device(AssignError::Hardware { device: A, .. }))),
            "{destroyed:?}"
        );
        assert!(policy.with_space(GUEST, |_| ()).is_some());
        drop(policy.destroy_domain(OTHER, &mut |_| {}).unwrap());
        assert!(policy.is_suspect(A));

        world.recover();
        drop(policy.destroy_domain(GUEST, &mut |_| {}).unwrap());
        assert!(!policy.is_suspect(A));
        assert_eq!(world.snapshot(), before);
        assert!(world.frames.free_count() > free, "both domains' tables came back");
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_move_fetches_back_what_it_moves() {
    with_world(machine(), |world| {
        world.remove(J).unwrap();
        world.die_after(1);
        world.policy.assign(&[E, F], GUEST, Mode::Strict, &mut |_| {}).unwrap_err();
        assert!(world.policy.is_suspect(E) && world.policy.is_suspect(F), "one requester");
        world.recover();
        world.policy.assign(&[E, F], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        assert!(!world.policy.is_suspect(E));
        world.check(Rules::STRICT);
    });
}

#[test]
fn tables_that_a_lost_device_may_still_walk_are_kept() {
    with_world(machine(), |world| {
        let device = A;
        world.remove(device).unwrap();
        let free = world.frames.free_count();
        let add = || world.add(&function(device));
        // Two flushes, for the quarantine and the hardware domain, then the requester, which cannot be
        // blocked again.
        world.die_after(2);
        add().unwrap_err();
        assert_eq!(world.policy.owner(device), None);
        assert!(world.frames.free_count() < free, "its quarantine's tables are kept");
        world.recover();
        add().unwrap();
        assert!(!world.policy.is_suspect(device));
        world.remove(device).unwrap();
        assert_eq!(world.frames.free_count(), free);
    });
}

#[test]
fn a_removal_that_fails_goes_back_whole_or_locks_away() {
    with_world(machine(), |world| {
        for owner in [HARDWARE_DOMAIN, GUEST] {
            world.assign(&[P], owner, Mode::Strict).unwrap();
            let before = world.snapshot();
            // Each of its ids in turn is not blocked; then it goes back whole.
            for calls in 0..4 {
                world.fail_after(calls);
                let refused = world.remove(P);
                assert!(!world.recover());
                assert!(matches!(refused, Err(AssignError::Hardware { device: P, .. })), "{refused:?}");
                assert_eq!(world.snapshot(), before, "after {calls} calls");
                assert!(!world.policy.is_suspect(P));
            }
            // The way back fails too.
            world.die_after(2);
            let (refused, notes) = world.noted(|world, hear| world.policy.remove_device(P, hear));
            assert!(matches!(refused, Err(AssignError::Hardware { device: P, .. })), "{refused:?}");
            assert!(notes.iter().any(|note| matches!(note, Note::Suspect { source_id: P, .. })), "{notes:?}");
            assert!(world.policy.is_suspect(P));
            assert_eq!(world.owner(P), Some(Owner::Domain(owner)));
            assert!(world.assign(&[P], OTHER, Mode::Relaxed).is_err(), "it is locked away");
            world.recover();
            world.remove(P).unwrap();
            world.add(&function(P)).unwrap();
            world.check(Rules::STRICT);
        }
        // One of several of a requester.
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        world.deassign(&[F], GUEST).unwrap();
        world.check(Rules::STRICT);
        let mut failed = 0;
        for calls in 0.. {
            let before = world.snapshot();
            world.fail_after(calls);
            let removed = world.remove(E);
            world.recover();
            if removed.is_ok() {
                break;
            }
            failed += 1;
            assert_eq!(world.snapshot(), before, "after {calls} calls");
        }
        assert_eq!(failed, 4, "its requester's ids go to quarantine one by one");
        assert_eq!(world.dma(F, OF_F.0), Some(OF_F.0));
        assert_eq!(world.owner(F), Some(Owner::Quarantine));
        assert!(!world.policy.is_suspect(F));
    });
}

#[test]
fn an_addition_that_times_out_is_told_and_can_be_made_again() {
    with_world(machine(), |world| {
        world.remove(F).unwrap();
        world.die_after(1);
        assert_eq!(world.add(&function(F)), Err(AddError::Hardware(TIMED_OUT)));
        assert_eq!(world.owner(F), None);
        world.recover();
        world.add(&function(F)).unwrap();
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        assert!(!world.policy.is_suspect(E));
        world.check(Rules::STRICT);
    });
}

#[test]
fn additions_that_fail_use_up_no_places() {
    with_world(machine(), |world| {
        world.remove(A).unwrap();
        let free = world.frames.free_count();
        for _ in 0..100 {
            world.die_after(2);
            assert_eq!(world.add(&function(A)), Err(AddError::Hardware(TIMED_OUT)));
            world.recover();
        }
        // One that fails when hardware answers again lets go of all of it.
        world.fail_after(1);
        world.add(&function(A)).unwrap_err();
        world.recover();
        assert_eq!(world.frames.free_count(), free);
        world.add(&function(A)).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_failed_to_come_while_all_failed_is_let_go_when_it_comes_again() {
    let regions = vec![Reserved::of(0x1000, 0x1001, &[P, A])];
    let mut machine = Machine::new([P, A].map(function).to_vec(), regions);
    // No more than is needed.
    machine.capacity.requester_ids = 1 + function(P).ids.len();
    with_world(machine, |world| {
        world.remove(P).unwrap();
        world.remove(A).unwrap();
        let free = world.frames.free_count();
        world.add(&function(A)).unwrap();
        world.die_after(0);
        let _ = world.deassign(&[A], HARDWARE_DOMAIN);
        world.recover();
        world.die_after(0);
        world.add(&function(P)).unwrap_err();
        world.recover();
        world.remove(A).unwrap();
        // Nothing of it is left when hardware has let it go.
        world.add(&function(P)).unwrap();
        world.remove(P).unwrap();
        assert!(world.told().attached.is_empty());
        world.policy.flush_domain(HARDWARE_DOMAIN).unwrap();
        assert_eq!(world.frames.free_count(), free);
    });
}

#[test]
fn what_failed_to_come_comes_once_hardware_answers_again() {
    for device in [A, B, D, E, F, G, J, P, X, Y] {
        for calls in 0..6 {
            let mut machine = machine();
            // No more than is needed.
            machine.capacity.requester_ids = machine.devices.iter().map(|device| device.ids.len()).sum();
            with_world(machine, |world| {
                world.remove(device).unwrap();
                world.die_after(calls);
                let failed = world.add(&function(device)).is_err();
                world.recover();
                if failed {
                    assert_eq!(
                        world.add(&function(device)),
                        Ok(Owner::Domain(HARDWARE_DOMAIN)),
                        "{device}, {calls}"
                    );
                }
                world.check(Rules::STRICT);
            });
        }
    }
}
