//! Machines of a few dozen frames beside a search of everything.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use common::{frames, planned};
use p2m::Gfn;
use proptest::prelude::*;
use rdm_layout::{
    Bar, Certainty, Error, Machine, Mode, Module, ModuleMemory, Policy, Region, Thing, Verdict,
};

/// Frames 0 to 24 are low, the hole is in them from `hole` to 20, and 24 to 48 high.
#[derive(Clone, Debug)]
struct Small {
    memory: u64,
    two_range: bool,
    large_pages: bool,
    hole: u64,
    /// How far down the hole may grow.
    lowest: u64,
    regions: Vec<(u64, u64, bool)>,
    bars: Vec<(u32, bool)>,
    modules: Vec<(u64, u32, u64, u64, bool)>,
}

fn with<T>(small: &Small, what: impl FnOnce(&Machine<'_>) -> T) -> T {
    let regions = small.regions.iter().map(|&(start, len, relaxed)| Region {
        frames: frames(start, start + len),
        policy: if relaxed { Policy::Relaxed } else { Policy::Strict },
    });
    let regions: Vec<Region> = regions.collect();
    let bars: Vec<_> = small
        .bars
        .iter()
        .map(|&(order, is_64bit)| Bar { bytes: 4096 << order, is_64bit, prefetchable: false })
        .collect();
    let modules: Vec<_> = small
        .modules
        .iter()
        .map(|&(frames, align, from, len, own)| Module {
            name: "module",
            frames,
            align: 1 << align,
            from: Gfn::new(from),
            below: Gfn::new(from + len),
            memory: if own { ModuleMemory::Own(2) } else { ModuleMemory::Ram },
        })
        .collect();
    what(&Machine {
        mode: if small.two_range { Mode::TwoRange } else { Mode::Ranges },
        large_pages: small.large_pages,
        hole: frames(small.hole, 20),
        hole_lowest: Gfn::new(small.lowest),
        high: frames(24, 48),
        regions: &regions,
        bars: &bars,
        modules: &modules,
        ..Machine::new(small.memory, 39)
    })
}

fn bits(start: u64, len: u64) -> u64 {
    ((1_u64 << len) - 1) << start
}

/// Whether there is any layout with these regions: every place of every BAR and module is tried.
fn exists(small: &Small, regions: &[(u64, u64, bool)]) -> bool {
    let mut taken = 0;
    for &(start, len, _) in regions {
        if start + len > 48 && len > 0 {
            return false;
        }
        taken |= bits(start, len);
    }
    let ram = if small.two_range {
        // Any end of the low range, and what is left in the high one.
        let ends = (0..=small.hole.min(small.memory)).filter(|end| small.memory - end <= 24);
        let ranges = ends.map(|end| bits(0, end) | bits(24, small.memory - end));
        ranges.filter(|ram| ram & taken == 0).collect()
    } else {
        vec![]
    };
    if small.two_range {
        return ram.iter().any(|ram| bars_fit(small, 0, taken | ram, Some(*ram)));
    }
    bars_fit(small, 0, taken, None)
}

fn bars_fit(small: &Small, index: usize, taken: u64, ram: Option<u64>) -> bool {
    let Some(&(order, is_64bit)) = small.bars.get(index) else {
        return modules_fit(small, 0, taken, 0, ram);
    };
    let len = 1 << order;
    let windows = [(small.hole, 20), if is_64bit { (24, 48) } else { (0, 0) }];
    windows.iter().any(|&(low, high)| {
        let mut starts = (low..high).filter(|start| start % len == 0 && start + len <= high);
        starts.any(|start| {
            bits(start, len) & taken == 0 && bars_fit(small, index + 1, taken | bits(start, len), ram)
        })
    })
}

fn modules_fit(small: &Small, index: usize, taken: u64, in_ram: u64, ram: Option<u64>) -> bool {
    let low_and_high = bits(0, small.hole) | bits(24, 24);
    let Some(&(len, align, from, window, own)) = small.modules.get(index) else {
        let free = (low_and_high & !taken) | in_ram;
        return ram.is_some()
            || (in_ram.count_ones() as u64 <= small.memory && free.count_ones() as u64 >= small.memory);
    };
    let mut starts =
        (from..=from + window).filter(|start| start % (1 << align) == 0 && start + len <= from + window);
    starts.any(|start| {
        let place = bits(start, len);
        if own {
            return start + len <= 48
                && taken & place == 0
                && modules_fit(small, index + 1, taken | place, in_ram, ram);
        }
        let allowed = match ram {
            Some(ram) => ram & !in_ram,
            None => low_and_high & !taken & !in_ram,
        };
        // In RAM that is not fixed, what a module has is taken from all others, and RAM all the same.
        let taken = if ram.is_some() { taken } else { taken | place };
        place & !allowed == 0 && modules_fit(small, index + 1, taken, in_ram | place, ram)
    })
}

fn small(modules: usize, relaxed: bool) -> impl Strategy<Value = Small> {
    let region = (0_u64..48, 0_u64..5, prop::bool::weighted(if relaxed { 0.6 } else { 0.0 }));
    let module = (1_u64..6, 0_u32..3, 0_u64..40, 1_u64..24, prop::bool::weighted(0.3));
    let things = (
        prop::collection::vec(region, 0..5),
        prop::collection::vec((0_u32..4, any::<bool>()), 0..4),
        prop::collection::vec(module, 0..=modules),
    );
    (0_u64..40, any::<bool>(), any::<bool>(), 8_u64..20, things).prop_map(
        |(memory, two_range, large_pages, hole, (regions, bars, modules))| Small {
            memory,
            two_range,
            large_pages,
            hole,
            lowest: hole,
            regions,
            bars,
            modules,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6_000) })]

    /// RAM, regions and BARs: a layout is found exactly where there is one, and where there is none that is
    /// certain.
    #[test]
    fn exact_without_modules(small in small(0, false)) {
        let found = with(&small, planned);
        prop_assert_eq!(found.is_ok(), exists(&small, &small.regions), "{:?}", found);
        if let Err(Error::NoLayout(failure)) = found {
            prop_assert_eq!(failure.certainty, Certainty::ThereIsNone);
        }
    }

    /// With modules, what is said to be certain is, and with nothing that BARs and modules fight for it
    /// always is.
    #[test]
    fn certain_is_certain(small in small(4, false)) {
        let exists = exists(&small, &small.regions);
        match with(&small, planned) {
            Ok(_) => prop_assert!(exists),
            Err(Error::NoLayout(failure)) if failure.certainty == Certainty::ThereIsNone => prop_assert!(!exists, "{}", failure),
            Err(error) => {
                let alone =
                    small.bars.is_empty() && !small.two_range && small.modules.iter().all(|module| !module.4);
                prop_assert!(!alone, "nothing is in doubt: {error}");
            }
        }
    }

    /// A hole that may grow: what is found is one, what is certain is, and with 32-bit BARs alone one is
    /// found whenever there is one.
    #[test]
    fn a_hole_that_grows(mut small in small(0, false), down in 0_u64..8) {
        small.lowest = small.hole - down;
        let with_hole = |hole: u64| exists(&Small { hole, ..small.clone() }, &small.regions);
        let exists = (small.lowest..=small.hole).any(with_hole);
        let found = with(&small, planned);
        match &found {
            Ok(plan) => prop_assert!(with_hole(plan.hole.start().raw())),
            Err(Error::NoLayout(failure)) if failure.certainty == Certainty::ThereIsNone => prop_assert!(!exists),
            Err(_) => {}
        }
        if small.bars.iter().all(|bar| !bar.1) {
            prop_assert_eq!(found.is_ok(), exists);
        }
    }

    /// Relaxed regions: there is a plan exactly where there is one without them, and no more are given up
    /// than must be.
    #[test]
    fn relaxed_regions(small in small(0, true)) {
        let found = with(&small, planned);
        // Regions that overlap are one, and strict where one of them is: what counts is the plan's own word
        // for it.
        let Ok(plan) = &found else {
            let strict: Vec<_> = strict_ones(&small);
            prop_assert!(!exists(&small, &strict));
            return Ok(());
        };
        let honoured: Vec<_> = plan.regions.iter().filter(|region| region.verdict.is_honoured())
            .map(|region| small.regions[region.input]).collect();
        prop_assert!(exists(&small, &honoured));
        for given_up in plan.regions.iter().filter(|region| !region.verdict.is_honoured()) {
            let mut more = honoured.clone();
            more.extend(plan.regions.iter().filter(|region| region.one_with == given_up.one_with)
                .map(|region| small.regions[region.input]));
            prop_assert!(!exists(&small, &more));
        }
    }

    /// Where there is none, taking away what is named makes one.
    #[test]
    fn what_is_named_is_in_the_way(small in small(3, false)) {
        let (error, memory) = with(&small, |machine| {
            let mut memory = common::Memory::new(machine);
            (rdm_layout::plan(machine, &mut memory.storage()).map(|_| ()).err(), memory)
        });
        let Some(Error::NoLayout(failure)) = error else { return Ok(()) };
        let mut less = small.clone();
        if failure.first == Thing::Memory {
            less = Small { regions: vec![], bars: vec![], modules: vec![], ..less };
            prop_assert!(!exists(&less, &[]));
            less.memory = less.hole + 24;
            prop_assert!(exists(&less, &[]));
            return Ok(());
        }
        let mut regions = memory.regions.iter();
        less.regions.retain(|_| !matches!(regions.next().unwrap().verdict, Verdict::InTheWay(_)));
        let mut bars = memory.bars.iter();
        less.bars.retain(|_| bars.next().unwrap().left_out.is_none());
        let mut modules = memory.modules.iter();
        less.modules.retain(|_| modules.next().unwrap().left_out.is_none());
        prop_assert!(exists(&less, &less.regions));
        prop_assert!(with(&less, planned).is_ok());
        // And the first of them cannot be had beside the others that stay.
        if let Thing::Region(index) = failure.first {
            let one_with = memory.regions[index].one_with;
            let mut back = less.clone();
            back.bars.clear();
            back.modules.clear();
            back.regions = small.regions.iter().zip(&memory.regions)
                .filter(|(_, region)| region.verdict.is_honoured() || region.one_with == one_with)
                .map(|(region, _)| *region).collect();
            prop_assert!(!exists(&back, &back.regions));
        }
    }
}

/// The regions that are one with a strict one.
fn strict_ones(small: &Small) -> Vec<(u64, u64, bool)> {
    let mut strict: Vec<bool> = small.regions.iter().map(|region| !region.2).collect();
    let overlaps = |a: &(u64, u64, bool), b: &(u64, u64, bool)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    for _ in &small.regions {
        for one in 0..strict.len() {
            for other in 0..strict.len() {
                if strict[other] && overlaps(&small.regions[one], &small.regions[other]) {
                    strict[one] = true;
                }
            }
        }
    }
    small.regions.iter().zip(strict).filter(|(_, strict)| *strict).map(|(region, _)| *region).collect()
}

#[test]
fn a_bar_that_only_fits_the_other_way_round() {
    // The 64-bit BAR must leave the hole's only aligned place to the 32-bit one, and the small ones the
    // pieces.
    let bars = [(3, true), (3, false), (0, false), (1, false)];
    let small = Small {
        memory: 0,
        two_range: false,
        large_pages: false,
        hole: 8,
        lowest: 8,
        regions: vec![(19, 1, false)],
        bars: bars.to_vec(),
        modules: vec![],
    };
    assert!(exists(&small, &small.regions));
    assert!(with(&small, planned).is_ok());
}
