//! Populating, holes, the host's direct map, and a domain's two tables.

use p2m::{
    Access, AddressSpace, DirectMapCause, DirectMapError, Domain, Entry, Ept, FillCause, FillError, Gfn,
    GfnRange, HoleRules, Identity, IdentityError, LongMode, MapError, Mfn, MfnRange, NotEmpty, OnConflict,
    P2m, P2mType, PageSize, PopulateError, SecondLevel, Table, fill_holes, holes, map_directly, populate,
};

use testkit::frames::Frames;
use testkit::tables::model::gfns;

const RW: Access = Access::READ_WRITE;

fn mfns(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap()
}

fn ram(mfn: u64) -> Entry {
    Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::all() }
}

fn guest(frames: &Frames) -> Table<Ept, &Frames> {
    Table::new(Ept::default(), frames, 4, PageSize::Size2M).unwrap()
}

#[test]
fn populating_refuses_what_is_occupied_or_reserved_and_says_what_is_there() {
    let frames = Frames::new(64);
    let mut table = guest(&frames);
    table.map(gfns(0xf_fff0, 0x10_0000), Entry { p2m_type: P2mType::RamRo, ..ram(0x77) }).unwrap();
    table.map_identity(mfns(0x8_0000, 0x8_0010), RW, OnConflict::Refuse, &mut |_| ()).unwrap();
    let before: Vec<_> = table.runs(gfns(0, 0x20_0000)).collect();

    assert_eq!(
        populate(&mut table, gfns(0xf_f000, 0xf_fff9), ram(0x1000), &[]),
        Err(PopulateError::Occupied {
            gfn: Gfn::new(0xf_fff0),
            found: Entry { p2m_type: P2mType::RamRo, ..ram(0x77) }
        })
    );
    let region = Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(0x8_0000)), access: RW };
    assert_eq!(
        populate(&mut table, gfns(0x7_ffff, 0x8_0001), ram(0x1000), &[]),
        Err(PopulateError::Occupied { gfn: Gfn::new(0x8_0000), found: region })
    );
    let reserved = [gfns(0x9_0000, 0x9_0010), gfns(0x8_8000, 0x8_8001), gfns(5, 5)];
    assert_eq!(
        populate(&mut table, gfns(0x8_0010, 0xa_0000), ram(0x1000), &reserved),
        Err(PopulateError::Reserved { gfn: Gfn::new(0x8_8000), region: reserved[1] })
    );
    assert_eq!(
        populate(&mut table, gfns(0x8_000f, 0xa_0000), ram(0x1000), &reserved),
        Err(PopulateError::Occupied {
            gfn: Gfn::new(0x8_000f),
            found: Entry { mfn: Some(Mfn::new(0x8_000f)), ..region }
        })
    );
    frames.limit(0);
    let no_frames = populate(&mut table, gfns(0, 1), ram(1), &reserved);
    assert_eq!(no_frames, Err(PopulateError::Map(MapError::NoFrames { needed: 2 })));
    assert_eq!(table.runs(gfns(0, 0x20_0000)).collect::<Vec<_>>(), before);

    frames.limit(8);
    assert_eq!(populate(&mut table, gfns(0, 0x400), ram(0x1000), &reserved), Ok(()));
    assert_eq!(table.translate(Gfn::new(0x3ff)).entry(), ram(0x13ff));
    assert_eq!(table.translate(Gfn::new(0x3ff)).order(), 9);
}

#[test]
fn filling_populates_just_the_holes() {
    let frames = Frames::new(64);
    let mut table = guest(&frames);
    table.map(gfns(0x10, 0x20), ram(0x9010)).unwrap();
    table.map(gfns(0x30, 0x40), Entry { p2m_type: P2mType::MmioDm, ..Entry::NOTHING }).unwrap();
    let reserved = [gfns(0x48, 0x50), gfns(0x4c, 0x58)];
    let mut next = 0x1000;
    let mut asked = Vec::new();
    let filled = fill_holes(
        &mut table,
        gfns(8, 0x60),
        &reserved,
        P2mType::RamRw,
        Access::all(),
        &mut |hole: GfnRange| {
            asked.push(hole);
            let frames = hole.len().min(0x10);
            next += frames;
            Some(mfns(next - frames, next))
        },
    );
    assert_eq!(filled, Ok(8 + 0x10 + 8 + 8));
    assert_eq!(asked, [gfns(8, 0x10), gfns(0x20, 0x30), gfns(0x40, 0x48), gfns(0x58, 0x60)]);
    let at = |gfn| table.translate(Gfn::new(gfn)).entry();
    assert_eq!((at(7), at(8), at(0x10), at(0x2f)), (Entry::NOTHING, ram(0x1000), ram(0x9010), ram(0x1017)));
    assert_eq!(
        (at(0x30).p2m_type, at(0x47), at(0x48), at(0x57)),
        (P2mType::MmioDm, ram(0x101f), Entry::NOTHING, Entry::NOTHING)
    );
    assert_eq!((at(0x5f), at(0x60)), (ram(0x1027), Entry::NOTHING));
}

#[test]
fn filling_says_where_it_stopped_and_which_frames_it_did_not_use() {
    let frames = Frames::new(64);
    let mut table = guest(&frames);
    let mut supply = vec![mfns(0x1000, 0x1008)];
    let stopped = fill_holes(&mut table, gfns(0, 0x10), &[], P2mType::RamRw, RW, &mut |_| supply.pop());
    assert_eq!(stopped, Err(FillError { at: Gfn::new(8), filled: 8, cause: FillCause::NoMemory }));
    let empty = fill_holes(&mut table, gfns(8, 0x10), &[], P2mType::RamRw, RW, &mut |_| Some(mfns(7, 7)));
    assert_eq!(empty, Err(FillError { at: Gfn::new(8), filled: 0, cause: FillCause::NoMemory }));
    let unused = mfns(0x2000, 0x2009);
    let too_many = fill_holes(&mut table, gfns(8, 0x10), &[], P2mType::RamRw, RW, &mut |_| Some(unused));
    let error = MapError::OutOfRange { limit: Gfn::new(0x10) };
    assert_eq!(
        too_many,
        Err(FillError { at: Gfn::new(8), filled: 0, cause: FillCause::Refused { unused, error } })
    );
    frames.limit(0);
    let far =
        fill_holes(&mut table, gfns(1 << 30, (1 << 30) + 9), &[], P2mType::RamRw, RW, &mut |_| Some(unused));
    let error = MapError::NoFrames { needed: 3 };
    assert_eq!(
        far,
        Err(FillError { at: Gfn::new(1 << 30), filled: 0, cause: FillCause::Refused { unused, error } })
    );
}

#[test]
fn filling_ends_where_the_table_does() {
    let frames = Frames::new(64);
    let mut table = guest(&frames);
    let beyond =
        fill_holes(&mut table, gfns((1 << 36) - 2, (1 << 36) + 1), &[], P2mType::RamRw, RW, &mut |_| {
            Some(mfns(5, 7))
        });
    assert_eq!(beyond, Err(FillError { at: Gfn::new(1 << 36), filled: 2, cause: FillCause::Beyond }));
}

#[test]
fn holes_are_what_nothing_and_nobody_claims() {
    let frames = Frames::new(64);
    let mut table = guest(&frames);
    table.map(gfns(0, 0x4_0001), ram(0x10_0000)).unwrap();
    table.map(gfns(0x6_0000, 0x6_0100), Entry { p2m_type: P2mType::MmioDm, ..Entry::NOTHING }).unwrap();
    table.map_identity(mfns(0x8_0000, 0x8_0010), RW, OnConflict::Refuse, &mut |_| ()).unwrap();
    let all = gfns(0, 0x10_0000);
    let any: Vec<_> = holes(&table, all, HoleRules::ANY).collect();
    assert_eq!(any, [gfns(0x4_0001, 0x6_0000), gfns(0x6_0100, 0x8_0000), gfns(0x8_0010, 0x10_0000)]);

    let excluded = [
        gfns(0xf_0000, 0x20_0000),
        gfns(0x5_0000, 0x5_0001),
        gfns(0x4_0000, 0x4_0300),
        gfns(0x4_0200, 0x4_0400),
    ];
    let rules = HoleRules { excluded: &excluded, ..HoleRules::EXTENDED_REGION };
    let extended: Vec<_> = holes(&table, all, rules).collect();
    assert_eq!(
        extended,
        [
            gfns(0x4_0400, 0x5_0000),
            gfns(0x5_0200, 0x6_0000),
            gfns(0x6_0200, 0x8_0000),
            gfns(0x8_0200, 0xf_0000)
        ]
    );
    let empty = HoleRules { excluded: &[gfns(0x5_0000, 0x5_0000)], ..HoleRules::ANY };
    assert_eq!(holes(&table, all, empty).next(), Some(gfns(0x4_0001, 0x6_0000)));
    let too_large = HoleRules { at_least: 0x10_0000, ..rules };
    assert_eq!(holes(&table, all, too_large).next(), None);
    assert_eq!(holes(&table, gfns(0, 0x4_0000), HoleRules::ANY).next(), None);
    assert_eq!(holes(&table, all, HoleRules { order: 64, ..HoleRules::ANY }).next(), None);
    let last = holes(&table, gfns((1 << 36) - 1, u64::MAX), HoleRules::ANY).next();
    assert_eq!(last, Some(gfns((1 << 36) - 1, 1 << 36)));
}

#[test]
fn the_direct_map_covers_the_banks_and_nothing_else() {
    let frames = Frames::new(64);
    let mut host = Table::new(LongMode::HOST, &frames, 4, PageSize::Size1G).unwrap();
    let window = Gfn::new(256 << 27);
    // A machine with holes, a bank of one page, one that ends a page before 1 GiB, and 600 GiB above 4 GiB.
    let banks =
        [mfns(0, 0x9f), mfns(0x100, 0x101), mfns(0x200, 0x3_ffff), mfns(0x10_0000, 0x10_0000 + (600 << 18))];
    let mut handed = Vec::new();
    let total: u64 = banks.iter().map(|bank| bank.len()).sum();
    frames.limit(0);
    let mapped = map_directly(&mut host, window, banks, |bank| {
        // The tables can come from what has just been handed over.
        handed.push(bank);
        frames.limit(16);
    });
    assert_eq!(mapped, Ok(total));
    assert_eq!(handed, banks);
    let at = |mfn: u64| host.translate(Gfn::new(window.raw() + mfn));
    for bank in banks {
        let (first, last) = (bank.start().raw(), bank.end().raw() - 1);
        assert_eq!((at(first).mfn(), at(last).mfn()), (Some(bank.start()), Some(Mfn::new(last))));
        for outside in [first.checked_sub(1), Some(last + 1)].into_iter().flatten() {
            assert_eq!(at(outside).entry(), Entry::NOTHING, "{outside:#x} is in no bank");
        }
    }
    assert_eq!([at(0x100), at(0x200), at(0x3_fe00), at(0x10_0000)].map(|at| at.order()), [0, 9, 0, 18]);
    let mapped: u64 =
        host.runs(gfns(0, 1 << 36)).filter(|run| run.entry.mfn.is_some()).map(|run| run.gfns.len()).sum();
    assert_eq!(mapped, total);
}

#[test]
fn adjoining_banks_share_large_pages() {
    let frames = Frames::new(64);
    let mut host = Table::new(LongMode::HOST, &frames, 4, PageSize::Size1G).unwrap();
    let banks = [mfns(0, 0x101), mfns(0x101, 0x3_fff0), mfns(0x3_fff0, 0x4_0000)];
    assert_eq!(map_directly(&mut host, Gfn::new(0), banks, |_| ()), Ok(0x4_0000));
    assert_eq!(host.translate(Gfn::new(0x101)).order(), 18);
    assert_eq!(host.table_frames(), 2);
}

#[test]
fn the_direct_map_returns_errors() {
    let frames = Frames::new(64);
    let mut host = Table::new(LongMode::HOST, &frames, 4, PageSize::Size1G).unwrap();
    let overlapping = [mfns(0x200, 0x400), mfns(0x3ff, 0x500)];
    let mut handed = 0;
    let taken = map_directly(&mut host, Gfn::new(0), overlapping, |_| handed += 1);
    let found = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(0x3ff)), access: RW };
    let cause = DirectMapCause::Taken { gfn: Gfn::new(0x3ff), found };
    assert_eq!((taken, handed), (Err(DirectMapError { bank: overlapping[1], cause }), 1));
    let far = [mfns(1 << 36, (1 << 36) + 1)];
    let beyond = map_directly(&mut host, Gfn::new(0), far, |_| handed += 1);
    assert_eq!((beyond, handed), (Err(DirectMapError { bank: far[0], cause: DirectMapCause::Beyond }), 1));
    frames.limit(0);
    let unlucky = [mfns(0x100_0000, 0x100_0001)];
    let cause = DirectMapCause::Map(MapError::NoFrames { needed: 2 });
    assert_eq!(
        map_directly(&mut host, Gfn::new(0), unlucky, |_| ()),
        Err(DirectMapError { bank: unlucky[0], cause })
    );
}

#[test]
fn only_whole_frames_of_a_memory_map_entry_count() {
    assert_eq!(MfnRange::whole_frames(0x1001, 0x3fff), mfns(2, 3));
    assert_eq!(MfnRange::whole_frames(0x1000, 0x3000), mfns(1, 3));
    assert!(MfnRange::whole_frames(0x1001, 0x1fff).is_empty());
    assert!(MfnRange::whole_frames(u64::MAX, u64::MAX).is_empty());
}

#[test]
fn both_tables_of_a_domain_are_updated_or_none() {
    let frames = Frames::new(64);
    let cpu = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
    let iommu = Table::new(SecondLevel::default(), &frames, 3, PageSize::Size2M).unwrap();
    let mut domain = Domain::separate(cpu, iommu).unwrap();
    let range = mfns(0x4_0000, 0x8_0000);
    // The CPU's takes one frame, for a page of 1 GiB; the IOMMU's one for 512 pages of 2 MiB.
    let mut report = |_| ();
    frames.limit(1);
    let refused = domain.map_identity(range, RW, OnConflict::Refuse, &mut report);
    assert_eq!(refused, Err(IdentityError::NoFrames { needed: 2 }));
    assert!(domain.cpu().is_empty() && domain.iommu().unwrap().is_empty() && frames.live() == 2);
    frames.limit(2);
    assert_eq!(domain.map_identity(range, RW, OnConflict::Refuse, &mut report), Ok(Identity::Mapped));
    let gfn = Gfn::new(0x4_0200);
    assert_eq!(domain.iommu().unwrap().translate(gfn).entry(), domain.translate(gfn).entry());
    assert_eq!(domain.device_root(), domain.iommu().unwrap().root());

    // Beyond what the smaller of the two expresses.
    let limit = Gfn::new(1 << 27);
    let far = domain.map_identity(mfns((1 << 27) - 1, (1 << 27) + 1), RW, OnConflict::Refuse, &mut report);
    assert_eq!(far, Err(IdentityError::OutOfRange { limit }));
    assert_eq!(domain.map(gfns(1 << 27, (1 << 27) + 1), ram(0)), Err(MapError::OutOfRange { limit }));
    drop(domain);
    assert_eq!(frames.live(), 0);
}

#[test]
fn a_domain_does_not_take_tables_that_could_disagree() {
    let frames = Frames::new(64);
    let mut cpu = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
    cpu.map(gfns(0, 1), ram(0)).unwrap();
    let iommu = Table::new(SecondLevel::default(), &frames, 4, PageSize::Size1G).unwrap();
    assert_eq!(Domain::separate(cpu, iommu).err(), Some(NotEmpty));
}

#[test]
fn a_shared_table_is_what_devices_walk() {
    let frames = Frames::new(64);
    let table = guest(&frames);
    let root = table.root();
    let domain: Domain<_, SecondLevel, _> = Domain::shared(table);
    assert!(domain.iommu().is_none());
    assert_eq!(domain.device_root(), root);
}

#[test]
fn what_has_no_frame_takes_no_table_for_a_whole_page_of_it() {
    for p2m_type in [P2mType::MmioDm, P2mType::PopulateOnDemand] {
        let frames = Frames::new(16);
        let mut table = Table::new(Ept::default(), &frames, 4, PageSize::Size1G).unwrap();
        let promised = Entry { p2m_type, ..Entry::NOTHING };
        table.map(gfns(0, 0x155), promised).unwrap();
        assert_eq!(table.table_frames(), 4);
        table.map(gfns(0x155, 0x200), promised).unwrap();
        assert_eq!((table.table_frames(), table.translate(Gfn::new(0x155)).order()), (3, 9), "{p2m_type}");
        assert_eq!(table.look_up(Gfn::new(0)).gfns, gfns(0, 0x200));
    }
}
