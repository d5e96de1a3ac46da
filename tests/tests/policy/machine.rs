//! What the machine allows: no device goes where nothing keeps its DMA, and no region over what no guest may
//! reach or its unit cannot express.

use testkit::world::check::Rules;
use testkit::world::devices::{A, ALL, E, F, G, J, OF_A, P, PHANTOMS, function, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::region::forbidden::{Bar, Forbidden};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::{AssignError, DomId, HardwareError, Mode, Note, Owner, Sbdf};

#[test]
fn without_an_iommu_nothing_is_told_and_nothing_given_away() {
    for state in [IommuState::Absent, IommuState::Off, IommuState::Unusable(Unusable::NoUnit)] {
        let without = Machine { iommu: state, ..machine() };
        with_world(without, |world| {
            let mut told = 0;
            world.policy.for_each_told(A, |_| told += 1);
            assert_eq!(told, 0);
            for domain in [GUEST, DomId::IO] {
                for mode in [Mode::Strict, Mode::Relaxed] {
                    let refused = world.assign(&[A], domain, mode).unwrap_err();
                    assert_eq!(refused, AssignError::NoIommu { device: A, state });
                    assert_eq!(Errno::from(&refused), Errno::EOPNOTSUPP);
                    assert!(refused.to_string().contains(&state.to_string()), "{refused}");
                }
            }
            assert!(world.policy.check_assign(&[A], GUEST, Mode::Relaxed).is_err());
            // Devices go as they come.
            for device in ALL {
                world.remove(device).unwrap();
            }
        });
    }
}

#[test]
fn no_device_goes_to_a_guest_while_its_unit_does_not_translate() {
    with_world(machine(), |world| {
        let off = HardwareError::NotTranslating { unit: 0xfed9_0000 };
        world.told().untranslated = [A].into();
        for mode in [Mode::Strict, Mode::Relaxed] {
            let refused = world.assign(&[A], GUEST, mode);
            assert_eq!(refused, Err(AssignError::Hardware { device: A, error: off }));
            assert_eq!(world.policy.check_assign(&[A], GUEST, mode), refused);
            assert_eq!(Errno::from(&refused.unwrap_err()), Errno::ENODEV);
        }
        world.told().untranslated.clear();
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        // Giving back needs no translation.
        world.told().untranslated = [A].into();
        world.deassign(&[A], GUEST).unwrap();
        world.deassign(&[A], DomId::IO).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_no_unit_covers_is_the_hardware_domains_and_stays() {
    with_world(machine(), |world| {
        world.remove(P).unwrap();
        world.told().uncovered = [P].into();
        let (added, notes) = world.noted(|world, hear| {
            world.policy.add_device(&function(P), || testkit::world::space(world.frames), hear)
        });
        assert_eq!(added, Ok(Owner::Domain(HARDWARE_DOMAIN)));
        assert!(notes.contains(&Note::NotTranslated(P)), "{notes:?}");
        for (domain, mode) in [(GUEST, Mode::Strict), (GUEST, Mode::Relaxed), (DomId::IO, Mode::Relaxed)] {
            let refused = world.assign(&[P], domain, mode);
            let error = HardwareError::NoUnit { requester: P };
            assert_eq!(refused, Err(AssignError::Hardware { device: P, error }));
        }
        assert!(PHANTOMS.iter().all(|id| world.told().root(*id).is_none()));
        world.remove(P).unwrap();
    });
}

fn bar(device: Sbdf, frame: u64) -> Bar {
    Bar { device, base: frame << 12, limit: (frame << 12) + 0xfff }
}

#[test]
fn a_window_over_a_region_counts_when_the_device_is_assigned() {
    with_world(machine(), |world| {
        // Its own, and one beside, are no matter.
        world.controlled().bars = vec![bar(A, OF_A.0), bar(G, OF_A.1), bar(G, OF_A.0 - 1)];
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.deassign(&[A], GUEST).unwrap();
        let over = bar(G, OF_A.0 + 3);
        world.controlled().bars.push(over);
        let refused = world.assign(&[A], GUEST, Mode::Strict).unwrap_err();
        assert!(
            matches!(refused, AssignError::Forbidden { device: A, what: Forbidden::OverBar(bar), .. } if bar == over),
            "{refused}"
        );
        assert_eq!(Errno::from(&refused), Errno::EPERM);
        assert!(world.policy.check_assign(&[A], GUEST, Mode::Strict).is_err());
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[A], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::WithoutForbidden { .. }]), "{notes:?}");
        assert!(!world.maps(GUEST, OF_A.0));
        world.check(Rules::RELAXED);
        // Home again it has its region.
        world.deassign(&[A], GUEST).unwrap();
        world.deassign(&[A], DomId::IO).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_region_beyond_what_the_unit_translates_is_refused_or_left_out() {
    with_world(machine(), |world| {
        world.told().width = Some(25);
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.deassign(&[A], GUEST).unwrap();
        world.told().width = Some(24);
        let refused = world.assign(&[A], GUEST, Mode::Strict).unwrap_err();
        assert!(matches!(refused, AssignError::BeyondUnit { device: A, width: 24, .. }), "{refused}");
        assert_eq!(Errno::from(&refused), Errno::ERANGE);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[A], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::BeyondUnit { device: A, width: 24, .. }]), "{notes:?}");
        assert!(!world.maps(GUEST, OF_A.0));
    });
}

#[test]
fn what_goes_along_counts_too() {
    with_world(machine(), |world| {
        world.make_assignable(&[E, F, J]);
        world.controlled().bars = vec![bar(G, 0x9000)];
        let refused = world.assign(&[E], GUEST, Mode::Strict).unwrap_err();
        assert!(matches!(refused, AssignError::Forbidden { device: F, .. }), "{refused}");
    });
}
