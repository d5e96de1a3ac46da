//! Functions under more ids than one: phantom functions go where their device goes, virtual functions are devices of their own.

use xen_iommu::{AddError, AssignError, FurtherIds, GroupPolicy, Link, Mode, Owner, Sbdf, Source};

use crate::failures::{GUEST, with_world};
use crate::world::{A, G, HARDWARE_DOMAIN, World, space};

/// What the hardware was told of a requester.
fn root_of(world: &World<'_>, source: Sbdf) -> Option<u64> {
    world.told.lock().unwrap().attached.get(&source).map(|root| root.root.raw())
}

fn add(world: &World<'_>, device: Sbdf, source: Source) -> Result<Owner, String> {
    let added = world.policy.add_device(device, source, || space(world.frames), &mut |_| {});
    added.map_err(|error| error.to_string())
}

/// [`A`] comes back with phantom functions: 00:04.2, 00:04.4 and 00:04.6.
fn with_phantoms(test: impl FnOnce(&World<'_>, &[Sbdf])) {
    with_world(GroupPolicy::Refuse, |world| {
        world.policy.remove_device(A, &mut |_| {}).unwrap();
        assert_eq!(add(world, A, Source { id: A, phantom_stride: 2 }), Ok(Owner::Domain(HARDWARE_DOMAIN)));
        let phantoms: Vec<_> = FurtherIds::phantom(A, 2).unwrap().iter().collect();
        assert_eq!(phantoms, [2, 4, 6].map(|function| Sbdf::new(0, 0, 4, function)));
        test(world, &phantoms);
    });
}

#[test]
fn phantom_functions_go_where_their_device_goes() {
    with_phantoms(|world, phantoms| {
        let all_at = |root| phantoms.iter().all(|phantom| root_of(world, *phantom) == root);
        let home = root_of(world, A);
        assert!(home.is_some() && all_at(home));
        world.policy.assign(&[A], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        let guest = root_of(world, A);
        assert!(guest != home && all_at(guest));
        world.policy.deassign(&[A], GUEST, &mut |_| {}).unwrap();
        let quarantine = root_of(world, A);
        assert!(quarantine != home && quarantine != guest && all_at(quarantine));
        world.policy.remove_device(A, &mut |_| {}).unwrap();
        assert!(root_of(world, A).is_none() && all_at(None));
    });
}

#[test]
fn a_switch_that_fails_half_way_through_the_phantoms_goes_back_for_all() {
    with_phantoms(|world, phantoms| {
        let home = root_of(world, A);
        // A flush, then the device and its phantoms one by one.
        for answered in 1..5 {
            world.told.lock().unwrap().left = Some(answered);
            let refused = world.policy.assign(&[A], GUEST, Mode::Strict, &mut |_| {});
            assert!(matches!(refused, Err(AssignError::Hardware { device: A, .. })), "{refused:?}");
            world.told.lock().unwrap().left = None;
            assert_eq!(root_of(world, A), home);
            assert!(phantoms.iter().all(|phantom| root_of(world, *phantom) == home), "after {answered}");
            world.check(true);
        }
    });
}

#[test]
fn who_has_a_phantoms_id_is_in_its_group_and_what_cannot_be_told_apart_is_refused() {
    with_phantoms(|world, phantoms| {
        // A function that answers at 00:04.4 all the same: its DMA is the same to the hardware.
        add(world, phantoms[1], phantoms[1].into()).unwrap();
        let mut links = Vec::new();
        world.policy.for_each_in_group(A, |member, link| {
            if let Some(Link::RequesterId(id)) = link {
                links.push((member, id));
            }
        });
        assert_eq!(links, [(phantoms[1], A)]);
        // The other way round: the device with phantoms comes last.
        let taken = Sbdf::new(0, 0, 8, 4);
        add(world, taken, taken.into()).unwrap();
        world.policy.remove_device(G, &mut |_| {}).unwrap();
        let refused = add(world, G, Source { id: G, phantom_stride: 4 }).unwrap_err();
        assert_eq!(refused, AddError::Phantom { device: G, taken }.to_string());
        add(world, G, G.into()).unwrap();
        world.check(true);
    });
}

#[test]
fn virtual_functions_are_devices_of_their_own() {
    with_world(GroupPolicy::Refuse, |world| {
        let functions = FurtherIds { function: A, offset: 0x80, stride: 1, count: 2 };
        for function in functions.iter() {
            add(world, function, function.into()).unwrap();
        }
        let first = functions.iter().next().unwrap();
        world.policy.assign(&[first], GUEST, Mode::Strict, &mut |_| {}).unwrap();
        assert_eq!(world.policy.owner(A), Some(Owner::Domain(HARDWARE_DOMAIN)));
        assert_eq!(
            world.policy.registry().regions_of(first).count(),
            0,
            "the region is the physical function's"
        );
        let mut members = 0;
        world.policy.for_each_in_group(first, |_, _| members += 1);
        assert_eq!(members, 1);
        world.check(true);
    });
}
