//! What PCI does not keep apart: told, or required to stay together, and no relaxed call yields there.

use testkit::world::check::Rules;
use testkit::world::devices::{X, Y, function, isolating, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, World, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::pci::Function;
use xen_iommu::{AssignError, DomId, Isolation, Link, Mode, NotQuiesced, Note, Owner, Sbdf};

#[test]
fn report_tells_which_way_is_open_and_gives_it_away_as_xen_does() {
    with_world(machine(), |world| {
        assert_eq!(world.policy.isolation(), Isolation::Report);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[X], GUEST, Mode::Strict, hear));
        done.unwrap();
        assert_eq!(notes, [Note::NotIsolated { device: X, other: Y, at: X }]);
        // Both in one place: nothing to tell; nor for quarantine or the hardware domain.
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[Y], GUEST, Mode::Strict, hear));
        done.unwrap();
        assert_eq!(notes, []);
        world.deassign(&[X, Y], GUEST).unwrap();
        for domain in [HARDWARE_DOMAIN, DomId::IO] {
            let (done, notes) =
                world.noted(|world, hear| world.policy.assign(&[X], domain, Mode::Strict, hear));
            done.unwrap();
            assert_eq!(notes, []);
        }
        let mut members = 0;
        world.policy.for_each_in_group(X, |_, _| members += 1);
        assert_eq!(members, 1);
    });
}

#[test]
fn require_links_them_and_does_not_yield_to_relaxed() {
    with_world(isolating(), |world| {
        let mut links = Vec::new();
        world.policy.for_each_in_group(X, |member, link| links.push((member, link)));
        assert_eq!(links, [(X, None), (Y, Some(Link::NotIsolated(X)))]);
        for mode in [Mode::Strict, Mode::Relaxed] {
            let error = world.assign(&[X], GUEST, mode).unwrap_err();
            assert!(matches!(error, AssignError::Group(together) if together.other == Y), "{error}");
            assert!(
                error.to_string().contains("nothing isolates them from each other at 0000:05:00.0"),
                "{error}"
            );
            assert_eq!(Errno::from(&error), Errno::EPERM);
        }
        // DOMID_IO is exempt, and there the other may wait.
        world.assign(&[X], DomId::IO, Mode::Relaxed).unwrap();
        assert!(world.assign(&[X], GUEST, Mode::Relaxed).is_err());
        world.assign(&[Y], DomId::IO, Mode::Relaxed).unwrap();
        world.assign(&[X], GUEST, Mode::Strict).unwrap();
        for (domain, mode) in
            [(OTHER, Mode::Relaxed), (HARDWARE_DOMAIN, Mode::Relaxed), (OTHER, Mode::Strict)]
        {
            assert!(matches!(world.assign(&[Y], domain, mode), Err(AssignError::Group(_))));
        }
        world.assign(&[Y], GUEST, Mode::Strict).unwrap();
        // Given back one by one.
        world.deassign(&[X], GUEST).unwrap();
        world.deassign(&[Y], GUEST).unwrap();
        world.check(Rules::STRICT);
    });
    // They are not translated as one: each has its own ids and regions.
    with_world(isolating(), |world| {
        let mut all: Vec<_> = world.policy.inseparable(X).collect();
        all.sort_unstable();
        assert_eq!(all, [X]);
        // One that comes when a guest has the other waits.
        world.remove(Y).unwrap();
        world.assign(&[X], GUEST, Mode::Strict).unwrap();
        assert_eq!(world.add(&function(Y)), Ok(Owner::Quarantine));
        assert!(world.policy.is_quiesced(Y));
        world.check(Rules::STRICT);
    });
}

#[test]
fn who_waits_and_reaches_a_guests_device_beside_the_unit_is_off() {
    with_world(isolating(), |world| {
        world.make_assignable(&[X, Y]);
        world.assign(&[X], GUEST, Mode::Strict).unwrap();
        assert!(world.policy.is_quiesced(Y));
        world.check(Rules::STRICT);
    });
}

#[test]
fn one_of_three_that_goes_leaves_the_others_together_and_alone() {
    let of = |number| Function {
        isolation: Sbdf::new(0, 6, 0, 0),
        ..Function::endpoint(Sbdf::new(0, 6, 0, number))
    };
    let machine =
        Machine { isolation: Isolation::Require, ..Machine::new([0, 1, 2].map(of).to_vec(), vec![]) };
    let group = |world: &World<'_>, of: Sbdf| {
        let mut members = Vec::new();
        world.policy.for_each_in_group(of, |member, _| members.push(member));
        members.sort_unstable();
        members
    };
    with_world(machine, |world| {
        world.remove(of(1).sbdf).unwrap();
        assert_eq!(group(world, of(0).sbdf), [of(0).sbdf, of(2).sbdf]);
        world.assign(&[of(0).sbdf, of(2).sbdf], GUEST, Mode::Strict).unwrap();
        // Who takes the place of the one that has gone is none of them.
        let other = Sbdf::new(0, 7, 0, 0);
        assert_eq!(world.add(&Function::endpoint(other)), Ok(Owner::Domain(HARDWARE_DOMAIN)));
        assert_eq!(group(world, other), [other]);
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_newcomer_is_cut_off_with_those_that_reach_a_guests_device_by_way_of_it() {
    // Nothing isolates the newcomer from Y, which waits; and its DMA may come from X.
    let mut newcomer = Function { isolation: Y, ..Function::endpoint(Sbdf::new(0, 5, 0, 2)) };
    assert!(newcomer.ids.add(X));
    let alone = |sbdf| Function::endpoint(sbdf);
    let machine = Machine { isolation: Isolation::Require, ..Machine::new(vec![alone(X), alone(Y)], vec![]) };
    for stubborn in [false, true] {
        with_world(machine.clone(), |world| {
            world.make_assignable(&[Y]);
            world.assign(&[X], GUEST, Mode::Strict).unwrap();
            if stubborn {
                world.controlled().stubborn = [Y].into();
            }
            let (added, notes) = world.add_noted(&newcomer);
            assert_eq!(added, Ok(Owner::Quarantine));
            assert_eq!(world.policy.is_quiesced(Y), !stubborn);
            let goes_on = Note::NotQuiesced { device: Y, why: NotQuiesced::StaysOn, blocked: false };
            assert_eq!(notes.contains(&goes_on), stubborn, "{notes:?}");
            world.check(Rules::STRICT);
        });
        // What fails to come leaves it on.
        with_world(machine.clone(), |world| {
            world.make_assignable(&[Y]);
            world.assign(&[X], GUEST, Mode::Strict).unwrap();
            let before = world.snapshot();
            world.fail_after(0);
            world.add(&newcomer).unwrap_err();
            world.recover();
            assert_eq!(world.snapshot(), before);
        });
    }
}
