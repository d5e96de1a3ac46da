//! USB controllers whose regions may be left out by their class: only when asked for, never without a note,
//! and never for graphics.

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2m, P2mType};
use testkit::world::check::Rules;
use testkit::world::devices::{A, B, C, D, E, F, H, J, OF_A, OF_B, OF_E, function, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, World, with_world};
use xen_iommu::pci::{DeviceClass, RelaxError};
use xen_iommu::{AssignError, Mode, Note, Owner};

/// Puts RAM of the guest's where [`OF_A`] is.
fn occupy(world: &World<'_>) {
    occupy_at(world, OF_A.0 + 1);
}

fn occupy_at(world: &World<'_>, frame: u64) {
    let gfns = GfnRange::with_len(Gfn::new(frame), 1).unwrap();
    world
        .policy
        .with_space(GUEST, |space| {
            space.map(
                gfns,
                Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(0x4_0000)), access: Access::READ_WRITE },
            )
        })
        .unwrap()
        .unwrap();
}

#[test]
fn a_usb_controllers_region_is_left_out_where_it_is_in_the_way_and_that_is_told() {
    with_world(machine(), |world| {
        let policy = &world.policy;
        occupy(world);
        let refused = policy.assign(&[A], GUEST, Mode::Strict, &mut |_| {});
        assert!(matches!(refused, Err(AssignError::Map { device: A, .. })), "off by default: {refused:?}");
        policy.relax(A, DeviceClass::Usb).unwrap();
        let mut skipped = 0;
        policy
            .assign(&[A], GUEST, Mode::Strict, &mut |note| {
                skipped += usize::from(matches!(note, Note::Skipped { domain: GUEST, .. }));
            })
            .unwrap();
        assert_eq!(skipped, 1);
        world.check(Rules::RELAXED);
        // It was so for the device that has gone.
        policy.remove_device(A, &mut |_| {}).unwrap();
        world.add(&function(A)).unwrap();
        policy.assign(&[A], GUEST, Mode::Strict, &mut |_| {}).unwrap_err();
    });
}

#[test]
fn it_leaves_a_shared_region_with_the_others_but_they_do_not_leave_theirs() {
    with_world(machine(), |world| {
        let policy = &world.policy;
        policy.relax(B, DeviceClass::Usb).unwrap();
        let mut left = Vec::new();
        policy
            .assign(&[B], GUEST, Mode::Strict, &mut |note| {
                if let Note::LeftWith { domain, .. } = note {
                    left.push(domain);
                }
            })
            .unwrap();
        assert_eq!(left, [HARDWARE_DOMAIN]);
        assert_eq!(policy.owner(B), Some(Owner::Domain(GUEST)));
        world.check(Rules::RELAXED);
    });
    with_world(machine(), |world| {
        world.policy.relax(B, DeviceClass::Usb).unwrap();
        let refused = world.policy.assign(&[C, D], GUEST, Mode::Strict, &mut |_| {});
        assert!(matches!(refused, Err(AssignError::Group(together)) if together.other == B), "{refused:?}");
        // What the bus cannot tell apart stays together, whatever its class.
        world.policy.relax(E, DeviceClass::Usb).unwrap();
        let refused = world.policy.assign(&[E], GUEST, Mode::Strict, &mut |_| {});
        assert!(matches!(refused, Err(AssignError::Group(together)) if together.device == E), "{refused:?}");
    });
}

#[test]
fn a_rejected_region_does_not_hold_a_relaxable_device() {
    with_world(machine(), |world| {
        world.policy.assign(&[H], GUEST, Mode::Strict, &mut |_| {}).unwrap_err();
        world.policy.relax(H, DeviceClass::Usb).unwrap();
        world.policy.check_assign(&[H], GUEST, Mode::Strict).unwrap();
        let mut without = 0;
        let mut note = |note| without += usize::from(matches!(note, Note::WithoutRejected { .. }));
        world.policy.assign(&[H], GUEST, Mode::Strict, &mut note).unwrap();
        assert_eq!(without, 1);
    });
}

#[test]
fn graphics_and_what_nobody_knows_are_never_relaxed_by_class() {
    with_world(machine(), |world| {
        let relax = |class| world.policy.relax(A, class);
        assert_eq!(relax(DeviceClass::of(0x03, 0x00)), Err(RelaxError::Graphics(A)));
        assert_eq!(relax(DeviceClass::of(0x0c, 0x05)), Err(RelaxError::Other(A)));
        assert_eq!(relax(DeviceClass::of(0x0c, 0x03)), Ok(()));
        world.policy.remove_device(A, &mut |_| {}).unwrap();
        assert_eq!(relax(DeviceClass::Usb), Err(RelaxError::UnknownDevice(A)));
    });
}

#[test]
fn a_region_that_any_of_them_wants_whole_is_whole_or_refused() {
    // Named in any order, or with the relaxable one waiting.
    for order in [[B, C], [C, B]] {
        with_world(machine(), |world| {
            world.remove(D).unwrap();
            world.policy.relax(C, DeviceClass::Usb).unwrap();
            occupy_at(world, OF_B.0);
            let refused = world.assign(&order, GUEST, Mode::Strict);
            assert!(matches!(refused, Err(AssignError::Map { device: B, .. })), "{refused:?}");
        });
    }
    with_world(machine(), |world| {
        world.policy.relax(F, DeviceClass::Usb).unwrap();
        occupy_at(world, OF_E.0);
        world.make_assignable(&[E, F, J]);
        let refused = world.assign(&[E], GUEST, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::Map { device: E, .. })), "{refused:?}");
    });
}
