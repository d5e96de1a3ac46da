use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use crate::{Dmar, Structure};

const RAM: MemoryKind = MemoryKind::Ram;
const RESERVED: MemoryKind = MemoryKind::Reserved;

fn region(start: u64, end: u64, kind: MemoryKind) -> MemoryRegion {
    MemoryRegion { start, end, kind }
}

/// A hypervisor that writes down what it is asked.
#[derive(Default)]
struct Frames {
    in_use: bool,
    taken: Vec<PageRange>,
    unknown: Vec<PageRange>,
}

impl ReserveFrames for Frames {
    fn take_out_of_ram(&mut self, pages: PageRange) -> Result<(), FramesInUse> {
        self.taken.push(pages);
        if self.in_use { Err(FramesInUse) } else { Ok(()) }
    }

    fn take_as_reserved(&mut self, pages: PageRange) {
        self.unknown.push(pages);
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange { start, end }
}

#[test]
fn whole_reserved_pages_are_accepted() {
    let map = [region(0x8000_0000, 0x9000_0000, RESERVED)];
    let verdict = judge(0x8000_0000, 0x8000_0fff, 39, &map, &mut KeepRam);
    assert_eq!(verdict, Verdict::Accepted(pages(0x80000, 0x80001)));
    assert_eq!(verdict.dormant(), Verdict::Dormant(pages(0x80000, 0x80001), Repairs::empty()));
    assert_eq!(verdict.dormant().awake(), verdict);
    assert_eq!(verdict.dormant().pages(), verdict.pages());
}

#[test]
fn memory_of_other_kinds_is_accepted_too() {
    let map = [region(0x1000, 0x2000, MemoryKind::Other), region(0x2000, 0x3000, RESERVED)];
    assert_eq!(judge(0x1000, 0x2fff, 39, &map, &mut KeepRam), Verdict::Accepted(pages(1, 3)));
}

#[test]
fn both_ends_are_widened_to_whole_pages() {
    let map = [region(0, 0x10_0000, RESERVED)];
    let judged = |base, limit| judge(base, limit, 39, &map, &mut KeepRam);
    assert_eq!(judged(0x1001, 0x1fff), Verdict::Repaired(pages(1, 2), Repairs::BASE_WIDENED));
    assert_eq!(judged(0x1000, 0x2000), Verdict::Repaired(pages(1, 3), Repairs::LIMIT_WIDENED));
    assert_eq!(judged(0x1000, 0x1ffe), Verdict::Repaired(pages(1, 2), Repairs::LIMIT_WIDENED));
    let both = Repairs::BASE_WIDENED | Repairs::LIMIT_WIDENED;
    assert_eq!(judged(0x1fff, 0x2000), Verdict::Repaired(pages(1, 3), both));
    assert_eq!(judged(0x1800, 0x1800), Verdict::Repaired(pages(1, 2), both));
    assert_eq!(judged(0x1800, 0x1800).dormant().awake(), Verdict::Repaired(pages(1, 2), both));
}

#[test]
fn bounds_are_checked_to_the_last_byte() {
    let map: [MemoryRegion; 0] = [];
    let judged = |base, limit, width| judge(base, limit, width, &map, &mut Frames::default());
    assert_eq!(
        judged(0x2000, 0x1fff, 39),
        Verdict::Rejected(Rejection::BaseAboveLimit { base: 0x2000, limit: 0x1fff })
    );
    assert!(judged(0x7f_ffff_f000, 0x7f_ffff_ffff, 39).pages().is_some());
    assert_eq!(
        judged(0x7f_ffff_f000, 0x80_0000_0000, 39),
        Verdict::Rejected(Rejection::BeyondAddressWidth { limit: 0x80_0000_0000, width: 39 })
    );
    let top = judged(u64::MAX - 0xfff, u64::MAX, 64);
    assert_eq!(top.pages(), Some(pages((1 << 52) - 1, 1 << 52)));
    assert!(judged(0x1000, u64::MAX, 255).pages().is_some());
    for base in [0, 0xfff] {
        let overflow = Rejection::Overflow { base, limit: u64::MAX };
        assert_eq!(judged(base, u64::MAX, 64), Verdict::Rejected(overflow));
    }
}

#[test]
fn ram_is_asked_for_once_and_as_a_whole() {
    let map = [region(0x1000, 0x1800, RAM), region(0x2000, 0x3000, RESERVED), region(0x3000, 0x4000, RAM)];
    let mut frames = Frames::default();
    let verdict = judge(0x1000, 0x3fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Repaired(pages(1, 4), Repairs::TAKEN_OUT_OF_RAM));
    assert_eq!(frames.taken, vec![pages(1, 4)]);

    let mut frames = Frames { in_use: true, ..Frames::default() };
    let verdict = judge(0x2000, 0x4fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Rejected(Rejection::InRam { ram: pages(3, 4) }));
    assert_eq!(frames.unknown, vec![], "nothing is taken of a rejected region");
}

#[test]
fn a_page_with_any_ram_is_ram() {
    let map = [region(0, 0x9fc00, RAM), region(0x9fc00, 0xa0000, RESERVED)];
    let verdict = judge(0x9f000, 0x9ffff, 39, &map, &mut KeepRam);
    assert_eq!(verdict, Verdict::Rejected(Rejection::InRam { ram: pages(0x9f, 0xa0) }));
    assert_eq!(
        judge(0xa0000, 0xa0fff, 39, &map, &mut Frames::default()).repairs(),
        Repairs::UNKNOWN_TAKEN_AS_RESERVED
    );
}

#[test]
fn unknown_memory_is_found_in_an_unsorted_map() {
    let map = [
        region(0x5000, 0x6000, RESERVED),
        region(0x2000, 0x3000, RESERVED),
        region(0x2000, 0x2000, RESERVED),
        region(0x9000, 0x8000, RAM),
        region(0x2800, 0x4000, MemoryKind::Other),
    ];
    let mut frames = Frames::default();
    let verdict = judge(0x1000, 0x7fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Repaired(pages(1, 8), Repairs::UNKNOWN_TAKEN_AS_RESERVED));
    assert_eq!(frames.unknown, vec![pages(1, 2), pages(4, 5), pages(6, 8)]);
    assert_eq!(frames.taken, vec![]);
}

#[test]
fn a_region_in_no_scope_is_rejected_before_ram_is_taken() {
    let rmrr = StructureBuilder::rmrr(0, 0x1000, 0x1fff);
    let bytes = TableBuilder::new()
        .structure(rmrr.clone())
        .structure(rmrr.clone().scope(ScopeBuilder::endpoint(0, &[(2, 0)])))
        .structure(rmrr.scope(ScopeBuilder::endpoint(0, &[(2, 0)]).raw_path(&[2, 0, 1])))
        .structure(StructureBuilder::rmrr(0, 0x1000, 0xfff))
        .build();
    let map = [region(0, 0x10_0000, RAM)];
    let mut frames = Frames::default();
    let verdicts: Vec<_> = Dmar::parse(&bytes)
        .unwrap()
        .structures()
        .map(|structure| match structure {
            Ok(Structure::Rmrr(rmrr)) => judge_rmrr(&rmrr, 48, &map, &mut frames),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        verdicts,
        [
            Verdict::Rejected(Rejection::NoScope),
            Verdict::Repaired(pages(1, 2), Repairs::TAKEN_OUT_OF_RAM),
            Verdict::Rejected(Rejection::NoScope),
            Verdict::Rejected(Rejection::BaseAboveLimit { base: 0x1000, limit: 0xfff }),
        ]
    );
    assert_eq!(frames.taken, vec![pages(1, 2)]);
}

#[test]
fn verdicts_read_as_sentences() {
    use std::string::ToString;
    let verdict = Verdict::Repaired(pages(1, 2), Repairs::BASE_WIDENED | Repairs::TAKEN_OUT_OF_RAM);
    assert_eq!(verdict.to_string(), "repaired: base widened to its page's start, frames taken out of RAM");
    let verdict = Verdict::Rejected(Rejection::InRam { ram: pages(0x10, 0x20) });
    assert_eq!(verdict.to_string(), "rejected: frames 0x10 to 0x1f are RAM in use");
}

proptest! {
    /// The runs are those of a page-by-page look at the map.
    #[test]
    fn runs_agree_with_a_look_at_each_page(
        entries in prop::collection::vec((0u64..0x2_0000, 0u64..0x8000, 0..3usize), 0..8),
        base in 0u64..0x2_0000,
        length in 1u64..0x2_0000,
    ) {
        let kinds = [RAM, RESERVED, MemoryKind::Other];
        let map: Vec<_> = entries.iter().map(|&(start, length, kind)| region(start, start + length, kinds[kind])).collect();
        let touches = |entry: &MemoryRegion, page: u64| {
            entry.start < entry.end && entry.start < (page + 1) << 12 && page << 12 < entry.end
        };
        let limit = base + length - 1;
        let all: Vec<u64> = (base >> 12..=limit >> 12).collect();
        let ram = all.iter().any(|&page| map.iter().any(|entry| entry.kind == RAM && touches(entry, page)));
        let unknown: Vec<u64> =
            all.iter().copied().filter(|&page| !map.iter().any(|entry| touches(entry, page))).collect();

        let mut frames = Frames::default();
        let verdict = judge(base, limit, 48, map.as_slice(), &mut frames);
        prop_assert_eq!(verdict.pages(), Some(pages(all[0], all[all.len() - 1] + 1)));
        prop_assert_eq!(!frames.taken.is_empty(), ram);
        prop_assert_eq!(verdict.repairs().contains(Repairs::TAKEN_OUT_OF_RAM), ram);
        let told: Vec<u64> = frames.unknown.iter().flat_map(|pages| pages.start..pages.end).collect();
        prop_assert_eq!(told, unknown);
    }

    #[test]
    fn no_bounds_panic(base: u64, limit: u64, width: u8, start: u64, end: u64) {
        let map = [region(start, end, RAM)];
        let verdict = judge(base, limit, width, &map, &mut Frames::default());
        prop_assert!(verdict.pages().is_none_or(|pages| !pages.is_empty()));
    }
}
