//! The caller's memory, and how much of it is needed.

use p2m::GfnRange;

use crate::e820::E820Entry;
use crate::machine::Machine;
use crate::plan::{BarPlan, ModulePlan, RegionPlan};

/// How many elements each slice of a [`Storage`] needs for a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// [`Storage::taken`].
    pub taken: usize,
    /// [`Storage::regions`].
    pub regions: usize,
    /// [`Storage::bars`].
    pub bars: usize,
    /// [`Storage::modules`].
    pub modules: usize,
    /// [`Storage::ram`].
    pub ram: usize,
    /// [`Storage::e820`]: more than the entries that come out, as it is where they are put together.
    pub e820: usize,
    /// [`Storage::unallocated`].
    pub unallocated: usize,
}

/// Memory for the planner: what it writes, and what it works in. What is in it beforehand does not matter.
#[derive(Debug)]
pub struct Storage<'s> {
    /// To work in.
    pub taken: &'s mut [GfnRange],
    /// One record for each region.
    pub regions: &'s mut [RegionPlan],
    /// One record for each BAR.
    pub bars: &'s mut [BarPlan],
    /// One record for each module, the firmware's first.
    pub modules: &'s mut [ModulePlan],
    /// The ranges of RAM.
    pub ram: &'s mut [GfnRange],
    /// The memory map.
    pub e820: &'s mut [E820Entry],
    /// The ranges that stay unallocated.
    pub unallocated: &'s mut [GfnRange],
}

impl Machine<'_> {
    /// How much memory a plan for this machine needs at most.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let modules = self.firmware.modules.len().saturating_add(self.modules.len());
        let fixed = self.firmware.fixed.len().saturating_add(self.filled.len());
        let others = fixed.saturating_add(self.regions.len()).saturating_add(modules);
        let all = others.saturating_add(self.bars.len());
        // Each thing that is taken splits a gap, and each range of RAM is one gap or a part of it; a module
        // in RAM may add a range.
        let ram = all.saturating_add(modules).saturating_add(3);
        Needs {
            // RAM is taken too where space is to stay unallocated, and need not touch what is beside it.
            taken: all.saturating_mul(2).saturating_add(4),
            regions: self.regions.len(),
            bars: self.bars.len(),
            modules,
            ram,
            // Closed gaps are entries too while it is put together.
            e820: others.saturating_add(ram).saturating_add(fixed).saturating_add(self.regions.len()),
            unallocated: all.saturating_add(3),
        }
    }
}

impl Storage<'_> {
    /// Whether everything that is needed is there.
    pub(crate) fn suffices(&self, needs: &Needs) -> bool {
        self.taken.len() >= needs.taken
            && self.regions.len() >= needs.regions
            && self.bars.len() >= needs.bars
            && self.modules.len() >= needs.modules
            && self.ram.len() >= needs.ram
            && self.e820.len() >= needs.e820
            && self.unallocated.len() >= needs.unallocated
    }
}
