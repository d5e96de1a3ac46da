//! The 1:1 transaction, case by case.

use p2m::{
    Access, AddressSpace, Entry, Ept, Gfn, GfnRange, Identity, IdentityError, MapError, Mfn, MfnRange,
    OnConflict, P2m, P2mType, PageSize, SecondLevel, Seen, Table,
};

use testkit::frames::Frames;

use crate::owed::flush;

const RW: Access = Access::READ_WRITE;

fn mfns(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap()
}

fn gfns(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap()
}

fn table(frames: &Frames) -> Table<SecondLevel, &Frames> {
    Table::new(SecondLevel::default(), frames, 4, PageSize::Size1G).unwrap()
}

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: RW }
}

fn install(space: &mut impl AddressSpace, range: MfnRange) -> Result<Identity, IdentityError> {
    space.map_identity(range, RW, OnConflict::Refuse, &mut |_| ())
}

#[test]
fn an_unaligned_region_gets_large_pages_inside_and_small_ones_at_its_ends() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    let range = mfns(0x1ff, 0x1ff + 0x4000);
    frames.limit(3);
    assert_eq!(install(&mut table, range), Err(IdentityError::NoFrames { needed: 4 }));
    frames.limit(None);
    assert_eq!(install(&mut table, range), Ok(Identity::Mapped));
    assert_eq!(table.table_frames(), 5);
    let orders: Vec<u32> = [0x1ff, 0x200, 0x400, 0x3fff, 0x4000, 0x41fe]
        .map(|gfn| table.translate(Gfn::new(gfn)).order())
        .into();
    assert_eq!(orders, [0, 9, 9, 9, 0, 0]);
    for outside in [0x1fe, 0x41ff] {
        assert_eq!(table.translate(Gfn::new(outside)).entry(), Entry::NOTHING);
    }
    let run = table.look_up(Gfn::new(0x200));
    assert_eq!(run.gfns, gfns(0x200, 0x41ff));
    assert_eq!(run.entry, Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(0x200)), access: RW });

    assert_eq!(flush(&mut table), Some((gfns(0x1ff, 0x41ff), true)));
    frames.limit(0);
    assert_eq!(table.unmap_identity(range), Ok(()));
    assert!(table.is_empty());
    assert_eq!((table.table_frames(), table.held_frames(), frames.live()), (1, 4, 5));
    let owed = table.take_flush().unwrap();
    assert!(!owed.only_added() && owed.gfns().hull(&gfns(0x1ff, 0x41ff)) == owed.gfns());
    assert_eq!(frames.live(), 5);
    table.confirm_flush(owed);
    assert_eq!(frames.live(), 1);
    drop(table);
    assert_eq!(frames.live(), 0);
}

#[test]
fn the_second_time_there_is_nothing_to_do() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    install(&mut table, mfns(0x1000, 0x1200)).unwrap();
    flush(&mut table);
    frames.limit(0);
    let mut seen = Vec::new();
    let again = table.map_identity(mfns(0x1000, 0x1200), RW, OnConflict::Refuse, &mut |run| seen.push(run));
    assert_eq!(again, Ok(Identity::AlreadyIdentical));
    assert_eq!(seen, [Seen::Identical(gfns(0x1000, 0x1200))]);
    assert!(table.take_flush().is_none());
}

#[test]
fn only_what_was_installed_is_removed() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    let direct = Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(0x1000)), access: RW };
    table.map(gfns(0x1000, 0x1010), direct).unwrap();
    table.map(gfns(0x1020, 0x1030), Entry { p2m_type: P2mType::MmioDm, ..Entry::NOTHING }).unwrap();
    assert_eq!(
        install(&mut table, mfns(0x1000, 0x1040)),
        Ok(Identity::Mixed { installed: 0x30, identical: 0x10, skipped: 0 })
    );
    assert_eq!(table.mapped_otherwise(mfns(0, 0x2000)).map(|run| run.gfns), Some(gfns(0x1000, 0x1010)));
    table.unmap_identity(mfns(0x1000, 0x1040)).unwrap();
    let left: Vec<_> =
        P2m::runs(&table, gfns(0xfff, 0x1041)).map(|run| (run.gfns, run.entry.p2m_type)).collect();
    assert_eq!(
        left,
        [
            (gfns(0xfff, 0x1000), P2mType::Invalid),
            (gfns(0x1000, 0x1010), P2mType::MmioDirect),
            (gfns(0x1010, 0x1020), P2mType::Invalid),
            (gfns(0x1020, 0x1030), P2mType::MmioDm),
            (gfns(0x1030, 0x1041), P2mType::Invalid),
        ]
    );
}

#[test]
fn a_conflict_is_named_and_changes_nothing() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    table.map(gfns(0x1100, 0x1101), ram(0x9999)).unwrap();
    flush(&mut table);
    let before = frames.live();
    assert_eq!(
        install(&mut table, mfns(0x1000, 0x3000)),
        Err(IdentityError::Conflict { gfn: Gfn::new(0x1100), found: ram(0x9999) })
    );
    assert_eq!((frames.live(), flush(&mut table)), (before, None));

    let mut seen = Vec::new();
    let skipped = table.map_identity(mfns(0x1000, 0x3000), RW, OnConflict::Skip, &mut |run| seen.push(run));
    assert_eq!(skipped, Ok(Identity::Mixed { installed: 0x1fff, identical: 0, skipped: 1 }));
    assert!(
        matches!(seen[..], [Seen::Skipped(run)] if run.gfns == gfns(0x1100, 0x1101) && run.entry == ram(0x9999))
    );
    table.unmap_identity(mfns(0x1000, 0x3000)).unwrap();
    assert_eq!(table.look_up(Gfn::new(0)).gfns, gfns(0, 0x1100));
}

#[test]
fn every_end_of_a_range_that_was_given_stays_a_page_end() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    install(&mut table, mfns(0, 0x40000)).unwrap();
    assert_eq!(table.translate(Gfn::new(0)).order(), 18);
    // Shares pages with the first: the page of 1 GiB is cut at both ends, and removal of either takes no
    // frame.
    frames.limit(3);
    assert_eq!(install(&mut table, mfns(0x300, 0x40100)), Err(IdentityError::NoFrames { needed: 4 }));
    frames.limit(None);
    let mixed = install(&mut table, mfns(0x300, 0x40100));
    assert_eq!(mixed, Ok(Identity::Mixed { installed: 0x100, identical: 0x3fd00, skipped: 0 }));
    frames.limit(0);
    table.unmap_identity(mfns(0x300, 0x40100)).unwrap();
    assert_eq!(table.look_up(Gfn::new(0)).gfns, gfns(0, 0x300));
    table.unmap_identity(mfns(0, 0x40000)).unwrap();
    assert!(table.is_empty());
}

#[test]
fn what_separate_calls_installed_is_not_joined() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    install(&mut table, mfns(0x200, 0x300)).unwrap();
    install(&mut table, mfns(0x300, 0x400)).unwrap();
    frames.limit(0);
    table.unmap_identity(mfns(0x200, 0x300)).unwrap();
    assert_eq!(table.look_up(Gfn::new(0x300)).gfns, gfns(0x300, 0x400));
}

#[test]
fn cutting_a_page_without_a_frame_changes_nothing() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    install(&mut table, mfns(0x200, 0x400)).unwrap();
    frames.limit(0);
    assert_eq!(table.unmap_identity(mfns(0x210, 0x220)), Err(IdentityError::NoFrames { needed: 1 }));
    frames.limit(1);
    assert_eq!(table.unmap_identity(mfns(0x210, 0x220)), Ok(()));
    assert_eq!(table.look_up(Gfn::new(0x200)).gfns, gfns(0x200, 0x210));
    assert_eq!(table.look_up(Gfn::new(0x220)).gfns, gfns(0x220, 0x400));
}

#[test]
fn general_updates_keep_out_of_reserved_regions() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    install(&mut table, mfns(0x200, 0x400)).unwrap();
    let refused = table.map(gfns(0x100, 0x300), ram(0x5000));
    assert!(matches!(refused, Err(MapError::Reserved { gfn, .. }) if gfn == Gfn::new(0x200)));
    assert!(
        matches!(table.unmap(gfns(0x3ff, 0x401)), Err(MapError::Reserved { gfn, .. }) if gfn == Gfn::new(0x3ff))
    );
    assert_eq!(table.change_type(gfns(0, 0x1000), P2mType::MmioDirect, P2mType::RamRw), Ok(0));
}

#[test]
fn ranges_beyond_the_table_are_refused() {
    let frames = Frames::new(64);
    let mut table = Table::new(SecondLevel::default(), &frames, 3, PageSize::Size2M).unwrap();
    let limit = Gfn::new(1 << 27);
    assert_eq!(
        install(&mut table, mfns((1 << 27) - 1, (1 << 27) + 1)),
        Err(IdentityError::OutOfRange { limit })
    );
    assert_eq!(install(&mut table, mfns((1 << 27) - 1, 1 << 27)), Ok(Identity::Mapped));
    assert_eq!(table.look_up(Gfn::new(1 << 27)).entry, Entry::NOTHING);
    assert_eq!(table.translate(Gfn::new((1 << 27) + (1 << 27) - 1)).entry(), Entry::NOTHING);
}

#[test]
fn what_leads_to_a_region_by_another_name_is_found() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    table.map(gfns(0x1000, 0x1020), ram(0xff8)).unwrap();
    table.map(gfns(0x1020, 0x1030), ram(0x1028)).unwrap();
    install(&mut table, mfns(0x1030, 0x1040)).unwrap();
    let found = table.mapped_otherwise(mfns(0x1000, 0x1040)).unwrap();
    assert_eq!((found.gfns, found.entry), (gfns(0x1008, 0x1020), ram(0x1000)));
    assert_eq!(table.mapped_otherwise(mfns(0x1030, 0x1040)), None);
}

#[test]
fn what_was_there_comes_back_frame_by_frame() {
    for order in [[P2mType::MmioDm, P2mType::Invalid], [P2mType::Invalid, P2mType::MmioDm]] {
        let frames = Frames::new(16);
        let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size2M).unwrap();
        let vacant = |p2m_type| Entry { p2m_type, mfn: None, access: Access::empty() };
        table.map(gfns(0x10, 0x12), vacant(order[0])).unwrap();
        table.map(gfns(0x12, 0x14), vacant(order[1])).unwrap();
        let before: Vec<_> = table.runs(gfns(0, 0x20)).collect();
        let range = MfnRange::new(Mfn::new(0x10), Mfn::new(0x14)).unwrap();
        table.map_identity(range, Access::READ_WRITE, OnConflict::Refuse, &mut |_| ()).unwrap();
        table.unmap_identity(range).unwrap();
        assert_eq!(table.runs(gfns(0, 0x20)).collect::<Vec<_>>(), before);
    }
}

#[test]
fn a_piece_of_a_large_page_takes_a_table_whatever_its_ends() {
    // The ends have, or have together, all the bits that an address in the page has.
    for (start, end) in [(0x100, 0x1ff), (0xff, 0x100), (0x1fe, 0x1ff), (1, 0x1ff)] {
        let frames = Frames::new(16);
        let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size2M).unwrap();
        let ram = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(0x1000)), access: Access::all() };
        table.map(gfns(0, 0x200), ram).unwrap();
        assert_eq!(table.change_type(gfns(start, end), P2mType::RamRw, P2mType::RamRo), Ok(end - start));
        let types = table.runs(gfns(0, 0x200)).filter(|run| run.entry.p2m_type == P2mType::RamRo);
        assert_eq!(types.map(|run| run.gfns).collect::<Vec<_>>(), [gfns(start, end)]);
    }
}
