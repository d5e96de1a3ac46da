//! Cases that libxl or hvmloader fail, and what comes out here; and cases that nothing can solve, with the
//! sentence.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, MIB, bar32, bar64, frames, planned, relaxed, strict};
use p2m::{Gfn, GfnRange};
use rdm_layout::xen::{DIRECT, HVMLOADER, OVMF, SEABIOS};
use rdm_layout::{
    Backing, Broken, Cause, Certainty, Change, Error, Failure, Fixed, Machine, Mode, Module, ModuleMemory,
    Moved, Policy, Region, Thing, Verdict,
};

fn machine(memory: u64) -> Machine<'static> {
    Machine { firmware: OVMF, ..Machine::new(memory, 39) }
}

fn failure(machine: &Machine<'_>) -> Failure {
    match planned(machine) {
        Err(Error::NoLayout(failure)) => failure,
        other => panic!("{other:?}"),
    }
}

#[test]
fn below_2_gib() {
    // libxl: conflict, whatever the boundary, unless the administrator lowers it by hand.
    for region in [strict(0x2_c4cf, 0x2_c4df), strict(0x3_0000, 0x5_0800), strict(0x7_b800, 0x8_0000)] {
        for mode in [Mode::Ranges, Mode::TwoRange] {
            let plan = planned(&Machine { mode, regions: &[region], ..machine(4 * GIB) }).unwrap();
            assert_eq!(plan.regions[0].verdict, Verdict::MovedAround(Moved::Ram));
            assert_eq!(plan.lowmem_end == region.frames.start().raw(), mode == Mode::TwoRange);
        }
    }
}

#[test]
fn ram_on_both_sides_costs_no_memory_below_4_gib_but_the_region_s() {
    let plan = planned(&Machine { regions: &[strict(0x7_b800, 0x7_b900)], ..machine(3 * GIB) }).unwrap();
    // Above the region, RAM begins at the next 2 MiB.
    let expected = [frames(0, 0xa0), frames(0xc0, 0x7_b800), frames(0x7_ba00, 0xc_0000 + 0x220)];
    assert_eq!(plan.ram, expected);
    assert_eq!(plan.highmem_end, 0);
}

#[test]
fn above_4_gib() {
    // libxl: conflict with the high range.
    let region = strict(0x14_0000, 0x14_0010);
    let plan = planned(&Machine { regions: &[region], ..machine(8 * GIB) }).unwrap();
    assert_eq!(plan.regions[0].verdict, Verdict::MovedAround(Moved::Ram));
    assert!(plan.highmem_end > 0x14_0010);
    // Two ranges cannot go around it.
    let failed = failure(&Machine { mode: Mode::TwoRange, regions: &[region], ..machine(8 * GIB) });
    assert_eq!(failed.first, Thing::Region(0));
    assert!(matches!(failed.cause, Cause::HighRange { at: 0x14_0000, .. }), "{failed}");
    assert_eq!(failed.certainty, Certainty::ThereIsNone);
    assert_eq!(
        failed.to_string(),
        "there is no layout: region 0 (frames [0x140000, 0x140010)) lies at frame 0x140000 in the high range, which would end at \
         0x210000; leaving it out would make one"
    );
}

#[test]
fn in_hvmloader_s_dynamic_area() {
    // hvmloader stops at a region in 0xfc100000-0xfe000000. The ACPI tables move.
    for region in [strict(0xf_c100, 0xf_c180), strict(0xf_c002, 0xf_d000), strict(0xf_dff0, 0xf_e000)] {
        let plan = planned(&Machine { regions: &[region], ..machine(2 * GIB) }).unwrap();
        assert!(plan.regions[0].verdict.is_honoured());
        let unmodified =
            Machine { mode: Mode::TwoRange, firmware: HVMLOADER, regions: &[region], ..machine(2 * GIB) };
        assert!(matches!(failure(&unmodified).cause, Cause::Fixed { .. }));
    }
}

#[test]
fn in_the_hole_and_64_bit_bars() {
    // hvmloader does not check 64-bit BARs. Here they go around the region, in the hole and above 4 GiB.
    let regions = [strict(0xf_0000, 0xf_0100), strict(0x7ff_0000, 0x7ff_0001)];
    let bars =
        [bar64(64 << 20), bar64(1 << 40 >> 3), bar32(16 << 20), bar64(1 << 30), bar32(4096), bar32(16)];
    let plan = planned(&Machine { regions: &regions, bars: &bars, ..machine(4 * GIB) }).unwrap();
    assert!(plan.hole.contains(plan.bars[0].place.unwrap().start()));
    assert_eq!(plan.bars[1].place, Some(frames(0x400_0000, 0x600_0000)));
    assert_eq!(plan.regions[0].verdict, Verdict::Honoured);
}

#[test]
fn straddling_4_gib() {
    // Nothing of a firmware's that ends there gives way; a direct boot has nothing there. hvmloader passes
    // over such a region.
    let region = strict(0xf_ff00, 0x10_0100);
    let direct = Machine { firmware: DIRECT, regions: &[region], ..machine(8 * GIB) };
    let plan = planned(&direct).unwrap();
    assert_eq!(plan.regions[0].verdict, Verdict::MovedAround(Moved::Ram));
    assert_eq!(plan.ram[1].start(), Gfn::new(0x10_0200), "from 2 MiB on");
    let failed = failure(&Machine { firmware: OVMF, ..direct });
    assert_eq!((failed.first, failed.obstacle), (Thing::Region(0), Some("OVMF's image")));
}

#[test]
fn the_same_start_nested_and_overlapping() {
    // libxl merges by start alone; hvmloader picks by the lowest end.
    let regions = [
        strict(0x7_b800, 0x7_b900),
        strict(0x7_b800, 0x8_0000),
        relaxed(0x7_c000, 0x7_c001),
        relaxed(0x7_f000, 0x8_1000),
        strict(0x9_0000, 0x9_0001),
    ];
    let plan = planned(&Machine { regions: &regions, ..machine(4 * GIB) }).unwrap();
    let together: Vec<_> = plan.regions.iter().map(|region| region.one_with).collect();
    assert_eq!(together, [0, 0, 0, 0, 4]);
    assert!(plan.regions.iter().all(|region| region.verdict.is_honoured()));
    assert_eq!(plan.regions[3].policy, Policy::Strict, "it is one with a strict one");
    let reserved = plan.e820.iter().find(|entry| entry.addr == 0x7b80_0000).unwrap();
    assert_eq!((reserved.size, reserved.kind), (0x580_0000, rdm_layout::RESERVED));
}

#[test]
fn a_page_shared() {
    let a = Region::from_bytes(0x7fab_f000, 0x7fab_f7ff, Policy::Relaxed).unwrap();
    let b = Region::from_bytes(0x7fab_f800, 0x7fab_ffff, Policy::Strict).unwrap();
    assert_eq!(Region::from_bytes(2, 1, Policy::Strict), None);
    let plan = planned(&Machine { regions: &[a, b], ..machine(4 * GIB) }).unwrap();
    assert_eq!(plan.regions[1].one_with, plan.regions[0].one_with);
    assert_eq!(plan.regions[0].policy, Policy::Strict);
}

#[test]
fn below_1_mib() {
    // A legacy USB region: where a BIOS's image is it cannot be had, with OVMF and a direct boot it can.
    let region = [strict(0xed, 0xf0)];
    assert!(planned(&Machine { regions: &region, ..machine(GIB) }).is_ok());
    assert!(planned(&Machine { regions: &region, firmware: DIRECT, ..machine(GIB) }).is_ok());
    let failed = failure(&Machine { regions: &region, firmware: SEABIOS, ..machine(GIB) });
    assert_eq!(failed.obstacle, Some("BIOS"));
    // In VGA's memory and among the option ROMs it has the page, and nothing moved.
    for region in [strict(0xa0, 0xa1), strict(0xbf, 0xc0)] {
        let plan = planned(&Machine { regions: &[region], firmware: SEABIOS, ..machine(GIB) }).unwrap();
        assert_eq!(plan.regions[0].verdict, Verdict::Honoured);
    }
    assert!(planned(&Machine { regions: &[strict(0xd0, 0xd8)], firmware: SEABIOS, ..machine(GIB) }).is_ok());
}

#[test]
fn larger_than_the_hole_and_many() {
    let huge = [strict(0x8_7800, 0xc_8000), strict(0xf_0000, 0xf_c000)];
    let plan = planned(&Machine { regions: &huge, ..machine(64 * GIB) }).unwrap();
    assert!(plan.highmem_end > 0);
    let failed = failure(&Machine { regions: &huge, bars: &[bar32(4096)], ..machine(64 * GIB) });
    assert_eq!((failed.first, failed.more), (Thing::Bar(0), 0));
    assert!(
        failed.to_string().ends_with("a hole from frame 0xeffff on, or leaving it out, would make one"),
        "{failed}"
    );
    let grown = Machine {
        hole_lowest: Gfn::new(0x8_0000),
        bars: &[bar32(4096)],
        regions: &huge,
        ..machine(64 * GIB)
    };
    assert_eq!(planned(&grown).unwrap().hole.start(), Gfn::new(0xe_ffff));
}

#[test]
fn a_map_of_128_entries() {
    // RAM goes without the smallest gaps: 200 regions, each 4 MiB from the next, but for one gap of 1 MiB
    // less for each ten.
    let many: Vec<_> = (0..200)
        .map(|index| 0x1_0000 + index * 0x400 - (index / 10) * 0x100)
        .map(|start| strict(start, start + 1))
        .collect();
    let plan = planned(&Machine { regions: &many, ..machine(2 * GIB) }).unwrap();
    assert!(plan.e820.len() >= 127, "no more of them than must be: {}", plan.e820.len());
    let closed = |gap: &GfnRange| {
        let byte = gap.start().raw() << 12;
        plan.e820.iter().any(|entry| {
            entry.addr <= byte && byte < common::end(entry) && entry.kind == rdm_layout::RESERVED
        })
    };
    let gaps =
        || many.windows(2).map(|pair| frames(pair[0].frames.end().raw(), pair[1].frames.start().raw()));
    let largest = gaps().filter(closed).map(|gap| gap.len()).max().unwrap();
    assert!(gaps().filter(|gap| gap.len() < largest).all(|gap| closed(&gap)));
    assert!(gaps().filter(closed).count() < 160);
    // Where all memory below 4 GiB is needed, that is a clear error.
    let failed = failure(&Machine {
        regions: &many,
        high: frames(1 << 20, 1 << 20),
        ..machine(0xf_0000 - 0x20 - 200)
    });
    assert!(matches!(failed.cause, Cause::E820 { entries: 129.. }), "{failed}");
    // Regions that touch are one entry.
    let touching: Vec<_> = (0..1000).map(|index| strict(0x1_0000 + index, 0x1_0001 + index)).collect();
    let plan = planned(&Machine { regions: &touching, ..machine(2 * GIB) }).unwrap();
    assert!(plan.e820.len() < 16);
}

#[test]
fn relaxed_is_given_up_by_name_and_no_other() {
    let regions = [relaxed(0xf0, 0xf1), relaxed(0x7_b800, 0x7_b900), relaxed(0x7ff_ffff, 0x800_0001)];
    let plan = planned(&Machine { regions: &regions, ..machine(4 * GIB) }).unwrap();
    assert!(matches!(plan.regions[0].verdict, Verdict::GivenUp(Cause::Fixed { at: 0xf0, .. })));
    assert_eq!(plan.regions[1].verdict, Verdict::MovedAround(Moved::Ram));
    assert!(matches!(plan.regions[2].verdict, Verdict::GivenUp(Cause::BeyondAddresses { end: 0x800_0000 })));
}

#[test]
fn memory_that_does_not_fit() {
    let small = Machine { high: frames(1 << 20, 0x11_0000), ..machine(0) };
    let room = 0xf_0000 - 0x20 + 0x1_0000;
    assert!(planned(&Machine { memory: room, ..small }).is_ok());
    let failed = failure(&Machine { memory: room + 1, ..small });
    assert_eq!((failed.first, failed.cause), (Thing::Memory, Cause::Memory { room }));
    assert!(failed.to_string().ends_with("; 1048544 frames of memory would make one"), "{failed}");
    // Beside a region it is the region that is named, with the room that it leaves.
    let failed = failure(&Machine { memory: room, regions: &[strict(0x1_0000, 0x1_0001)], ..small });
    assert_eq!((failed.first, failed.cause), (Thing::Region(0), Cause::Memory { room: room - 1 }));
}

#[test]
fn what_was_filled_before_stays() {
    // Video RAM below 4 GiB, where the ACPI tables would go, and where OVMF's image must.
    let vram = |start, frames| Fixed {
        name: "video RAM",
        start: Gfn::new(start),
        frames,
        backing: Backing::Own,
        e820: None,
        yields: false,
    };
    let plan = planned(&Machine { filled: &[vram(0xf_c001, 0x1000)], ..machine(GIB) }).unwrap();
    assert_eq!(plan.modules[0].place.unwrap().start(), Gfn::new(0xf_d001));
    let plan =
        planned(&Machine { filled: &[vram(0xf_0000, 0x1000)], bars: &[bar32(64 << 20)], ..machine(GIB) });
    assert_eq!(plan.unwrap().bars[0].place, Some(frames(0xf_8000, 0xf_c000)));
    let clash = Machine { filled: &[vram(0xf_ff00, 0x10)], ..machine(GIB) };
    assert!(matches!(planned(&clash), Err(Error::Input(_))), "it is refused, not populated on top");
}

const KERNEL: Module = Module {
    name: "kernel",
    frames: 16 * MIB,
    align: 512,
    from: Gfn::new(0x1000),
    below: Gfn::new(1 << 20),
    memory: ModuleMemory::Ram,
};

#[test]
fn modules_go_around_regions() {
    let initrd = Module { name: "initrd", frames: 200 * MIB, align: 1, ..KERNEL };
    let regions = [strict(0x1800, 0x1900), strict(0x3000, 0x3001)];
    let modules = [KERNEL, initrd];
    let direct = Machine { firmware: DIRECT, modules: &modules, regions: &regions, ..machine(GIB) };
    let plan = planned(&direct).unwrap();
    let places: Vec<_> = plan.modules.iter().map(|module| module.place.unwrap()).collect();
    assert_eq!(places[2], frames(0x1a00, 0x2a00));
    assert_eq!(places[3].start(), Gfn::new(0x3200), "in RAM, which begins there at 2 MiB");
    // RAM comes to where a module fits, where it does not lie there by itself.
    let far = Module { from: Gfn::new(0x8_0000), ..KERNEL };
    let plan = planned(&Machine { modules: &[far], ..direct }).unwrap();
    assert!(plan.ram.iter().any(|ram| ram.contains(Gfn::new(0x8_0000))));
    // And a kernel that nothing has room for is named.
    let wide = Module { frames: 2 * GIB, ..KERNEL };
    let failed = failure(&Machine { modules: &[KERNEL, wide], ..direct });
    assert_eq!((failed.first, failed.certainty), (Thing::Module(1), Certainty::ThereIsNone));
}

#[test]
fn space_stays_unallocated() {
    let plan = planned(&Machine { unallocated: GIB, ..machine(8 * GIB) }).unwrap();
    assert_eq!(plan.unallocated, [frames(0x24_0000, 0x28_0000)]);
    let plan = planned(&Machine { unallocated: 1, ..machine(GIB) }).unwrap();
    assert_eq!(plan.unallocated, [frames(0x10_0000, 0x10_4000)]);
    let failed = failure(&Machine { unallocated: GIB, high: frames(1 << 20, 1 << 20), ..machine(3 * GIB) });
    assert_eq!((failed.first, failed.certainty), (Thing::Unallocated, Certainty::NoneFound));
}

#[test]
fn a_plan_holds_until_it_does_not() {
    let regions = [strict(0x7_b800, 0x7_b900)];
    let before = Machine { regions: &regions, bars: &[bar32(1 << 20)], ..machine(4 * GIB) };
    let mut memory = common::Memory::new(&before);
    let mut storage = memory.storage();
    let plan = rdm_layout::plan(&before, &mut storage).unwrap();
    let broken = |machine: Machine<'_>| plan.still_holds(&machine).collect::<Vec<_>>();
    assert_eq!(broken(before), []);
    assert_eq!(broken(Machine { regions: &[], ..before }), [], "a region that is gone breaks nothing");
    assert_eq!(broken(Machine { regions: &[strict(0x7_b880, 0x7_b8ff)], ..before }), []);
    let [moved, hole] = [strict(0x7_b8ff, 0x7_ba01), strict(0xf_0000, 0xf_0001)];
    let changed =
        broken(Machine { regions: &[moved, hole], bars: &[bar32(1 << 21), bar32(1)], memory: 5, ..before });
    let expected = [
        Broken::Memory { plan: 4 * GIB },
        Broken::Region { index: 0, frames: frames(0x7_ba00, 0x7_ba01), change: Change::Ram },
        Broken::Region { index: 1, frames: hole.frames, change: Change::NotReserved },
        Broken::Bar { index: 0 },
        Broken::Bar { index: 1 },
    ];
    assert_eq!(changed, expected);
    let narrow = broken(Machine { high: frames(1 << 20, 1 << 20), ..before });
    assert!(matches!(narrow[..], [Broken::BeyondAddresses { .. }]), "{narrow:?}");
    assert_eq!(plan.off_limits(frames(0x7_b000, 0x7_c000)), Some(regions[0].frames));
    assert_eq!(plan.off_limits(frames(0, 0x7_b800)), None);
}

#[test]
fn ballooned_ram_is_in_nobody_s_way_as_long_as_it_is_out() {
    let before = machine(4 * GIB);
    let mut memory = common::Memory::new(&before);
    let mut storage = memory.storage();
    let plan = rdm_layout::plan(&before, &mut storage).unwrap();
    let regions = [strict(0x7_b800, 0x7_b900)];
    let added = Machine { regions: &regions, ..before };
    let broken = |out: &[GfnRange]| plan.still_holds_without(&added, out).collect::<Vec<_>>();
    let meets = |start, end, change| Broken::Region { index: 0, frames: frames(start, end), change };
    assert_eq!(broken(&[]), [meets(0x7_b800, 0x7_b900, Change::Ram)]);
    assert_eq!(broken(&[frames(0x7_b880, 0x7_c000)]), [meets(0x7_b800, 0x7_b880, Change::Ram)]);
    let parts = [frames(0x7_b860, 0x7_b8c0), frames(0x7_b000, 0x7_b870), frames(0x7_b8d0, 0x7_b900)];
    assert_eq!(broken(&parts), [meets(0x7_b8c0, 0x7_b8d0, Change::Ram)]);
    assert_eq!(broken(&[frames(0, 0xf_0000)]), [meets(0x7_b800, 0x7_b900, Change::Ballooned)]);
}

#[test]
fn hvmloader_is_told_of_ram_where_two_ends_say_it() {
    let info = |machine: &Machine<'_>| {
        let mut memory = common::Memory::new(machine);
        let mut storage = memory.storage();
        let plan = rdm_layout::plan(machine, &mut storage).unwrap();
        plan.hvm_info().map(|info| (info.low_mem_pgend, info.high_mem_pgend))
    };
    let regions = [strict(0x7_b800, 0x7_b900)];
    let two = Machine { mode: Mode::TwoRange, firmware: HVMLOADER, regions: &regions, ..machine(4 * GIB) };
    assert_eq!(info(&two), Some((0x7_b800, 0x18_4800)));
    assert_eq!(info(&Machine { memory: GIB, ..two }), Some((0x4_0000, 0)));
    // RAM on both sides of a region is more than it can say, and so is a region in conventional memory.
    let ranges = Machine { firmware: SEABIOS, regions: &regions, ..machine(4 * GIB) };
    assert_eq!(info(&ranges), None);
    assert_eq!(info(&Machine { regions: &[], ..ranges }), Some((0xf_0000, 0x11_0020)));
    let low = [strict(0x80, 0x81)];
    assert_eq!(info(&Machine { regions: &low, firmware: DIRECT, ..machine(GIB) }), None);
    let high = [strict(0x10_0000, 0x10_0001)];
    assert_eq!(info(&Machine { regions: &high, ..ranges }), None);
}

#[test]
fn private_regions_get_frames_of_the_guest_s_own() {
    let private = |start, end| Region { policy: Policy::Private, ..strict(start, end) };
    let regions = [
        private(0x9_0000, 0x9_0010),
        private(0x7_b800, 0x7_b900),
        private(0x7_b880, 0x7_b980),
        // One who is not private makes all of them that are one the host's.
        private(0xa_0000, 0xa_0010),
        strict(0xa_0008, 0xa_0018),
        private(0xb_0000, 0xb_0010),
        relaxed(0xb_0008, 0xb_0018),
    ];
    let plan = |regions: &[Region]| {
        let machine = Machine { regions, ..machine(4 * GIB) };
        let mut memory = common::Memory::new(&machine);
        let mut storage = memory.storage();
        let plan = rdm_layout::plan(&machine, &mut storage).unwrap();
        common::check(&machine, &plan);
        (plan.private().collect::<Vec<_>>(), plan.regions.to_vec())
    };
    let (ranges, records) = plan(&regions);
    assert_eq!(ranges, [frames(0x7_b800, 0x7_b980), frames(0x9_0000, 0x9_0010)]);
    assert!(records[3..].iter().all(|region| region.policy == Policy::Strict));
    // All its memory is the guest's beside that, and it has to be had.
    let failed = failure(&Machine { regions: &[private(0xf0, 0xf1)], ..machine(GIB) });
    assert_eq!((failed.first, failed.obstacle), (Thing::Region(0), Some("OVMF's reset code")));
}

#[test]
fn a_plan_is_written_and_read_back() {
    use serde::de::DeserializeSeed;
    let regions = [strict(0x7_b800, 0x7_b900), relaxed(0xf0, 0xf1)];
    let bars = [bar32(1 << 20), bar64(1 << 40 >> 4)];
    let machine = Machine { regions: &regions, bars: &bars, unallocated: GIB, ..machine(4 * GIB) };
    let (mut first, mut second) = (common::Memory::new(&machine), common::Memory::new(&machine));
    let mut storage = first.storage();
    let plan = rdm_layout::plan(&machine, &mut storage).unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    let mut storage = second.storage();
    let read = rdm_layout::PlanSeed(&mut storage)
        .deserialize(&mut serde_json::Deserializer::from_str(&text))
        .unwrap();
    assert_eq!(read, plan);
    // Memory that is too short, and text that is none, are errors.
    second.e820.truncate(1);
    let mut storage = second.storage();
    assert!(
        rdm_layout::PlanSeed(&mut storage)
            .deserialize(&mut serde_json::Deserializer::from_str(&text))
            .is_err()
    );
    for cut in 0..text.len() {
        let mut storage = second.storage();
        let mut reader = serde_json::Deserializer::from_slice(&text.as_bytes()[..cut]);
        assert!(rdm_layout::PlanSeed(&mut storage).deserialize(&mut reader).is_err());
    }
}
