//! The way from a machine to its plan.

use p2m::GfnRange;

use crate::attempt::Work;
use crate::bars;
use crate::error::Error;
use crate::frames::{Bounds, range};
use crate::gaps::Closing;
use crate::list::List;
use crate::machine::Machine;
use crate::plan::{BarPlan, ModulePlan, Moved, Plan, RegionPlan, VERSION, Verdict};
use crate::storage::Storage;
use crate::taken::Taken;

/// Lays out a machine. The same machine gives the same plan.
///
/// # Errors
/// [`Error::NoLayout`] with the reason; the records of `storage` then say what is in the way: all regions
/// with [`Verdict::InTheWay`], and all BARs and modules with `left_out`. [`Error::Input`] for what no layout
/// can make good, [`Error::Storage`] where the caller's memory is shorter than [`Machine::needs`].
pub fn plan<'s>(machine: &Machine<'_>, storage: &'s mut Storage<'_>) -> Result<Plan<'s>, Error> {
    machine.check()?;
    let needs = machine.needs();
    if !storage.suffices(&needs) {
        return Err(Error::Storage(needs));
    }
    let regions = storage.regions.get_mut(..needs.regions).unwrap_or_default();
    sort_regions(machine, regions);
    let bars = storage.bars.get_mut(..needs.bars).unwrap_or_default();
    for (input, (record, bar)) in bars.iter_mut().zip(machine.bars).enumerate() {
        let frames = bar.frames();
        let (is_64bit, prefetchable) = (bar.is_64bit, bar.prefetchable);
        *record = BarPlan { input, frames, is_64bit, prefetchable, ..BarPlan::default() };
    }
    bars::sort(bars);
    let modules = storage.modules.get_mut(..needs.modules).unwrap_or_default();
    for (input, record) in modules.iter_mut().enumerate() {
        *record = ModulePlan { input, ..ModulePlan::default() };
    }
    let mut work = Work {
        machine,
        taken: Taken::new(storage.taken),
        regions,
        bars,
        modules,
        ram: List::new(storage.ram),
        e820: List::new(storage.e820),
        unallocated: List::new(storage.unallocated),
        no_unallocated: None,
        hole: machine.hole,
        closing: Closing::default(),
        took_ram: false,
        stands: false,
    };
    let settled = work.settle();
    by_input(work.bars, |bar| bar.input);
    work.modules.sort_unstable_by_key(|module| module.input);
    let settled = settled.map_err(|_| Error::Storage(needs))?;
    if settled.is_ok() {
        note_moves(&mut work);
    }
    by_input(work.regions, |region| region.input);
    settled.map_err(Error::NoLayout)?;
    let Work { regions, bars, modules, ram, e820, unallocated, hole, .. } = work;
    let ram = ram.into_items();
    let (lowmem_end, highmem_end) = Plan::ends(ram, machine.high);
    Ok(Plan {
        version: VERSION,
        mode: machine.mode,
        memory: machine.memory,
        ram,
        regions,
        bars,
        modules,
        e820: e820.into_items(),
        unallocated: unallocated.into_items(),
        hole,
        lowmem_end,
        highmem_end,
    })
}

/// Sorts records by their indices, of which each is there once.
fn by_input<T>(records: &mut [T], input: impl Fn(&T) -> usize) {
    for index in 0..records.len() {
        // Each swap brings one record to its place.
        while let Some(home) =
            records.get(index).map(&input).filter(|home| *home != index && *home < records.len())
        {
            records.swap(index, home);
        }
    }
}

/// Fills the records of regions, by address, and finds those that are one.
fn sort_regions(machine: &Machine<'_>, records: &mut [RegionPlan]) {
    for (input, (record, region)) in records.iter_mut().zip(machine.regions).enumerate() {
        let (frames, policy) = (region.frames, region.policy);
        *record = RegionPlan { input, frames, policy, verdict: Verdict::Honoured, one_with: input };
    }
    records.sort_unstable_by(|one, other| {
        let by_address = one.frames.low().cmp(&other.frames.low());
        by_address.then_with(|| (one.frames.high(), one.input).cmp(&(other.frames.high(), other.input)))
    });
    let mut rest = records;
    while let Some(first) = rest.first().copied() {
        let (mut end, mut policy, mut count) = (first.frames.high(), first.policy, 0_usize);
        for region in rest.iter() {
            // A region without frames is with nobody.
            if count > 0 && region.frames.low() >= end {
                break;
            }
            end = end.max(region.frames.high());
            policy = policy.with(region.policy);
            count = count.saturating_add(1);
        }
        let (together, others) = rest.split_at_mut_checked(count).unwrap_or_default();
        for region in together {
            (region.one_with, region.policy) = (first.input, policy);
        }
        rest = others;
    }
}

/// Says of each honoured region what lies elsewhere for its sake.
fn note_moves(work: &mut Work<'_, '_>) {
    let machine = work.machine;
    // Where RAM would lie if nothing were in its way.
    let low = machine.memory.min(work.hole.low());
    let high =
        range(machine.high.low(), machine.high.low().saturating_add(machine.memory.saturating_sub(low)));
    let natural = [range(0, low), high];
    for region in work.regions.iter_mut().filter(|region| region.verdict == Verdict::Honoured) {
        let frames = region.frames;
        let emulated = machine.fixed().any(|fixed| fixed.yields && contains(&fixed.range(), &frames));
        let bars =
            || work.bars.iter().filter_map(|bar| bar.place).filter(|place| place.high() <= frames.low());
        let modules = || {
            let places = work.modules.iter().filter_map(|one| Some((machine.module(one.input)?, one.place?)));
            places.filter(|(module, place)| {
                module.window().overlaps(&frames)
                    && place.low() >= frames.high()
                    && module.window().contains(frames.start())
            })
        };
        let moved = if !emulated && natural.iter().any(|ram| ram.overlaps(&frames)) {
            Some(Moved::Ram)
        } else if bars().any(|place| {
            [work.hole, machine.high]
                .iter()
                .any(|window| contains(window, &place) && window.overlaps(&frames))
        }) {
            Some(Moved::Bars)
        } else if modules().next().is_some() {
            Some(Moved::Module)
        } else {
            None
        };
        if let Some(moved) = moved {
            region.verdict = Verdict::MovedAround(moved);
        }
    }
}

fn contains(outer: &GfnRange, inner: &GfnRange) -> bool {
    outer.low() <= inner.low() && inner.high() <= outer.high()
}
