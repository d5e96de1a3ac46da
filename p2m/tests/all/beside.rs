//! What others see while a table is updated: hardware, and readers on other processors.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use p2m::{
    Access, AddressSpace, DeviceRoot, Entry, FrameSource, Gfn, LongMode, Mfn, MfnRange, OnConflict, P2m,
    P2mType, PageSize, SecondLevel, Table,
};

use testkit::frames::Frames;
use testkit::tables::model::gfns;
use testkit::tables::walker::{Walker, reachable, walk};

use crate::owed::flush;

fn mfns(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap()
}

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::all() }
}

/// Updates that build, split, join and drop tables of every level.
fn updates() -> Vec<fn(&mut Table<SecondLevel, &Frames>)> {
    vec![
        |table| table.map(gfns(0x1ff, 0x80201), ram(0x1ff)).unwrap(),
        |table| table.unmap(gfns(0x40010, 0x40011)).unwrap(),
        |table| table.map(gfns(0x40010, 0x40011), ram(0x40010)).unwrap(),
        |table| _ = table.change_type(gfns(0x300, 0x40300), P2mType::RamRw, P2mType::RamLogdirty).unwrap(),
        |table| table.unmap(gfns(0, 0x100000)).unwrap(),
        |table| {
            _ = table
                .map_identity(mfns(0x1ff, 0x41ff), Access::READ_WRITE, OnConflict::Refuse, &mut |_| ())
                .unwrap()
        },
        |table| table.unmap_identity(mfns(0x1ff, 0x41ff)).unwrap(),
    ]
}

const PROBES: [u64; 12] =
    [0, 0x1fe, 0x1ff, 0x200, 0x2ff, 0x300, 0x3fff, 0x4000, 0x40010, 0x40011, 0x80200, 0x80201];

#[test]
fn a_table_is_complete_before_anything_leads_to_it_and_no_entry_is_ever_half_made() {
    let frames = Frames::new(64);
    let mut table = Table::new(SecondLevel::default(), &frames, 4, PageSize::Size1G).unwrap();
    let root = table.root();
    let view = move |frames: &Frames| {
        PROBES.map(|gfn| walk(frames, Walker::Vtd, root, gfn).map(|seen| (seen.mfn, seen.write)))
    };
    for update in updates() {
        // Each look at the hardware's view on the way: the frame written, whether it could be reached, and
        // what the probes gave.
        let looks = Arc::new(Mutex::new(Vec::new()));
        let before = view(&frames);
        let known = reachable(&frames, root);
        let to = Arc::clone(&looks);
        frames.listen(move |frames, frame: Mfn, entries: Range<usize>| {
            let found = reachable(frames, root).contains(&frame);
            to.lock().unwrap().push((frame, entries, found, view(frames)));
        });
        update(&mut table);
        frames.listen(|_, _, _| ());
        let after = view(&frames);
        let looks = looks.lock().unwrap();
        assert!(!looks.is_empty());
        for (frame, entries, found, seen) in looks.iter() {
            if !known.contains(frame) {
                assert_eq!(
                    (entries, found),
                    (&(0..512), &false),
                    "a new table is led to before it is complete"
                );
            }
            for ((seen, before), after) in seen.iter().zip(&before).zip(&after) {
                assert!(seen == before || seen == after, "{seen:?} is neither {before:?} nor {after:?}");
            }
        }
        flush(&mut table);
    }
}

#[test]
fn tables_off_the_tree_keep_what_they_held_until_the_flush_is_confirmed() {
    let frames = Frames::new(64);
    let mut table = Table::new(SecondLevel::default(), &frames, 3, PageSize::Size1G).unwrap();
    // Two lowest tables, and the one that leads to them; a paging-structure cache may hold the latter.
    table.map(gfns(0, 0x400), ram(0x7_0001)).unwrap();
    let middle = walk_to(&frames, table.root(), 2);
    flush(&mut table);
    table.map(gfns(0, 0x4_0000), ram(0x4_0000)).unwrap();
    assert_eq!(table.held_frames(), 3);
    let cached = DeviceRoot { root: middle, levels: 2 };
    for gfn in [0, 1, 5, 0x1ff, 0x200, 0x3ff] {
        assert_eq!(walk(&frames, Walker::Vtd, cached, gfn).map(|seen| seen.mfn), Some(0x7_0001 + gfn));
    }
    let first = table.take_flush().unwrap();
    assert_eq!((first.gfns(), first.only_added()), (gfns(0, 0x4_0000), false));
    // What comes off later waits for the next flush.
    table.map(gfns(0x10, 0x11), ram(1)).unwrap();
    table.map(gfns(0x10, 0x11), ram(0x4_0010)).unwrap();
    assert_eq!((table.held_frames(), frames.live()), (5, 6));
    table.confirm_flush(first);
    assert_eq!((table.held_frames(), frames.live()), (2, 3));
    let second = table.take_flush().unwrap();
    table.confirm_flush(second);
    assert_eq!((table.held_frames(), frames.live()), (0, 1));
}

/// The table at `level` for frame 0.
fn walk_to(frames: &Frames, root: DeviceRoot, level: u8) -> Mfn {
    (level..root.levels).fold(root.root, |frame, _| {
        Mfn::containing(frames.table(frame).unwrap().0[0].load(Ordering::Relaxed) & 0xf_ffff_ffff_f000)
    })
}

#[test]
fn dropping_a_table_gives_back_what_waits_for_a_flush_too() {
    let frames = Frames::new(64);
    let mut table = Table::new(SecondLevel::default(), &frames, 4, PageSize::Size2M).unwrap();
    table.map(gfns(1, 0x401), ram(1)).unwrap();
    table.unmap(gfns(0, 0x1000)).unwrap();
    let _ = table.take_flush();
    table.map(gfns(1, 0x401), ram(1)).unwrap();
    table.unmap(gfns(0, 0x300)).unwrap();
    assert!(table.held_frames() > 3);
    drop(table);
    assert_eq!(frames.live(), 0);
}

/// Ends the readers, also when the writer panics.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flush_covers_all_that_hardware_may_hold() {
    let frames = Frames::new(64);
    let mut table = Table::new(SecondLevel::default(), &frames, 4, PageSize::Size2M).unwrap();
    table.map(gfns(0x1000, 0x1200), ram(0x1000)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1000, 0x1200), true)));
    // The whole of a page that was split, and of a table whose pages were joined or that has gone.
    table.unmap(gfns(0x1010, 0x1011)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1000, 0x1200), false)));
    table.unmap(gfns(0x1011, 0x1012)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1011, 0x1012), false)));
    table.map(gfns(0x1010, 0x1011), ram(0x1010)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1010, 0x1011), true)));
    table.map(gfns(0x1011, 0x1012), ram(0x1011)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1000, 0x1200), false)));
    table.map(gfns(0x2000, 0x2001), ram(0)).unwrap();
    flush(&mut table);
    table.unmap(gfns(0x2000, 0x2001)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x2000, 0x2200), false)));
    // What was not present and is not: nothing.
    let emulated = Entry { p2m_type: P2mType::MmioDm, ..Entry::NOTHING };
    table.map(gfns(0x3000, 0x3010), emulated).unwrap();
    assert!(flush(&mut table).is_none_or(|(_, only_added)| only_added));
    table.map(gfns(0x3000, 0x3010), Entry { p2m_type: P2mType::PopulateOnDemand, ..emulated }).unwrap();
    assert_eq!(flush(&mut table), None);
    // Far apart updates make one range.
    table.map(gfns(0x3000, 0x3001), ram(0)).unwrap();
    table.unmap(gfns(0x1000, 0x1200)).unwrap();
    assert_eq!(flush(&mut table), Some((gfns(0x1000, 0x3001), false)));
}

#[test]
fn readers_on_other_processors_see_the_old_or_the_new() {
    const ROUNDS: u64 = 4000;
    let frames = Frames::new(256);
    let mut table = Table::new(LongMode::NESTED, &frames, 4, PageSize::Size2M).unwrap();
    let done = AtomicBool::new(false);
    let walks = [const { AtomicU64::new(0) }; 2];
    std::thread::scope(|scope| {
        let readers = walks.each_ref().map(|walks| {
            let (reader, done) = (table.reader(), &done);
            scope.spawn(move || {
                let mut gfn = 1;
                while !done.load(Ordering::Relaxed) {
                    gfn = (gfn * 5 + 3) % 0x600;
                    let entry = reader.translate(Gfn::new(gfn)).entry();
                    walks.fetch_add(1, Ordering::Relaxed);
                    let expected = [Entry::NOTHING, ram(gfn), ram(0x10_0003 + gfn)];
                    assert!(expected.contains(&entry), "{entry} at {gfn:#x}");
                }
            })
        });
        let _done = Done(&done);
        for round in 0..ROUNDS {
            match round % 4 {
                0 => table.map(gfns(0, 0x600), ram(0)).unwrap(),
                1 => table.map(gfns(0x13, 0x501), ram(0x10_0016)).unwrap(),
                2 => table.map(gfns(0x13, 0x501), ram(0x13)).unwrap(),
                _ => table.unmap(gfns(0, 0x600)).unwrap(),
            }
            if round % 32 == 31 {
                // Each reader ends the walk that it is in and one more: none is left in a table that came off
                // the tree.
                let owed = table.take_flush();
                for (walks, reader) in walks.iter().zip(&readers) {
                    let before = walks.load(Ordering::Relaxed);
                    while walks.load(Ordering::Relaxed) < before + 2 {
                        assert!(!reader.is_finished(), "a reader saw what never was");
                        std::thread::yield_now();
                    }
                }
                owed.into_iter().for_each(|owed| table.confirm_flush(owed));
            }
        }
    });
}
