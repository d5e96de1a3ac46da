use std::mem::MaybeUninit;
use std::vec;
use std::vec::Vec;

use acpi_dmar::verdict::PageRange;
use proptest::prelude::*;

use super::*;

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![
        4 => (0_u32..24).prop_map(|raw| Scope::Function(Sbdf::from_raw(raw * 8))),
        2 => (0_u32..4, 0_u8..4, 0_u8..4).prop_map(|(bridge, first_bus, last_bus)| Scope::Below {
            bridge: Sbdf::from_raw(bridge * 8),
            first_bus,
            last_bus,
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every search, beside looking at each region.
    #[test]
    fn searches_find_what_looking_at_each_finds(
        regions in prop::collection::vec((0_u64..96, 0_u64..12, prop::collection::vec(scope(), 0..4)), 0..40),
    ) {
        let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
        let mut arena = Arena::new(&mut memory);
        let mut builder = RegistryBuilder::default();
        let mut all = Vec::new();
        for (start, len, scopes) in &regions {
            let end = start + len;
            // A length of 0 stands for a region that is rejected.
            let verdict = match len {
                0 => Verdict::Rejected(Rejection::NoScope),
                _ => Verdict::Accepted(PageRange { start: *start, end }),
            };
            let info = RegionInfo { base: start << 12, limit: end << 12, origin: Origin::Dmar { offset: 0 }, verdict };
            all.push(builder.add(&mut arena, info, scopes.iter().copied()).unwrap());
        }
        let registry = builder.freeze(&mut arena).unwrap();
        let accepted = || all.iter().filter(|region| region.rejection().is_none());
        let place = |region: &Region<'_>| all.iter().position(|other| core::ptr::eq(*other, region)).unwrap();

        let found: Vec<_> = registry.regions().map(|region| region.range().start()).collect();
        prop_assert!(found.is_sorted() && found.len() == accepted().count());

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
        for raw in 0..=(5 << 8) {
            let device = Sbdf::from_raw(raw);
            let mut found: Vec<_> = registry.regions_of(device).map(place).collect();
            found.sort_unstable();
            let expected = all.iter().filter(|region| region.scopes().iter().any(|scope| scope.covers(device)));
            prop_assert_eq!(found, expected.map(|region| place(region)).collect::<Vec<_>>(), "{}", device);
        }
    }
}
