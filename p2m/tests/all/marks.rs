//! The accessed and dirty bits that hardware sets in entries.

use std::sync::atomic::Ordering;

use p2m::{
    Access, AddressSpace, DeviceRoot, Entry, Ept, Format, FrameSource, Gfn, Identity, LongMode, Mfn,
    MfnRange, OnConflict, P2m, P2mType, PageSize, SecondLevel, Table,
};

use testkit::frames::Frames;
use testkit::tables::model::gfns;

use crate::owed::flush;

const ACCESSED: u64 = 1 << 8;
const DIRTY: u64 = 1 << 9;

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::all() }
}

/// Marks each entry of the walk to `gfn` as used and its leaf with `marks`, as EPT's walker does.
fn touch(frames: &Frames, root: DeviceRoot, gfn: u64, marks: u64) {
    let mut frame = root.root;
    for level in (1..=u32::from(root.levels)).rev() {
        let table = frames.table(frame).unwrap();
        let entry = &table.0[(gfn >> (9 * (level - 1)) & 511) as usize];
        let leaf = level == 1 || entry.load(Ordering::Relaxed) & 1 << 7 != 0;
        let raw = entry.fetch_or(if leaf { marks } else { ACCESSED }, Ordering::Relaxed);
        if leaf {
            return;
        }
        frame = Mfn::containing(raw & 0xf_ffff_ffff_f000);
    }
}

/// Takes the marks of the leaf at `gfn` away.
fn clear(frames: &Frames, root: DeviceRoot, gfn: u64) {
    let mut frame = root.root;
    for level in (1..=u32::from(root.levels)).rev() {
        let entry = &frames.table(frame).unwrap().0[(gfn >> (9 * (level - 1)) & 511) as usize];
        let raw = entry.load(Ordering::Relaxed);
        if level == 1 || raw & 1 << 7 != 0 {
            entry.store(raw & !(ACCESSED | DIRTY), Ordering::Relaxed);
            return;
        }
        frame = Mfn::containing(raw & 0xf_ffff_ffff_f000);
    }
}

fn marks(table: &Table<Ept, &Frames>, gfn: u64) -> (bool, bool) {
    let page = table.translate(Gfn::new(gfn));
    (page.is_accessed(), page.is_dirty())
}

fn guest(frames: &Frames) -> Table<Ept, &Frames> {
    Table::new(Ept::default(), frames, 4, PageSize::Size2M).unwrap()
}

#[test]
fn they_stay_where_a_page_is_split_retyped_and_joined_again() {
    let frames = Frames::new(16);
    let mut table = guest(&frames);
    table.map(gfns(0, 0x400), ram(0x1000)).unwrap();
    touch(&frames, table.root(), 0x10, ACCESSED | DIRTY);
    assert_eq!((marks(&table, 0x1ff), marks(&table, 0x200)), ((true, true), (false, false)));

    // Splitting a page gives its marks to each piece.
    assert_eq!(table.change_type(gfns(0x100, 0x300), P2mType::RamRw, P2mType::RamLogdirty), Ok(0x200));
    assert_eq!(
        (marks(&table, 0), marks(&table, 0x1ff), marks(&table, 0x2ff)),
        ((true, true), (true, true), (false, false))
    );
    touch(&frames, table.root(), 0x210, ACCESSED);
    assert_eq!(table.change_type(gfns(0x100, 0x300), P2mType::RamLogdirty, P2mType::RamRo), Ok(0x200));
    assert_eq!(
        (marks(&table, 0x20f), marks(&table, 0x210), marks(&table, 0x211)),
        ((false, false), (true, false), (false, false))
    );

    // Joining pages gives the one what any of them had.
    assert_eq!(table.change_type(gfns(0, 0x400), P2mType::RamRo, P2mType::RamRw), Ok(0x200));
    assert_eq!((table.translate(Gfn::new(0x300)).order(), marks(&table, 0x300)), (9, (true, false)));
    assert_eq!(marks(&table, 0), (true, true));
    assert_eq!(table.runs(gfns(0, 0x400)).count(), 1);
    assert_eq!(table.table_frames(), 3);
}

#[test]
fn a_used_page_is_still_the_same_page() {
    let frames = Frames::new(16);
    let mut table = guest(&frames);
    let range = MfnRange::new(Mfn::new(0x1f0), Mfn::new(0x600)).unwrap();
    let map = |table: &mut Table<_, _>| {
        table.map_identity(range, Access::READ_WRITE, OnConflict::Refuse, &mut |_| ())
    };
    map(&mut table).unwrap();
    for gfn in [0x1f0, 0x1f7, 0x1ff, 0x200, 0x5ff] {
        touch(&frames, table.root(), gfn, ACCESSED | DIRTY);
    }
    flush(&mut table);
    assert_eq!(map(&mut table), Ok(Identity::AlreadyIdentical));
    assert!(table.take_flush().is_none());
    assert_eq!(table.look_up(Gfn::new(0x1f0)).gfns, gfns(0x1f0, 0x600));
    frames.limit(0);
    table.unmap_identity(range).unwrap();
    assert!(table.is_empty());
    assert_eq!(table.table_frames(), 1);
}

#[test]
fn what_is_there_already_is_not_written_again() {
    let frames = Frames::new(16);
    let mut table = guest(&frames);
    let range = |start, end| MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap();
    let mut report = |_| ();
    table.map_identity(range(0x10, 0x20), Access::READ_WRITE, OnConflict::Refuse, &mut report).unwrap();
    touch(&frames, table.root(), 0x13, ACCESSED | DIRTY);
    flush(&mut table);
    table.map_identity(range(0x10, 0x30), Access::READ_WRITE, OnConflict::Refuse, &mut report).unwrap();
    assert_eq!(
        [0x12, 0x13, 0x14].map(|gfn| marks(&table, gfn)),
        [(false, false), (true, true), (false, false)]
    );
    assert_eq!(flush(&mut table), Some((gfns(0x20, 0x30), true)));
}

#[test]
fn mapping_the_same_again_writes_nothing() {
    let frames = Frames::new(16);
    let mut table = guest(&frames);
    table.map(gfns(1, 0x400), ram(0x1001)).unwrap();
    for gfn in [1, 5, 0x1ff, 0x200] {
        touch(&frames, table.root(), gfn, ACCESSED | DIRTY);
    }
    flush(&mut table);
    frames.listen(|_, _, _| panic!("something was written"));
    table.map(gfns(3, 0x300), ram(0x1003)).unwrap();
    assert!(table.take_flush().is_none());
    frames.listen(|_, _, _| ());
    assert_eq!(marks(&table, 5), (true, true));
}

#[test]
fn only_entries_that_say_the_same_are_joined() {
    let frames = Frames::new(16);
    let mut table = guest(&frames);
    table.map(gfns(0, 0x200), ram(0x1000)).unwrap();
    // Two frames of their own in the middle; the ends go on as ever.
    for gfn in [5, 7] {
        table.map(gfns(gfn, gfn + 1), ram(0x9000 + gfn)).unwrap();
    }
    assert_eq!(table.look_up(Gfn::new(6)).entry, ram(0x1006));
    assert_eq!([5, 7].map(|gfn| table.look_up(Gfn::new(gfn)).entry), [ram(0x9005), ram(0x9007)]);
    assert_eq!(table.runs(gfns(0, 0x200)).count(), 5);
    table.map(gfns(5, 6), ram(0x1005)).unwrap();
    assert_eq!((table.table_frames(), table.look_up(Gfn::new(7)).entry), (4, ram(0x9007)));

    // Marks keep nothing from being joined, wherever they are, and the page has them then.
    for marked in [&[0][..], &[1], &[0x1ff], &[0x20, 0x21]] {
        table.map(gfns(7, 8), ram(0x9007)).unwrap();
        for other in 0..0x200 {
            clear(&frames, table.root(), other);
        }
        for gfn in marked {
            touch(&frames, table.root(), *gfn, ACCESSED | DIRTY);
        }
        table.map(gfns(7, 8), ram(0x1007)).unwrap();
        assert_eq!((table.table_frames(), table.translate(Gfn::new(0)).order()), (3, 9), "{marked:x?}");
        assert_eq!(marks(&table, 0x100), (true, true), "{marked:x?}");
    }
}

#[test]
fn each_format_has_the_marks_where_its_hardware_puts_them() {
    fn check<F: Format>(format: F, levels: u8, accessed: u64, dirty: u64) {
        let frames = Frames::new(16);
        let mut table = Table::new(format, &frames, levels, PageSize::Size2M).unwrap();
        table.map(gfns(0x10, 0x20), ram(0x1010)).unwrap();
        let marks = |gfn| {
            let page = table.translate(Gfn::new(gfn));
            (page.is_accessed(), page.is_dirty())
        };
        touch(&frames, table.root(), 0x10, accessed);
        touch(&frames, table.root(), 0x11, dirty);
        touch(&frames, table.root(), 0x12, accessed | dirty);
        assert_eq!(
            [0x10, 0x11, 0x12, 0x13].map(marks),
            [(true, false), (false, true), (true, true), (false, false)],
            "{}",
            F::NAME
        );
    }
    // SDM Vol. 3, tables 29-6 and 4-20; VT-d 9.8.
    check(Ept::default(), 4, 1 << 8, 1 << 9);
    check(SecondLevel::default(), 3, 1 << 8, 1 << 9);
    check(LongMode::NESTED, 4, 1 << 5, 1 << 6);
}
