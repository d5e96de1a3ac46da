//! Whether a plan still holds on a host, or with a machine, that is not what it was.

use p2m::GfnRange;

use crate::frames::Bounds;
use crate::machine::{Backing, Machine};
use crate::plan::{Plan, VERSION};

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The plan is of rules of another version.
    Version {
        /// Its version.
        plan: u32,
    },
    /// The memory is another.
    Memory {
        /// The plan's, in frames.
        plan: u64,
    },
    /// Something of the plan ends beyond the guest's addresses.
    BeyondAddresses {
        /// Where it lies.
        frames: GfnRange,
    },
    /// A region lies where the plan has something else.
    Region {
        /// Its index on the changed host.
        index: usize,
        /// Where they meet.
        frames: GfnRange,
        /// What is there.
        change: Change,
    },
    /// Something that lies fast, of this index, lies where the plan has something else.
    Fixed {
        /// Its index: the firmware's, then what was filled before.
        index: usize,
        /// Where they meet.
        frames: GfnRange,
    },
    /// A BAR of this index is new, or has another size than the plan's.
    Bar {
        /// Its index in the changed machine.
        index: usize,
    },
    /// A module of this index is new, or does not fit its place any more.
    Module {
        /// Its index in the changed machine, the firmware's first.
        index: usize,
    },
}

/// What a region meets in a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// RAM.
    Ram,
    /// Nothing now, as all of it is ballooned out, but the guest takes it for RAM that it may ask for again: no
    /// frame may come back there.
    Ballooned,
    /// A BAR.
    Bar,
    /// A module.
    Module,
    /// Space that was to stay unallocated.
    Unallocated,
    /// Nothing, but the guest was never told: its e820 does not reserve it, so it may put a BAR there.
    NotReserved,
}

impl Plan<'_> {
    /// What of the plan does not hold for `machine`, the same guest on a changed host or with a change of its
    /// own, such as a device more. Regions that are gone break nothing: their place stays reserved.
    pub fn still_holds<'a>(&'a self, machine: &'a Machine<'a>) -> impl Iterator<Item = Broken> + 'a {
        self.still_holds_without(machine, &[])
    }

    /// The same where these frames of RAM are ballooned out. The memory stays what it was when planned: a
    /// balloon comes and goes.
    pub fn still_holds_without<'a>(
        &'a self,
        machine: &'a Machine<'a>,
        ballooned: &'a [GfnRange],
    ) -> impl Iterator<Item = Broken> + 'a {
        let version = (self.version != VERSION).then_some(Broken::Version { plan: self.version });
        let memory = (self.memory != machine.memory).then_some(Broken::Memory { plan: self.memory });
        let places = self.ram.iter().copied().chain(self.places());
        let beyond = places.filter(|place| place.high() > machine.end());
        let beyond = beyond.map(|frames| Broken::BeyondAddresses { frames });
        let regions = machine.regions.iter().enumerate().filter_map(move |(index, region)| {
            let (frames, change) = self.meets(region.frames, ballooned)?;
            Some(Broken::Region { index, frames, change })
        });
        let fixed = machine.fixed().enumerate().filter_map(|(index, fixed)| {
            let asked = fixed.range();
            let ram = self.ram.iter().copied().filter(|_| fixed.backing != Backing::Ram);
            let regions = self.regions.iter().filter(|region| !fixed.yields && region.verdict.is_honoured());
            let all = ram.chain(self.places()).chain(regions.map(|region| region.frames));
            Some(Broken::Fixed { index, frames: all.filter_map(|place| place.intersection(&asked)).next()? })
        });
        let bars = machine.bars.iter().enumerate().filter(|(index, bar)| {
            self.bars
                .get(*index)
                .is_none_or(|plan| plan.frames != bar.frames() || plan.is_64bit && !bar.is_64bit)
        });
        let modules = machine.all_modules().enumerate().filter(|(index, module)| {
            let place = self.modules.get(*index).and_then(|plan| plan.place);
            place.is_none_or(|place| {
                let window = module.window();
                place.len() < module.frames || place.low() < window.low() || place.high() > window.high()
            })
        });
        (version.into_iter().chain(memory).chain(beyond).chain(regions).chain(fixed))
            .chain(bars.map(|(index, _)| Broken::Bar { index }))
            .chain(modules.map(|(index, _)| Broken::Module { index }))
    }

    /// Where BARs and modules lie.
    fn places(&self) -> impl Iterator<Item = GfnRange> + '_ {
        let bars = self.bars.iter().filter_map(|bar| bar.place);
        bars.chain(self.modules.iter().filter_map(|module| module.place))
    }

    /// What a region at `asked` would meet.
    fn meets(&self, asked: GfnRange, ballooned: &[GfnRange]) -> Option<(GfnRange, Change)> {
        let honoured = || self.regions.iter().filter(|region| region.verdict.is_honoured());
        let populated = self.ram.iter().filter_map(|ram| ram.intersection(&asked));
        let populated = populated.filter_map(|ram| outside(ram, ballooned));
        let populated = populated.map(|ram| (ram, Change::Ram));
        let ram = self.ram.iter().map(|ram| (*ram, Change::Ballooned));
        let bars = self.bars.iter().filter_map(|bar| Some((bar.place?, Change::Bar)));
        let modules = self.modules.iter().filter_map(|module| Some((module.place?, Change::Module)));
        let space = self.unallocated.iter().map(|space| (*space, Change::Unallocated));
        // Modules lie in RAM: they are named first.
        let mut all = modules.chain(populated).chain(bars).chain(space).chain(ram);
        let met = all.find_map(|(place, change)| Some((place.intersection(&asked)?, change)));
        met.or_else(|| {
            // All of it has to be in regions of the plan; those that touch are one to a guest.
            let mut start = asked.low();
            while start < asked.high() {
                let next =
                    honoured().filter(|region| region.frames.low() <= start && start < region.frames.high());
                match next.map(|region| region.frames.high()).max() {
                    Some(end) => start = end,
                    None => return Some((crate::frames::range(start, asked.high()), Change::NotReserved)),
                }
            }
            None
        })
    }
}

/// The first frames of `frames` that are in none of `others`, which come in any order.
fn outside(frames: GfnRange, others: &[GfnRange]) -> Option<GfnRange> {
    let mut start = frames.low();
    while let Some(end) = others
        .iter()
        .filter(|other| other.low() <= start && start < other.high())
        .map(|other| other.high())
        .max()
    {
        start = end;
    }
    let above = others.iter().map(|other| other.low()).filter(|low| *low > start);
    let end = above.min().unwrap_or(u64::MAX).min(frames.high());
    (start < end).then(|| crate::frames::range(start, end))
}
