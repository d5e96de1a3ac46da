//! What PCI does not keep apart: told, or required to stay together, and no relaxed call yields there.

use testkit::world::check::Rules;
use testkit::world::devices::{X, Y, function, isolating, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::{AssignError, DomId, Isolation, Link, Mode, Note, Owner};

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
