//! Mode `TwoRange` beside libxl's rules: where libxl has a solution, it is this one; and nothing that libxl
//! solves is refused.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, MIB, end, planned, strict};
use p2m::Gfn;
use proptest::prelude::*;
use rdm_layout::xen::{HVMLOADER, libxl};
use rdm_layout::{Cause, Error, Firmware, Machine, Mode, RAM, RESERVED, Region, Thing};

const BOUNDARY: u64 = libxl::BOUNDARY.raw();

/// What libxl makes of a guest.
struct Seen {
    lowmem_end: u64,
    highmem_end: u64,
    free: Vec<bool>,
}

fn layout(memory: u64, regions: &[Region]) -> Seen {
    let ends = libxl::Ends::new(memory, libxl::HOLE, libxl::BOUNDARY, regions);
    let free = regions.iter().map(|region| ends.is_free(&region.frames)).collect();
    Seen { lowmem_end: ends.lowmem_end.raw(), highmem_end: ends.highmem_end.raw(), free }
}

fn machine(memory: u64, regions: &[Region]) -> Machine<'_> {
    Machine { mode: Mode::TwoRange, firmware: HVMLOADER, regions, ..Machine::new(memory, 48) }
}

#[test]
fn what_xl_was_seen_to_do() {
    // A 256 MiB guest: the region at 0x7ffe0 lies outside of its RAM.
    let seen = layout(256 * MIB, &[strict(0x7_ffe0, 0x7_ffe2)]);
    assert_eq!((seen.lowmem_end, seen.highmem_end, seen.free), (0x1_0000, 0, vec![true]));
    // A 2,560 MiB guest: inside, and below the boundary of 2 GiB, a conflict.
    assert_eq!(layout(2560 * MIB, &[strict(0x7_ffe0, 0x7_ffe2)]).free, [false]);
    // Above the boundary RAM ends below it, and goes on above 4 GiB.
    let seen = layout(4 * GIB, &[strict(0x8_7800, 0xc_8000)]);
    assert_eq!((seen.lowmem_end, seen.highmem_end), (0x8_7800, 0x10_0000 + 4 * GIB - 0x8_7800));
}

#[test]
fn of_one_start_the_first_is_looked_at() {
    let regions = [strict(0x100, 0x101), strict(0x6_0000, 0x6_0001), strict(0x6_0000, 0x8_0000)];
    let ends = libxl::Ends::new(GIB, libxl::HOLE, libxl::BOUNDARY, &regions);
    let fates = |ends: &libxl::Ends| [0, 1, 2, 3].map(|index| ends.fate(&regions, index));
    use libxl::Fate::{Conflict, Free, Overlooked};
    assert_eq!(fates(&ends), [Some(Conflict), Some(Free), Some(Free), None]);
    let ends = libxl::Ends::new(4 * GIB, libxl::HOLE, libxl::BOUNDARY, &regions);
    assert_eq!(fates(&ends), [Some(Conflict), Some(Conflict), Some(Overlooked), None]);
    // With a boundary below it moves RAM for both.
    let ends = libxl::Ends::new(4 * GIB, libxl::HOLE, Gfn::new(0x5_0000), &regions);
    assert_eq!(fates(&ends), [Some(Conflict), Some(Free), Some(Free), None]);
    assert_eq!(libxl::hvmloader_in_the_way(&regions[1].frames), None);
    let inside = libxl::hvmloader_in_the_way(&strict(0xf_d000, 0xf_d001).frames);
    assert_eq!(inside, Some("hvmloader's dynamic area"));
}

fn regions() -> impl Strategy<Value = Vec<Region>> {
    let start = prop_oneof![
        1 => 0x200_u64..BOUNDARY,
        4 => BOUNDARY + 1..0xf_0000,
        2 => 0xf_0000_u64..0xf_b000,
        1 => 0x10_0000_u64..0x1000_0000,
    ];
    let region = (start, 1_u64..0x1000).prop_map(|(start, len)| strict(start, start + len));
    prop::collection::vec(region, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(5000) })]

    #[test]
    fn the_same_ends(memory in 0x1_0000_u64..64 * GIB, regions in regions()) {
        let seen = layout(memory, &regions);
        let machine = machine(memory, &regions);
        let found = planned(&machine);
        if !seen.free.iter().all(|free| *free) {
            return Ok(());
        }
        let plan = found.unwrap();
        prop_assert_eq!((plan.lowmem_end, plan.highmem_end), (seen.lowmem_end, seen.highmem_end));
        prop_assert!(plan.regions.iter().all(|region| region.verdict.is_honoured()));
        // The map as libxl writes it: low RAM from 1 MiB on, each region, high RAM. Regions that touch are
        // one entry here.
        let ram: Vec<_> = plan.e820.iter().filter(|entry| entry.kind == RAM).collect();
        prop_assert_eq!((ram[0].addr, end(ram[0])), (1 << 20, seen.lowmem_end << 12));
        prop_assert_eq!(ram.get(1).map_or(0, |high| end(high)), seen.highmem_end << 12);
        prop_assert!(plan.e820.iter().all(|entry| entry.kind == RAM || entry.kind == RESERVED));
        let reserved: u64 = plan.e820.iter().filter(|entry| entry.kind == RESERVED).map(|entry| entry.size).sum();
        prop_assert!(reserved <= regions.iter().map(|region| region.frames.len() << 12).sum());
    }

    /// What is refused here, libxl has a conflict for, or hvmloader stops at it.
    #[test]
    fn never_worse(memory in 0x1_0000_u64..64 * GIB, regions in regions()) {
        let Err(Error::NoLayout(failure)) = planned(&machine(memory, &regions)) else { return Ok(()) };
        let Thing::Region(_) = failure.first else { panic!("{failure}") };
        let free = layout(memory, &regions).free;
        prop_assert!(free.contains(&false), "{}", failure);
        let is_firmware = matches!(failure.cause, Cause::Fixed { .. });
        prop_assert!(!is_firmware);
    }
}

#[test]
fn below_the_boundary_this_solves_what_libxl_does_not() {
    let regions = [strict(0x7_b800, 0x7_b900)];
    assert_eq!(layout(4 * GIB, &regions).free, [false]);
    let plan = planned(&machine(4 * GIB, &regions)).unwrap();
    assert_eq!((plan.lowmem_end, plan.highmem_end), (0x7_b800, 0x10_0000 + 4 * GIB - 0x7_b800));
    // But no further down than the firmware can live with.
    let low = [strict(0x180, 0x181)];
    let bare = Firmware { fixed: &[], ..HVMLOADER };
    let Err(Error::NoLayout(failure)) = planned(&Machine { firmware: bare, ..machine(GIB, &low) }) else {
        panic!()
    };
    assert_eq!(failure.cause, Cause::LowEnd { at: 0x180, floor: 0x200 });
}
