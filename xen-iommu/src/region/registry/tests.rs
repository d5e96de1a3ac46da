use std::mem::MaybeUninit;
use std::string::ToString;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::platform::{DomId, Sbdf};
use crate::region::iommu_state::Unusable;
use crate::region::record::{NONE, Origin, Stage};
use crate::region::verdict::Rejection;

fn any_devices() -> impl Strategy<Value = Devices> {
    let ids = 0_u32..5 << 8;
    prop_oneof![
        4 => (0_u32..24).prop_map(|raw| Devices::Function(Sbdf::from_raw(raw * 8))),
        2 => (0_u32..4, 0_u8..4, 0_u8..4).prop_map(|(bridge, first_bus, last_bus)| Devices::Below {
            bridge: Sbdf::from_raw(bridge * 8),
            first_bus,
            last_bus,
        }),
        1 => (ids.clone(), ids).prop_map(|(first, last)| Devices::Requesters {
            first: Sbdf::from_raw(first),
            last: Sbdf::from_raw(last),
        }),
    ]
}

/// Pages from `start` up to `end`; of none a region is made that is rejected.
fn verdict(start: u64, end: u64) -> Verdict {
    match MfnRange::new(Mfn::new(start), Mfn::new(end)).filter(|pages| !pages.is_empty()) {
        Some(pages) => Verdict::Accepted(pages),
        None => Verdict::Rejected(Rejection::NoScope),
    }
}

/// The pages of all ranges, each once.
fn pages(ranges: impl IntoIterator<Item = MfnRange>) -> Vec<u64> {
    let mut pages: Vec<u64> =
        ranges.into_iter().flat_map(|range| range.start().raw()..range.end().raw()).collect();
    pages.sort_unstable();
    pages.dedup();
    pages
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every search, beside looking at each region.
    #[test]
    fn searches_find_what_looking_at_each_finds(
        regions in prop::collection::vec(
            (0_u64..96, 0_u64..12, prop::collection::vec(any_devices(), 0..4), prop::option::weighted(0.1, any_devices())),
            0..40,
        ),
        asked in prop::collection::vec(0_u32..5 << 8, 0..4),
    ) {
        let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
        let mut arena = Arena::new(&mut memory);
        let mut builder = RegistryBuilder::default();
        let mut all = Vec::new();
        for (start, len, devices, unresolved) in &regions {
            let end = start + len;
            let record = Record::identity(start << 12, end << 12, Origin::Hypervisor, devices);
            let region = builder.add(&mut arena, &record, verdict(*start, end)).unwrap();
            if unresolved.is_some() {
                builder.add_unresolved(&mut arena, region, 0).unwrap();
            }
            all.push(region);
        }
        let registry = builder.freeze(&mut arena).unwrap();
        for (region, (.., unresolved)) in all.iter().zip(&regions) {
            if let Some(unresolved) = unresolved {
                let open = registry.unresolved.iter().find(|open| core::ptr::eq(open.region, *region)).unwrap();
                open.settle(*unresolved);
            }
        }
        let accepted = || all.iter().filter(|region| region.rejection().is_none());
        let place = |region: &Region<'_>| all.iter().position(|other| core::ptr::eq(*other, region)).unwrap();

        let found: Vec<_> = registry.regions().map(|region| region.range().start()).collect();
        prop_assert!(found.is_sorted() && found.len() == accepted().count());
        prop_assert_eq!(registry.rejected().count(), all.len() - accepted().count());

        for start in 0..112 {
            for len in [1, 2, 7] {
                let range = MfnRange::with_len(Mfn::new(start), len).unwrap();
                let found: Vec<_> = registry.overlapping(range).collect();
                prop_assert!(found.iter().map(|region| region.range().start()).rev().is_sorted());
                let mut found: Vec<_> = found.into_iter().map(place).collect();
                found.sort_unstable();
                let expected = accepted().filter(|region| region.range().overlaps(&range));
                prop_assert_eq!(found, expected.map(|region| place(region)).collect::<Vec<_>>());
            }
        }
        let is_its = |region: &Region<'_>, device| registry.devices_of(region).any(|devices| devices.covers(device));
        for raw in 0..=(5 << 8) {
            let device = Sbdf::from_raw(raw);
            let found: Vec<_> = registry.regions_of(device).collect();
            prop_assert!(found.is_sorted_by_key(|region| region.record().base), "lowest first");
            let mut found: Vec<_> = found.into_iter().map(place).collect();
            found.sort_unstable();
            let expected = all.iter().filter(|region| is_its(region, device));
            prop_assert_eq!(found, expected.map(|region| place(region)).collect::<Vec<_>>(), "{}", device);
        }

        // What is told: never overlapping, lowest first, and of the asked devices' pages nothing is left out.
        let asked: Vec<Sbdf> = asked.into_iter().map(Sbdf::from_raw).collect();
        let told: Vec<_> = registry.told(asked.iter().copied()).collect();
        let told_all: Vec<_> = registry.told_all().collect();
        for told in [&told, &told_all] {
            prop_assert!(told.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "{told:?}");
        }
        prop_assert_eq!(pages(told_all.iter().copied()), pages(accepted().map(|region| region.range())));
        let its = accepted().filter(|region| asked.iter().any(|device| is_its(region, *device)));
        let clusters = told_all.iter().filter(|cluster| its.clone().any(|region| region.range().overlaps(cluster)));
        prop_assert_eq!(told, clusters.copied().collect::<Vec<_>>());
    }
}

const ONE: Sbdf = Sbdf::new(0, 0, 4, 0);
const OTHER: Sbdf = Sbdf::new(0, 0, 5, 0);

/// Registers regions of pages from a first up to an end, each of one device.
fn registry<'m>(regions: &[(u64, u64, Sbdf)], state: IommuState, arena: &mut Arena<'m>) -> Registry<'m> {
    let mut builder = RegistryBuilder::default();
    builder.set_iommu(state);
    for (start, end, device) in regions {
        let devices = [Devices::Function(*device)];
        let record = Record::identity(start << 12, (end << 12) - 1, Origin::Hypervisor, &devices);
        builder.add(arena, &record, verdict(*start, *end)).unwrap();
    }
    builder.freeze(arena).unwrap()
}

fn told(ranges: impl Iterator<Item = MfnRange>) -> Vec<(u64, u64)> {
    ranges.map(|range| (range.start().raw(), range.end().raw())).collect()
}

#[test]
fn what_is_told_is_the_union_of_whole_clusters() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    // Two that overlap, across devices; one nested in another of the same device; two that touch.
    let regions =
        [(40, 41, OTHER), (10, 13, ONE), (12, 15, OTHER), (20, 30, ONE), (22, 24, ONE), (41, 42, ONE)];
    let mut registry = registry(&regions, IommuState::Active, &mut Arena::new(&mut memory));
    assert_eq!(told(registry.told([ONE].into_iter())), [(10, 15), (20, 30), (41, 42)]);
    assert_eq!(told(registry.told([OTHER].into_iter())), [(10, 15), (40, 41)]);
    let both = [OTHER, ONE, OTHER];
    assert_eq!(told(registry.told(both.into_iter())), [(10, 15), (20, 30), (40, 41), (41, 42)]);
    assert_eq!(told(registry.told_all()), told(registry.told(both.into_iter())));
    assert_eq!(told(registry.told([Sbdf::new(1, 0, 4, 0)].into_iter())), []);
    // Mapping still goes by a device's own.
    let own: Vec<_> = registry.regions_of(ONE).map(|region| region.range().start().raw()).collect();
    assert_eq!(own, [10, 20, 22, 41]);

    for state in [IommuState::Absent, IommuState::Off] {
        registry.set_iommu(state);
        assert_eq!((told(registry.told_all()), told(registry.told(both.into_iter()))), (vec![], vec![]));
    }
}

#[test]
fn a_guest_is_told_of_what_it_has_of_a_cluster() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let regions = [(10, 12, ONE), (11, 14, ONE), (13, 16, OTHER), (15, 18, ONE)];
    let registry = registry(&regions, IommuState::Active, &mut Arena::new(&mut memory));
    let cluster = registry.clusters_of([ONE].into_iter()).next().unwrap();
    for region in registry.regions_of(ONE) {
        region.set_owner(Some(DomId(1)));
    }
    let of = |id| told(cluster.union(move |region| region.owner() == Some(id)));
    assert_eq!(of(DomId(1)), [(10, 14), (15, 18)]);
    assert_eq!(of(DomId(2)), []);
    assert_eq!(told(cluster.union(|_| true)), [(10, 18)]);
}

/// Errors, findings and names go where a borrow could not.
#[test]
fn what_is_said_outlives_what_it_is_about() {
    fn is_value<T: Copy + Send + Sync + 'static>() {}
    fn is_error<T: core::error::Error + Copy + Send + Sync + 'static>() {}
    is_value::<crate::region::record::RegionName>();
    is_value::<Verdict>();
    is_value::<Devices>();
    is_error::<Rejection>();
    is_error::<crate::region::forbidden::Forbidden>();
    is_error::<crate::region::rmrr_option::OptionError>();
    is_error::<crate::region::choice::Ignored>();
    is_error::<IommuState>();
    let source = |error: &dyn core::error::Error| error.source().map(ToString::to_string);
    let state = IommuState::Unusable(Unusable::Other("the units do not start"));
    assert_eq!(source(&state).as_deref(), Some("the units do not start"));
    assert_eq!(source(&IommuState::Off), None);

    let devices = [
        Devices::Function(ONE),
        Devices::Below { bridge: ONE, first_bus: 3, last_bus: 0x1f },
        Devices::Requesters { first: ONE, last: OTHER },
    ];
    let words: Vec<_> = devices.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "0000:00:04.0",
            "all below bridge 0000:00:04.0 (buses 03 to 1f)",
            "requester ids 0000:00:04.0 to 0000:00:05.0"
        ]
    );
    let name = |origin| Record::identity(0x1000, 0x1fff, origin, &[]).name();
    for (origin, words) in [
        (Origin::Dmar { offset: 0x30 }, "[0x1000, 0x1fff] (DMAR offset 0x30)"),
        (Origin::Option { position: 4 }, "[0x1000, 0x1fff] (rmrr= character 5)"),
        (Origin::Hypervisor, "[0x1000, 0x1fff] (hypervisor)"),
    ] {
        assert_eq!(std::format!("{:?}", name(origin)), words);
        assert_eq!(name(origin).to_string(), "[0x1000, 0x1fff]");
    }
}

#[test]
fn a_region_is_named_as_it_was_stated_and_keeps_what_is_said_of_it() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let registry = registry(&[(3, 4, ONE)], IommuState::Active, &mut arena);
    let region = registry.regions().next().unwrap();
    assert_eq!(region.to_string(), "[0x3000, 0x3fff]");
    assert_eq!(std::format!("{region:?}"), "[0x3000, 0x3fff] (hypervisor)");
    assert_eq!((region.owner(), region.stage(), region.first_user()), (None, Stage::Idle, NONE));
    for stage in [Stage::Mapped, Stage::Left, Stage::Leaving, Stage::Idle] {
        region.set_stage(stage);
        assert_eq!(region.stage(), stage);
    }
    for owner in [Some(DomId(0)), Some(DomId::IO), Some(DomId(0xffff)), None] {
        region.set_owner(owner);
        assert_eq!(region.owner(), owner);
    }
}

#[test]
fn a_rejected_region_is_its_devices_region_still() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let registry = registry(&[(7, 7, ONE), (3, 4, ONE)], IommuState::Active, &mut arena);
    let of_one: Vec<_> = registry.regions_of(ONE).map(|region| region.rejection()).collect();
    assert_eq!(of_one, [None, Some(Rejection::NoScope)]);
    assert_eq!(told(registry.told([ONE].into_iter())), [(3, 4)]);
}
