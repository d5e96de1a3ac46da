//! Random updates beside the model, in every format and both sharing modes, with frames running out wherever
//! they can.

use p2m::{Access, Domain, Ept, LongMode, OnConflict, P2mType, PageSize, SecondLevel, Table};
use proptest::prelude::*;
use proptest::sample::select;

use testkit::frames::Frames;
use testkit::tables::harness::{Step, case, run, universe};

/// Frames from the start of the range that the steps are about.
fn points(universe: u64) -> impl Strategy<Value = u64> {
    let near = move |order: u32| {
        let count = (universe >> order).max(1);
        (0..=count, -2_i64..=2)
            .prop_map(move |(number, offset)| ((number << order).saturating_add_signed(offset)).min(universe))
    };
    prop_oneof![near(0), near(9), near(9), near(18)]
}

fn ranges(universe: u64) -> impl Strategy<Value = (u64, u64)> {
    let free = (points(universe), points(universe)).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let short = (points(universe), 0_u64..0x220).prop_map(move |(a, len)| (a, (a + len).min(universe)));
    prop_oneof![free, short]
}

fn accesses() -> impl Strategy<Value = Access> {
    prop_oneof![4 => Just(Access::READ_WRITE), 1 => (0_u8..8).prop_map(Access::from_bits_truncate)]
}

fn steps(universe: u64) -> impl Strategy<Value = Vec<Step>> {
    let types = || {
        select(vec![
            P2mType::MmioDirect,
            P2mType::RamRw,
            P2mType::RamRo,
            P2mType::RamLogdirty,
            P2mType::Foreign,
            P2mType::Grant,
        ])
    };
    let holes = select(vec![P2mType::MmioDm, P2mType::PopulateOnDemand, P2mType::Invalid]);
    let deltas = select(vec![0, 0, 0, 1 << 18, 5 << 9, 3]);
    let policy = select(vec![OnConflict::Refuse, OnConflict::Skip]);
    let step = prop_oneof![
        4 => (ranges(universe), types(), accesses(), deltas.clone()).prop_map(|((start, end), p2m_type, access, delta)| {
            // Misaligned machine frames need small pages: not for gigabytes.
            let end = if delta % 512 == 0 { end } else { end.min(start + 0x500) };
            Step::Map { start, end, p2m_type, access, delta }
        }),
        2 => (ranges(universe), holes, accesses()).prop_map(|((start, end), p2m_type, access)| {
            Step::Map { start, end, p2m_type, access, delta: 0 }
        }),
        2 => ranges(universe).prop_map(|(start, end)| Step::Unmap { start, end }),
        2 => (ranges(universe), types(), types()).prop_map(|((start, end), from, to)| {
            Step::ChangeType { start, end, from, to }
        }),
        4 => (ranges(universe), accesses(), policy).prop_map(|((start, end), access, on_conflict)| {
            Step::Install { start, end, access, on_conflict }
        }),
        3 => ranges(universe).prop_map(|(start, end)| Step::Uninstall { start, end }),
        2 => (ranges(universe), types(), deltas.clone(), ranges(universe)).prop_map(|((start, end), p2m_type, delta, region)| {
            let end = if delta % 512 == 0 { end } else { end.min(start + 0x500) };
            Step::Populate { start, end, p2m_type, delta, region }
        }),
        2 => (ranges(universe), 1_u64..0x500, deltas, ranges(universe)).prop_map(|((start, end), most, delta, region)| {
            Step::Fill { start, end, most, delta, region }
        }),
        1 => Just(Step::Flush),
        3 => Just(Step::Take),
        2 => (0_usize..3).prop_map(Step::Confirm),
    ];
    prop::collection::vec(step, 1..24)
}

fn sizes() -> impl Strategy<Value = (PageSize, bool, Vec<Step>)> {
    let size = select(vec![PageSize::Size4K, PageSize::Size2M, PageSize::Size1G, PageSize::Size1G]);
    (size, any::<bool>()).prop_flat_map(|(size, at_end)| (Just(size), Just(at_end), steps(universe(size))))
}

/// Few cases in a plain test run; `PROPTEST_CASES` for more.
fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 48;
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn second_level((largest, at_end, steps) in sizes(), levels in 3_u8..=5) {
        case(SecondLevel::default(), levels, largest, at_end, &steps);
    }

    #[test]
    fn ept((largest, at_end, steps) in sizes(), levels in 4_u8..=5, suppress_ve in any::<bool>()) {
        case(Ept { suppress_ve, ..Ept::default() }, levels, largest, at_end, &steps);
    }

    #[test]
    fn long_mode((largest, at_end, steps) in sizes(), levels in 4_u8..=5, format in select(vec![LongMode::NESTED, LongMode::HOST])) {
        case(format, levels, largest, at_end, &steps);
    }

    #[test]
    fn shared((largest, _, steps) in sizes()) {
        let frames = Frames::new(192);
        let table = Table::new(Ept::default(), &frames, 4, largest).unwrap();
        run(&frames, Domain::<_, SecondLevel, _>::shared(table), 0, universe(largest), &steps);
    }

    #[test]
    fn separate((largest, _, steps) in sizes(), smaller in any::<bool>(), levels in 3_u8..=4) {
        let frames = Frames::new(384);
        let cpu = Table::new(LongMode::NESTED, &frames, 4, largest).unwrap();
        let other = if smaller && largest == PageSize::Size1G { PageSize::Size2M } else { largest };
        let iommu = Table::new(SecondLevel::default(), &frames, levels, other).unwrap();
        run(&frames, Domain::separate(cpu, iommu).unwrap(), 0, universe(largest), &steps);
    }
}
