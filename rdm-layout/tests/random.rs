//! Random machines, of a PC's size: what comes out is in order, and what does not come out is named.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{GIB, MIB, Memory, frames, planned};
use p2m::Gfn;
use proptest::prelude::*;
use rdm_layout::xen::{DIRECT, HVMLOADER, OVMF, SEABIOS};
use rdm_layout::{
    Backing, Bar, Cause, E820_MAX, Error, Firmware, Fixed, Machine, Mode, Module, ModuleMemory, Policy,
    Region, Thing, Verdict, plan,
};

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![Just(Policy::Strict), Just(Policy::Relaxed), Just(Policy::Private)]
}

/// Mostly where real ones are, with a few anywhere: below 1 MiB, at 4 GiB, above.
fn region() -> impl Strategy<Value = Region> {
    let start = prop_oneof![
        6 => 0x2_0000_u64..0xe_0000,
        1 => 0_u64..0x200,
        1 => 0xf_0000_u64..0x10_1000,
        1 => 0x10_0000_u64..0x100_0000,
        1 => 0_u64..1 << 28,
    ];
    let len = prop_oneof![3 => 0_u64..64, 3 => Just(0x4800_u64), 1 => 0_u64..0x4_0000];
    (start, len, policy())
        .prop_map(|(start, len, policy)| Region { frames: frames(start, start + len), policy })
}

fn bar() -> impl Strategy<Value = Bar> {
    (4_u32..28, 12_u32..41, any::<bool>(), any::<bool>()).prop_map(
        |(small, large, is_64bit, prefetchable)| Bar {
            bytes: 1 << if is_64bit { large } else { small },
            is_64bit,
            prefetchable,
        },
    )
}

fn module() -> impl Strategy<Value = Module> {
    (1_u64..64 * MIB, 0_u32..10, 0_u64..0x8_0000, any::<bool>()).prop_map(|(frames, align, from, own)| {
        Module {
            name: "module",
            frames,
            align: 1 << align,
            from: Gfn::new(from),
            below: Gfn::new(1 << 20),
            memory: if own { ModuleMemory::Own(4) } else { ModuleMemory::Ram },
        }
    })
}

fn firmware() -> impl Strategy<Value = Firmware<'static>> {
    prop_oneof![Just(SEABIOS), Just(OVMF), Just(DIRECT), Just(HVMLOADER)]
}

#[derive(Clone, Debug)]
struct Guest {
    memory: u64,
    width: u32,
    two_range: bool,
    large_pages: bool,
    lowest: u64,
    firmware: Firmware<'static>,
    filled: Option<u64>,
    regions: Vec<Region>,
    bars: Vec<Bar>,
    modules: Vec<Module>,
    unallocated: u64,
}

fn guest() -> impl Strategy<Value = Guest> {
    let flags = (any::<bool>(), any::<bool>(), prop_oneof![Just(0xf_0000_u64), Just(0x4_0000)]);
    let filled = proptest::option::of(0x8_0000_u64..0xf_c000);
    let things = (
        prop::collection::vec(region(), 0..12),
        prop::collection::vec(bar(), 0..12),
        prop::collection::vec(module(), 0..4),
        filled,
    );
    let sizes = (0x2000_u64..64 * GIB, 36_u32..48, prop_oneof![3 => Just(0), 1 => 1_u64..4 * GIB]);
    (sizes, flags, firmware(), things).prop_map(|(sizes, flags, firmware, things)| Guest {
        memory: sizes.0,
        width: sizes.1,
        unallocated: sizes.2,
        two_range: flags.0,
        large_pages: flags.1,
        lowest: flags.2,
        firmware,
        regions: things.0,
        bars: things.1,
        modules: things.2,
        filled: things.3,
    })
}

fn with<T>(guest: &Guest, what: impl FnOnce(&Machine<'_>) -> T) -> T {
    let filled = guest.filled.map(|start| Fixed {
        name: "video RAM",
        start: Gfn::new(start),
        frames: 0x400,
        backing: Backing::Own,
        e820: None,
        yields: false,
    });
    let filled: Vec<_> =
        filled.into_iter().filter(|filled| filled.range().end() <= Gfn::new(0xf_c000)).collect();
    what(&Machine {
        mode: if guest.two_range { Mode::TwoRange } else { Mode::Ranges },
        large_pages: guest.large_pages,
        hole_lowest: Gfn::new(guest.lowest),
        firmware: guest.firmware,
        filled: &filled,
        regions: &guest.regions,
        bars: &guest.bars,
        modules: &guest.modules,
        unallocated: guest.unallocated,
        ..Machine::new(guest.memory, guest.width)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1500) })]

    /// A plan is in order and the same each time. Where there is none, leaving out what is in the way makes
    /// one.
    #[test]
    fn planned_or_told_what_is_in_the_way(guest in guest()) {
        let (error, memory) = with(&guest, |machine| {
            let mut memory = Memory::new(machine);
            let mut storage = memory.storage();
            let error = plan(machine, &mut storage).map(|_| ()).err();
            if error.is_none() {
                assert_eq!(planned(machine), planned(machine));
            }
            (error, memory)
        });
        let Some(error) = error else { return Ok(()) };
        let Error::NoLayout(failure) = error else { panic!("{error}") };
        let mut without = guest.clone();
        let mut left_out = 0;
        let gone = |verdict: &Verdict| matches!(verdict, Verdict::InTheWay(_));
        let mut regions = memory.regions.iter();
        without.regions.retain(|_| !gone(&regions.next().unwrap().verdict));
        left_out += usize::from(without.regions.len() < guest.regions.len());
        let mut bars = memory.bars.iter();
        without.bars.retain(|_| bars.next().unwrap().left_out.is_none());
        left_out += guest.bars.len() - without.bars.len();
        let firmware = guest.firmware.modules.len();
        let mut modules = memory.modules.iter().skip(firmware);
        without.modules.retain(|_| modules.next().unwrap().left_out.is_none());
        left_out += guest.modules.len() - without.modules.len();
        if memory.modules.iter().take(firmware).any(|module| module.left_out.is_some()) {
            without.firmware.modules = &[];
            left_out += 1;
        }
        match (failure.first, failure.cause) {
            (Thing::Memory, Cause::Memory { room }) => {
                without = Guest { memory: room, regions: vec![], bars: vec![], modules: vec![], unallocated: 0, ..without };
                without.firmware.modules = &[];
                left_out += 1;
            }
            (Thing::Memory, _) => return Ok(()),
            (Thing::Unallocated, _) => left_out += 1,
            _ => {}
        }
        // The unallocated space comes last: where more than one thing is named, it may be one of them.
        prop_assert!(left_out > 0, "{}", failure);
        let again = with(&without, |machine| planned(machine).map(|_| ()));
        let again = match again {
            Err(_) => {
                without.unallocated = 0;
                with(&without, |machine| planned(machine).map(|_| ()))
            }
            planned => planned,
        };
        prop_assert!(again.is_ok(), "{} and then {:?}", failure, again);
    }

    /// A region that is given up cannot be had beside what is honoured.
    #[test]
    fn nothing_is_given_up_that_could_be_had(guest in guest()) {
        let Ok(plan) = with(&guest, planned) else { return Ok(()) };
        for given_up in plan.regions.iter().filter(|region| !region.verdict.is_honoured()) {
            let mut stricter = guest.clone();
            let mut index = 0;
            stricter.regions.retain(|_| {
                index += 1;
                let region = plan.regions[index - 1];
                region.verdict.is_honoured() || region.one_with == given_up.one_with
            });
            for region in &mut stricter.regions {
                region.policy = Policy::Strict;
            }
            prop_assert!(with(&stricter, planned).is_err(), "{:?}", given_up);
        }
    }

    /// Memory that was used for another machine, or is too short, changes nothing; what is asked for
    /// suffices.
    #[test]
    fn memory_is_as_asked_for(guest in guest(), shorter in 0_usize..4) {
        with(&guest, |machine| {
            let mut memory = Memory::new(machine);
            let first = plan(machine, &mut memory.storage()).map(|plan| common::Owned::from(&plan));
            let second = plan(machine, &mut memory.storage()).map(|plan| common::Owned::from(&plan));
            assert_eq!(first, second);
            assert!(!matches!(first, Err(Error::Storage(_) | Error::Input(_))), "{first:?}");
            match shorter {
                0 => _ = memory.taken.pop(),
                1 => _ = memory.ram.pop(),
                2 => _ = memory.e820.pop(),
                _ => _ = memory.unallocated.pop(),
            }
            let short = plan(machine, &mut memory.storage()).map(|_| ());
            assert_eq!(short, Err(Error::Storage(machine.needs())));
            assert!(machine.needs().e820 < 10 * E820_MAX);
        });
    }
}
