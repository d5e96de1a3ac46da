//! A guest's memory around the reserved regions of a host: [`Planned`] asks `rdm-layout` and gives what comes
//! out the names that a reader knows; [`text`], [`json`] and [`picture`] show it, and [`xl`] makes lines for
//! an xl.cfg of it.

pub mod graphics;
pub mod host;
pub mod json;
pub mod map;
pub mod picture;
pub mod text;
pub mod xl;

use p2m::GfnRange;
use rdm_layout::{
    Bar, BarPlan, Cause, E820Entry, Error, Failure, Machine, Mode, Module, ModulePlan, Moved, Plan, Policy,
    Region, RegionPlan, Storage, Thing, Verdict,
};

use crate::guest::{Guest, GuestFirmware, policy_word};
use host::Host;
use map::Row;

/// A region of the guest's, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionOutcome {
    /// `R1` for the first of the table.
    pub name: String,
    /// Its frames.
    pub frames: GfnRange,
    /// The guest's devices that have it.
    pub devices: Vec<String>,
    /// Its policy in the end.
    pub policy: Policy,
    /// What becomes of it.
    pub verdict: Verdict,
    /// The same in words.
    pub sentence: String,
}

/// A BAR, and where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarOutcome {
    /// Its number and whose it is.
    pub name: String,
    /// What it is.
    pub bar: Bar,
    /// Where it lies.
    pub place: Option<GfnRange>,
}

/// A layout.
#[derive(Debug)]
pub struct Layout {
    /// The guest's addresses, in order.
    pub map: Vec<Row>,
    /// The end of RAM below the hole, as an address.
    pub lowmem_end: u64,
    /// The end of RAM above 4 GiB, or 0.
    pub highmem_end: u64,
    /// Frames that the guest gets beside its memory, for private regions.
    pub private: u64,
    /// What stays free for grants and foreign mappings.
    pub unallocated: Vec<GfnRange>,
    /// The memory map.
    pub e820: Vec<E820Entry>,
    /// The plan as `rdm-layout` writes it, to be read back.
    pub written: serde_json::Value,
}

/// A guest on a host, planned or not.
#[derive(Debug)]
pub struct Planned {
    /// Bits of the guest's addresses.
    pub width: u32,
    /// The regions that count, in the table's order.
    pub regions: Vec<RegionOutcome>,
    /// The BARs: those of devices, then those asked for.
    pub bars: Vec<BarOutcome>,
    /// Why there is no plan.
    pub failure: Option<String>,
    /// The layout; where there is no plan, that without what is in the way, if there is one.
    pub layout: Option<Layout>,
    /// The guest's Intel graphics, as far as its config space can be read.
    pub graphics: Vec<graphics::Outcome>,
    /// What else is to be known of the guest's devices: they may need others beside them, or have rejected
    /// regions.
    pub notes: Vec<String>,
}

/// 64 MiB for grants and foreign mappings, so that a guest need not balloon for them.
const UNALLOCATED: u64 = 64 << 8;

impl Planned {
    /// Plans `guest` on `host`.
    #[must_use]
    pub fn new(guest: &Guest, host: &Host<'_>) -> Self {
        let wanted = host.regions(guest);
        let regions: Vec<Region> = wanted.iter().map(|wanted| wanted.region).collect();
        let named: Vec<(String, Bar)> = host.bars(guest);
        let bars: Vec<Bar> = named.iter().map(|(_, bar)| *bar).collect();
        let covering: Vec<GfnRange> = regions.iter().map(|region| region.frames).collect();
        let graphics = host.graphics(guest, &covering);
        let modules: Vec<Module> = graphics.iter().flat_map(graphics::Device::modules).collect();
        let width = host.width();
        let ram_above = Machine::new(guest.memory, width);
        let machine = Machine {
            mode: if guest.two_range { Mode::TwoRange } else { Mode::Ranges },
            firmware: guest.firmware.needs(guest.two_range),
            hole: range(guest.hole.raw(), ram_above.hole.end().raw()),
            // Where 32-bit BARs need more of a hole than there is, they get it from RAM.
            hole_lowest: p2m::Gfn::new(guest.hole.raw().min(0x8_0000)),
            regions: &regions,
            bars: &bars,
            modules: &modules,
            unallocated: UNALLOCATED,
            ..ram_above
        };
        let mut memory = Memory::new(&machine);
        let result = memory.plan(&machine, |plan| Layout::of(plan, &machine, &wanted, &named));
        let verdicts = memory.regions.clone();
        let outcome = |(wanted, record): (&host::Wanted, &RegionPlan)| RegionOutcome {
            name: wanted.name.clone(),
            frames: wanted.region.frames,
            devices: wanted.devices.clone(),
            policy: record.policy,
            verdict: record.verdict,
            sentence: sentence(&machine, record),
        };
        let outcomes: Vec<_> = wanted.iter().zip(&verdicts).map(outcome).collect();
        let places: Vec<Option<GfnRange>> = memory.bars.iter().map(|bar| bar.place).collect();
        let mut own = memory.modules.get(machine.firmware.modules.len()..).unwrap_or_default();
        let outcome = |device: &graphics::Device| {
            let (its, rest) = own.split_at(device.modules().count());
            own = rest;
            device.outcome(its, &verdicts)
        };
        let graphics = graphics.iter().map(outcome).collect();
        let (failure, layout) = match result {
            Ok(layout) => (None, Some(layout)),
            Err(error) => {
                let without = without(&machine, &memory, &wanted, &named);
                (Some(failure_sentence(&error, &machine, &wanted, &named)), without)
            }
        };
        let mut notes = guest.remarks.clone();
        notes.extend(host.notes(guest));
        if failure.is_some() {
            notes.extend(remedy(guest, host));
        }
        let bars = named.into_iter().zip(places).map(|((name, bar), place)| BarOutcome { name, bar, place });
        Self { width, regions: outcomes, bars: bars.collect(), failure, layout, graphics, notes }
    }

    /// Whether there is a plan.
    #[must_use]
    pub const fn is_planned(&self) -> bool {
        self.failure.is_none()
    }
}

fn range(start: u64, end: u64) -> GfnRange {
    GfnRange::new(p2m::Gfn::new(start), p2m::Gfn::new(end.max(start))).unwrap_or_default()
}

/// What else of the guest's would make a plan.
fn remedy(guest: &Guest, host: &Host<'_>) -> Option<String> {
    let (other, sentence) = match (guest.two_range, guest.firmware) {
        (true, _) => {
            (Guest { two_range: false, ..guest.clone() }, "With RAM in several ranges there is a plan.")
        }
        (false, GuestFirmware::Bios) => {
            (Guest { firmware: GuestFirmware::Ovmf, ..guest.clone() }, "With OVMF there is a plan.")
        }
        _ => return None,
    };
    let planned = Planned::new(&Guest { remarks: Vec::new(), ..other }, host);
    planned.is_planned().then(|| sentence.into())
}

/// The layout that comes out without all that is in the way; those regions lie over what they meet.
fn without(
    machine: &Machine<'_>,
    memory: &Memory,
    wanted: &[host::Wanted],
    named: &[(String, Bar)],
) -> Option<Layout> {
    let stays = |record: &&RegionPlan| !matches!(record.verdict, Verdict::InTheWay(_));
    let kept: Vec<usize> = memory.regions.iter().filter(stays).map(|record| record.input).collect();
    let regions: Vec<Region> = kept.iter().map(|&index| wanted[index].region).collect();
    let kept_bars: Vec<usize> =
        memory.bars.iter().filter(|bar| bar.left_out.is_none()).map(|bar| bar.input).collect();
    let bars: Vec<Bar> = kept_bars.iter().map(|&index| named[index].1).collect();
    let machine = Machine { regions: &regions, bars: &bars, ..*machine };
    let kept_wanted: Vec<_> = kept.iter().map(|&index| wanted[index].clone()).collect();
    let kept_named: Vec<_> = kept_bars.iter().map(|&index| named[index].clone()).collect();
    let layout =
        Memory::new(&machine).plan(&machine, |plan| Layout::of(plan, &machine, &kept_wanted, &kept_named));
    let mut layout = layout.ok()?;
    let gone = memory.regions.iter().filter(|record| !stays(record));
    let gone: Vec<_> = gone.map(|record| (wanted[record.input].name.clone(), record.frames)).collect();
    map::lay_over(&mut layout.map, &gone);
    Some(layout)
}

impl Layout {
    fn of(plan: &Plan<'_>, machine: &Machine<'_>, wanted: &[host::Wanted], named: &[(String, Bar)]) -> Self {
        let bytes = |gfn: p2m::Gfn| gfn.address().unwrap_or(u64::MAX);
        Self {
            map: map::rows(plan, machine, wanted, named),
            lowmem_end: bytes(plan.lowmem_end),
            highmem_end: bytes(plan.highmem_end),
            private: plan.private().map(|frames| frames.len()).sum(),
            unallocated: plan.unallocated.to_vec(),
            e820: plan.e820.to_vec(),
            written: serde_json::to_value(plan).unwrap_or_default(),
        }
    }
}

/// What becomes of a region.
fn sentence(machine: &Machine<'_>, record: &RegionPlan) -> String {
    let kept = match record.policy {
        Policy::Private => "the guest's own memory is at its place",
        Policy::Strict | Policy::Relaxed => "at its place",
    };
    match record.verdict {
        Verdict::Honoured => kept.into(),
        Verdict::MovedAround(Moved::Ram) => format!("{kept}, with RAM around it"),
        Verdict::MovedAround(Moved::Bars) => format!("{kept}, with BARs further down"),
        Verdict::MovedAround(Moved::Module) => format!("{kept}, with a module further up"),
        Verdict::GivenUp(cause) => format!(
            "given up: it {}; what lies there is the guest's, and the device's DMA meets it",
            cause_words(machine, cause)
        ),
        Verdict::InTheWay(cause) => format!("in the way: it {}", cause_words(machine, cause)),
    }
}

fn cause_words(machine: &Machine<'_>, cause: Cause) -> String {
    match cause {
        Cause::Fixed { index, .. } => {
            let name = machine.lies_fast(index).map_or("", |fixed| fixed.name);
            format!("{cause} ({name})")
        }
        _ => cause.to_string(),
    }
}

fn failure_sentence(
    error: &Error,
    machine: &Machine<'_>,
    wanted: &[host::Wanted],
    named: &[(String, Bar)],
) -> String {
    let Error::NoLayout(failure @ Failure { first, .. }) = error else { return error.to_string() };
    match *first {
        Thing::Region(index) => failure.naming(&wanted[index]).to_string(),
        Thing::Bar(index) => failure.naming(&format_args!("BAR {}", named[index].0)).to_string(),
        Thing::Module(index) => {
            let name = machine.modules.get(index).map_or("a module", |module| module.name);
            failure.naming(&name).to_string()
        }
        _ => failure.to_string(),
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

    fn plan<T>(&mut self, machine: &Machine<'_>, then: impl FnOnce(&Plan<'_>) -> T) -> Result<T, Error> {
        let mut storage = Storage {
            taken: &mut self.taken,
            regions: &mut self.regions,
            bars: &mut self.bars,
            modules: &mut self.modules,
            ram: &mut self.ram,
            e820: &mut self.e820,
            unallocated: &mut self.unallocated,
        };
        rdm_layout::plan(machine, &mut storage).map(|plan| then(&plan))
    }
}

/// `[0x7b800000, 0x7b8fffff]`, the limit inclusive as firmware writes it.
fn addresses(frames: &GfnRange) -> String {
    let (start, end) = (frames.start().raw() << 12, u128::from(frames.end().raw()) << 12);
    format!("[{start:#x}, {:#x}]", end.saturating_sub(1))
}

fn size(frames: &GfnRange) -> String {
    acpi_dmar::Size(u128::from(frames.len()) << 12).to_string()
}

/// A region's policy and devices.
fn whose(region: &RegionOutcome) -> String {
    match region.devices.len() {
        0 => format!("{}, of no device of the guest's", policy_word(region.policy)),
        _ => format!("{}, of {}", policy_word(region.policy), region.devices.join(", ")),
    }
}
