//! Requester ids: all that a device's DMA may carry are translated alike; devices that share one cannot be
//! apart, and none other gets them.

use testkit::world::check::Rules;
use testkit::world::devices::{
    A, BRIDGE, E, F, G, J, OF_E, OF_F, OF_P, P, PF, PHANTOMS, SECONDARY, VF1, VF2, function, machine,
};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, World, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::pci::{Function, RequesterIds, Role};
use xen_iommu::region::verdict::Rejection;
use xen_iommu::{AssignError, DomId, Link, Mode, Note, Owner, Sbdf};

const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);

fn with_ids(sbdf: Sbdf, more: &[Sbdf]) -> Function {
    let mut ids = RequesterIds::one(sbdf);
    assert!(more.iter().all(|id| ids.add(*id)));
    Function { ids, ..Function::endpoint(sbdf) }
}

/// Whether all these ids go one way, and not nowhere.
fn are_alike(world: &World<'_>, ids: &[Sbdf]) -> bool {
    let told = world.told();
    told.root(ids[0]).is_some() && ids.iter().all(|id| told.root(*id) == told.root(ids[0]))
}

#[test]
fn all_ids_of_a_device_go_where_it_goes() {
    with_world(machine(), |world| {
        let ids = [&[P], &PHANTOMS[..]].concat();
        let mut seen = Vec::new();
        let mut look = || {
            assert!(are_alike(world, &ids));
            assert_eq!(world.dma(PHANTOMS[1], OF_P.0), Some(OF_P.0));
            let root = world.told().root(P);
            assert!(!seen.contains(&root));
            seen.push(root);
        };
        look();
        world.assign(&[P], GUEST, Mode::Strict).unwrap();
        look();
        world.deassign(&[P], GUEST).unwrap();
        look();
        world.remove(P).unwrap();
        assert!(ids.iter().all(|id| world.told().root(*id).is_none()));
    });
    with_world(machine(), |world| {
        assert!(are_alike(world, &[E, F, SECONDARY, BRIDGE]));
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        assert!(are_alike(world, &[E, F, SECONDARY, BRIDGE, J]), "what the bridge makes of their ids too");
        let mut ids = Vec::new();
        world.policy.for_each_requester_id(F, |id| ids.push(id.id));
        ids.sort_unstable();
        assert_eq!(ids, [BRIDGE, SECONDARY, E, F]);
        // The bridge is nobody's but the hardware domain's.
        assert_eq!(world.owner(BRIDGE), Some(HOME));
    });
}

#[test]
fn a_switch_that_fails_half_way_through_the_ids_goes_back_for_all() {
    with_world(machine(), |world| {
        let before = world.snapshot();
        // A flush, then the ids one by one.
        for answered in 1..5 {
            world.fail_after(answered);
            let refused = world.assign(&[P], GUEST, Mode::Strict);
            assert!(matches!(refused, Err(AssignError::Hardware { device: P, .. })), "{refused:?}");
            world.recover();
            assert_eq!(world.snapshot(), before, "after {answered}");
            world.check(Rules::STRICT);
        }
    });
}

#[test]
fn who_waits_is_translated_as_its_mate_with_its_regions_and_off() {
    with_world(machine(), |world| {
        world.make_assignable(&[E, F, J]);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[E], GUEST, Mode::Strict, hear));
        done.unwrap();
        assert!(notes.contains(&Note::TranslatedWith { device: F, with: E, domain: GUEST }), "{notes:?}");
        assert!(world.owner(F) == Some(Owner::Quarantine) && are_alike(world, &[E, F]));
        assert!(world.maps(GUEST, OF_E.0) && world.maps(GUEST, OF_F.0));
        assert!(world.policy.is_quiesced(F) && world.policy.is_quiesced(J));
        world.check(Rules::STRICT);
        // Nobody else gets it, not even relaxed.
        for (domain, mode) in
            [(OTHER, Mode::Strict), (OTHER, Mode::Relaxed), (HARDWARE_DOMAIN, Mode::Relaxed)]
        {
            let refused = world.assign(&[F], domain, mode);
            assert!(
                matches!(refused, Err(AssignError::Group(together)) if together.other == E),
                "{refused:?}"
            );
        }
        assert!(matches!(world.deassign(&[F], DomId::IO), Err(AssignError::Group(_))));
        // When the one that the guest has goes back, so do the other and its region.
        world.deassign(&[E], GUEST).unwrap();
        assert!(!world.maps(GUEST, OF_E.0) && !world.maps(GUEST, OF_F.0));
        world.check(Rules::STRICT);
        // The guest may have both, one after the other, and give them back so.
        world.assign(&[F], GUEST, Mode::Strict).unwrap();
        world.assign(&[E], GUEST, Mode::Strict).unwrap();
        assert!(!world.policy.is_quiesced(E) && !world.policy.is_quiesced(F));
        world.deassign(&[F], GUEST).unwrap();
        assert!(world.maps(GUEST, OF_F.0), "F is translated as E, still");
        world.check(Rules::STRICT);
        world.deassign(&[E], GUEST).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn no_requester_id_is_split_whatever_the_mode() {
    with_world(machine(), |world| {
        for mode in [Mode::Strict, Mode::Relaxed] {
            let Err(AssignError::Group(together)) = world.assign(&[E], GUEST, mode) else { panic!() };
            let Link::RequesterId(id) = together.link else { panic!("{together}") };
            assert!(together.other == F && [SECONDARY, BRIDGE].contains(&id), "{together}");
        }
        // Quarantine takes one: it is translated as the hardware domain's until the other follows.
        world.make_assignable(&[E]);
        assert!(are_alike(world, &[E, F, SECONDARY]));
        assert_eq!(world.dma(E, OF_E.0), Some(OF_E.0));
        world.check(Rules::STRICT);
        assert!(matches!(world.assign(&[E], GUEST, Mode::Relaxed), Err(AssignError::Group(_))));
        world.make_assignable(&[F]);
        assert!(!world.maps(HARDWARE_DOMAIN, OF_E.0));
        world.check(Rules::STRICT);
    });
}

/// [`G`] and [`A`] share an id; [`A`]'s region was rejected, or something may be where it goes.
fn with_company(rejected: bool, test: impl Fn(&World<'_>)) {
    let mut region = Reserved::of(0x1000, 0x1010, &[A]);
    region.rejected = rejected.then_some(Rejection::NoScope);
    let shared = Sbdf::new(0, 9, 0, 0);
    let machine = Machine::new(vec![with_ids(A, &[shared]), with_ids(G, &[shared])], vec![region]);
    with_world(machine, |world| {
        world.make_assignable(&[A, G]);
        test(world);
    });
}

#[test]
fn the_assigned_ones_mode_decides_for_what_its_company_cannot_have() {
    with_company(true, |world| {
        let refused = world.assign(&[G], GUEST, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::RejectedRegion { device: A, .. })), "{refused:?}");
        assert_eq!(Errno::from(&refused.unwrap_err()), Errno::EPERM);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[G], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(notes.iter().any(|note| matches!(note, Note::WithoutRejected { .. })), "{notes:?}");
    });
    with_company(false, |world| {
        let ram = p2m::Entry {
            p2m_type: p2m::P2mType::RamRw,
            mfn: Some(p2m::Mfn::new(0x7777)),
            access: p2m::Access::READ_WRITE,
        };
        let gfns = p2m::GfnRange::with_len(p2m::Gfn::new(0x1004), 1).unwrap();
        world.policy.with_space(GUEST, |space| p2m::P2m::map(space, gfns, ram).unwrap()).unwrap();
        let before = world.snapshot();
        let refused = world.assign(&[G], GUEST, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::Map { device: A, .. })), "{refused:?}");
        assert_eq!(Errno::from(&refused.unwrap_err()), Errno::EBUSY);
        assert_eq!(world.snapshot(), before);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[G], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(notes.iter().any(|note| matches!(note, Note::Skipped { domain: GUEST, .. })), "{notes:?}");
    });
}

#[test]
fn a_toolstack_is_told_of_all_that_is_mapped_with_a_device() {
    with_world(machine(), |world| {
        let told = |device| {
            let mut told = Vec::new();
            world.policy.for_each_told(device, |range| told.push((range.start().raw(), range.end().raw())));
            told
        };
        assert_eq!(told(E), [OF_E, OF_F]);
        assert_eq!(told(F), [OF_E, OF_F]);
        assert_eq!(told(J), [OF_F], "it shares a region with F, and no requester id");
        let inseparable = |device| {
            let mut all: Vec<Sbdf> = world.policy.inseparable(device).collect();
            all.sort_unstable();
            all
        };
        assert_eq!((inseparable(E), inseparable(J)), (vec![E, F], vec![J]));
        assert_eq!(inseparable(BRIDGE), []);
        // Of those that are present.
        world.remove(F).unwrap();
        assert_eq!(told(E), [OF_E]);
        assert_eq!(told(F), [OF_F], "it may be asked about before it comes");
        assert_eq!(inseparable(E), [E]);
    });
}

#[test]
fn virtual_functions_are_devices_of_their_own_with_the_unit_of_their_physical_one() {
    with_world(machine(), |world| {
        assert_eq!(world.told().unit_of[&VF1], PF);
        world.assign(&[VF1], GUEST, Mode::Strict).unwrap();
        assert_eq!((world.owner(PF), world.owner(VF2)), (Some(HOME), Some(HOME)));
        assert!(!are_alike(world, &[VF1, VF2]));
        let (mut members, mut units) = (Vec::new(), Vec::new());
        world.policy.for_each_in_group(VF1, |member, _| members.push(member));
        world.policy.for_each_requester_id(VF1, |id| units.push(id.unit_of));
        assert_eq!((members, units), (vec![VF1], vec![PF]));
        world.check(Rules::STRICT);
        // Its unit is known after its physical function has gone.
        world.remove(PF).unwrap();
        world.deassign(&[VF1], GUEST).unwrap();
        assert_eq!(world.told().unit_of[&VF1], PF);
        world.check(Rules::STRICT);
    });
}

#[test]
fn physical_and_virtual_functions_are_never_in_different_guests_hands() {
    with_world(machine(), |world| {
        for mode in [Mode::Strict, Mode::Relaxed] {
            // With virtual functions it goes to no guest, named together or not.
            for devices in [&[PF][..], &[PF, VF1, VF2], &[VF1, VF2, PF]] {
                let error = world.assign(devices, GUEST, mode).unwrap_err();
                assert!(
                    matches!(
                        error,
                        AssignError::VirtualFunction { device: PF, .. }
                            | AssignError::PhysicalFunction { physical: PF, .. }
                    ),
                    "{error}"
                );
                assert_eq!(Errno::from(&error), Errno::EPERM);
            }
        }
        assert!(
            world
                .assign(&[PF], GUEST, Mode::Strict)
                .unwrap_err()
                .to_string()
                .ends_with("disable its virtual functions first")
        );
        // In quarantine it holds them back.
        world.make_assignable(&[PF]);
        for mode in [Mode::Strict, Mode::Relaxed] {
            let refused = world.assign(&[VF1], GUEST, mode);
            let owner = Some(Owner::Quarantine);
            assert_eq!(refused, Err(AssignError::PhysicalFunction { device: VF1, physical: PF, owner }));
        }
        world.deassign(&[PF], DomId::IO).unwrap();
        // And does not leave the hardware domain while a guest has one.
        world.assign(&[VF1], GUEST, Mode::Strict).unwrap();
        let refused = world.assign(&[PF], DomId::IO, Mode::Relaxed);
        assert!(
            matches!(refused, Err(AssignError::VirtualFunction { device: PF, function: VF1, .. })),
            "{refused:?}"
        );
        // Without them it is a device as any.
        world.deassign(&[VF1], GUEST).unwrap();
        world.remove(VF1).unwrap();
        world.remove(VF2).unwrap();
        world.assign(&[PF], GUEST, Mode::Strict).unwrap();
        world.add(&function(VF1)).unwrap();
        let refused = world.assign(&[VF1], OTHER, Mode::Relaxed);
        assert!(matches!(refused, Err(AssignError::PhysicalFunction { .. })), "{refused:?}");
        // One without a physical function is nobody's either.
        world.remove(PF).unwrap();
        let error = world.assign(&[VF1], GUEST, Mode::Strict).unwrap_err();
        assert_eq!(error, AssignError::PhysicalFunction { device: VF1, physical: PF, owner: None });
        assert!(error.to_string().contains("not present and so not the hardware domain's"), "{error}");
    });
}

#[test]
fn a_device_whose_ids_nobody_can_list_stays() {
    with_world(machine(), |world| {
        let sbdf = Sbdf::new(0, 12, 0, 0);
        let mut ids = RequesterIds::one(sbdf);
        while ids.add(Sbdf::new(0, 13, 0, 0)) && ids.len() < 16 {
            for number in 1..32 {
                ids.add(Sbdf::new(0, 13, number, 0));
            }
        }
        assert!(!ids.is_complete());
        let function = Function { ids, role: Role::Endpoint, ..Function::endpoint(sbdf) };
        world.add(&function).unwrap();
        for mode in [Mode::Strict, Mode::Relaxed] {
            assert_eq!(world.assign(&[sbdf], GUEST, mode), Err(AssignError::UnknownIds(sbdf)));
        }
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_newcomer_with_ids_of_two_is_cut_off_and_stays_so() {
    with_world(machine(), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        let own = Sbdf::new(0, 12, 0, 0);
        let newcomer = with_ids(own, &[A, G]);
        assert_eq!(world.add(&newcomer), Ok(Owner::Quarantine));
        assert!(world.policy.is_quiesced(own), "it could write as A, which a guest has");
        assert_eq!(world.told().root(own), None);
        world.check(Rules::STRICT);
        // It goes nowhere, home least of all: its DMA would be the guest's there too.
        for domain in [GUEST, OTHER, HARDWARE_DOMAIN] {
            for mode in [Mode::Strict, Mode::Relaxed] {
                assert_eq!(world.assign(&[own], domain, mode), Err(AssignError::Contested(own)));
            }
        }
        assert_eq!(world.deassign(&[own], DomId::IO), Err(AssignError::Contested(own)));
        // Those that it is like are not held up.
        world.deassign(&[A], GUEST).unwrap();
        world.assign(&[G], OTHER, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        world.remove(own).unwrap();
        assert_eq!(world.controlled().off.len(), 0);
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_failed_to_appear_leaves_no_id_behind() {
    with_world(machine(), |world| {
        let newcomer = with_ids(Sbdf::new(0, 1, 3, 0), &[SECONDARY, BRIDGE, Sbdf::new(0, 1, 4, 0)]);
        let mut failed = 0;
        for calls in 0.. {
            let before = world.snapshot();
            world.fail_after(calls);
            let added = world.add(&newcomer);
            let all_used = world.recover();
            if added.is_ok() {
                assert!(all_used);
                break;
            }
            failed += 1;
            assert_eq!(world.snapshot(), before, "after {calls} calls");
        }
        assert!(failed >= 2);
    });
}

#[test]
fn a_virtual_function_counts_also_where_another_had_its_id_first() {
    let other = Sbdf::new(0, 3, 1, 0);
    let of = |sbdf, role, more: &[Sbdf]| Function { role, ..with_ids(sbdf, more) };
    let devices = vec![
        of(PF, Role::Physical, &[]),
        of(other, Role::Endpoint, &[VF1]),
        of(VF1, Role::Virtual { physical: PF }, &[]),
    ];
    with_world(Machine::new(devices, vec![]), |world| {
        let refused = world.assign(&[PF], GUEST, Mode::Strict);
        assert!(
            matches!(refused, Err(AssignError::VirtualFunction { device: PF, function: VF1, .. })),
            "{refused:?}"
        );
        world.assign(&[VF1, other], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_virtual_function_that_shares_with_its_physical_one_cannot_go_and_that_is_said() {
    let of = |sbdf, role| Function { role, ..Function::endpoint(sbdf) };
    let devices = vec![of(PF, Role::Physical), of(VF1, Role::Virtual { physical: PF })];
    with_world(Machine::new(devices, vec![Reserved::of(0x1000, 0x1001, &[PF, VF1])]), |world| {
        let error = world.assign(&[VF1], GUEST, Mode::Strict).unwrap_err();
        assert!(
            matches!(
                error,
                AssignError::WithPhysical { device: VF1, physical: PF, link: Link::SharedRegion(_) }
            ),
            "{error}"
        );
        assert_eq!(Errno::from(&error), Errno::EPERM);
        // What the sentence for others advises does not help here.
        assert!(error.to_string().ends_with("cannot go alone"), "{error}");
        world.make_assignable(&[PF]);
        let refused = world.assign(&[VF1], GUEST, Mode::Strict);
        assert!(matches!(refused, Err(AssignError::PhysicalFunction { .. })), "{refused:?}");
    });
}
