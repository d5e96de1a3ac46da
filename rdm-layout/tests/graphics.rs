//! Intel graphics: stolen memory and OpRegion, by registers as datasheets have them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, frames, planned, strict};
use p2m::Gfn;
use proptest::prelude::*;
use rdm_layout::graphics::{ASLS, Generation, Graphics, GuestRegister, OpRegion, OpRegionError, Place};
use rdm_layout::xen::{OVMF, SEABIOS};
use rdm_layout::{Machine, RESERVED};

const MIB: u64 = 1 << 20;

fn generation(device: u16) -> &'static Generation {
    Generation::of(device).unwrap()
}

#[test]
fn sizes_of_stolen_memory_are_those_of_the_datasheets() {
    // Device, GGC, MiB. Values of reset: 0x0028 of 324642 (2.5.12) and 326765, 0x0500 from 330835 on.
    for (device, ggc, mib) in [
        (0x2e12, 0x0000, Some(0)),
        (0x2e12, 0x0350, Some(32)),
        (0x2a42, 0x0370, Some(64)),
        (0x0046, 0x0060, Some(48)),
        (0x0046, 0x0080, Some(128)),
        (0x0042, 0x0090, Some(256)),
        (0x0042, 0x00a0, Some(96)),
        (0x0042, 0x00d0, Some(352)),
        (0x0042, 0x00e0, None),
        (0x0126, 0x0028, Some(160)),
        (0x0166, 0x0028, Some(160)),
        (0x0166, 0x0210, Some(64)),
        (0x0166, 0x0280, Some(512)),
        (0x0166, 0x0288, Some(1024)),
        (0x0416, 0x0290, None),
        (0x0a16, 0x0008, Some(32)),
        (0x1616, 0x0500, Some(160)),
        (0x1616, 0x3fc1, Some(2016)),
        (0x1912, 0x0500, Some(160)),
        (0x5916, 0x02c1, Some(64)),
        (0x3e92, 0xf0c1, Some(4)),
        (0x3185, 0xfec1, Some(60)),
        (0x9bc5, 0xffc1, None),
        (0x8a52, 0x40c1, Some(2048)),
        (0x9a49, 0x01c1, Some(32)),
        (0xa780, 0x00c1, Some(0)),
    ] {
        let size = generation(device).stolen_bytes(ggc);
        assert_eq!(size, mib.map(|mib: u64| mib * MIB), "{device:#06x}, {ggc:#06x}");
    }
    // Meteor Lake, cards, and what is no graphics of Intel's.
    for unknown in [0x7d55, 0x56a0, 0x4905, 0x29b2, 0x0f31, 0x8155] {
        assert_eq!(Generation::of(unknown), None, "{unknown:#06x}");
    }
}

#[test]
fn each_generation_has_its_registers() {
    let registers = |device: u16| {
        let known = generation(device);
        (known.number, known.ggc, known.bdsm, known.is_bdsm_64bit)
    };
    assert_eq!(registers(0x2e12), (4, 0x52, 0x5c, false));
    assert_eq!(registers(0x0046), (5, 0x52, 0x5c, false));
    assert_eq!(registers(0x0166), (7, 0x50, 0x5c, false));
    assert_eq!(registers(0x0a84), (9, 0x50, 0x5c, false));
    assert_eq!(registers(0x8a52), (11, 0x50, 0xc0, true));
    assert_eq!(registers(0x46a6), (12, 0x50, 0xc0, true));
    // A lock in bit 0; 64 bits from generation 11 on.
    assert_eq!(generation(0x0166).stolen(0x0210, 0xdba0_0001), Some(frames(0xd_ba00, 0xd_fa00)));
    assert_eq!(generation(0x0166).stolen(0x0210, 0xffff_ffff_dba0_0001), Some(frames(0xd_ba00, 0xd_fa00)));
    assert_eq!(generation(0x9a49).stolen(0x02c1, 0x4_8000_0001), Some(frames(0x48_0000, 0x48_4000)));
    assert_eq!(generation(0x9a49).stolen(0x00c1, 0x4_8000_0001), None, "none is taken");
    assert_eq!(generation(0x9a49).stolen(0x02c1, 1), None, "nor is it anywhere");
}

/// The first bytes of an OpRegion.
fn memory(kib: u32, version: (u8, u8), mailboxes: u32, rvda: u64, rvds: u32) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[..16].copy_from_slice(b"IntelGraphicsMem");
    bytes[0x10..0x14].copy_from_slice(&kib.to_le_bytes());
    (bytes[0x17], bytes[0x16]) = version;
    bytes[0x58..0x5c].copy_from_slice(&mailboxes.to_le_bytes());
    bytes[0x3ba..0x3c2].copy_from_slice(&rvda.to_le_bytes());
    bytes[0x3c2..0x3c6].copy_from_slice(&rvds.to_le_bytes());
    bytes
}

#[test]
fn a_vbt_outside_is_a_range_of_its_own() {
    let read = |version, rvda, rvds| OpRegion::read(0xcc5e_9018, &memory(8, version, 0x1d, rvda, rvds));
    let old = read((1, 0), 0xcc5e_c000, 0x2400).unwrap();
    assert_eq!((old.vbt, old.frames()), (None, frames(0xc_c5e9, 0xc_c5ec)), "it lies on three pages");
    // Absolute in 2.0, from the OpRegion's start from 2.1 on.
    let absolute = read((2, 0), 0xcc5f_0000, 0x2400).unwrap();
    assert_eq!(absolute.vbt, Some((0xcc5f_0000, 0x2400)));
    assert_eq!(absolute.vbt_frames(), Some(frames(0xc_c5f0, 0xc_c5f3)));
    for version in [(2, 1), (2, 3), (3, 0)] {
        let relative = read(version, 0x2000, 0x2400).unwrap();
        assert_eq!(relative.vbt, Some((0xcc5e_b018, 0x2400)), "{version:?}");
    }
    assert_eq!(read((2, 0), 0, 0x2400).unwrap().vbt, None);
    assert_eq!(read((2, 1), 0x2000, 0).unwrap().vbt, None);
    let without = OpRegion::read(0xcc5e_9018, &memory(8, (2, 1), 0x19, 0x2000, 0x2400)).unwrap();
    assert_eq!(without.vbt, None, "there is no mailbox that would say so");
    assert_eq!(OpRegion::unread(0), None);
    assert_eq!(OpRegion::unread(0xcc5e_9000).unwrap().frames(), frames(0xc_c5e9, 0xc_c5eb));
}

#[test]
fn what_is_no_op_region_is_told() {
    let good = memory(8, (2, 1), 4, 0x2000, 0x100);
    let read = |bytes: &[u8]| OpRegion::read(0xcc5e_9000, bytes);
    assert_eq!(read(&good[..8]), Err(OpRegionError::Short(8)));
    assert_eq!(read(&good[..0x3c4]), Err(OpRegionError::Short(0x3c4)));
    let mut other = good.clone();
    other[3] = b'E';
    assert_eq!(read(&other), Err(OpRegionError::Signature));
    for kib in [0, 7, 1 << 20] {
        assert_eq!(read(&memory(kib, (2, 1), 4, 0, 0)), Err(OpRegionError::Size(kib)));
    }
    // In it, by either way of counting; beyond all addresses.
    for (version, rvda) in [((2, 1), 0x1fff), ((2, 0), 0xcc5e_8f01), ((2, 1), u64::MAX), ((2, 0), 1 << 52)] {
        assert_eq!(read(&memory(8, version, 4, rvda, 0x100)), Err(OpRegionError::Vbt(rvda)));
    }
}

fn laptop() -> Graphics {
    let op_region = OpRegion::read(0xcc5e_9018, &memory(8, (2, 0), 4, 0xcc5f_0040, 0x2400)).unwrap();
    Graphics { generation: generation(0x5916), ggc: 0x02c1, bdsm: 0xcd80_0001, op_region: Some(op_region) }
}

#[test]
fn in_a_guest_it_is_the_host_s_or_reserved_and_the_registers_say_where() {
    let graphics = laptop();
    let host: Vec<_> = graphics.host_ranges().collect();
    let expected = [
        ("stolen memory", frames(0xc_d800, 0xd_1800)),
        ("OpRegion", frames(0xc_c5e9, 0xc_c5ec)),
        ("VBT", frames(0xc_c5f0, 0xc_c5f3)),
    ];
    assert_eq!(host, expected);
    let values = |stolen, op_region| {
        let registers: [GuestRegister; 3] = graphics.guest_registers(stolen, op_region);
        registers.map(|register| (register.offset, register.bytes, register.value))
    };
    let ours = [(0x50, 2, 0x02c1), (0x5c, 4, 0xcd80_0001), (ASLS, 4, 0xcc5e_9018)];
    assert_eq!(values(Place::Host, Place::Host), ours, "where an RMRR covers it, all is as on the host");
    assert_eq!(values(Place::Nowhere, Place::Nowhere), [(0x50, 2, 0x00c1), (0x5c, 4, 0), (ASLS, 4, 0)]);
    let modules = [graphics.stolen_module().unwrap(), graphics.op_region_module().unwrap()];
    assert_eq!((modules[0].frames, modules[1].frames), (0x4000, 6));
    for firmware in [OVMF, SEABIOS] {
        let machine = Machine { firmware, modules: &modules, ..Machine::new(8 * GIB, 39) };
        let plan = planned(&machine).unwrap();
        let place = |index: usize| plan.modules[firmware.modules.len() + index].place.unwrap();
        let (stolen, op_region) = (place(0), place(1));
        let is_reserved = |gfn: Gfn| {
            let at = gfn.address().unwrap();
            let entry = plan.e820.iter().find(|entry| entry.addr <= at && at < common::end(entry));
            entry.is_some_and(|entry| entry.kind == RESERVED)
        };
        assert!(is_reserved(stolen.start()) && is_reserved(op_region.start()));
        let [_, bdsm, asls] = values(Place::Guest(stolen.start()), Place::Guest(op_region.start()));
        assert_eq!(bdsm, (0x5c, 4, stolen.start().address().unwrap()));
        assert_eq!(bdsm.2 % MIB, 0);
        assert_eq!(asls.2, op_region.start().address().unwrap() + 0x18, "the same place in its page");
        // The VBT lies in the three pages behind the OpRegion's, at its place in its page.
        let rvda = graphics.guest_rvda(op_region.start()).unwrap();
        assert_eq!(rvda, op_region.start().address().unwrap() + 0x3040);
    }
    let mut newer = graphics;
    newer.op_region = newer.op_region.map(|region| OpRegion { version: (2, 1), ..region });
    assert_eq!(newer.guest_rvda(Gfn::new(0xf_c200)), Some(0x3040 - 0x18));
    newer.op_region = OpRegion::unread(0xcc5e_9000);
    assert_eq!(newer.guest_rvda(Gfn::new(0xf_c200)), None);
    // Around a region that is where they would go.
    let regions = [strict(0xc_0000, 0xc_4800)];
    let machine = Machine { modules: &modules, regions: &regions, ..Machine::new(8 * GIB, 39) };
    assert_eq!(planned(&machine).unwrap().modules[0].place, Some(frames(0xc_4800, 0xc_8800)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn no_value_makes_a_panic(
        device in any::<u16>(), ggc in any::<u16>(), bdsm in any::<u64>(), asls in any::<u32>(), start in any::<u64>(),
        header in (any::<u8>(), any::<u8>(), any::<u32>(), any::<u64>(), any::<u32>()),
    ) {
        let (major, minor, mailboxes, rvda, rvds) = header;
        let op_region = OpRegion::read(asls, &memory(8, (major, minor), mailboxes, rvda, rvds)).ok();
        let Some(generation) = Generation::of(device) else { return Ok(()) };
        let graphics = Graphics { generation, ggc, bdsm, op_region };
        for (_, frames) in graphics.host_ranges() {
            prop_assert!(!frames.is_empty());
        }
        let _ = (graphics.stolen_module(), graphics.op_region_module(), graphics.guest_rvda(Gfn::new(start)));
        let [_, bdsm, asls] = graphics.guest_registers(Place::Guest(Gfn::new(start)), Place::Host);
        prop_assert!(bdsm.bytes == 8 || bdsm.bytes == 4);
        prop_assert_eq!(asls.value, graphics.op_region.map_or(0, |region| region.address));
    }
}
