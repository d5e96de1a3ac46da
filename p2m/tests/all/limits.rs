//! The last frame that fits, and the first that does not.

use std::sync::atomic::{AtomicU64, Ordering};

use p2m::{
    Access, AddressSpace, Domain, Entry, Ept, FrameSource, Gfn, GfnRange, Identity, IdentityError, MapError,
    Mfn, MfnRange, OnConflict, P2m, P2mType, PageSize, SecondLevel, Table, TableError, TableFrame,
    fill_holes,
};

use testkit::frames::Frames;
use testkit::tables::model::gfns;

/// Guest frames of a table of 3 levels: 39 bits of address.
const LIMIT: u64 = 1 << 27;
/// Machine frames that an entry can name: 52 bits of address.
const MACHINE: u64 = 1 << 40;

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::all() }
}

/// A processor's table of 4 levels beside a unit's of 3.
fn domain(frames: &Frames) -> Domain<Ept, SecondLevel, &Frames> {
    let cpu = Table::new(Ept::default(), frames, 4, PageSize::Size1G).unwrap();
    let iommu = Table::new(SecondLevel::default(), frames, 3, PageSize::Size1G).unwrap();
    Domain::separate(cpu, iommu).unwrap()
}

#[test]
fn a_domain_ends_where_the_shorter_of_its_tables_does() {
    let frames = Frames::new(32);
    let mut domain = domain(&frames);
    let limit = Gfn::new(LIMIT);
    assert_eq!(domain.map(gfns(LIMIT - 1, LIMIT), ram(5)), Ok(()));
    assert_eq!(domain.map(gfns(LIMIT - 1, LIMIT + 1), ram(5)), Err(MapError::OutOfRange { limit }));
    let retype = |domain: &mut Domain<_, _, _>, end| {
        domain.change_type(gfns(LIMIT - 2, end), P2mType::RamRw, P2mType::RamRo)
    };
    assert_eq!(retype(&mut domain, LIMIT), Ok(1));
    assert_eq!(retype(&mut domain, LIMIT + 1), Err(MapError::OutOfRange { limit }));

    let mfns = |start, end| MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap();
    let mut identity = |start, end| {
        domain.map_identity(mfns(start, end), Access::READ_WRITE, OnConflict::Refuse, &mut |_| ())
    };
    assert_eq!(identity(LIMIT - 0x10, LIMIT - 1), Ok(Identity::Mapped));
    assert_eq!(identity(LIMIT - 0x10, LIMIT + 1), Err(IdentityError::OutOfRange { limit }));
    domain.unmap(gfns(LIMIT - 1, LIMIT)).unwrap();
    let mut identity = |start, end| {
        domain.map_identity(mfns(start, end), Access::READ_WRITE, OnConflict::Refuse, &mut |_| ())
    };
    assert_eq!(identity(LIMIT - 1, LIMIT), Ok(Identity::Mapped));
}

#[test]
fn an_entry_names_machine_frames_of_40_bits() {
    let frames = Frames::new(32);
    let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
    assert_eq!(table.map(gfns(0, 4), ram(MACHINE - 4)), Ok(()));
    let limit = Mfn::new(MACHINE);
    assert_eq!(table.map(gfns(0, 5), ram(MACHINE - 4)), Err(MapError::MachineOutOfRange { limit }));
    assert_eq!(table.map(gfns(0, 1), ram(u64::MAX)), Err(MapError::MachineOutOfRange { limit }));
    assert_eq!(table.translate(Gfn::new(3)).mfn(), Some(Mfn::new(MACHINE - 1)));
}

#[test]
fn looking_beyond_what_a_table_covers_finds_nothing() {
    let frames = Frames::new(32);
    let four = {
        let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
        table.map(gfns(0, 1), ram(7)).unwrap();
        table
    };
    // 512 GiB is where the table that walks may begin at ends.
    for gfn in [1 << 27, 1 << 36, (1 << 36) + 1, u64::MAX] {
        assert_eq!(four.translate(Gfn::new(gfn)).entry(), Entry::NOTHING, "{gfn:#x}");
        assert_eq!(four.reader().translate(Gfn::new(gfn)).entry(), Entry::NOTHING, "{gfn:#x}");
    }
    let mut three = Table::new(SecondLevel::default(), &frames, 3, PageSize::Size1G).unwrap();
    three.map(gfns(0, 1), ram(7)).unwrap();
    assert_eq!(three.translate(Gfn::new(LIMIT)).entry(), Entry::NOTHING);
    assert_eq!(three.reader().translate(Gfn::new(LIMIT)).entry(), Entry::NOTHING);
}

#[test]
fn holes_are_filled_up_to_the_limit_and_never_where_none_is() {
    let frames = Frames::new(32);
    let mut table = Table::new(SecondLevel::default(), &frames, 3, PageSize::Size1G).unwrap();
    table.map(gfns(0x20, 0x30), ram(0x100)).unwrap();
    let mut fill = |within: GfnRange, reserved: &[GfnRange]| {
        let mut asked = vec![];
        let mut supply = |hole: GfnRange| {
            asked.push(hole);
            MfnRange::with_len(Mfn::new(0x1000), hole.len())
        };
        let filled = fill_holes(&mut table, within, reserved, P2mType::RamRw, Access::all(), &mut supply);
        (filled, asked)
    };
    // The reserved range ends where what is there begins: nothing lies between.
    assert_eq!(fill(gfns(8, 0x30), &[gfns(0x10, 0x20)]), (Ok(8), vec![gfns(8, 0x10)]));
    assert_eq!(fill(gfns(LIMIT - 2, LIMIT), &[]), (Ok(2), vec![gfns(LIMIT - 2, LIMIT)]));
    assert_eq!(fill(gfns(LIMIT - 2, LIMIT + 1), &[]).0.unwrap_err().at, Gfn::new(LIMIT));
}

/// Gives one frame of a number of its own.
struct Numbered {
    number: AtomicU64,
    frame: TableFrame,
}

// SAFETY: the one frame is zeroed, is given once, and `table` gives its memory.
#[allow(unsafe_code, reason = "the trait's promise")]
unsafe impl FrameSource for Numbered {
    fn allocate(&self) -> Option<Mfn> {
        match self.number.load(Ordering::Relaxed) {
            u64::MAX => None,
            number => Some(Mfn::new(number)),
        }
    }

    fn free(&self, _: Mfn) {
        self.number.store(u64::MAX, Ordering::Relaxed);
    }

    fn table(&self, _: Mfn) -> Option<&TableFrame> {
        Some(&self.frame)
    }
}

#[test]
fn a_table_lies_where_an_entry_can_point_to() {
    let make = |number| {
        let frame = TableFrame([const { AtomicU64::new(0) }; 512]);
        let source = Numbered { number: AtomicU64::new(number), frame };
        let made = Table::new(Ept::default(), &source, 4, PageSize::Size1G).map(drop);
        (made, source.number.load(Ordering::Relaxed))
    };
    assert_eq!(make(MACHINE - 1).0, Ok(()));
    // The frame is given back.
    assert_eq!(make(MACHINE), (Err(TableError::NoFrames), u64::MAX));
}
