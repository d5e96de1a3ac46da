//! Devices that come and go: groups form and fall apart; who owns something keeps it, and a newcomer waits,
//! cut off.

use testkit::world::check::Rules;
use testkit::world::devices::{
    A, B, BRIDGE, C, D, E, F, J, OF_A, OF_B, OF_E, OF_F, X, Y, function, isolating, machine,
};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, World, with_world};
use xen_iommu::pci::{Function, Role};
use xen_iommu::region::devices::Devices;
use xen_iommu::{AddError, AssignError, DomId, Holder, Mode, NotQuiesced, Note, Owner, Sbdf};

const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);

fn remove(world: &World<'_>, devices: &[Sbdf]) {
    for device in devices {
        world.remove(*device).unwrap();
        world.check(Rules::STRICT);
    }
}

/// A device comes: whom it belongs to, and the notes.
fn add(world: &World<'_>, device: Sbdf) -> (Owner, Vec<Note>) {
    let (added, notes) = world.noted(|world, hear| {
        let space = || testkit::world::space(world.frames);
        world.policy.add_device(&function(device), space, hear)
    });
    world.check(Rules::STRICT);
    (added.unwrap(), notes)
}

fn group(world: &World<'_>, device: Sbdf) -> Vec<Sbdf> {
    let mut members = Vec::new();
    world.policy.for_each_in_group(device, |member, _| members.push(member));
    members.sort_unstable();
    members
}

#[test]
fn absent_devices_make_no_group_until_they_appear() {
    with_world(machine(), |world| {
        assert_eq!(group(world, B), [B, C, D], "C's region is B's, and D's overlaps it");
        remove(world, &[C]);
        assert_eq!(group(world, B), [B, D], "their regions overlap without C");
        remove(world, &[B]);
        assert_eq!(group(world, D), [D]);
        world.assign(&[D], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        assert_eq!(group(world, C), []);
    });
}

#[test]
fn a_group_falls_apart_when_what_links_it_goes() {
    with_world(machine(), |world| {
        remove(world, &[B, C]);
        assert_eq!(group(world, D), [D]);
        assert_eq!(add(world, B), (HOME, vec![]));
        assert_eq!(group(world, D), [B, D]);
        assert_eq!(group(world, J), [J, E, F]);
        remove(world, &[F]);
        assert_eq!((group(world, J), group(world, E)), (vec![J], vec![E]));
    });
    // What nothing isolates from it goes its way too, and so it can come again.
    with_world(isolating(), |world| {
        assert_eq!(group(world, X), [X, Y]);
        for gone in [X, Y, Y, X] {
            remove(world, &[gone]);
            let stays = if gone == X { Y } else { X };
            assert_eq!(group(world, stays), [stays]);
            world.assign(&[stays], GUEST, Mode::Strict).unwrap();
            world.deassign(&[stays], GUEST).unwrap();
            world.deassign(&[stays], DomId::IO).unwrap();
            assert_eq!(add(world, gone).0, HOME);
            assert_eq!(group(world, stays), [X, Y]);
        }
        remove(world, &[X, Y]);
        assert_eq!((add(world, Y).0, add(world, X).0), (HOME, HOME));
        assert_eq!(group(world, Y), [X, Y]);
    });
}

#[test]
fn a_newcomer_to_a_guests_group_waits_cut_off_and_can_be_assigned() {
    with_world(machine(), |world| {
        remove(world, &[C, D, F, J]);
        world.assign(&[B], GUEST, Mode::Strict).unwrap();
        world.assign(&[E], GUEST, Mode::Strict).unwrap();
        for (newcomer, other) in [(C, B), (D, B), (F, E)] {
            let (owner, notes) = add(world, newcomer);
            assert_eq!(owner, Owner::Quarantine);
            let holder = Holder::Guest(GUEST);
            let note = notes.iter().find(|note| matches!(note, Note::Newcomer { .. }));
            let Some(Note::Newcomer { device, other: with, holder: by }) = note else { panic!("{notes:?}") };
            assert_eq!((*device, *by), (newcomer, holder));
            assert!(*with == other || newcomer == D, "{with}");
            assert!(world.policy.is_quiesced(newcomer), "{newcomer}");
            // Who owns something keeps it.
            assert!(
                world.owner(B) == Some(Owner::Domain(GUEST)) && world.owner(E) == Some(Owner::Domain(GUEST))
            );
            // Not to others, not even home.
            for domain in [OTHER, HARDWARE_DOMAIN] {
                let refused = world.assign(&[newcomer], domain, Mode::Strict);
                assert!(matches!(refused, Err(AssignError::Group(_))), "{refused:?}");
            }
            world.assign(&[newcomer], GUEST, Mode::Strict).unwrap();
            assert!(!world.policy.is_quiesced(newcomer));
            world.check(Rules::STRICT);
        }
        assert_eq!(world.dma(F, OF_F.0), Some(OF_F.0));
    });
    // A group that waits has it wait too, not cut off: nobody has anything.
    with_world(machine(), |world| {
        remove(world, &[C]);
        world.make_assignable(&[B, D]);
        assert_eq!(add(world, C), (Owner::Quarantine, vec![]));
        assert!(!world.policy.is_quiesced(C));
        // Where the hardware domain has one still, it has the newcomer.
        remove(world, &[C]);
        world.deassign(&[D], DomId::IO).unwrap();
        assert_eq!(add(world, C), (HOME, vec![]));
    });
}

#[test]
fn a_newcomer_may_join_what_two_guests_have() {
    with_world(machine(), |world| {
        remove(world, &[F]);
        world.assign(&[J], GUEST, Mode::Strict).unwrap();
        world.assign(&[E], OTHER, Mode::Strict).unwrap();
        let (owner, notes) = add(world, F);
        assert_eq!(owner, Owner::Quarantine, "{notes:?}");
        assert!(world.policy.is_quiesced(F));
        assert_eq!(world.owner(J), Some(Owner::Domain(GUEST)));
        assert_eq!(world.owner(E), Some(Owner::Domain(OTHER)));
        // It is E's requester's, and J's memory is not to be seen there.
        assert_eq!((world.dma(F, OF_E.0), world.dma(F, OF_F.0)), (Some(OF_E.0), None));
        for (domain, mode) in [(GUEST, Mode::Strict), (OTHER, Mode::Strict), (GUEST, Mode::Relaxed)] {
            let refused = world.assign(&[F], domain, mode);
            assert!(matches!(refused, Err(AssignError::Group(_))), "{refused:?}");
        }
        // When the rule permits.
        world.deassign(&[J], GUEST).unwrap();
        world.assign(&[F], OTHER, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_newcomer_that_cannot_be_switched_off_is_blocked_or_that_is_said() {
    with_world(machine(), |world| {
        remove(world, &[C, F]);
        world.assign(&[B, D], GUEST, Mode::Strict).unwrap();
        world.assign(&[E], GUEST, Mode::Strict).unwrap();
        world.controlled().stubborn = [C, F].into();
        let (_, notes) = add(world, C);
        let blocked = Note::NotQuiesced { device: C, why: NotQuiesced::StaysOn, blocked: true };
        assert!(notes.contains(&blocked), "{notes:?}");
        assert_eq!(world.told().root(C), None);
        // What shares E's ids cannot be blocked without E.
        let (_, notes) = add(world, F);
        let goes_on = Note::NotQuiesced { device: F, why: NotQuiesced::StaysOn, blocked: false };
        assert!(notes.contains(&goes_on), "{notes:?}");
        assert!(world.told().root(E).is_some());
    });
}

#[test]
fn devices_come_and_go_with_their_places() {
    with_world(machine(), |world| {
        assert_eq!(world.add(&function(A)), Err(AddError::Present(A)));
        assert_eq!(
            world.remove(Sbdf::new(7, 7, 7, 7)),
            Err(AssignError::UnknownDevice(Sbdf::new(7, 7, 7, 7)))
        );
        // What is still owned may go: it is unplugged.
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        remove(world, &[A]);
        assert!(!world.maps(GUEST, OF_A.0));
        assert_eq!(add(world, A), (HOME, vec![]));
    });
    let mut small = machine();
    small.capacity.devices = small.devices.len();
    with_world(small, |world| {
        let one_more = Function::endpoint(Sbdf::new(7, 0, 0, 0));
        let before = world.snapshot();
        assert_eq!(world.add(&one_more), Err(AddError::NoPlace));
        assert_eq!(world.snapshot(), before);
        remove(world, &[A]);
        world.add(&one_more).unwrap();
    });
}

const BELOW: Sbdf = Sbdf::new(0, 1, 9, 0);
const ROOT: Sbdf = Sbdf::new(0, 0, 3, 0);
const HOST_BRIDGE: Sbdf = Sbdf::new(0, 0, 0, 0);

/// A region of all that is below a bridge and of the host bridge, and one of a device and the host bridge.
fn bridged() -> Machine {
    let below = Devices::Below { bridge: BRIDGE, first_bus: 1, last_bus: 1 };
    let mut shared = Reserved::of(0x1000, 0x1010, &[HOST_BRIDGE]);
    shared.devices.push(below);
    let regions = vec![shared, Reserved::of(0x2000, 0x2001, &[ROOT, HOST_BRIDGE])];
    let of = |role, sbdf| Function { role, ..Function::endpoint(sbdf) };
    let devices = vec![
        of(Role::HostBridge, HOST_BRIDGE),
        of(Role::Endpoint, ROOT),
        of(Role::Bridge, BRIDGE),
        Function { ids: function(E).ids, ..Function::endpoint(E) },
        Function::endpoint(BELOW),
    ];
    Machine::new(devices, regions)
}

#[test]
fn bridges_and_host_bridges_hold_nobody_back_and_are_nobodys() {
    with_world(bridged(), |world| {
        // A region scoped to a bridge, behind a conventional bridge whose id it uses, and with 00:00.0 in the
        // list.
        assert_eq!(group(world, E), [E, BELOW]);
        assert_eq!(group(world, ROOT), [ROOT]);
        assert!(group(world, BRIDGE).is_empty() && group(world, HOST_BRIDGE).is_empty());
        world.assign(&[ROOT], GUEST, Mode::Strict).unwrap();
        world.assign(&[E, BELOW], OTHER, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        for bridge in [BRIDGE, HOST_BRIDGE] {
            assert_eq!(world.owner(bridge), Some(HOME));
            for domain in [GUEST, DomId::IO] {
                for mode in [Mode::Strict, Mode::Relaxed] {
                    assert_eq!(world.assign(&[bridge], domain, mode), Err(AssignError::Bridge(bridge)));
                }
            }
            world.assign(&[bridge], HARDWARE_DOMAIN, Mode::Strict).unwrap();
        }
        // Nor does one that comes when all below it are a guest's.
        world.remove(BRIDGE).unwrap();
        world.check(Rules::STRICT);
        world.add(&Function { role: Role::Bridge, ..Function::endpoint(BRIDGE) }).unwrap();
        world.check(Rules::STRICT);
        world.deassign(&[E], OTHER).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_is_mapped_for_a_bridge_is_not_kept_from_a_guest() {
    with_world(bridged(), |world| {
        world.remove(E).unwrap();
        world.remove(BELOW).unwrap();
        world.remove(BRIDGE).unwrap();
        // Mapped for the bridge, with nobody below it.
        world.add(&Function { role: Role::Bridge, ..Function::endpoint(BRIDGE) }).unwrap();
        world.add(&Function::endpoint(BELOW)).unwrap();
        world.make_assignable(&[BELOW]);
        // The bridge comes again while the device waits, and the device is given away.
        world.remove(BRIDGE).unwrap();
        world.add(&Function { role: Role::Bridge, ..Function::endpoint(BRIDGE) }).unwrap();
        world.check(Rules::STRICT);
        world.assign(&[BELOW], GUEST, Mode::Strict).unwrap();
        assert!(world.maps(GUEST, 0x1000) && !world.maps(HARDWARE_DOMAIN, 0x1000));
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_the_hardware_domain_has_for_a_bridge_goes_when_a_newcomer_takes_it_to_a_guest() {
    // BELOW is ROOT's requester and below the bridge: it comes to a guest's group while the bridge's region
    // is mapped at home.
    let mut machine = bridged();
    machine.devices.retain(|one| one.sbdf != E && one.sbdf != BELOW);
    with_world(machine, |world| {
        world.assign(&[ROOT], GUEST, Mode::Strict).unwrap();
        let mut below = Function::endpoint(BELOW);
        assert!(below.ids.add(ROOT));
        assert_eq!(world.add(&below), Ok(Owner::Quarantine));
        world.assign(&[BELOW], GUEST, Mode::Strict).unwrap();
        assert!(world.maps(GUEST, 0x1000));
        world.check(Rules::STRICT);
        assert!(!world.maps(HARDWARE_DOMAIN, OF_B.0));
    });
}
