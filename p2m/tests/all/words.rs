//! How types, entries, ranges and tables read: logs and errors are made of it.

use p2m::{Access, Entry, Ept, Gfn, GfnRange, Mfn, MfnRange, P2m, P2mType, PageSize, SecondLevel, Table};

use testkit::frames::Frames;
use testkit::tables::model::gfns;

#[test]
fn types_read_as_xen_names_them() {
    let names = [
        (P2mType::Invalid, "p2m_invalid"),
        (P2mType::MmioDm, "p2m_mmio_dm"),
        (P2mType::MmioDirect, "p2m_mmio_direct"),
        (P2mType::RamRw, "p2m_ram_rw"),
        (P2mType::RamRo, "p2m_ram_ro"),
        (P2mType::RamLogdirty, "p2m_ram_logdirty"),
        (P2mType::PopulateOnDemand, "p2m_populate_on_demand"),
        (P2mType::Foreign, "p2m_map_foreign"),
        (P2mType::Grant, "p2m_grant_map"),
    ];
    for (p2m_type, name) in names {
        assert_eq!((p2m_type.name(), p2m_type.to_string()), (name, name.to_owned()));
    }
}

#[test]
fn entries_say_type_frame_and_access() {
    let direct =
        Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(0x7b800)), access: Access::READ_WRITE };
    assert_eq!(direct.to_string(), "p2m_mmio_direct at mfn 0x7b800 (rw-)");
    let code = Entry { access: Access::READ | Access::EXECUTE, ..direct };
    assert_eq!(code.to_string(), "p2m_mmio_direct at mfn 0x7b800 (r-x)");
    assert_eq!(Entry::NOTHING.to_string(), "p2m_invalid");
}

#[test]
fn ranges_are_half_open() {
    let range = gfns(0x10, 0x20);
    assert_eq!(
        (range.to_string(), format!("{range:?}")),
        ("[0x10, 0x20)".into(), "frames [0x10, 0x20)".into())
    );
    let mfns = MfnRange::new(Mfn::new(0x10), Mfn::new(0x20)).unwrap();
    assert_eq!((range.identity(), mfns.identity()), (mfns, range));
    let overlaps = |start, end| GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap().overlaps(&range);
    assert!(
        overlaps(0, 0x11)
            && overlaps(0x1f, 0x30)
            && overlaps(0x12, 0x13)
            && overlaps(0, 0x30)
            && overlaps(0x10, 0x20)
    );
    assert!(!overlaps(0, 0x10) && !overlaps(0x20, 0x30) && !overlaps(0, 5));
    assert_eq!(
        [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G].map(PageSize::frames),
        [1, 0x200, 0x4_0000]
    );
}

#[test]
fn a_table_says_its_format_root_and_size_and_a_walk_what_it_found() {
    let frames = Frames::new(8);
    let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
    let ram =
        Entry { p2m_type: P2mType::RamRo, mfn: Some(Mfn::new(0x1200)), access: Access::READ | Access::WRITE };
    table.map(gfns(0x200, 0x400), ram).unwrap();
    let text = format!("{table:?}");
    let root = format!("root: {:?}", table.root().root);
    for part in ["Table", "Ept", "levels: 4", "frames: 3", &root] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let found = table.translate(Gfn::new(0x3ff));
    assert_eq!(
        (found.p2m_type(), found.access(), found.mfn()),
        (ram.p2m_type, ram.access, Some(Mfn::new(0x13ff)))
    );
    assert_eq!(format!("{found:?}"), "p2m_ram_ro at mfn 0x13ff (rw-), order 9");
    assert_eq!(format!("{:?}", table.runs(gfns(0x180, 0x300))), "runs of [0x180, 0x300)");
}

#[test]
fn capabilities_name_each_level_and_page_by_a_bit_of_its_own() {
    // VT-d 11.4.2, SAGAW: bits 9, 10, 11.
    for (bit, levels) in [(9, 3), (10, 4), (11, 5)] {
        for asked in 0..8 {
            assert_eq!(
                SecondLevel::walks_levels(1 << bit, asked),
                asked == levels,
                "bit {bit}, {asked} levels"
            );
            assert_eq!(
                SecondLevel::walks_levels(!(1 << bit), asked),
                (3..=5).contains(&asked) && asked != levels
            );
        }
    }
    // SDM A.10: bits 6 and 7.
    for (bit, levels) in [(6, 4), (7, 5)] {
        for asked in 0..8 {
            assert_eq!(Ept::walks_levels(1 << bit, asked), asked == levels, "bit {bit}, {asked} levels");
            assert_eq!(Ept::walks_levels(!(1 << bit), asked), (4..=5).contains(&asked) && asked != levels);
        }
    }
}
