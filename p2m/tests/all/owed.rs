//! A flush is owed until it is done.

use p2m::{
    Access, AddressSpace, Domain, Entry, Ept, Flush, GfnRange, Mfn, P2m, P2mType, PageSize, SecondLevel,
    Table,
};
use testkit::frames::Frames;
use testkit::tables::model::gfns;

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::all() }
}

fn said(flush: &Flush) -> (GfnRange, bool) {
    (flush.gfns(), flush.only_added())
}

/// A flush that is done; what it was, as range and whether pages were only added.
pub(crate) fn flush(space: &mut impl AddressSpace) -> Option<(GfnRange, bool)> {
    let owed = space.take_flush()?;
    let said = said(&owed);
    space.confirm_flush(owed);
    Some(said)
}

fn table(frames: &Frames) -> Table<SecondLevel, &Frames> {
    Table::new(SecondLevel::default(), frames, 3, PageSize::Size1G).unwrap()
}

/// A domain of each kind.
fn domains(frames: &Frames) -> [Domain<Ept, SecondLevel, &Frames>; 2] {
    let cpu = || Table::new(Ept::default(), frames, 4, PageSize::Size1G).unwrap();
    [Domain::shared(cpu()), Domain::separate(cpu(), table(frames)).unwrap()]
}

/// Has something stay near what comes and goes, so that only the lowest tables go with it; nothing is owed
/// then.
fn hold_on(space: &mut impl P2m) {
    space.map(gfns(0x3_fff0, 0x3_fff1), ram(1)).unwrap();
    space.map(gfns(0x8_fff0, 0x8_fff1), ram(1)).unwrap();
    flush(space);
}

/// Puts something at `start` and takes it away, so that two tables leave each tree.
fn come_and_go(space: &mut impl P2m, start: u64) {
    space.map(gfns(start + 1, start + 0x300), ram(1)).unwrap();
    space.unmap(gfns(start, start + 0x400)).unwrap();
}

#[test]
fn a_flush_that_failed_is_asked_for_again() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    hold_on(&mut table);
    come_and_go(&mut table, 0);
    let (live, held) = (frames.live(), table.held_frames());
    let first = said(&table.take_flush().unwrap());
    assert_eq!(first, (gfns(0, 0x400), false));
    // The hardware fails, again and again. The next to flush is told the same, and nothing is free meanwhile.
    for _ in 0..3 {
        assert_eq!(said(&table.take_flush().unwrap()), first);
        assert_eq!((frames.live(), table.held_frames()), (live, held));
    }
    assert_eq!(flush(&mut table), Some(first));
    assert_eq!((frames.live(), table.held_frames()), (live - held, 0));
    assert!(table.take_flush().is_none());
}

#[test]
fn a_flush_after_one_that_failed_is_for_both() {
    let frames = Frames::new(64);
    let mut table = table(&frames);
    come_and_go(&mut table, 0);
    let _ = table.take_flush();
    table.map(gfns(0x4_0001, 0x4_0100), ram(1)).unwrap();
    // Pages were only added since, but not before.
    assert_eq!(flush(&mut table), Some((gfns(0, 0x4_0100), false)));
    assert_eq!((frames.live(), table.held_frames()), (table.table_frames(), 0));
}

#[test]
fn what_changes_after_a_token_was_made_stays_owed() {
    let frames = Frames::new(64);
    for mut space in domains(&frames) {
        hold_on(&mut space);
        come_and_go(&mut space, 0);
        let first = space.take_flush().unwrap();
        let before = space.held_frames();
        come_and_go(&mut space, 0x8_0000);
        let after = space.held_frames();
        assert!(0 < before && before < after);
        space.confirm_flush(first);
        assert_eq!(space.held_frames(), after - before);
        assert_eq!(flush(&mut space), Some((gfns(0x8_0000, 0x8_0400), false)));
        assert_eq!(space.held_frames(), 0);
    }
}

#[test]
fn a_token_settles_nothing_when_a_newer_one_has_been_made() {
    let frames = Frames::new(64);
    for mut space in domains(&frames) {
        hold_on(&mut space);
        come_and_go(&mut space, 0);
        let first = space.take_flush().unwrap();
        come_and_go(&mut space, 0x8_0000);
        let second = space.take_flush().unwrap();
        assert_eq!(said(&second), (gfns(0, 0x8_0400), false));
        let (live, held) = (frames.live(), space.held_frames());
        space.confirm_flush(first);
        assert_eq!((frames.live(), space.held_frames()), (live, held));
        space.confirm_flush(second);
        assert_eq!(space.held_frames(), 0);
        assert!(space.take_flush().is_none());
    }
}

#[test]
fn a_token_that_comes_late_settles_nothing_of_what_came_after_it() {
    let frames = Frames::new(64);
    for mut space in domains(&frames) {
        hold_on(&mut space);
        come_and_go(&mut space, 0);
        let first = space.take_flush().unwrap();
        flush(&mut space).unwrap();
        come_and_go(&mut space, 0x8_0000);
        let held = space.held_frames();
        let _ = space.take_flush();
        space.confirm_flush(first);
        assert_eq!(space.held_frames(), held);
        assert_eq!(flush(&mut space), Some((gfns(0x8_0000, 0x8_0400), false)));
    }
}

#[test]
fn a_token_of_another_table_settles_nothing() {
    let frames = Frames::new(64);
    let mut tables = [table(&frames), table(&frames)];
    tables.iter_mut().for_each(|table| come_and_go(table, 0));
    let held = tables[0].held_frames();
    let tokens = tables.each_mut().map(|table| table.take_flush().unwrap());
    let [first, second] = tokens;
    tables[0].confirm_flush(second);
    tables[0].confirm_flush(Flush::new(gfns(0, 0x400), false, 0));
    assert_eq!(tables[0].held_frames(), held);
    tables[0].confirm_flush(first);
    assert_eq!(tables[0].held_frames(), 0);
}

#[test]
fn one_token_is_for_both_tables_of_a_domain() {
    let frames = Frames::new(64);
    let [_, mut space] = domains(&frames);
    // The one has a level more.
    space.map(gfns(0, 0x200), ram(0)).unwrap();
    space.unmap(gfns(0, 0x200)).unwrap();
    let first = space.take_flush().unwrap();
    let (cpu, iommu) = (space.cpu().held_frames(), space.iommu().unwrap().held_frames());
    assert!(cpu > iommu && iommu > 0, "{cpu} and {iommu}");
    assert_eq!(space.held_frames(), cpu + iommu);
    space.confirm_flush(first);
    assert_eq!((space.held_frames(), frames.live()), (0, 2));
}
