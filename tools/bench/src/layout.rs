//! Plans of a guest's memory, as large ones as there may be.

use p2m::{Gfn, GfnRange};
use rdm_layout::{
    Bar, BarPlan, E820Entry, Machine, ModulePlan, Policy, Region, RegionPlan, Storage, plan, xen,
};

use crate::measure::Measurements;

const GROUPED: &str = "1 TiB, 64 regions in 40 runs, 64 BARs";
const APART: &str = "1 TiB, 64 regions far apart, 64 BARs";
const MANY: &str = "1 TiB, 1,024 regions in 60 runs, 1,024 BARs";

/// Instructions that a plan around 64 regions may take, and how many times that one around 1,024 may.
const BOUND: f64 = 200_000.0;
const TIMES: f64 = 26.0;

/// 1 TiB.
const MEMORY: u64 = 1 << 28;

/// What is to be planned, and how many regions and BARs that are.
struct Case {
    name: &'static str,
    regions: Vec<Region>,
    bars: Vec<Bar>,
}

/// `count` regions of 64 KiB in `runs` of such as touch, the runs 24 MiB from each other.
fn regions(count: u64, runs: u64) -> Vec<Region> {
    // The same machine each time, but not in the order of addresses.
    let order = (0..count).map(|index| index * 37 % count);
    let start = |index: u64| 0x2_0000 + index % runs * 0x1800 + index / runs * 16;
    let region = |index| {
        let frames = GfnRange::with_len(Gfn::new(start(index)), 16)?;
        Some(Region { frames, policy: Policy::Strict })
    };
    order.filter_map(region).collect()
}

/// BARs as devices have them: control registers, and now and then a large one.
fn bars(count: u64) -> Vec<Bar> {
    let bar = |index: u64| {
        let (bytes, is_64bit, prefetchable) = match index % 8 {
            0 => (256 << 20, true, true),
            1 => (16 << 10, true, false),
            2 => (4 << 10, true, true),
            3 => (64 << 10, false, false),
            4 => (16 << 10, false, false),
            _ => (4 << 10, false, false),
        };
        Bar { bytes, is_64bit, prefetchable }
    };
    (0..count).map(bar).collect()
}

fn cases() -> [Case; 3] {
    [
        Case { name: GROUPED, regions: regions(64, 40), bars: bars(64) },
        Case { name: APART, regions: regions(64, 64), bars: bars(64) },
        Case { name: MANY, regions: regions(1024, 60), bars: bars(1024) },
    ]
}

fn machine(case: &Case) -> Machine<'_> {
    Machine {
        firmware: xen::OVMF,
        regions: &case.regions,
        bars: &case.bars,
        unallocated: 64 << 8,
        ..Machine::new(MEMORY, 46)
    }
}

/// Memory for a plan.
struct Memory {
    taken: Vec<GfnRange>,
    regions: Vec<RegionPlan>,
    bars: Vec<BarPlan>,
    modules: Vec<ModulePlan>,
    ram: Vec<GfnRange>,
    e820: Vec<E820Entry>,
    unallocated: Vec<GfnRange>,
}

impl Memory {
    fn new(machine: &Machine<'_>) -> Self {
        let needs = machine.needs();
        Self {
            taken: vec![GfnRange::default(); needs.taken],
            regions: vec![RegionPlan::default(); needs.regions],
            bars: vec![BarPlan::default(); needs.bars],
            modules: vec![ModulePlan::default(); needs.modules],
            ram: vec![GfnRange::default(); needs.ram],
            e820: vec![E820Entry::default(); needs.e820],
            unallocated: vec![GfnRange::default(); needs.unallocated],
        }
    }

    fn storage(&mut self) -> Storage<'_> {
        Storage {
            taken: &mut self.taken,
            regions: &mut self.regions,
            bars: &mut self.bars,
            modules: &mut self.modules,
            ram: &mut self.ram,
            e820: &mut self.e820,
            unallocated: &mut self.unallocated,
        }
    }
}

/// Frames of RAM and entries of the memory map that come out; 0 where there is no plan.
fn planned((machine, memory): (&Machine<'_>, &mut Memory)) -> (u64, usize) {
    plan(machine, &mut memory.storage()).map_or((0, 0), |plan| (plan.ram_frames(), plan.e820.len()))
}

/// Measures.
pub(crate) fn measure(measurements: &mut Measurements) {
    for case in &cases() {
        let machine = machine(case);
        let mut memory = Memory::new(&machine);
        let bound = if case.name == MANY { BOUND * TIMES } else { BOUND };
        let (_, entries) =
            measurements.call(case.name, planned, (&machine, &mut memory), |row| row.bound(bound));
        measurements.note(format!("{entries} entries in the memory map"));
    }
}

#[cfg(test)]
mod tests {
    use super::{Memory, cases, machine, planned};

    #[test]
    fn the_cases_are_what_their_names_say_and_have_plans() {
        let runs = cases().map(|case| {
            let mut starts: Vec<_> = case.regions.iter().map(|region| region.frames).collect();
            starts.sort_by_key(|frames| frames.start());
            1 + starts.windows(2).filter(|pair| pair[0].end() < pair[1].start()).count()
        });
        assert_eq!(runs, [40, 64, 60]);
        for case in &cases() {
            let machine = machine(case);
            let (ram, entries) = planned((&machine, &mut Memory::new(&machine)));
            assert_eq!(ram, super::MEMORY, "{}", case.name);
            assert!((2..=128).contains(&entries));
        }
    }
}
