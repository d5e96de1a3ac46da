//! A failure at every allocation and at every call of the hardware, and flushes that are owed.

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2m, P2mType};
use testkit::world::check::Rules;
use testkit::world::devices::{A, B, C, D, E, F, J, OF_A, OF_B, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, World, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::{AssignError, DomId, DomainError, HardwareError, Mode, Note, Sbdf};

/// Assigns with nothing failing, to know how much there is to fail; then lets each fail.
fn fails_whole(devices: &[Sbdf]) {
    with_world(machine(), |world| {
        let assign = || world.assign(devices, GUEST, Mode::Strict);
        let back = || {
            world.deassign(devices, GUEST).unwrap();
            world.assign(devices, HARDWARE_DOMAIN, Mode::Strict).unwrap();
        };
        let before = world.snapshot();
        let free = world.frames.free_count();
        let mut failed = 0;
        for frames in 0.. {
            world.frames.limit(frames);
            let done = assign();
            world.frames.limit(None);
            world.check(Rules::STRICT);
            if done.is_ok() {
                break;
            }
            assert!(matches!(done, Err(AssignError::Map { .. })), "{done:?}");
            assert_eq!(world.snapshot(), before, "with {frames} frames to be had");
            assert_eq!(world.frames.free_count(), free, "with {frames} frames to be had");
            failed += 1;
        }
        back();
        assert_eq!(world.snapshot(), before);
        for calls in 0.. {
            world.fail_after(calls);
            let done = assign();
            let all_used = world.recover();
            world.check(Rules::STRICT);
            if let Err(error) = done {
                assert!(matches!(error, AssignError::Hardware { .. }), "{error:?}");
                assert_eq!(world.snapshot(), before, "with call {calls} of the hardware failing");
                assert_eq!(world.frames.free_count(), free, "with call {calls} of the hardware failing");
                failed += 1;
                continue;
            }
            // What fails when all is moved is the last flush: the move stands, and a note tells.
            back();
            if all_used {
                break;
            }
        }
        assert!(failed >= 2, "only {failed} failures were seen");
    });
}

#[test]
fn a_device_with_its_own_region() {
    fails_whole(&[A]);
}

#[test]
fn a_group_with_a_shared_and_an_overlapping_region() {
    fails_whole(&[B, C, D]);
}

#[test]
fn devices_of_one_requester_id() {
    fails_whole(&[E, F, J]);
}

#[test]
fn several_groups_at_once() {
    fails_whole(&[A, B, C, D, E, F, J]);
}

fn ram(gfn: u64) -> (GfnRange, Entry) {
    let entry = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(0x7777)), access: Access::READ_WRITE };
    (GfnRange::with_len(Gfn::new(gfn), 1).unwrap(), entry)
}

fn put(world: &World<'_>, domain: DomId, (gfns, entry): (GfnRange, Entry)) {
    world.policy.with_space(domain, |space| P2m::map(space, gfns, entry).unwrap()).unwrap();
}

#[test]
fn strict_does_not_take_what_relaxed_has_left_out() {
    with_world(machine(), |world| {
        put(world, GUEST, ram(OF_B.0));
        world.make_assignable(&[B, C, D]);
        let refused = world.assign(&[B], GUEST, Mode::Strict).unwrap_err();
        assert!(matches!(refused, AssignError::Map { device: B, .. }), "{refused}");
        assert_eq!(Errno::from(&refused), Errno::EBUSY);
        let skipped = |notes: &[Note]| {
            notes.iter().filter(|note| matches!(note, Note::Skipped { domain: GUEST, .. })).count()
        };
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert_eq!(skipped(&notes), 1, "{notes:?}");
        let before = world.snapshot();
        let refused = world.assign(&[C, D], GUEST, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::Map { device: C, .. })), "{refused:?}");
        assert_eq!(world.snapshot(), before);
        let (done, notes) =
            world.noted(|world, hear| world.policy.assign(&[C, D], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert_eq!(skipped(&notes), 1, "{notes:?}");
        world.check(Rules::RELAXED);
    });
}

#[test]
fn what_a_domain_maps_itself_is_given_to_no_other() {
    with_world(machine(), |world| {
        let frame = Mfn::new(OF_A.0 + 1);
        let (_, entry) = ram(0);
        put(
            world,
            OTHER,
            (GfnRange::with_len(Gfn::new(frame.raw()), 1).unwrap(), Entry { mfn: Some(frame), ..entry }),
        );
        world.make_assignable(&[A]);
        for mode in [Mode::Strict, Mode::Relaxed] {
            let refused = world.assign(&[A], GUEST, mode);
            assert!(matches!(refused, Err(AssignError::ReachedBy { domain: OTHER, .. })), "{refused:?}");
        }
        // Its own is no hindrance for whoever takes what is the same.
        world.destroy(OTHER).unwrap();
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
    });
}

/// Frames that are free, and what of them belongs to nobody's tables.
#[test]
fn a_flush_that_failed_is_owed_until_it_is_done_whoever_asks() {
    with_world(machine(), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        let full = world.frames.free_count();
        // To quarantine: the switch of one id, then the flush of what the guest has lost.
        world.fail_after(1);
        let (done, notes) = world.noted(|world, hear| world.policy.deassign(&[A], GUEST, hear));
        world.recover();
        done.unwrap();
        assert!(
            matches!(notes[..], [Note::NotFlushed { domain: GUEST, error: HardwareError::TimedOut { .. } }]),
            "{notes:?}"
        );
        assert!(!world.maps(GUEST, OF_A.0));
        assert_eq!(world.frames.free_count(), full, "frames that hardware may walk are not free");
        // It fails again, and is still owed; then it is done, once.
        world.fail_after(0);
        assert!(world.policy.flush_domain(GUEST).is_err());
        world.recover();
        assert_eq!(world.frames.free_count(), full);
        let flushes = world.told().flushed.len();
        world.policy.flush_domain(GUEST).unwrap();
        assert_eq!(world.told().flushed.len(), flushes + 1);
        assert!(world.frames.free_count() > full, "now they are");
        world.policy.flush_domain(GUEST).unwrap();
        assert_eq!(world.told().flushed.len(), flushes + 1, "nothing is owed any more");
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_domain_that_is_owed_a_flush_is_not_forgotten() {
    with_world(machine(), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.fail_after(1);
        world.deassign(&[A], GUEST).unwrap();
        for _ in 0..2 {
            world.fail_after(0);
            let refused = world.destroy(GUEST);
            assert!(matches!(refused, Err(DomainError::NotFlushed { domain: GUEST, .. })), "{refused:?}");
        }
        world.recover();
        world.destroy(GUEST).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_a_failed_move_undid_is_flushed_or_owed() {
    with_world(machine(), |world| {
        // A device of the guest's, so that its translations are in use.
        world.assign(&[D, B, C], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        let free = world.frames.free_count();
        let flushes = world.told().flushed.len();
        // The mappings' flush works and the switch does not: what was mapped is flushed away.
        world.fail_after(1);
        world.assign(&[A], GUEST, Mode::Strict).unwrap_err();
        world.recover();
        assert!(!world.maps(GUEST, OF_A.0));
        assert_eq!(world.told().flushed.len(), flushes + 2);
        assert_eq!(world.frames.free_count(), free);
        world.check(Rules::STRICT);
        // No flush works any more: it is owed, and said.
        world.die_after(1);
        let (refused, notes) =
            world.noted(|world, hear| world.policy.assign(&[A], GUEST, Mode::Strict, hear));
        refused.unwrap_err();
        assert!(notes.iter().any(|note| matches!(note, Note::NotFlushed { domain: GUEST, .. })), "{notes:?}");
        assert!(world.frames.free_count() < free);
        world.recover();
        world.policy.flush_domain(GUEST).unwrap();
        assert_eq!(world.frames.free_count(), free);
    });
}

#[test]
fn what_is_there_already_asks_nothing_of_the_hardware() {
    with_world(machine(), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        // A flush that is owed for another reason is not its matter.
        put(world, GUEST, ram(0x5000));
        let calls = world.told().calls;
        world.fail_after(0);
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        assert!(world.recover());
        assert_eq!(world.told().calls, calls);
    });
}
