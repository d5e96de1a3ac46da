//! Memory for plans, and what must hold of every one.
#![allow(dead_code, reason = "each test uses some of it")]
#![allow(unreachable_pub, reason = "the module is part of each test")]
#![allow(missing_docs, reason = "names say it")]

use p2m::{Gfn, GfnRange};
use rdm_layout::{
    Backing, Bar, BarPlan, E820Entry, Error, Machine, Mode, ModuleMemory, ModulePlan, Plan, Policy, RAM,
    RESERVED, Region, RegionPlan, Storage, plan,
};

pub const MIB: u64 = 256;
pub const GIB: u64 = 1 << 18;

/// Memory for the plan of a machine.
#[derive(Default)]
pub struct Memory {
    pub taken: Vec<GfnRange>,
    pub regions: Vec<RegionPlan>,
    pub bars: Vec<BarPlan>,
    pub modules: Vec<ModulePlan>,
    pub ram: Vec<GfnRange>,
    pub e820: Vec<E820Entry>,
    pub unallocated: Vec<GfnRange>,
}

impl Memory {
    pub fn new(machine: &Machine<'_>) -> Self {
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

    pub fn storage(&mut self) -> Storage<'_> {
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

/// A plan with memory of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct Owned {
    pub ram: Vec<GfnRange>,
    pub regions: Vec<RegionPlan>,
    pub bars: Vec<BarPlan>,
    pub modules: Vec<ModulePlan>,
    pub e820: Vec<E820Entry>,
    pub unallocated: Vec<GfnRange>,
    pub hole: GfnRange,
    pub lowmem_end: u64,
    pub highmem_end: u64,
}

impl From<&Plan<'_>> for Owned {
    fn from(plan: &Plan<'_>) -> Self {
        Self {
            ram: plan.ram.to_vec(),
            regions: plan.regions.to_vec(),
            bars: plan.bars.to_vec(),
            modules: plan.modules.to_vec(),
            e820: plan.e820.to_vec(),
            unallocated: plan.unallocated.to_vec(),
            hole: plan.hole,
            lowmem_end: plan.lowmem_end.raw(),
            highmem_end: plan.highmem_end.raw(),
        }
    }
}

/// Plans, and checks what comes out.
pub fn planned(machine: &Machine<'_>) -> Result<Owned, Error> {
    let mut memory = Memory::new(machine);
    let mut storage = memory.storage();
    let plan = plan(machine, &mut storage)?;
    check(machine, &plan);
    Ok(Owned::from(&plan))
}

pub fn frames(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap()
}

/// The strict region of these frames, the end exclusive.
pub fn strict(start: u64, end: u64) -> Region {
    Region { frames: frames(start, end), policy: Policy::Strict }
}

pub fn relaxed(start: u64, end: u64) -> Region {
    Region { frames: frames(start, end), policy: Policy::Relaxed }
}

pub fn bar32(bytes: u64) -> Bar {
    Bar { bytes, is_64bit: false, prefetchable: false }
}

pub fn bar64(bytes: u64) -> Bar {
    Bar { bytes, is_64bit: true, prefetchable: true }
}

/// The byte behind an entry's last one.
pub fn end(entry: &E820Entry) -> u64 {
    entry.addr + entry.size
}

fn contains(outer: &GfnRange, inner: &GfnRange) -> bool {
    outer.start() <= inner.start() && inner.end() <= outer.end()
}

/// What must hold of every plan.
pub fn check(machine: &Machine<'_>, plan: &Plan<'_>) {
    check_ram(machine, plan);
    check_places(machine, plan);
    check_e820(machine, plan);
    for space in plan.unallocated {
        assert!(space.len() >= 64 * MIB && space.start().raw() % 512 == 0 && space.len() % 512 == 0);
    }
    let unallocated: u64 = plan.unallocated.iter().map(GfnRange::len).sum();
    assert!(unallocated >= machine.unallocated);
    assert_eq!(plan.still_holds(machine).find(|broken| !given_up(plan, broken)), None);
}

fn given_up(plan: &Plan<'_>, broken: &rdm_layout::Broken) -> bool {
    matches!(broken, rdm_layout::Broken::Region { index, .. } if !plan.regions[*index].verdict.is_honoured())
}

fn check_ram(machine: &Machine<'_>, plan: &Plan<'_>) {
    let low = frames(0, plan.hole.start().raw());
    for ram in plan.ram {
        assert!(!ram.is_empty() && (contains(&low, ram) || contains(&machine.high, ram)), "{ram}");
    }
    assert!(plan.ram.windows(2).all(|pair| pair[0].end() < pair[1].start()), "{:?}", plan.ram);
    let mut wanted = machine.memory;
    if machine.mode == Mode::TwoRange {
        let emulated = machine.firmware.fixed.iter().filter(|fixed| fixed.backing != Backing::Ram);
        let emulated = emulated.filter(|fixed| fixed.range().end() <= machine.firmware.floor);
        wanted -= emulated.map(|fixed| fixed.frames).sum::<u64>();
        assert!(plan.ram.iter().filter(|ram| ram.start().raw() >= 1 << 20).count() <= 1);
    }
    assert_eq!(plan.ram_frames(), wanted);
}

fn check_places(machine: &Machine<'_>, plan: &Plan<'_>) {
    // Everything that takes frames, apart from RAM's own.
    let mut taken: Vec<(GfnRange, String)> = Vec::new();
    for (index, (bar, asked)) in plan.bars.iter().zip(machine.bars).enumerate() {
        let place = bar.place.unwrap();
        assert_eq!((bar.input, place.len()), (index, (asked.bytes / 4096).max(1)));
        assert_eq!(place.start().raw() % place.len(), 0, "BAR {index} is aligned");
        let high = asked.is_64bit && contains(&machine.high, &place);
        assert!(contains(&plan.hole, &place) || high, "BAR {index} at {place}");
        taken.push((place, format!("BAR {index}")));
    }
    let all = machine.firmware.modules.iter().chain(machine.modules);
    let mut in_ram: Vec<GfnRange> = Vec::new();
    for (module, asked) in plan.modules.iter().zip(all) {
        let place = module.place.unwrap();
        assert!(place.len() == asked.frames && place.start().raw() % asked.align == 0);
        assert!(contains(&asked.window(), &place));
        if asked.memory == ModuleMemory::Ram {
            assert!(plan.ram.iter().any(|ram| contains(ram, &place)), "{} lies in RAM", asked.name);
            assert!(!in_ram.iter().any(|other| other.overlaps(&place)));
            in_ram.push(place);
        } else {
            taken.push((place, asked.name.to_string()));
        }
    }
    for fixed in machine.firmware.fixed.iter().chain(machine.filled) {
        if fixed.backing == Backing::Ram {
            assert!(
                in_ram.iter().all(|place| !place.overlaps(&fixed.range())),
                "a module is in {}",
                fixed.name
            );
        } else if !fixed.yields {
            taken.push((fixed.range(), fixed.name.to_string()));
        }
    }
    // Regions may overlap one another, so they come as what they are together.
    let mut regions: Vec<GfnRange> = plan
        .regions
        .iter()
        .filter(|region| region.verdict.is_honoured())
        .map(|region| region.frames)
        .collect();
    regions.retain(|region| !region.is_empty());
    regions.sort_by_key(|region| region.start());
    let mut merged: Vec<GfnRange> = Vec::new();
    for region in regions {
        match merged.last_mut() {
            Some(last) if last.overlaps(&region) => *last = last.hull(&region),
            _ => merged.push(region),
        }
    }
    taken.extend(merged.iter().map(|region| (*region, "region".to_string())));
    taken.extend(plan.ram.iter().map(|ram| (*ram, "RAM".to_string())));
    taken.extend(plan.unallocated.iter().map(|space| (*space, "unallocated".to_string())));
    taken.sort_by_key(|(place, _)| (place.start(), place.end()));
    for pair in taken.windows(2) {
        assert!(!pair[0].0.overlaps(&pair[1].0), "{pair:?} overlap");
    }
    for (region, asked) in plan.regions.iter().zip(machine.regions) {
        assert_eq!(region.frames, asked.frames);
        assert!(region.verdict.is_honoured() || region.policy == Policy::Relaxed);
        assert!(region.verdict.is_honoured() || asked.policy == Policy::Relaxed);
    }
}

fn check_e820(machine: &Machine<'_>, plan: &Plan<'_>) {
    assert!(plan.e820.len() <= 128);
    for pair in plan.e820.windows(2) {
        assert!(end(&pair[0]) <= pair[1].addr, "{pair:?}");
        assert!(end(&pair[0]) < pair[1].addr || pair[0].kind != pair[1].kind, "{pair:?} could be one");
    }
    let kind_at = |frame: u64| {
        let address = frame << 12;
        plan.e820.iter().find(|entry| entry.addr <= address && address < end(entry)).map(|entry| entry.kind)
    };
    for region in
        plan.regions.iter().filter(|region| region.verdict.is_honoured() && !region.frames.is_empty())
    {
        assert_eq!(kind_at(region.frames.start().raw()), Some(RESERVED), "{region:?}");
        assert_eq!(kind_at(region.frames.end().raw() - 1), Some(RESERVED), "{region:?}");
    }
    let ram: u64 = plan.e820.iter().filter(|entry| entry.kind == RAM).map(|entry| entry.size / 4096).sum();
    let from = machine.firmware.e820_from;
    let mut expected: u64 = 0;
    for range in plan.ram {
        expected += range.end().raw().saturating_sub(range.start().max(from).raw());
    }
    if !machine.firmware.lists_itself {
        let firmware = machine
            .firmware
            .fixed
            .iter()
            .filter(|fixed| fixed.backing == Backing::Ram && fixed.e820.is_some());
        for fixed in firmware {
            let parts = plan.ram.iter().filter_map(|ram| ram.intersection(&fixed.range()));
            expected -= parts.map(|part| part.len()).sum::<u64>();
        }
    }
    assert_eq!(ram, expected, "{:?}", plan.e820);
}

/// The real tables of these names, or all of them; none, with a message, where there is no corpus.
pub fn corpus(names: &[&str]) -> Vec<(String, Vec<u8>)> {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/dmar-corpus");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        eprintln!("skipped: there is no corpus of real tables at {}", directory.display());
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|kind| kind == "dmar")).collect();
    paths.sort();
    let tables = paths.into_iter().map(|path| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        (name, std::fs::read(path).unwrap())
    });
    tables.filter(|(name, _)| names.is_empty() || names.contains(&name.as_str())).collect()
}

/// A table's regions, each with its devices: segment, start bus and path in one.
pub fn rmrrs(table: &[u8]) -> Vec<(GfnRange, Vec<String>)> {
    let dmar = acpi_dmar::Dmar::parse(table).unwrap();
    let rmrrs = dmar.structures().flatten().filter_map(|structure| match structure {
        acpi_dmar::Structure::Rmrr(rmrr) => {
            let region = Region::from_bytes(rmrr.base(), rmrr.limit(), Policy::Strict)?;
            let scopes = rmrr.scopes().flatten().map(|scope| format!("{}:{scope}", rmrr.segment()));
            Some((region.frames, scopes.collect()))
        }
        _ => None,
    });
    rmrrs.collect()
}
