//! Guest addresses are a contract: for these machines, this version of the rules makes these plans, in every
//! release. Who changes them on purpose gives the rules a new [`VERSION`](rdm_layout::VERSION).
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::fmt::Write;

use common::{GIB, MIB, Owned, bar32, bar64, planned, relaxed, strict};
use p2m::Gfn;
use rdm_layout::xen::{DIRECT, HVMLOADER, OVMF, SEABIOS};
use rdm_layout::{Machine, Mode, Module, ModuleMemory, VERSION};

/// The plans of a row of machines, a line each.
fn plans() -> String {
    let regions = [
        strict(0x7_b800, 0x7_b900),
        strict(0x8_b800, 0x9_0000),
        relaxed(0xe8, 0xf1),
        strict(0x12_0000, 0x12_0001),
    ];
    let bars =
        [bar64(256 << 20), bar32(16 << 20), bar64(32 << 30), bar32(512 << 10), bar64(16 << 10), bar32(256)];
    let kernel = Module {
        name: "kernel",
        frames: 12 * MIB,
        align: 512,
        from: Gfn::new(0x1000),
        below: Gfn::new(1 << 20),
        memory: ModuleMemory::Ram,
    };
    let modules = [kernel, Module { name: "initrd", frames: 100 * MIB + 3, align: 1, ..kernel }];
    let mut out = String::new();
    for memory in [512 * MIB, 2 * GIB, 4 * GIB + 1, 64 * GIB] {
        for (mode, firmware) in [
            (Mode::Ranges, OVMF),
            (Mode::Ranges, SEABIOS),
            (Mode::Ranges, DIRECT),
            (Mode::TwoRange, HVMLOADER),
        ] {
            let regions = if mode == Mode::Ranges { &regions[..] } else { &regions[..3] };
            let machine = Machine {
                mode,
                firmware,
                regions,
                bars: &bars,
                modules: &modules,
                unallocated: GIB,
                ..Machine::new(memory, 39)
            };
            let Owned { ram, bars, modules, unallocated, .. } = planned(&machine).unwrap();
            let bars: Vec<_> = bars.iter().map(|bar| bar.place.unwrap().start()).collect();
            let modules: Vec<_> = modules.iter().map(|module| module.place.unwrap().start()).collect();
            writeln!(out, "{mode:?} {memory:#x}: {ram:x?} {bars:x?} {modules:x?} {unallocated:x?}").unwrap();
        }
    }
    out
}

#[test]
fn the_same_machine_gives_the_same_plan_in_every_release() {
    assert_eq!(VERSION, 1);
    let plans = plans();
    // FNV-1a.
    let hash = plans
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    assert_eq!(hash, 0x2144_580f_bf89_7c10, "{hash:#x}\n{plans}");
}
