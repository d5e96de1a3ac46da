//! What is asked, at its edges: wrong input is an error with what is wrong, and no number makes a panic.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, Memory, bar32, frames, planned, relaxed, strict};
use p2m::Gfn;
use proptest::prelude::*;
use rdm_layout::xen::{HYPERTRANSPORT, HostRegion, OVMF, SEABIOS, Strategy as RdmStrategy, regions};
use rdm_layout::{
    Backing, Bar, Error, Firmware, Fixed, InputError, Machine, Mode, Module, ModuleMemory, Policy, Region,
    plan,
};

#[test]
fn wrong_input_is_named() {
    let machine = Machine { firmware: OVMF, ..Machine::new(GIB, 39) };
    let wrong = |machine: Machine<'_>| match planned(&machine) {
        Err(Error::Input(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        wrong(Machine { bars: &[bar32(1), bar32(3)], ..machine }),
        InputError::Bar { index: 1, bytes: 3 }
    );
    assert_eq!(wrong(Machine { bars: &[bar32(0)], ..machine }), InputError::Bar { index: 0, bytes: 0 });
    assert_eq!(wrong(Machine { hole_lowest: Gfn::new(0xf_0001), ..machine }), InputError::Hole);
    assert_eq!(wrong(Machine { high: frames(0xf_bfff, 1 << 27), ..machine }), InputError::Hole);
    let module = Module {
        name: "module",
        frames: 1,
        align: 1,
        from: Gfn::new(0),
        below: Gfn::new(1 << 20),
        memory: ModuleMemory::Own(2),
    };
    let firmware = OVMF.modules.len();
    for broken in [
        Module { frames: 0, ..module },
        Module { align: 3, ..module },
        Module { align: 0, ..module },
        Module { memory: ModuleMemory::Own(1), ..module },
    ] {
        let modules = [module, broken];
        assert_eq!(
            wrong(Machine { modules: &modules, ..machine }),
            InputError::Module { index: firmware + 1 }
        );
    }
    let image = OVMF.fixed.len();
    assert!(
        matches!(wrong(Machine { filled: &[OVMF.fixed[0]], ..machine }), InputError::Fixed { index, other: 0 } if index == image)
    );
}

#[test]
fn hypertransport_is_left_out() {
    let machine = Machine { firmware: OVMF, filled: &[HYPERTRANSPORT], ..Machine::new(1 << 28, 41) };
    let bars = [Bar { bytes: 1 << 38, is_64bit: true, prefetchable: true }; 2];
    let plan = planned(&Machine { bars: &bars, ..machine }).unwrap();
    assert_eq!(plan.ram.last().unwrap().start(), Gfn::new(0x1000_0000), "RAM goes on behind it");
    let inside = [strict(0xfd0_0000, 0xfd0_0001)];
    assert!(planned(&Machine { regions: &inside, ..machine }).is_err());
}

#[test]
fn which_regions_count() {
    let (strictly, relaxedly) = (Some(Policy::Strict), Some(Policy::Relaxed));
    let host = [
        HostRegion { frames: frames(1, 2), devices: &[] },
        HostRegion { frames: frames(3, 4), devices: &[None] },
        HostRegion { frames: frames(5, 6), devices: &[relaxedly] },
        HostRegion { frames: frames(7, 8), devices: &[relaxedly, strictly] },
        HostRegion { frames: frames(9, 10), devices: &[relaxedly, None] },
    ];
    let mut out = [strict(0, 0); 5];
    let count = regions(RdmStrategy::Devices, Policy::Strict, &host, &mut out);
    assert_eq!(out[..count], [strict(3, 4), relaxed(5, 6), strict(7, 8), strict(9, 10)]);
    let count = regions(RdmStrategy::Host, Policy::Relaxed, &host, &mut out);
    assert_eq!(out[..count], [relaxed(1, 2), relaxed(3, 4), relaxed(5, 6), strict(7, 8), relaxed(9, 10)]);
    assert_eq!(regions(RdmStrategy::Host, Policy::Relaxed, &host, &mut out[..1]), 5, "how many there are");
    let private = |start, end| Region { policy: Policy::Private, ..strict(start, end) };
    let count = regions(RdmStrategy::Host, Policy::Private, &host, &mut out);
    assert_eq!(out[..count], [strict(1, 2), private(3, 4), relaxed(5, 6), strict(7, 8), strict(9, 10)]);
}

#[test]
fn regions_without_frames_are_with_nobody() {
    let all = [
        strict(0x100, 0x100),
        strict(0x100, 0x100),
        strict(0x90, 0x110),
        relaxed(0xff_ffff_ffff, 0xff_ffff_ffff),
    ];
    let machine = Machine { firmware: OVMF, regions: &all[..2], ..Machine::new(GIB, 39) };
    assert!(planned(&machine).is_ok());
    assert!(planned(&Machine { firmware: Firmware::NONE, regions: &all, ..machine }).is_ok());
}

/// Numbers of every size, mostly near what matters.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        any::<u64>(),
        (0_u32..64, 0_u64..3).prop_map(|(order, less)| (1_u64 << order).wrapping_sub(less)),
        0_u64..1 << 21,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    #[test]
    fn no_number_makes_a_panic(
        numbers in prop::collection::vec((number(), number(), number(), any::<u8>()), 8..24),
        memory in number(),
        unallocated in number(),
        bounds in (number(), number(), number(), number(), number()),
    ) {
        let ranged = |one: u64, other: u64| frames(one.min(other), one.max(other));
        let region = |&(one, other, _, kind): &(u64, u64, u64, u8)| Region {
            frames: ranged(one, other),
            policy: if kind & 1 == 0 { Policy::Strict } else { Policy::Relaxed },
        };
        let bar = |&(_, other, bytes, kind): &(u64, u64, u64, u8)| Bar {
            bytes: if kind & 4 == 0 { 1 << (other % 64) } else { bytes },
            is_64bit: kind & 1 == 0,
            prefetchable: kind & 2 == 0,
        };
        let module = |&(one, other, third, kind): &(u64, u64, u64, u8)| Module {
            name: "",
            frames: one,
            align: 1 << (kind % 64),
            from: Gfn::new(other),
            below: Gfn::new(third),
            memory: if kind & 1 == 0 { ModuleMemory::Ram } else { ModuleMemory::Own(2) },
        };
        let fixed = |&(one, other, _, kind): &(u64, u64, u64, u8)| Fixed {
            name: "",
            start: Gfn::new(one),
            frames: other,
            backing: [Backing::Ram, Backing::Own, Backing::Device][usize::from(kind % 3)],
            e820: (kind & 8 == 0).then_some(2),
            yields: kind & 16 == 0,
        };
        let regions: Vec<_> = numbers.iter().take(8).map(region).collect();
        let bars: Vec<_> = numbers.iter().rev().take(3).map(bar).collect();
        let modules: Vec<_> = numbers.iter().skip(2).take(2).map(module).collect();
        let filled: Vec<_> = numbers.iter().skip(1).take(1).map(fixed).collect();
        let firmware = Firmware {
            fixed: SEABIOS.fixed,
            modules: SEABIOS.modules,
            floor: Gfn::new(bounds.0 % (1 << 21)),
            e820_from: Gfn::new(bounds.1 % (1 << 21)),
            lists_itself: memory & 1 == 0,
        };
        for mode in [Mode::Ranges, Mode::TwoRange] {
            let pc = Machine {
                mode,
                large_pages: memory & 2 == 0,
                firmware,
                filled: &filled,
                regions: &regions,
                bars: &bars,
                modules: &modules,
                unallocated,
                ..Machine::new(memory, 52)
            };
            let anywhere = Machine { hole: ranged(bounds.2, bounds.3), hole_lowest: Gfn::new(0), high: ranged(bounds.4, u64::MAX), ..pc };
            for machine in [pc, anywhere, Machine { bars: &[], modules: &[], filled: &[], unallocated: 0, ..anywhere }] {
                let mut memory = Memory::new(&machine);
                match plan(&machine, &mut memory.storage()) {
                    Ok(plan) => _ = plan.still_holds(&pc).count() + usize::from(plan.off_limits(ranged(0, u64::MAX)).is_some()),
                    Err(error) => _ = error.to_string(),
                }
            }
        }
    }
}
