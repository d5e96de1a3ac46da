//! A failure at every allocation and at every call of the hardware.

use std::mem::MaybeUninit;

use xen_iommu::{AssignError, DomId, GroupPolicy, Mode, Owner, Sbdf};

use crate::world::{A, B, C, D, E, F, Frames, HARDWARE_DOMAIN, REGIONS, World, space};

pub(crate) const GUEST: DomId = DomId(1);

pub(crate) fn with_world(groups: GroupPolicy, test: impl FnOnce(&World<'_>)) {
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let world = World::new(&frames, &mut memory, groups);
    world.policy.create_domain(GUEST, space(&frames).unwrap()).unwrap();
    world.check(true);
    test(&world);
}

/// Assigns with nothing failing, to know how much there is to fail; then lets each fail.
fn fails_whole(devices: &[Sbdf]) {
    with_world(GroupPolicy::Refuse, |world| {
        let assign = || world.policy.assign(devices, GUEST, Mode::Strict, &mut |_| {});
        let back = || {
            world.policy.deassign(devices, GUEST, &mut |_| {}).unwrap();
            world.policy.assign(devices, HARDWARE_DOMAIN, Mode::Strict, &mut |_| {}).unwrap();
        };
        let before = world.snapshot();
        let free = world.frames.free_count();
        let mut failed = 0;
        for frames in 0.. {
            world.frames.limit(Some(frames));
            let done = assign();
            world.frames.limit(None);
            world.check(true);
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
            world.told.lock().unwrap().left = Some(calls);
            let done = assign();
            let all_used = world.told.lock().unwrap().left.is_some();
            world.told.lock().unwrap().left = None;
            world.check(true);
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
    fails_whole(&[E, F]);
}

#[test]
fn several_groups_at_once() {
    fails_whole(&[A, B, C, D, E, F]);
}

#[test]
fn a_group_is_refused_in_parts_and_moved_whole_by_policy() {
    with_world(GroupPolicy::Refuse, |world| {
        let before = world.snapshot();
        for part in [&[B][..], &[C], &[D], &[B, C], &[C, D], &[E], &[F]] {
            let refused = world.policy.assign(part, GUEST, Mode::Strict, &mut |_| {});
            assert!(matches!(refused, Err(AssignError::Group { .. })), "{part:?}: {refused:?}");
            assert_eq!(world.snapshot(), before);
        }
    });
    with_world(GroupPolicy::MoveWhole, |world| {
        world.policy.assign(&[C], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        for device in [B, C, D] {
            assert_eq!(world.policy.owner(device), Some(Owner::Domain(GUEST)));
        }
        world.check(true);
    });
}

#[test]
fn relaxed_leaves_a_region_with_those_who_use_it() {
    with_world(GroupPolicy::Refuse, |world| {
        let mut notes = Vec::new();
        world.policy.assign(&[B], GUEST, Mode::Relaxed, &mut |note| notes.push(note.to_string())).unwrap();
        assert_eq!(notes.len(), 1, "{notes:?}");
        world.check(false);
        // When the others follow, the region comes along for all of them.
        world.policy.assign(&[C, D], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        world.check(true);
    });
}

#[test]
fn strict_does_not_take_what_relaxed_has_left_out() {
    with_world(GroupPolicy::Refuse, |world| {
        let (start, _, _) = REGIONS[1];
        let ram = p2m::Entry {
            p2m_type: p2m::P2mType::RamRw,
            mfn: Some(p2m::Mfn::new(0x7777)),
            access: p2m::Access::READ_WRITE,
        };
        let gfns = p2m::GfnRange::new(p2m::Gfn::new(start), p2m::Gfn::new(start + 1)).unwrap();
        world.policy.with_space(GUEST, |space| p2m::P2m::map(space, gfns, ram).unwrap()).unwrap();
        world.policy.deassign(&[B, C, D], HARDWARE_DOMAIN, &mut |_| {}).unwrap();
        let mut notes = Vec::new();
        world.policy.assign(&[B], GUEST, Mode::Relaxed, &mut |note| notes.push(note.to_string())).unwrap();
        assert_eq!(notes.len(), 1, "{notes:?}");
        let before = world.snapshot();
        let refused = world.policy.assign(&[C, D], GUEST, Mode::Strict, &mut |_| {});
        assert!(matches!(refused, Err(AssignError::Map { device: C, .. })), "{refused:?}");
        assert_eq!(world.snapshot(), before);
        world.policy.assign(&[C, D], GUEST, Mode::Relaxed, &mut |note| notes.push(note.to_string())).unwrap();
        assert_eq!(notes.len(), 2, "{notes:?}");
        world.check(false);
    });
}

#[test]
fn a_test_refuses_what_belongs_to_another_domain() {
    with_world(GroupPolicy::Refuse, |world| {
        world.policy.assign(&[A], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        let refused = world.policy.test_assign(&[A], HARDWARE_DOMAIN, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::Elsewhere { device: A, .. })), "{refused:?}");
    });
}
