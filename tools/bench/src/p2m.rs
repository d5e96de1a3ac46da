//! 1:1 mappings and look-ups, beside other crates' page tables.

mod peers;

use std::collections::BTreeSet;

use p2m::{
    Access, AddressSpace, Entry, Ept, Format, FrameSource, Gfn, GfnRange, LongMode, Mfn, MfnRange,
    OnConflict, P2m, P2mType, PAGE_SHIFT, PageSize, SecondLevel, Table,
};

use self::peers::{Multiarch, Peer, X86_64};
use crate::frames::{self, Checked, DirectMap};
use crate::measure::Measurements;
use crate::report::Row;

const LEVELS: u8 = 4;
/// Frames of 1 GiB and of 64 MiB.
const GIB: u64 = 1 << 18;
const MIB64: u64 = 1 << 14;
/// Where the regions are: on a boundary of 1 GiB.
const AT: u64 = 2 * GIB;

/// A region, and what is said of it.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    start: u64,
    frames: u64,
    largest: PageSize,
    bound: Option<f64>,
    /// The table has this much before, at 0.
    beside: u64,
}

impl Case {
    fn range(&self) -> MfnRange {
        MfnRange::with_len(Mfn::new(self.start), self.frames).unwrap()
    }

    fn bounds(&self) -> (u64, u64) {
        (self.start << PAGE_SHIFT, (self.start + self.frames) << PAGE_SHIFT)
    }

    fn is_large(&self) -> bool {
        self.largest != PageSize::Size4K
    }

    /// A count of pages where pages are counted, and the target.
    fn describe(&self, row: Row) -> Row {
        let row = if self.is_large() { row } else { row.each("page", self.frames) };
        match self.bound {
            Some(bound) => row.bound(bound),
            None => row,
        }
    }
}

const LARGE: PageSize = PageSize::Size1G;
const SMALL: PageSize = PageSize::Size4K;

const CASES: [Case; 7] = [
    Case { name: "64 MiB", start: AT, frames: MIB64, largest: LARGE, bound: Some(2000.0), beside: 0 },
    Case {
        name: "64 MiB beside others",
        start: AT,
        frames: MIB64,
        largest: LARGE,
        bound: Some(2000.0),
        beside: GIB,
    },
    Case { name: "1 GiB", start: AT, frames: GIB, largest: LARGE, bound: Some(1000.0), beside: 0 },
    Case {
        name: "1 GiB beside others",
        start: AT,
        frames: GIB,
        largest: LARGE,
        bound: Some(1000.0),
        beside: GIB,
    },
    Case {
        name: "64 MiB aligned to 4K only",
        start: AT + 1,
        frames: MIB64,
        largest: LARGE,
        bound: None,
        beside: 0,
    },
    Case {
        name: "64 MiB forced to 4K",
        start: AT,
        frames: MIB64,
        largest: SMALL,
        bound: Some(8.0),
        beside: 0,
    },
    Case {
        name: "510 pages in a table that exists",
        start: 1,
        frames: 510,
        largest: SMALL,
        bound: Some(8.0),
        beside: 1,
    },
];

/// Frames of page tables that mappings 1:1 take, with the largest pages that fit: as few as can be.
fn layout(regions: &[(u64, u64, PageSize)]) -> u64 {
    let mut tables = BTreeSet::from([(u32::from(LEVELS), 0)]);
    for (start, end, largest) in regions {
        let (mut at, fits) = (*start, |at: u64, size: PageSize| {
            size <= *largest && at.is_multiple_of(size.frames()) && end - at >= size.frames()
        });
        while at < *end {
            let sizes = [PageSize::Size1G, PageSize::Size2M].into_iter();
            let size = sizes.clone().find(|size| fits(at, *size)).unwrap_or(PageSize::Size4K);
            let leaf = size.order() / 9 + 1;
            tables.extend((leaf..=u32::from(LEVELS)).map(|level| (level, at >> (9 * level))));
            at += size.frames();
        }
    }
    tables.len() as u64
}

fn guest(start: u64, frames: u64) -> GfnRange {
    GfnRange::with_len(Gfn::new(start), frames).unwrap()
}

/// RAM whose machine frames are `shift` further on. With an odd shift no large page fits.
fn ram<F: Format, S: FrameSource>(table: &mut Table<F, S>, start: u64, frames: u64, shift: u64) {
    let first = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(start + shift)), access: Access::all() };
    table.map(guest(start, frames), first).unwrap();
}

fn table<F: Format>(format: F, largest: PageSize) -> Table<F, DirectMap> {
    Table::new(format, DirectMap, LEVELS, largest).unwrap()
}

fn map<F: Format, S: FrameSource>((table, range): (&mut Table<F, S>, MfnRange)) -> bool {
    table.map_identity(range, Access::READ_WRITE, OnConflict::Refuse, &mut |_| ()).is_ok()
}

fn undo<F: Format, S: FrameSource>((table, range): (&mut Table<F, S>, MfnRange)) -> bool {
    table.unmap_identity(range).is_ok()
}

/// The frame alone.
#[inline(always)]
fn frame_at<F: Format, S: FrameSource>((table, gfn): (&Table<F, S>, Gfn)) -> Option<Mfn> {
    table.translate(gfn).mfn()
}

/// All that an entry says. The walk is most of [`frame_at`]; the rest is to decode and store three answers.
#[inline(always)]
fn look_up<F: Format, S: FrameSource>((table, gfn): (&Table<F, S>, Gfn)) -> (P2mType, Option<Mfn>, Access) {
    let found = table.translate(gfn);
    (found.p2m_type(), found.mfn(), found.access())
}

/// Flushes, as hardware without caches does.
fn flush<F: Format>(table: &mut Table<F, DirectMap>) {
    if let Some(owed) = table.take_flush() {
        table.confirm_flush(owed);
    }
}

/// Maps and undoes a region in `table`; `what` tells the rows from others.
fn map_and_undo<F: Format>(
    measurements: &mut Measurements,
    table: &mut Table<F, DirectMap>,
    case: &Case,
    what: &str,
    needed: Option<u64>,
) {
    let (before, range) = (table.table_frames(), case.range());
    let name = |verb: &str| format!("{}{what}: {verb}", case.name);
    let mut taken = 0;
    let done = measurements.call(&name("look and map"), map, (&mut *table, range), |row| case.describe(row));
    assert!(done && frame_at((table, Gfn::new(case.start + 1))) == Some(Mfn::new(case.start + 1)));
    taken += table.table_frames() - before;
    measurements.note(match needed {
        Some(needed) if needed == taken => self::taken(taken),
        Some(needed) => format!("table frames: {taken}, and the layout needs {needed}"),
        None => format!("table frames: {taken}"),
    });
    assert!(measurements.call(&name("undo"), undo, (&mut *table, range), |row| case.describe(row)));
    flush(table);
    measurements.note(format!("table frames left of it: {}", table.table_frames() - before));
}

fn formats<F: Format>(measurements: &mut Measurements, format: F, what: &str) {
    for case in &CASES {
        let mut table = table(format, case.largest);
        let mut regions = Vec::new();
        if case.beside > 0 {
            ram(&mut table, 0, case.beside, 0);
            regions.push((0, case.beside, case.largest));
        }
        let before = layout(&regions);
        regions.push((case.start, case.start + case.frames, case.largest));
        map_and_undo(measurements, &mut table, case, what, Some(layout(&regions) - before));
    }
    // A page of each size, and none.
    let mut table = table(format, LARGE);
    ram(&mut table, 0, GIB, 0);
    ram(&mut table, GIB, 512, 512);
    ram(&mut table, GIB + 512, 1, 0);
    for (name, gfn) in LOOK_UPS {
        let gfn = Gfn::new(gfn);
        let found = measurements.call(&format!("{name}{what}: frame"), frame_at, (&table, gfn), bounded);
        assert_eq!(found.is_some(), !name.ends_with("nothing"), "{name}");
    }
    for (name, gfn) in LOOK_UPS {
        let case = format!("{name}{what}: {ALL}");
        measurements.call(&case, look_up, (&table, Gfn::new(gfn)), |row| {
            bounded(row).note("the walk, and 12 to decode and store type and access")
        });
    }
}

fn bounded(row: Row) -> Row {
    row.bound(LOOK_UP_BOUND)
}

/// Instructions of a look-up.
const LOOK_UP_BOUND: f64 = 30.0;

/// What the other crates' look-ups answer too.
const ALL: &str = "frame, type, access";

const LOOK_UPS: [(&str, u64); 4] = [
    ("look-up of a 4 KiB page", GIB + 512),
    ("look-up of a 2 MiB page", GIB + 7),
    ("look-up of a 1 GiB page", 7),
    ("look-up of nothing", 3 * GIB),
];

fn peer<P: Peer>(measurements: &mut Measurements) {
    for case in &CASES {
        let (mut table, (start, end)) = (P::new(), case.bounds());
        if case.beside > 0 {
            table.map(0, case.beside << PAGE_SHIFT, case.is_large());
        }
        let large = case.is_large();
        let about = |row: Row| Row { bound: None, ..case.describe(row) }.peer(P::NAME);
        let left = frames::left();
        measurements.call(
            &format!("{}: look and map", case.name),
            |(table, (start, end)): (&mut P, _)| table.map(start, end, large),
            (&mut table, (start, end)),
            about,
        );
        measurements.note(format!("table frames: {}", left - frames::left()));
        assert!(P::leads_to(&table.look_up(end - 1), end - 1));
        measurements.call(
            &format!("{}: undo", case.name),
            |(table, (start, end)): (&mut P, _)| table.unmap(start, end, large),
            (&mut table, (start, end)),
            about,
        );
        measurements.note(format!("table frames left of it: {}", left - frames::left()));
        assert!(!P::leads_to(&table.look_up(end - 1), end - 1));
    }
    let mut table = P::new();
    table.map(0, GIB << PAGE_SHIFT, true);
    table.map(GIB << PAGE_SHIFT, (GIB + 512) << PAGE_SHIFT, true);
    table.map((GIB + 512) << PAGE_SHIFT, (GIB + 513) << PAGE_SHIFT, true);
    for (name, gfn) in LOOK_UPS {
        let address = gfn << PAGE_SHIFT;
        let look = |(table, address): (&P, u64)| table.look_up(address);
        let found =
            measurements.call(&format!("{name}: {ALL}"), look, (&table, address), |row| row.peer(P::NAME));
        assert_eq!(P::leads_to(&found, address), !name.ends_with("nothing"), "{name}");
    }
}

/// The same in tables that hold much else.
fn fullness(measurements: &mut Measurements) {
    const FULL: [(&str, &[(u64, u64)]); 3] = [
        ("empty", &[]),
        ("half full", &[(0, 2 * GIB)]),
        ("very full", &[(0, 2 * GIB), (2 * GIB + MIB64, 2 * GIB - MIB64)]),
    ];
    for (name, others) in FULL {
        let mut table = table(SecondLevel::default(), LARGE);
        for (start, frames) in others {
            ram(&mut table, *start, *frames, 1);
        }
        let what = format!(", {name} table");
        map_and_undo(measurements, &mut table, &CASES[0], &what, None);
    }
    for (name, others) in FULL {
        let mut table = table(SecondLevel::default(), SMALL);
        for (start, frames) in others {
            ram(&mut table, *start, *frames, 1);
        }
        let what = format!(", {name} table");
        map_and_undo(measurements, &mut table, &CASES[5], &what, None);
        ram(&mut table, AT, 1, 0);
        let gfn = Gfn::new(AT);
        measurements.call(&format!("look-up of a 4 KiB page{what}: frame"), frame_at, (&table, gfn), |row| {
            row.bound(30.0)
        });
    }
}

/// What the rest is made of.
fn parts(measurements: &mut Measurements) {
    let frame = measurements.call(
        FRAME,
        |source: DirectMap| source.allocate(),
        DirectMap,
        |row| row.note("part of every row that takes table frames"),
    );
    measurements.call("a frame back to the pool", |frame| DirectMap.free(frame), frame.unwrap(), |row| row);

    let mut small = table(SecondLevel::default(), SMALL);
    let all = MfnRange::with_len(Mfn::new(AT), MIB64).unwrap();
    assert!(map((&mut small, all)));
    let again = |row: Row| row.each("page", MIB64).note("the second region at the same place");
    assert!(measurements.call(
        "64 MiB forced to 4K: look, and find it mapped",
        map,
        (&mut small, all),
        again
    ));
    assert!(undo((&mut small, all)));
    let freed = small.held_frames();
    measurements.call("64 MiB forced to 4K: confirm the flush", flush, &mut small, |row| {
        row.each("frame", freed).note("gives the frames back")
    });

    let mut checked = Table::new(SecondLevel::default(), Checked::new(), LEVELS, LARGE).unwrap();
    ram(&mut checked, GIB + 512, 1, 0);
    measurements.call(
        "look-up of a 4 KiB page, the source checks frame numbers: frame",
        frame_at,
        (&checked, Gfn::new(GIB + 512)),
        |row| row,
    );
    let mut far = table(SecondLevel::default(), LARGE);
    ram(&mut far, 600 * GIB, 1, 0);
    measurements.call(
        "look-up of a 4 KiB page above 512 GiB: frame",
        frame_at,
        (&far, Gfn::new(600 * GIB)),
        bounded,
    );
}

/// A frame that is zeroed.
const FRAME: &str = "a frame from the pool, zeroed";

/// Adds what a case takes that is bounded by its one new table, without the zeroing of that.
pub(crate) fn derive(rows: &mut Vec<Row>) {
    let Some(frame) = rows.iter().find(|row| row.case == FRAME).cloned() else { return };
    let new = rows.iter().filter(|row| {
        row.peer.is_none() && row.case.starts_with("1 GiB") && row.note.as_deref() == Some(&taken(1))
    });
    let less = |row: &Row| {
        row.beyond(&frame, &format!("{}, less {FRAME}", row.case)).note("what it takes but for zeroing")
    };
    let less: Vec<Row> = new.map(less).collect();
    rows.extend(less);
}

fn taken(frames: u64) -> String {
    format!("table frames: {frames}, as the layout needs")
}

/// Measures.
pub(crate) fn measure(measurements: &mut Measurements) {
    frames::provide(4096);
    formats(measurements, SecondLevel::default(), "");
    peer::<Multiarch>(measurements);
    peer::<X86_64>(measurements);
    fullness(measurements);
    parts(measurements);
    formats(measurements, Ept::default(), " (EPT)");
    formats(
        measurements,
        LongMode { user: true, no_execute: true, global: false, uncached_direct: true },
        " (long mode)",
    );
}

#[cfg(test)]
mod tests {
    use p2m::{AddressSpace, PageSize, SecondLevel};

    use super::peers::{Multiarch, Peer, X86_64};
    use super::{CASES, PAGE_SHIFT, flush, frame_at, frames, layout, map, ram, table, undo};

    #[test]
    fn a_layout_has_a_table_for_each_pointer() {
        assert_eq!(layout(&[]), 1);
        assert_eq!(layout(&[(0, 1 << 18, PageSize::Size1G)]), 2);
        assert_eq!(layout(&[(0, 1 << 18, PageSize::Size2M)]), 3);
        assert_eq!(layout(&[(0, 1 << 18, PageSize::Size4K)]), 3 + 512);
        assert_eq!(layout(&[(1, 513, PageSize::Size1G)]), 5);
    }

    #[test]
    fn every_case_can_be_mapped_and_undone() {
        frames::provide(2048);
        for case in &CASES {
            let mut table = table(SecondLevel::default(), case.largest);
            if case.beside > 0 {
                ram(&mut table, 0, case.beside, 0);
            }
            let before = table.table_frames();
            assert!(table.mapped_otherwise(case.range()).is_none());
            assert!(map((&mut table, case.range())), "{}", case.name);
            let regions =
                [(0, case.beside, case.largest), (case.start, case.start + case.frames, case.largest)];
            assert_eq!(table.table_frames(), layout(&regions), "{}", case.name);
            assert!(undo((&mut table, case.range())));
            flush(&mut table);
            assert_eq!(table.table_frames(), before, "{}", case.name);
            assert_eq!(frame_at((&table, p2m::Gfn::new(case.start))), None);
        }
    }

    fn peer_maps_the_same<P: Peer>() {
        frames::provide(2048);
        for case in &CASES {
            let (mut table, (start, end)) = (P::new(), case.bounds());
            table.map(start, end, case.is_large());
            for address in [start, start + 0x12_3456, end - 1].into_iter().filter(|address| *address < end) {
                assert!(P::leads_to(&table.look_up(address), address), "{}: {address:#x}", case.name);
            }
            assert!(!P::leads_to(&table.look_up(end), end));
            table.unmap(start, end, case.is_large());
            assert!(!P::leads_to(&table.look_up(start), start));
        }
        assert_eq!(CASES[0].start << PAGE_SHIFT, 2 << 30);
    }

    #[test]
    fn the_peers_map_the_same() {
        peer_maps_the_same::<Multiarch>();
        peer_maps_the_same::<X86_64>();
    }
}
