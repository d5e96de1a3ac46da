//! Modules: those with frames of their own beside everything, those in RAM where RAM is or can be.

use p2m::GfnRange;

use crate::attempt::{Stop, Work, refuse};
use crate::error::Cause;
use crate::frames::Bounds;
use crate::machine::{Backing, Machine, Mode, Module, ModuleMemory};
use crate::plan::ModulePlan;
use crate::search::{self, NotFound, Space, lowest_in};
use crate::taken::Taken;

/// What a module lies in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Own,
    Ram,
}

fn kind(machine: &Machine<'_>, one: &ModulePlan) -> Kind {
    match machine.module(one.input).map(|module| module.memory) {
        Some(ModuleMemory::Own(_)) => Kind::Own,
        _ => Kind::Ram,
    }
}

/// The modules of this kind that are not left out.
pub(crate) fn chosen<'a>(
    machine: &'a Machine<'_>,
    modules: &'a [ModulePlan],
    wanted: Kind,
) -> impl Iterator<Item = &'a ModulePlan> {
    modules.iter().filter(move |one| one.left_out.is_none() && kind(machine, one) == wanted)
}

/// The same as a slice, sorted together.
fn chosen_mut<'a>(
    machine: &Machine<'_>,
    modules: &'a mut [ModulePlan],
    wanted: Kind,
) -> &'a mut [ModulePlan] {
    let is_other = |one: &ModulePlan| one.left_out.is_some() || kind(machine, one) != wanted;
    modules.sort_unstable_by_key(|one| (is_other(one), one.input));
    let count = modules.partition_point(|one| !is_other(one));
    modules.get_mut(..count).unwrap_or_default()
}

/// Gaps of what is taken.
struct Gaps<'t, 's, 'm> {
    machine: &'m Machine<'m>,
    taken: &'t Taken<'s>,
    /// RAM that firmware uses is not free either.
    windows: [GfnRange; 2],
}

/// RAM.
struct Ram<'r, 'm> {
    machine: &'m Machine<'m>,
    ram: &'r [GfnRange],
}

/// The end of the firmware's part of RAM that `place` meets.
fn firmware_in(machine: &Machine<'_>, place: &GfnRange) -> Option<u64> {
    let used = machine.fixed().filter(|fixed| fixed.backing == Backing::Ram).map(|fixed| fixed.range());
    used.filter(|fixed| fixed.overlaps(place)).map(|fixed| fixed.high()).max()
}

impl Space for Gaps<'_, '_, '_> {
    fn module(&self, index: usize) -> Option<&Module> {
        self.machine.module(index)
    }

    fn lowest(&self, module: &Module, from: u64) -> Option<GfnRange> {
        let windows = self.windows.iter().filter_map(|window| window.intersection(&module.window()));
        let gaps = windows.flat_map(|window| self.taken.gaps(window));
        lowest_in(gaps, |place| firmware_in(self.machine, place), module, from)
    }
}

impl Space for Ram<'_, '_> {
    fn module(&self, index: usize) -> Option<&Module> {
        self.machine.module(index)
    }

    fn lowest(&self, module: &Module, from: u64) -> Option<GfnRange> {
        let first = self.ram.partition_point(|ram| ram.high() <= module.from.raw().max(from));
        let ram = self.ram.get(first..).unwrap_or_default();
        lowest_in(ram.iter().copied(), |place| firmware_in(self.machine, place), module, from)
    }
}

/// Places the modules that lie in RAM in these ranges of it.
pub(crate) fn in_ram(
    machine: &Machine<'_>,
    ram: &[GfnRange],
    modules: &mut [ModulePlan],
) -> Result<(), NotFound> {
    search::place(&Ram { machine, ram }, chosen_mut(machine, modules, Kind::Ram))
}

/// Places the modules that lie in RAM where RAM may come.
pub(crate) fn in_gaps(
    machine: &Machine<'_>,
    taken: &Taken<'_>,
    windows: [GfnRange; 2],
    modules: &mut [ModulePlan],
) -> Result<(), NotFound> {
    search::place(&Gaps { machine, taken, windows }, chosen_mut(machine, modules, Kind::Ram))
}

impl Work<'_, '_> {
    /// Places the modules that have frames of their own.
    pub(crate) fn place_own_modules(&mut self) -> Result<(), Stop> {
        let everywhere = crate::frames::range(0, self.machine.end());
        let nowhere = crate::frames::range(0, 0);
        let space = Gaps { machine: self.machine, taken: &self.taken, windows: [everywhere, nowhere] };
        let wanted = chosen_mut(self.machine, self.modules, Kind::Own);
        if let Err(not_found) = search::place(&space, wanted) {
            // BARs are there already, and RAM where it is two ranges.
            let [low, high] = self.windows();
            let others =
                if self.machine.mode == Mode::TwoRange { [self.hole, low, high] } else { [self.hole; 3] };
            let mut windows = chosen(self.machine, self.modules, Kind::Own)
                .filter_map(|one| self.machine.module(one.input))
                .map(Module::window);
            let meets = windows.any(|window| others.iter().any(|other| other.overlaps(&window)));
            let certain = !self.hole_may_grow() && !meets;
            return Err(refuse(Cause::Modules, not_found.all_tried && certain));
        }
        for place in chosen(self.machine, self.modules, Kind::Own).filter_map(|one| one.place) {
            self.taken.take(place)?;
        }
        Ok(())
    }
}
