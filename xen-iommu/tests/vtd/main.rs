//! The driver against a unit in software.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "tests"
)]

mod device_tlb;
mod drhd;
mod errors;
mod faults;
mod greedy;
mod locks;
mod owed;
mod random;
mod setup;
mod switch;

use p2m::{Access, DeviceRoot, Flush, Gfn, GfnRange, PageSize};
use testkit::frames::Frames;
use testkit::vtd::{Event, MODEL_ECAP, Model, QEMU_CAP};
use xen_iommu::vtd::{
    Coverage, DeviceTlbSlot, DomainSlot, FaultSummary, Reason, Registers, Replacement, Setup, Unit, Vtd,
};
use xen_iommu::{HardwareError, RemappingHardware, RequesterId, Sbdf, SpaceId};

type Hardware = &'static Model<&'static Frames>;
type TestVtd = Vtd<'static, Hardware, &'static Frames>;

const POLLS: u32 = 50;
const BASE: u64 = 0xfed9_0000;
/// QEMU's with 48-bit tables as well.
const CAP: u64 = QEMU_CAP | 1 << 10 | 0x2f << 16;

/// Memory for ever: the tests end before it matters.
fn leak<T: Clone>(count: usize, value: T) -> &'static mut [T] {
    Vec::leak(vec![value; count])
}

fn arena(frames: usize) -> &'static Frames {
    Box::leak(Box::new(Frames::new(frames)))
}

fn model(cap: u64, ecap: u64, arena: &'static Frames) -> Hardware {
    Box::leak(Box::new(Model::new(cap, ecap, arena)))
}

fn setup(base: u64, model: Hardware, coverage: &[Coverage], queue: bool) -> Setup<'static, Hardware> {
    Setup {
        base,
        window: 0x1000,
        registers: model,
        segment: 0,
        coverage: Vec::leak(coverage.to_vec()),
        domains: Vec::leak((0..128).map(|_| DomainSlot::new()).collect()),
        device_tlbs: leak(4, DeviceTlbSlot::new()),
        polls: POLLS,
        queue,
        replacement: Replacement::AtOnce,
    }
}

/// One unit for everything, started and enabled.
struct Rig {
    arena: &'static Frames,
    model: Hardware,
    vtd: TestVtd,
}

impl Rig {
    fn new(cap: u64, ecap: u64, queue: bool) -> Self {
        Self::of(cap, ecap, queue, true)
    }

    fn of(cap: u64, ecap: u64, queue: bool, at_once: bool) -> Self {
        let arena = arena(256);
        let model = model(cap, ecap, arena);
        let mut setup = setup(BASE, model, &[Coverage::All { segment: 0 }], queue);
        if !at_once {
            setup.replacement = Replacement::ByWords;
        }
        let unit = Unit::new(setup);
        let vtd = Vtd::new(Vec::leak(vec![unit]), arena);
        vtd.start(&mut |_, error| panic!("{error}"));
        vtd.enable().unwrap();
        Self { arena, model, vtd }
    }

    /// A table that maps each page of the list, read and write.
    fn table(&self, levels: u8, pages: &[(u64, u64)]) -> DeviceRoot {
        let table = self.arena.table_of(levels);
        for &(gfn, mfn) in pages {
            self.arena.map(table, gfn, mfn, PageSize::Size4K, Access::READ_WRITE);
        }
        table
    }

    fn faults(&self) -> (Vec<String>, FaultSummary) {
        let mut faults = Vec::new();
        let summary = self.vtd.read_faults(&mut |fault| faults.push(fault.to_string()));
        (faults, summary)
    }

    fn check(&self) {
        self.model.check_tables();
        assert_eq!(self.model.violations(), [] as [&str; 0]);
    }
}

fn device(bus: u8, devfn: u8) -> Sbdf {
    Sbdf::new(0, bus, devfn >> 3, devfn & 7)
}

fn flush_of(start: u64, end: u64) -> Flush {
    Flush::new(GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap(), false, 0)
}

/// Of pages that were not present before.
fn added(start: u64, end: u64) -> Flush {
    Flush::new(flush_of(start, end).gfns(), true, 0)
}

/// So many rounds of a race, or fewer where proptest is asked for fewer cases than its 256.
fn rounds(most: u32) -> u32 {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    most * cases.unwrap_or(256).min(256) / 256
}

/// By registers, by queue.
const WAYS: [bool; 2] = [false, true];

#[test]
fn dma_arrives_where_the_table_says() {
    for queue in WAYS {
        for levels in [3, 4] {
            let rig = Rig::new(CAP, MODEL_ECAP, queue);
            let table = rig.arena.table_of(levels);
            rig.arena.map(table, 0x10, 0x7777, PageSize::Size4K, Access::READ_WRITE);
            rig.arena.map(table, 0x400, 0x8000, PageSize::Size2M, Access::READ_WRITE);
            rig.arena.map(table, 0x4_0000, 0x10_0000, PageSize::Size1G, Access::READ);
            let nic = device(3, 0x42);
            rig.vtd.attach(nic.into(), SpaceId(9), table).unwrap();
            let id = nic.source_id();
            assert_eq!(rig.model.dma(id, 0x1_0abc, true), Ok(0x777_7abc));
            assert_eq!(rig.model.dma(id, 0x40_1234, true), Ok(0x800_1234));
            assert_eq!(rig.model.dma(id, 0x7fff_ffff, false), Ok(0x1_3fff_ffff));
            assert_eq!(rig.model.dma(id, 0x7fff_ffff, true), Err(Reason::NO_WRITE));
            assert_eq!(rig.model.dma(id, 0x1_1000, false), Err(Reason::NO_READ));
            assert_eq!(rig.model.dma(id, 1 << 50, false), Err(Reason::BEYOND_WIDTH));
            rig.check();
        }
    }
}

#[test]
fn what_is_not_attached_is_blocked_and_says_so() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    assert_eq!(rig.model.dma(0x0342, 0x1_2345, true), Err(Reason::ROOT_NOT_PRESENT));
    let (texts, summary) = rig.faults();
    assert_eq!(
        texts,
        ["a write by 0000:03:08.2 at 0x12000 was blocked: its bus has no context table (fault reason 0x1)"]
    );
    assert_eq!(summary, FaultSummary { faults: 1, overflow: false });
    rig.vtd.attach(device(3, 0).into(), SpaceId(1), table).unwrap();
    assert_eq!(rig.model.dma(0x0342, 0x1_2345, false), Err(Reason::CONTEXT_NOT_PRESENT));
    let (texts, _) = rig.faults();
    assert_eq!(
        texts,
        ["a read by 0000:03:08.2 at 0x12000 was blocked: it has no context entry (fault reason 0x2)"]
    );
    assert_eq!(rig.faults().1, FaultSummary::default());
}

#[test]
fn detached_means_blocked_at_once() {
    for queue in WAYS {
        let rig = Rig::new(CAP, MODEL_ECAP, queue);
        let table = rig.table(4, &[(1, 2)]);
        let (a, b) = (device(0, 8), device(0, 16));
        rig.vtd.attach(a.into(), SpaceId(1), table).unwrap();
        rig.vtd.attach(b.into(), SpaceId(1), table).unwrap();
        for source in [8, 16] {
            assert_eq!(rig.model.dma(source, 0x1000, false), Ok(0x2000));
        }
        rig.vtd.detach(a.into()).unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
        assert_eq!(rig.model.dma(16, 0x1000, false), Ok(0x2000));
        rig.vtd.detach(a.into()).unwrap();
        // Never attached, on a bus without a table.
        rig.vtd.detach(device(200, 0).into()).unwrap();
        rig.check();
    }
}

#[test]
fn a_missing_flush_shows_and_a_flush_helps() {
    for queue in WAYS {
        let rig = Rig::new(CAP, MODEL_ECAP, queue);
        let table = rig.table(4, &[(1, 2), (3, 4)]);
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(0x2000));
        assert_eq!(rig.model.dma(8, 0x3000, false), Ok(0x4000));
        for gfn in [1, 3] {
            rig.arena.map(table, gfn, 0, PageSize::Size4K, Access::empty());
        }
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(0x2000), "still cached");
        // Of a space that no device is attached to: nothing to do.
        rig.model.take_events();
        rig.vtd.flush(SpaceId(2), &flush_of(0, 0x100)).unwrap();
        assert_eq!(rig.model.take_events(), []);
        rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Err(Reason::NO_READ));
        assert_eq!(rig.model.dma(8, 0x3000, false), Ok(0x4000), "not asked for");
        rig.vtd.flush(SpaceId(1), &flush_of(0, 1 << 35)).unwrap();
        assert_eq!(rig.model.dma(8, 0x3000, false), Err(Reason::NO_READ));
        rig.check();
    }
}

#[test]
fn flushes_are_as_narrow_as_the_unit_can() {
    let granularity = |cap: u64, flush: Flush| {
        let rig = Rig::new(cap, MODEL_ECAP, true);
        let table = rig.table(4, &[(1, 2)]);
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
        rig.model.take_events();
        rig.vtd.flush(SpaceId(1), &flush).unwrap();
        let events = rig.model.take_events();
        events
            .iter()
            .map(|event| match event {
                Event::Iotlb(command, address) => (command.granularity(), *address),
                other => panic!("{other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(granularity(CAP, flush_of(5, 6)), [(3, 0x5000)]);
    assert_eq!(granularity(CAP, flush_of(0x200, 0x400)), [(3, 0x20_0009)]);
    // 3 and 4 have no block in common that is smaller than [0, 8).
    assert_eq!(granularity(CAP, flush_of(3, 5)), [(3, 3)]);
    assert_eq!(granularity(CAP, flush_of(0, 1 << 18)), [(3, 18)]);
    assert_eq!(granularity(CAP, flush_of(0, (1 << 18) + 1)), [(2, 0)], "wider than MAMV");
    assert_eq!(granularity(CAP & !(1 << 39), flush_of(5, 6)), [(2, 0)], "no PSI");
    assert_eq!(granularity(CAP, flush_of(5, 5)), []);
    assert_eq!(granularity(CAP, flush_of(0, u64::MAX)), [(2, 0)]);
    assert_eq!(granularity(CAP, added(5, 6)), []);
    assert_eq!(granularity(CAP | 1 << 7, added(5, 6)), [(3, 0x5000)], "caching mode");
}

#[test]
fn caching_mode_needs_and_gets_flushes_of_what_was_not_there() {
    for (queue, at_once) in [(false, true), (true, true), (false, false), (true, false)] {
        let rig = Rig::of(CAP | 1 << 7, MODEL_ECAP, queue, at_once);
        let table = rig.table(4, &[(1, 2)]);
        assert_eq!(rig.model.dma(8, 0x1000, false), Err(Reason::ROOT_NOT_PRESENT));
        rig.model.take_events();
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
        let ids = |event| match event {
            Event::Context(command) => ("context", command.domain_id()),
            Event::Iotlb(command, _) => ("iotlb", command.domain_id()),
            other => panic!("{other:?}"),
        };
        let events: Vec<_> = rig.model.take_events().into_iter().map(ids).collect();
        assert_eq!(events, [("context", 0), ("iotlb", 0), ("iotlb", 1)]);
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(0x2000));
        assert_eq!(rig.model.dma(8, 0x5000, false), Err(Reason::NO_READ));
        rig.arena.map(table, 5, 6, PageSize::Size4K, Access::READ_WRITE);
        assert_eq!(rig.model.dma(8, 0x5000, false), Err(Reason::NO_READ), "cached as not there");
        rig.vtd.flush(SpaceId(1), &added(5, 6)).unwrap();
        assert_eq!(rig.model.dma(8, 0x5000, false), Ok(0x6000));
        // A space that once was attached here, and grew while it was not.
        rig.model.take_events();
        rig.vtd.detach(device(0, 8).into()).unwrap();
        let events: Vec<_> = rig.model.take_events().into_iter().map(ids).collect();
        assert_eq!(events, [("context", 1), ("iotlb", 1)]);
        rig.vtd.detach(device(0, 8).into()).unwrap();
        assert_eq!(rig.model.take_events(), [], "there is nothing to drop");
        assert_eq!(rig.model.dma(8, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(0x2000));
        rig.check();
    }
}

#[test]
fn a_unit_that_does_not_snoop_gets_its_tables_written_back() {
    for queue in WAYS {
        let rig = Rig::new(CAP, MODEL_ECAP & !1, queue);
        assert!(!rig.vtd.is_coherent());
        assert_eq!(rig.model.dma(0x0708, 0x1000, false), Err(Reason::ROOT_NOT_PRESENT), "zeros");
        let table = rig.table(4, &[(1, 2)]);
        for words in rig.arena.words() {
            // What the owner of second-stage tables does; the driver's own are written again by the driver
            // alone.
            Registers::write_back(&rig.model, words);
        }
        rig.vtd.attach(device(7, 8).into(), SpaceId(1), table).unwrap();
        assert_eq!(rig.model.dma(0x0708, 0x1000, false), Ok(0x2000));
        assert_eq!(rig.model.dma(0x070a, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT), "zeros");
        rig.vtd.detach(device(7, 8).into()).unwrap();
        assert_eq!(rig.model.dma(0x0708, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
        rig.vtd.attach(device(7, 9).into(), SpaceId(1), table).unwrap();
        assert_eq!(rig.model.dma(0x0709, 0x1000, false), Ok(0x2000));
        assert_eq!(rig.model.dma(0x0708, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
    }
}

#[test]
fn the_write_buffer_is_flushed_before_anything_is_dropped() {
    let rig = Rig::new(CAP | 1 << 4, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    rig.model.take_events();
    rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
    assert_eq!(rig.model.take_events(), [Event::WriteBuffer], "nothing was there before");
    rig.vtd.detach(device(0, 8).into()).unwrap();
    let events = rig.model.take_events();
    assert!(matches!(events[..], [Event::WriteBuffer, Event::Context(_), Event::Iotlb(..)]), "{events:?}");
    rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
    rig.model.take_events();
    rig.vtd.flush(SpaceId(1), &added(1, 2)).unwrap();
    assert_eq!(rig.model.take_events(), [Event::WriteBuffer]);
}

#[test]
fn the_queue_goes_round() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
    for round in 0..1000 {
        rig.arena.map(table, 1, round, PageSize::Size4K, Access::READ_WRITE);
        rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(round << 12));
    }
    assert_eq!(rig.model.polls(), 0, "the model does it at once");
    rig.check();
}
