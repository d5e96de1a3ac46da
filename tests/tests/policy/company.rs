//! Newcomers that hardware cannot tell from devices that are there: they go where these are, with their
//! regions; they make one requester of several in one place; and what came with them goes with them.

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2m, P2mType};
use testkit::world::check::Rules;
use testkit::world::devices::{
    A, BRIDGE, E, F, G, H, J, OF_A, OF_E, OF_F, OF_P, P, PHANTOMS, SECONDARY, function, machine,
};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, World, with_world};
use xen_iommu::pci::{Function, RequesterIds, Role};
use xen_iommu::region::verdict::Rejection;
use xen_iommu::{AddError, AssignError, DomId, Link, Mode, NotQuiesced, Note, Owner, Sbdf};

const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);
/// A newcomer.
const NEW: Sbdf = Sbdf::new(0, 12, 0, 0);

fn with_ids(sbdf: Sbdf, more: &[Sbdf]) -> Function {
    let mut ids = RequesterIds::one(sbdf);
    assert!(more.iter().all(|id| ids.add(*id)));
    Function { ids, ..Function::endpoint(sbdf) }
}

fn add(world: &World<'_>, function: &Function) -> (Owner, Vec<Note>) {
    let (added, notes) = world.add_noted(function);
    (added.unwrap(), notes)
}

fn are_alike(world: &World<'_>, ids: &[Sbdf]) -> bool {
    let told = world.told();
    told.root(ids[0]).is_some() && ids.iter().all(|id| told.root(*id) == told.root(ids[0]))
}

fn ids_of(world: &World<'_>, device: Sbdf) -> Vec<Sbdf> {
    let mut ids = Vec::new();
    world.policy.for_each_requester_id(device, |id| ids.push(id.id));
    ids.sort_unstable();
    ids
}

/// RAM of the guest's at a frame.
fn occupy(world: &World<'_>, frame: u64) {
    let ram = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(0x7777)), access: Access::READ_WRITE };
    let gfns = GfnRange::with_len(Gfn::new(frame), 1).unwrap();
    world.policy.with_space(GUEST, |space| P2m::map(space, gfns, ram).unwrap()).unwrap();
}

#[test]
fn a_newcomer_with_ids_of_two_that_are_in_one_place_joins_both() {
    with_world(machine(), |world| {
        let newcomer = with_ids(NEW, &[A, G, P]);
        assert_eq!(add(world, &newcomer), (HOME, vec![]));
        let all = [&[A, P, G, NEW], &PHANTOMS[..]].concat();
        assert!(are_alike(world, &all));
        world.check(Rules::STRICT);
        let Err(AssignError::Group(together)) = world.assign(&[A], GUEST, Mode::Relaxed) else { panic!() };
        assert!(matches!(together.link, Link::RequesterId(_)), "{together}");
        let mut known = all.clone();
        known.sort_unstable();
        assert_eq!(ids_of(world, A), known);
        world.assign(&[A, G, P, NEW], GUEST, Mode::Strict).unwrap();
        assert!(are_alike(world, &all));
        world.check(Rules::STRICT);
        // In quarantine each reaches what any of them has.
        world.deassign(&[A, G, P, NEW], GUEST).unwrap();
        assert!(are_alike(world, &all));
        assert_eq!((world.dma(G, OF_A.0), world.dma(NEW, OF_P.0)), (Some(OF_A.0), Some(OF_P.0)));
        world.check(Rules::STRICT);
        for device in [A, G, P, NEW] {
            world.remove(device).unwrap();
            world.check(Rules::STRICT);
        }
        assert!(all.iter().all(|id| world.told().root(*id).is_none()));
    });
}

#[test]
fn it_joins_two_that_a_guest_has_and_waits_with_its_region_there() {
    let mut machine = machine();
    machine.regions.push(Reserved::of(0xc000, 0xc002, &[NEW]));
    with_world(machine, |world| {
        world.assign(&[A, G], GUEST, Mode::Strict).unwrap();
        let (owner, notes) = add(world, &with_ids(NEW, &[G, A]));
        assert_eq!(owner, Owner::Quarantine);
        assert!(
            notes.iter().any(|note| matches!(note, Note::TranslatedWith { device: NEW, domain: GUEST, .. })),
            "{notes:?}"
        );
        assert!(are_alike(world, &[A, G, NEW]) && world.policy.is_quiesced(NEW));
        assert!(world.maps(GUEST, 0xc000));
        world.check(Rules::STRICT);
        assert!(matches!(world.assign(&[NEW], OTHER, Mode::Relaxed), Err(AssignError::Group(_))));
        world.assign(&[NEW], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        world.deassign(&[A, G, NEW], GUEST).unwrap();
        assert!(!world.maps(GUEST, 0xc000));
        world.check(Rules::STRICT);
    });
}

#[test]
fn it_joins_two_that_wait() {
    with_world(machine(), |world| {
        world.make_assignable(&[A, P]);
        assert_eq!(add(world, &with_ids(NEW, &[A, P])), (Owner::Quarantine, vec![]));
        assert!(are_alike(world, &[A, P, NEW, PHANTOMS[0]]));
        assert_eq!((world.dma(P, OF_A.0), world.dma(A, OF_P.0)), (Some(OF_A.0), Some(OF_P.0)));
        world.check(Rules::STRICT);
        world.assign(&[P], GUEST, Mode::Strict).unwrap();
        assert!(world.policy.is_quiesced(A) && world.policy.is_quiesced(NEW));
        assert!(world.maps(GUEST, OF_A.0));
        world.check(Rules::STRICT);
    });
    // One of them reaches what a guest has, and is off; so is the other, which comes to reach it.
    with_world(machine(), |world| {
        world.make_assignable(&[E, F, J, G]);
        world.assign(&[J], GUEST, Mode::Strict).unwrap();
        assert!(!world.policy.is_quiesced(G));
        let (owner, _) = add(world, &with_ids(NEW, &[E, G]));
        assert_eq!(owner, Owner::Quarantine);
        assert!(world.policy.is_quiesced(G) && world.policy.is_quiesced(NEW));
        world.check(Rules::STRICT);
    });
}

#[test]
fn those_in_two_places_are_not_joined() {
    for (one, other) in [(GUEST, OTHER), (GUEST, DomId::IO), (DomId::IO, HARDWARE_DOMAIN)] {
        with_world(machine(), |world| {
            world.assign(&[A], one, Mode::Strict).unwrap();
            world.assign(&[G], other, Mode::Strict).unwrap();
            let (owner, notes) = add(world, &with_ids(NEW, &[A, G]));
            assert_eq!(owner, Owner::Quarantine);
            assert!(notes.contains(&Note::Contested { device: NEW, id: G }), "{notes:?}");
            assert_eq!(world.told().root(NEW), None);
            world.check(Rules::STRICT);
        });
    }
    // Nor where no unit translates what would join them.
    with_world(machine(), |world| {
        world.told().uncovered = [NEW].into();
        add(world, &with_ids(NEW, &[A, G]));
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.assign(&[G], OTHER, Mode::Strict).unwrap();
        world.remove(NEW).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_joining_that_fails_leaves_them_apart_and_whole() {
    let places: [&[(Sbdf, DomId)]; 3] = [&[], &[(A, DomId::IO), (P, DomId::IO)], &[(A, GUEST), (P, GUEST)]];
    for place in places {
        let mut machine = machine();
        machine.regions.push(Reserved::of(0xc000, 0xc002, &[NEW]));
        with_world(machine, |world| {
            for (device, domain) in place {
                world.assign(&[*device], *domain, Mode::Strict).unwrap();
            }
            let newcomer = with_ids(NEW, &[A, P]);
            let (before, free) = (world.snapshot(), world.frames.free_count());
            let mut failed = 0;
            for calls in 0..64 {
                world.fail_after(calls);
                let added = world.add(&newcomer);
                let all_used = world.recover();
                if added.is_ok() {
                    assert!(all_used);
                    world.check(Rules::STRICT);
                    world.remove(NEW).unwrap();
                    break;
                }
                failed += 1;
                assert_eq!(world.snapshot(), before, "after {calls} calls");
                assert_eq!(world.frames.free_count(), free, "after {calls} calls");
                world.check(Rules::STRICT);
            }
            assert!(failed >= 4, "{failed}");
        });
        // And without frames.
        with_world(
            Machine { regions: vec![Reserved::of(0xc_0000, 0xc_0002, &[NEW])], ..self::machine() },
            |world| {
                let newcomer = with_ids(NEW, &[A, P]);
                for (device, domain) in place {
                    world.assign(&[*device], *domain, Mode::Strict).unwrap();
                }
                let (before, free) = (world.snapshot(), world.frames.free_count());
                for frames in 0..64 {
                    world.frames.limit(frames);
                    let added = world.add(&newcomer);
                    world.frames.limit(None);
                    if added.is_ok() {
                        break;
                    }
                    assert_eq!(world.snapshot(), before, "with {frames} frames");
                    assert_eq!(world.frames.free_count(), free, "with {frames} frames");
                }
                world.check(Rules::RELAXED);
            },
        );
    }
}

#[test]
fn a_newcomer_that_is_translated_as_a_guests_device_has_its_region_there() {
    with_world(machine(), |world| {
        world.remove(F).unwrap();
        world.remove(J).unwrap();
        world.assign(&[E], GUEST, Mode::Strict).unwrap();
        let (owner, notes) = add(world, &function(F));
        assert_eq!(owner, Owner::Quarantine);
        assert!(notes.contains(&Note::TranslatedWith { device: F, with: E, domain: GUEST }), "{notes:?}");
        assert!(world.maps(GUEST, OF_F.0) && world.dma(F, OF_F.0) == Some(OF_F.0));
        assert!(world.policy.is_quiesced(F));
        world.check(Rules::STRICT);
        // With who shares that region it is as with any that waits while a guest has something.
        let (owner, _) = add(world, &function(J));
        assert_eq!(owner, Owner::Quarantine);
        assert!(world.policy.is_quiesced(J));
        // It goes with the device that it came to.
        world.deassign(&[E], GUEST).unwrap();
        assert!(!world.maps(GUEST, OF_F.0));
        world.check(Rules::STRICT);
    });
}

#[test]
fn who_waits_and_reaches_the_newcomers_region_is_off_before_the_guest_has_it() {
    for stubborn in [false, true] {
        with_world(machine(), |world| {
            world.remove(F).unwrap();
            world.assign(&[E], GUEST, Mode::Strict).unwrap();
            world.make_assignable(&[J]);
            assert!(!world.policy.is_quiesced(J));
            if stubborn {
                world.controlled().stubborn = [J].into();
            }
            let (_, notes) = add(world, &function(F));
            assert_eq!(world.policy.is_quiesced(J), !stubborn);
            // As a strict move would be refused, the region is left out where that cannot be done.
            assert_eq!(world.maps(GUEST, OF_F.0), !stubborn);
            let why = NotQuiesced::StaysOn;
            let error = AssignError::NotQuiesced { waiting: J, domain: GUEST, why };
            let without = Note::WaitsWithout { device: F, domain: GUEST, error };
            assert_eq!(notes.contains(&without), stubborn, "{notes:?}");
            world.check(Rules::STRICT);
        });
    }
}

#[test]
fn the_assigned_ones_mode_decides_what_a_newcomer_in_the_way_means() {
    for mode in [Mode::Strict, Mode::Relaxed] {
        with_world(machine(), |world| {
            world.remove(F).unwrap();
            world.remove(J).unwrap();
            world.assign(&[E], GUEST, mode).unwrap();
            occupy(world, OF_F.0 + 1);
            let (owner, notes) = add(world, &function(F));
            assert_eq!(owner, Owner::Quarantine);
            // Relaxed, the rest of the region is mapped; strict, none of it.
            assert_eq!(world.maps(GUEST, OF_F.0), mode == Mode::Relaxed);
            let skipped = notes.iter().any(|note| matches!(note, Note::Skipped { domain: GUEST, .. }));
            let without = notes.iter().any(|note| {
                matches!(
                    note,
                    Note::WaitsWithout { device: F, domain: GUEST, error: AssignError::Map { .. } }
                )
            });
            assert_eq!((skipped, without), (mode == Mode::Relaxed, mode == Mode::Strict), "{notes:?}");
            world.check(Rules::RELAXED);
            let refused = world.assign(&[F], GUEST, Mode::Strict);
            assert!(matches!(refused, Err(AssignError::Map { device: F, .. })), "{refused:?}");
        });
    }
}

#[test]
fn what_of_a_newcomer_cannot_be_mapped_is_said_and_it_comes_all_the_same() {
    // Rejected, at boot or for what is there now.
    let mut machine = machine();
    let mut rejected = Reserved::of(0xc000, 0xc001, &[NEW]);
    rejected.rejected = Some(Rejection::NoScope);
    machine.regions.push(rejected);
    with_world(machine, |world| {
        world.assign(&[G], GUEST, Mode::Strict).unwrap();
        let (owner, notes) = add(world, &with_ids(NEW, &[G]));
        assert_eq!(owner, Owner::Quarantine);
        let without = notes.iter().find(|note| matches!(note, Note::WaitsWithout { .. }));
        let said = without.unwrap().to_string();
        assert!(
            said.starts_with("0000:0c:00.0 waits, translated as d1's, without a region of its"),
            "{said}"
        );
        world.check(Rules::STRICT);
    });
    // Without a frame for its tables in the guest: those of its quarantine were the last.
    let far = |machine: Machine| {
        let mut machine = machine;
        machine.regions.push(Reserved::of(0x80_0000, 0x80_0001, &[NEW]));
        machine
    };
    with_world(far(self::machine()), |world| {
        world.assign(&[G], GUEST, Mode::Strict).unwrap();
        world.frames.limit(3);
        let (owner, notes) = add(world, &with_ids(NEW, &[G]));
        world.frames.limit(None);
        assert_eq!(owner, Owner::Quarantine);
        assert!(
            notes
                .iter()
                .any(|note| matches!(note, Note::WaitsWithout { error: AssignError::Map { .. }, .. })),
            "{notes:?}"
        );
        assert!(!world.maps(GUEST, 0x80_0000));
        world.check(Rules::RELAXED);
        // Later there are some.
        world.assign(&[NEW], GUEST, Mode::Strict).unwrap();
        assert!(world.maps(GUEST, 0x80_0000));
        world.check(Rules::STRICT);
    });
}

#[test]
fn an_id_goes_with_the_last_device_that_shows_it() {
    with_world(machine(), |world| {
        assert_eq!(ids_of(world, E), [BRIDGE, SECONDARY, E, F]);
        world.remove(F).unwrap();
        assert_eq!(ids_of(world, E), [BRIDGE, SECONDARY, E]);
        assert_eq!(world.told().root(F), None);
        // What the one that goes came with first, the other goes on with.
        add(world, &function(F));
        world.remove(E).unwrap();
        assert_eq!(ids_of(world, F), [BRIDGE, SECONDARY, F]);
        assert!(are_alike(world, &[F, BRIDGE, SECONDARY]));
        assert_eq!(world.told().root(E), None);
        world.check(Rules::STRICT);
        // Another may have it, and be elsewhere.
        add(world, &with_ids(NEW, &[E]));
        world.assign(&[NEW], GUEST, Mode::Strict).unwrap();
        world.assign(&[F, J], OTHER, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        assert!(are_alike(world, &[E, NEW]));
    });
    // Also from a guest, with one that waits.
    with_world(machine(), |world| {
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        world.deassign(&[F], GUEST).unwrap();
        world.remove(E).unwrap();
        assert_eq!((world.told().root(E), world.owner(F)), (None, Some(Owner::Quarantine)));
        assert!(!world.maps(GUEST, OF_E.0));
        world.check(Rules::STRICT);
    });
    // A bridge goes on with its own.
    with_world(machine(), |world| {
        world.remove(E).unwrap();
        world.remove(F).unwrap();
        assert!([SECONDARY, F].iter().all(|id| world.told().root(*id).is_none()));
        assert!(world.told().root(BRIDGE).is_some());
        world.remove(BRIDGE).unwrap();
        assert_eq!(world.told().root(BRIDGE), None);
    });
}

#[test]
fn ids_come_and_go_for_ever() {
    with_world(machine(), |world| {
        // More than there are places.
        for _ in 0..200 {
            world.add(&with_ids(NEW, &[A, G])).unwrap();
            world.remove(NEW).unwrap();
            world.remove(E).unwrap();
            world.add(&function(E)).unwrap();
        }
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_two_were_joined_by_may_go_and_they_stay_together() {
    with_world(machine(), |world| {
        world.add(&with_ids(NEW, &[A, G])).unwrap();
        world.remove(NEW).unwrap();
        assert_eq!(world.told().root(NEW), None);
        let Err(AssignError::Group(together)) = world.assign(&[A], GUEST, Mode::Strict) else { panic!() };
        assert_eq!(together.other, G);
        world.check(Rules::STRICT);
        // Until they go themselves.
        world.remove(G).unwrap();
        world.add(&function(G)).unwrap();
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_region_that_goes_from_quarantine_leaves_what_overlaps_it_to_those_that_stay() {
    // Of two that share an id: the regions overlap, across a large page.
    let (mine, theirs) = ((0x2100, 0x2500), (0x2300, 0x2900));
    let shared = Sbdf::new(0, 9, 3, 0);
    let regions = vec![Reserved::of(mine.0, mine.1, &[A, J]), Reserved::of(theirs.0, theirs.1, &[G])];
    for gone in [A, G] {
        let devices = vec![with_ids(A, &[shared]), with_ids(G, &[shared]), Function::endpoint(J)];
        with_world(Machine::new(devices, regions.clone()), |world| {
            world.make_assignable(&[A, G]);
            world.frames.limit(0);
            world.remove(gone).unwrap();
            world.frames.limit(None);
            let stays = if gone == A { G } else { A };
            let reaches = |frame| world.dma(stays, frame) == Some(frame);
            assert_eq!((reaches(mine.0), reaches(theirs.1 - 1)), (gone == G, gone == A));
            assert!(reaches(0x2300) && reaches(0x24ff));
            world.check(Rules::STRICT);
        });
    }
}

#[test]
fn a_physical_function_that_goes_while_guests_have_its_virtual_ones_is_said() {
    let (physical, functions) = (Sbdf::new(0, 3, 0, 0), [0x10, 0x11, 0x12].map(|n| Sbdf::new(0, 3, n, 0)));
    let of = |role, sbdf| Function { role, ..Function::endpoint(sbdf) };
    let mut devices = vec![of(Role::Physical, physical)];
    devices.extend(functions.map(|function| of(Role::Virtual { physical }, function)));
    with_world(Machine::new(devices, vec![]), |world| {
        world.assign(&[functions[0]], GUEST, Mode::Strict).unwrap();
        world.assign(&[functions[2]], OTHER, Mode::Strict).unwrap();
        let ((), notes) = world.noted(|world, hear| world.policy.remove_device(physical, hear).unwrap());
        let without =
            |place: usize, domain| Note::WithoutPhysical { device: functions[place], physical, domain };
        assert_eq!(notes, [without(0, GUEST), without(2, OTHER)]);
        assert_eq!(
            notes[0].to_string(),
            "d1 keeps 0000:03:10.0, a virtual function of 0000:03:00.0, which has gone: take it back"
        );
        // They keep their unit.
        assert_eq!(world.told().unit_of[&functions[0]], physical);
        world.deassign(&[functions[0]], GUEST).unwrap();
        assert_eq!(world.told().unit_of[&functions[0]], physical);
        world.check(Rules::STRICT);
        let ((), notes) = world.noted(|world, hear| world.policy.remove_device(functions[1], hear).unwrap());
        assert_eq!(notes, []);
    });
}

#[test]
fn a_device_without_its_place_changes_nothing() {
    let mut small = machine();
    small.capacity.requester_ids = small.devices.iter().map(|one| one.ids.len()).sum::<usize>() + 2;
    with_world(small, |world| {
        let before = world.snapshot();
        assert_eq!(world.add(&with_ids(NEW, &[A, G])), Err(AddError::NoPlace));
        assert_eq!(world.snapshot(), before);
        world.add(&with_ids(NEW, &[A])).unwrap();
        world.remove(H).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_newcomer_that_no_unit_translates_holds_up_nobody_of_its_requester() {
    let shared = Sbdf::new(0, 9, 0, 0);
    let devices = vec![with_ids(A, &[shared])];
    with_world(Machine::new(devices, vec![Reserved::of(0x1000, 0x1001, &[A])]), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.told().uncovered = [NEW].into();
        let (_, notes) = add(world, &with_ids(NEW, &[shared]));
        assert!(notes.contains(&Note::NotTranslated(NEW)), "{notes:?}");
        assert_eq!(ids_of(world, A), [A, shared]);
        world.deassign(&[A], GUEST).unwrap();
        world.assign(&[A], GUEST, Mode::Relaxed).unwrap();
        // Nothing is left attached when both have gone, so that tables can be freed.
        world.remove(A).unwrap();
        world.remove(NEW).unwrap();
        world.destroy(GUEST).unwrap();
        assert!(world.told().attached.is_empty());
    });
}

#[test]
fn a_block_ends_with_the_device_that_it_was_for() {
    // The bridge goes on with the id, and what comes below it later is not blocked.
    let below = |sbdf| with_ids(sbdf, &[BRIDGE]);
    let bridge = Function { role: Role::Bridge, ..Function::endpoint(BRIDGE) };
    let regions = vec![Reserved::of(0x1000, 0x1001, &[A, E]), Reserved::of(0x2000, 0x2001, &[F])];
    with_world(Machine::new(vec![Function::endpoint(A), bridge], regions), |world| {
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        world.controlled().stubborn = [E].into();
        let (_, notes) = add(world, &below(E));
        assert!(
            notes.iter().any(|note| matches!(note, Note::NotQuiesced { blocked: true, .. })),
            "{notes:?}"
        );
        assert_eq!(world.told().root(BRIDGE), None);
        world.remove(E).unwrap();
        assert!(world.told().root(BRIDGE).is_some());
        add(world, &below(F));
        world.make_assignable(&[F]);
        assert_eq!(world.dma(F, 0x2000), Some(0x2000));
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_has_gone_leaves_nothing_to_those_that_have_its_id_later() {
    let bridge = Function { role: Role::Bridge, ..Function::endpoint(BRIDGE) };
    let below = |sbdf| with_ids(sbdf, &[BRIDGE]);
    let regions = vec![Reserved::of(0x1000, 0x1001, &[A, E])];
    // By way of a bridge that goes on with the id.
    with_world(Machine::new(vec![Function::endpoint(A), bridge, below(E)], regions.clone()), |world| {
        world.remove(E).unwrap();
        add(world, &below(F));
        world.make_assignable(&[F]);
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        assert_eq!(world.dma(F, 0x1000), None);
        world.check(Rules::STRICT);
    });
    // By a device that failed to come, at any call of the hardware.
    for calls in 0..8 {
        with_world(Machine::new(vec![Function::endpoint(A), bridge, below(F)], regions.clone()), |world| {
            world.fail_after(calls);
            let failed = world.add(&below(E)).is_err();
            if world.recover() || !failed {
                return;
            }
            world.make_assignable(&[F]);
            world.assign(&[A], GUEST, Mode::Strict).unwrap();
            assert_eq!(world.dma(F, 0x1000), None);
            world.check(Rules::STRICT);
        });
    }
}
