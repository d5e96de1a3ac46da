//! A group has one owner at most, each member is with it or in quarantine: the ways of Xen's toolstack, which
//! names one device a call, and of others.

use testkit::world::check::Rules;
use testkit::world::devices::{A, ALL, B, BRIDGE, C, D, E, F, H, J, OF_B, PF, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, World, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::{AssignError, DomId, DomainError, Holder, Link, Mode, Note, Owner, Sbdf};

const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);

/// What a refusal names: the device, the other, who has that.
fn refused(world: &World<'_>, devices: &[Sbdf], domain: DomId, mode: Mode) -> (Sbdf, Sbdf, Holder) {
    let before = world.snapshot();
    let Err(error) = world.assign(devices, domain, mode) else { panic!("{devices:?} were assigned") };
    assert_eq!(Errno::from(&error), Errno::EPERM);
    assert_eq!(world.snapshot(), before);
    let AssignError::Group(together) = error else { panic!("{error}") };
    (together.device, together.other, together.holder)
}

#[test]
fn xl_makes_a_group_assignable_member_by_member_and_gives_it_away_likewise() {
    with_world(machine(), |world| {
        for (member, waiting) in [B, C, D].into_iter().zip(1..) {
            world.assign(&[member], DomId::IO, Mode::Relaxed).unwrap();
            world.check(Rules::STRICT);
            let waits = [B, C, D].iter().filter(|one| world.owner(**one) == Some(Owner::Quarantine)).count();
            assert_eq!(waits, waiting);
            // Again is no error: it waits there.
            world.assign(&[member], DomId::IO, Mode::Relaxed).unwrap();
        }
        // From the first on the group is the guest's: nobody else gets a member, strictly or not named.
        for (member, rest) in [(C, D), (B, D), (D, C)] {
            world.assign(&[member], GUEST, Mode::Strict).unwrap();
            world.check(Rules::STRICT);
            if world.owner(rest) == Some(Owner::Quarantine) {
                for domain in [OTHER, HARDWARE_DOMAIN] {
                    let (device, other, holder) = refused(world, &[rest], domain, Mode::Strict);
                    assert_eq!((device, holder), (rest, Holder::Guest(GUEST)));
                    assert_eq!(world.owner(other), Some(Owner::Domain(GUEST)));
                }
            }
        }
        assert!(world.maps(GUEST, OF_B.0));
        // And back, one by one, first to quarantine, then home.
        for member in [B, D, C] {
            world.deassign(&[member], GUEST).unwrap();
            world.check(Rules::STRICT);
        }
        assert!(!world.maps(GUEST, OF_B.0));
        for member in [D, B, C] {
            world.deassign(&[member], DomId::IO).unwrap();
            world.check(Rules::STRICT);
        }
        assert!([B, C, D].iter().all(|member| world.owner(*member) == Some(HOME)));
        assert!(world.maps(HARDWARE_DOMAIN, OF_B.0));
    });
}

#[test]
fn domid_io_stands_for_quarantine_and_for_no_domain() {
    with_world(machine(), |world| {
        assert_eq!(DomId::IO.0, 0x7ff1);
        assert_eq!(Owner::from(DomId::IO), Owner::Quarantine);
        let made = world.policy.create_domain(DomId::IO, testkit::world::space(world.frames).unwrap());
        assert_eq!(made, Err(DomainError::Reserved(DomId::IO)));
        assert!(matches!(world.destroy(DomId::IO), Err(DomainError::Unknown(DomId::IO))));
        // Strict or relaxed, with others of the group elsewhere: quarantine takes it.
        world.assign(&[B], DomId::IO, Mode::Strict).unwrap();
        assert_eq!(world.owner(B), Some(Owner::Quarantine));
        // Not what a guest has.
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        let elsewhere = AssignError::Elsewhere { device: A, owner: Owner::Domain(GUEST) };
        assert_eq!(world.assign(&[A], DomId::IO, Mode::Relaxed), Err(elsewhere));
        assert_eq!(Errno::from(&elsewhere), Errno::EBUSY);
        let refused = world.deassign(&[A], DomId::IO);
        assert!(matches!(refused, Err(AssignError::NotOwned { device: A, .. })), "{refused:?}");
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_member_that_is_still_the_hardware_domains_is_named_with_what_to_do() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C]);
        assert_eq!(
            refused(world, &[B], GUEST, Mode::Strict),
            (B, D, Holder::HardwareDomain(HARDWARE_DOMAIN))
        );
        let error = world.assign(&[B], GUEST, Mode::Strict).unwrap_err().to_string();
        assert_eq!(
            error,
            "0000:00:05.0 must stay together with 0000:00:07.0, which d0 has (their regions [0x2200000, 0x25fffff] and \
             [0x2500000, 0x28fffff] share memory): take 0000:00:07.0 to quarantine first (xl pci-assignable-add), or \
             assign both at once"
        );
        world.make_assignable(&[D]);
        world.assign(&[D], GUEST, Mode::Strict).unwrap();
        let error = world.assign(&[C], OTHER, Mode::Strict).unwrap_err();
        assert!(error.to_string().ends_with("which d1 has (their regions [0x2200000, 0x25fffff] and [0x2500000, 0x28fffff] share memory): take it from d1 first"), "{error}");
    });
    // By way of a third.
    with_world(machine(), |world| {
        world.make_assignable(&[F, J]);
        let Err(AssignError::Group(together)) = world.assign(&[J], GUEST, Mode::Strict) else { panic!() };
        assert_eq!((together.device, together.other, together.via), (J, E, Some(F)));
        assert!(matches!(together.link, Link::RequesterId(_)));
        assert!(together.to_string().contains("by way of 0000:01:02.0"), "{together}");
    });
}

#[test]
fn named_together_they_move_together_and_otherwise_not_at_all() {
    with_world(machine(), |world| {
        for part in [&[B][..], &[C], &[D], &[B, C], &[C, D], &[E], &[F], &[E, J]] {
            refused(world, part, GUEST, Mode::Strict);
        }
        world.assign(&[B, C, D], GUEST, Mode::Strict).unwrap();
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        // A bad one among them, and none moves.
        world.deassign(&[B, C, D], GUEST).unwrap();
        for bad in [H, BRIDGE, Sbdf::new(7, 7, 7, 7)] {
            let before = world.snapshot();
            world.assign(&[B, C, D, bad], GUEST, Mode::Strict).unwrap_err();
            assert_eq!(world.snapshot(), before);
        }
    });
}

#[test]
fn a_whole_group_moves_unnamed_by_a_call_of_its_own_alone() {
    with_world(machine(), |world| {
        world.make_assignable(&[D]);
        let (done, notes) =
            world.noted(|world, hear| world.policy.assign_group(C, GUEST, Mode::Strict, hear));
        done.unwrap();
        let mut along: Vec<Sbdf> = notes
            .iter()
            .map(|note| if let Note::MovedAlong(device) = note { *device } else { panic!("{note}") })
            .collect();
        along.sort_unstable();
        assert_eq!(along, [B, D]);
        world.check(Rules::STRICT);
        // What another guest has stays there, and holds the rest back.
        world.deassign(&[B], GUEST).unwrap();
        let refused = world.policy.assign_group(B, OTHER, Mode::Strict, &mut |_| {});
        assert!(matches!(refused, Err(AssignError::Group(_))), "{refused:?}");
        world.policy.assign_group(B, GUEST, Mode::Strict, &mut |_| {}).unwrap();
    });
}

#[test]
fn relaxed_leaves_a_shared_region_with_those_who_have_it_and_says_so() {
    with_world(machine(), |world| {
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::LeftWith { domain: HARDWARE_DOMAIN, .. }]), "{notes:?}");
        assert!(!world.maps(GUEST, OF_B.0) && world.maps(HARDWARE_DOMAIN, OF_B.0));
        world.check(Rules::RELAXED);
        // Another guest's, likewise.
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[C], OTHER, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::LeftWith { domain: HARDWARE_DOMAIN, .. }]), "{notes:?}");
        world.check(Rules::RELAXED);
        // Nothing about the others hinders giving back, in any order.
        for (member, domain) in [(D, HARDWARE_DOMAIN), (B, GUEST), (C, OTHER)] {
            world.deassign(&[member], domain).unwrap();
            world.check(Rules::RELAXED);
        }
        for member in [B, C, D] {
            world.deassign(&[member], DomId::IO).unwrap();
        }
        world.check(Rules::STRICT);
    });
}

#[test]
fn strict_follows_relaxed_where_the_region_comes_along() {
    with_world(machine(), |world| {
        world.assign(&[B], GUEST, Mode::Relaxed).unwrap();
        // When the others follow, the region comes along for all of them.
        world.assign(&[C, D], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_destroyed_guest_leaves_nobody_elses_devices_anywhere_but_where_they_are() {
    with_world(machine(), |world| {
        world.assign(&[B], GUEST, Mode::Relaxed).unwrap();
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.destroy(GUEST).unwrap();
        for device in ALL {
            let owner = if [A, B].contains(&device) { Owner::Quarantine } else { HOME };
            assert_eq!(world.owner(device), Some(owner), "{device}");
        }
        world.check(Rules::STRICT);
    });
}

#[test]
fn test_assign_is_xens_and_the_full_check_has_a_name_of_its_own() {
    with_world(machine(), |world| {
        let policy = &world.policy;
        let test = |device| policy.test_assign(device).map_err(|error| Errno::from(&error));
        // Whether it is assigned: groups, regions and bridges are no matter.
        for device in [B, H, BRIDGE, PF] {
            assert_eq!(test(device), Ok(()), "{device}");
        }
        world.make_assignable(&[A]);
        assert_eq!(test(A), Ok(()));
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        assert_eq!(test(A), Err(Errno::EBUSY));
        assert_eq!(test(Sbdf::new(7, 7, 7, 7)), Err(Errno::ENODEV));

        let before = world.snapshot();
        let check = |devices: &[Sbdf], domain, mode| policy.check_assign(devices, domain, mode);
        assert!(matches!(check(&[B], GUEST, Mode::Strict), Err(AssignError::Group(_))));
        assert!(matches!(check(&[H], GUEST, Mode::Strict), Err(AssignError::RejectedRegion { .. })));
        assert!(matches!(check(&[BRIDGE], GUEST, Mode::Strict), Err(AssignError::Bridge(BRIDGE))));
        assert!(matches!(check(&[A], OTHER, Mode::Strict), Err(AssignError::Elsewhere { device: A, .. })));
        assert!(matches!(check(&[B], DomId(9), Mode::Strict), Err(AssignError::UnknownDomain(DomId(9)))));
        assert_eq!(check(&[B, C, D], GUEST, Mode::Strict), Ok(()));
        assert_eq!(check(&[B], GUEST, Mode::Relaxed), Ok(()));
        assert_eq!(check(&[B], DomId::IO, Mode::Strict), Ok(()));
        assert_eq!(world.snapshot(), before);
    });
}

#[test]
fn a_member_is_not_given_back_home_while_a_guest_has_another_of_its_group() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        world.assign(&[B], GUEST, Mode::Strict).unwrap();
        // As xl pci-assignable-remove does: the group would have two owners.
        let before = world.snapshot();
        let error = world.deassign(&[C], DomId::IO).unwrap_err();
        assert_eq!(Errno::from(&error), Errno::EPERM);
        assert!(error.to_string().ends_with("take it from d1 first"), "{error}");
        assert_eq!(world.snapshot(), before);
        world.deassign(&[B], GUEST).unwrap();
        world.deassign(&[C], DomId::IO).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_group_is_brought_along_also_by_a_member_that_is_there_already() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        world.assign(&[B], GUEST, Mode::Strict).unwrap();
        let (done, notes) =
            world.noted(|world, hear| world.policy.assign_group(B, GUEST, Mode::Strict, hear));
        done.unwrap();
        assert!(notes.contains(&Note::MovedAlong(C)) && notes.contains(&Note::MovedAlong(D)), "{notes:?}");
        assert!([B, C, D].iter().all(|member| world.owner(*member) == Some(Owner::Domain(GUEST))));
        world.check(Rules::STRICT);
        // A bridge has no group, and stays.
        world.policy.assign_group(BRIDGE, HARDWARE_DOMAIN, Mode::Strict, &mut |_| {}).unwrap();
        assert!(world.policy.assign_group(BRIDGE, GUEST, Mode::Strict, &mut |_| {}).is_err());
    });
}
