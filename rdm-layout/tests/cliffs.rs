//! No cliffs: every size of memory that fits has a plan, and one that is next to that of the size before.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, MIB, Owned, bar32, bar64, frames, planned, strict};
use p2m::{Gfn, GfnRange};
use rdm_layout::xen::{HVMLOADER, OVMF};
use rdm_layout::{Firmware, Machine, Mode, Module, ModuleMemory, Region};

/// A USB controller's region of a laptop, and the largest regions of three real tables.
fn regions() -> Vec<Region> {
    let mut regions = vec![strict(0x7_b800, 0x7_b900)];
    let tables = common::corpus(&["4bf972cb1959.dmar", "4cf9adcd7314.dmar", "48e5226fed9d.dmar"]);
    for (_, bytes) in tables {
        let largest = common::rmrrs(&bytes).into_iter().map(|rmrr| rmrr.0).max_by_key(GfnRange::len).unwrap();
        regions.push(strict(largest.start().raw(), largest.end().raw()));
    }
    regions
}

fn walk(mode: Mode, firmware: Firmware<'static>, check: impl Fn(&Owned, &Owned)) {
    let initrd = Module {
        name: "initrd",
        frames: 60 * MIB,
        align: 1,
        from: Gfn::new(0x2000),
        below: Gfn::new(0xf_0000),
        memory: ModuleMemory::Ram,
    };
    let bars = [bar32(16 << 20), bar64(256 << 20), bar64(16 << 30), bar32(128 << 10), bar32(256)];
    for region in regions() {
        let mut before: Option<Owned> = None;
        for memory in (256 * MIB..=16 * GIB).step_by(512) {
            let machine = Machine {
                mode,
                firmware,
                regions: &[region],
                bars: &bars,
                modules: &[initrd],
                unallocated: GIB,
                ..Machine::new(memory, 39)
            };
            let plan =
                planned(&machine).unwrap_or_else(|error| panic!("{memory:#x} frames, {region:?}: {error}"));
            assert!(plan.regions[0].verdict.is_honoured());
            if let Some(before) = before {
                assert_eq!(plan.bars, before.bars, "BARs do not move");
                assert_eq!(plan.modules, before.modules, "nor do modules");
                assert!(plan.e820.len().abs_diff(before.e820.len()) <= 1);
                check(&before, &plan);
            }
            before = Some(plan);
        }
    }
}

#[test]
fn ranges() {
    walk(Mode::Ranges, OVMF, |before, plan| {
        // All of the RAM stays, and 2 MiB come to it.
        for ram in &before.ram {
            assert!(plan.ram.iter().any(|more| more.intersection(ram) == Some(*ram)), "{ram} of {before:?}");
        }
        let runs = plan.ram.iter().filter(|ram| ram.start() >= Gfn::new(0x200));
        assert!(runs.clone().all(|ram| ram.start().raw() % 512 == 0), "{:?}", plan.ram);
        // They end at 2 MiB, too, but for the last of all, which VGA's hole shifts.
        let ragged = runs.filter(|ram| ram.end().raw() % 512 != 0).count();
        assert!(ragged <= 1, "{:?}", plan.ram);
    });
}

#[test]
fn two_range() {
    walk(Mode::TwoRange, HVMLOADER, |before, plan| {
        assert!(plan.lowmem_end >= before.lowmem_end && plan.highmem_end >= before.highmem_end);
        let high = |plan: &Owned| plan.highmem_end.saturating_sub(1 << 20);
        assert_eq!(plan.lowmem_end + high(plan), before.lowmem_end + high(before) + 512);
    });
}

/// Where room ends, it ends by the frame: with large pages wanted, the pieces are used before a size is
/// refused.
#[test]
fn to_the_last_frame() {
    let regions = [strict(0x7_b8ff, 0x7_b901), strict(0x10_0100, 0x10_0101), strict(0x300, 0x301)];
    let small = Machine { regions: &regions, high: frames(1 << 20, 0x11_0080), ..Machine::new(0, 39) };
    let room = 0xf_0000 + 0x1_0080 - 2 - 1 - 1;
    for memory in room - 0x800..=room {
        assert!(planned(&Machine { memory, ..small }).is_ok(), "{memory:#x}");
    }
    assert!(planned(&Machine { memory: room + 1, ..small }).is_err());
}
