//! Devices that come and go: groups form and fall apart, and never span two domains.

use xen_iommu::{AddError, GroupPolicy, Link, Mode, Owner, Sbdf};

use crate::failures::{GUEST, with_world};
use crate::world::{A, B, C, D, E, F, HARDWARE_DOMAIN, REGIONS, World, space};

fn remove(world: &World<'_>, devices: &[Sbdf]) {
    for device in devices {
        world.policy.remove_device(*device, &mut |_| {}).unwrap();
        world.check(true);
    }
}

fn add<'w>(world: &'w World<'_>, device: Sbdf, source: Sbdf) -> Result<Owner, AddError<'w>> {
    let added = world.policy.add_device(device, source, || space(world.frames), &mut |_| {});
    world.check(true);
    added
}

fn group(world: &World<'_>, device: Sbdf) -> Vec<Sbdf> {
    let mut members = Vec::new();
    world.policy.for_each_in_group(device, |member, _| members.push(member));
    members.sort_unstable();
    members
}

#[test]
fn absent_devices_make_no_group_until_they_appear() {
    with_world(GroupPolicy::Refuse, |world| {
        assert_eq!(group(world, B), [B, C, D], "C's region is B's, and D's overlaps it");
        remove(world, &[C]);
        assert_eq!(group(world, B), [B, D], "their regions overlap without C");
        remove(world, &[B]);
        assert_eq!(group(world, D), [D]);
        world.policy.assign(&[D], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        world.check(true);
    });
}

#[test]
fn a_group_falls_apart_when_what_links_it_goes() {
    with_world(GroupPolicy::Refuse, |world| {
        remove(world, &[B, C]);
        assert_eq!(group(world, D), [D]);
        assert_eq!(add(world, B, B).unwrap(), Owner::Domain(HARDWARE_DOMAIN));
        assert_eq!(group(world, D), [B, D]);
    });
}

#[test]
fn an_addition_that_would_make_a_group_span_two_domains_is_refused() {
    with_world(GroupPolicy::Refuse, |world| {
        let bridge = Sbdf::new(0, 1, 0, 0);
        remove(world, &[C, D, F]);
        world.policy.assign(&[B], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        world.policy.assign(&[E], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        let before = world.snapshot();
        for (device, source, other) in [(C, C, B), (D, D, B), (F, bridge, E)] {
            let refused = add(world, device, source);
            let Err(AddError::Group { other: named, owner, link: Some(link), .. }) = refused else {
                panic!("{device}: {refused:?}");
            };
            assert_eq!((named, owner), (other, Owner::Domain(GUEST)));
            let expected = match device {
                C => matches!(link, Link::SharedRegion(_)),
                D => matches!(link, Link::Overlap(..)),
                _ => matches!(link, Link::RequesterId(source) if source == bridge),
            };
            assert!(expected, "{device}: {link}");
            assert_eq!(world.snapshot(), before);
        }
        // Where the group is in quarantine, the newcomer goes there too.
        world.policy.deassign(&[B], GUEST, &mut |_| {}).unwrap();
        assert_eq!(add(world, C, C).unwrap(), Owner::Quarantine);
    });
}

#[test]
fn a_destroyed_domain_leaves_its_devices_in_quarantine_with_their_regions() {
    with_world(GroupPolicy::Refuse, |world| {
        world.policy.assign(&[B, C, D], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        drop(world.policy.destroy_domain(GUEST, &mut |_| {}).unwrap());
        world.check(true);
        for device in [B, C, D] {
            assert_eq!(world.policy.owner(device), Some(Owner::Quarantine));
        }
        assert!(world.policy.registry().regions_of(B).all(|region| region.owner().is_none()));
    });
}

#[test]
fn a_device_is_not_added_where_another_domain_has_the_memory_of_its_region() {
    let memory = |gfn: u64| p2m::Entry {
        p2m_type: p2m::P2mType::MmioDirect,
        mfn: Some(p2m::Mfn::new(gfn)),
        access: p2m::Access::READ_WRITE,
    };
    // By a mapping of its own.
    with_world(GroupPolicy::Refuse, |world| {
        let (start, end, _) = REGIONS[0];
        remove(world, &[A]);
        let gfns = p2m::GfnRange::new(p2m::Gfn::new(start), p2m::Gfn::new(end)).unwrap();
        world.policy.with_space(GUEST, |space| p2m::P2m::map(space, gfns, memory(start)).unwrap()).unwrap();
        let before = world.snapshot();
        let refused = world.policy.add_device(A, A, || space(world.frames), &mut |_| {});
        assert!(matches!(refused, Err(AddError::ReachedBy { domain: GUEST, .. })), "{refused:?}");
        assert_eq!(world.snapshot(), before);
    });
    // By a group that relaxed moves have left in several places.
    for (theirs, ours) in [(B, C), (C, B)] {
        with_world(GroupPolicy::Refuse, |world| {
            world.policy.deassign(&[B, C, D], HARDWARE_DOMAIN, &mut |_| {}).unwrap();
            world.policy.assign(&[theirs], GUEST, Mode::Relaxed, &mut |_| {}).unwrap();
            world.policy.assign(&[ours], HARDWARE_DOMAIN, Mode::Relaxed, &mut |_| {}).unwrap();
            for device in [D, ours] {
                world.policy.remove_device(device, &mut |_| {}).unwrap();
                let refused = world.policy.add_device(device, device, || space(world.frames), &mut |_| {});
                assert!(matches!(refused, Err(AddError::Group { .. })), "{refused:?}");
            }
            world.check(false);
        });
    }
}
