//! What comes out.

use p2m::{Gfn, GfnRange};

use crate::e820::E820Entry;
use crate::error::Cause;
use crate::frames::{Bounds, FRAMES_4G};
use crate::machine::{Mode, Policy};

/// The version of the rules that make plans. Guest addresses are a contract for migration and resume: the
/// same machine gives the same plan in every release that has the same version.
pub const VERSION: u32 = 1;

/// What moved for a region's sake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Moved {
    /// RAM would lie there.
    Ram,
    /// BARs lie further down.
    Bars,
    /// A module lies further up.
    Module,
}

/// What becomes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Verdict {
    /// It is at its place, and nothing had to move.
    Honoured,
    /// It is at its place, and something lies elsewhere for that.
    MovedAround(Moved),
    /// It is not to be had, and relaxed: what lies there is the guest's.
    GivenUp(Cause),
    /// It is not to be had, and strict: there is no plan, and without it there would be (once all that is in
    /// the way is left out).
    InTheWay(Cause),
}

impl Verdict {
    /// Whether the region is at its place.
    #[must_use]
    pub const fn is_honoured(&self) -> bool {
        matches!(self, Self::Honoured | Self::MovedAround(_))
    }
}

/// A region and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RegionPlan {
    /// Its index in the input.
    pub input: usize,
    /// Its frames.
    #[cfg_attr(feature = "serde", serde(with = "crate::written::one"))]
    pub frames: GfnRange,
    /// Its policy, or strict where it is one with a region of another.
    pub policy: Policy,
    /// What became of it.
    pub verdict: Verdict,
    /// The regions that are one, since they overlap or share a page, all have the index of the same one of
    /// them here.
    pub one_with: usize,
}

/// For memory that is to be written to.
impl Default for RegionPlan {
    fn default() -> Self {
        let frames = GfnRange::default();
        Self { input: 0, frames, policy: Policy::Strict, verdict: Verdict::Honoured, one_with: 0 }
    }
}

/// A BAR and its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct BarPlan {
    /// Its index in the input.
    pub input: usize,
    /// Its frames; `None` where there is no plan and it is in the way.
    #[cfg_attr(feature = "serde", serde(with = "crate::written::maybe"))]
    pub place: Option<GfnRange>,
    /// How many frames it takes.
    pub frames: u64,
    /// Whether it takes addresses of 64 bits.
    pub is_64bit: bool,
    /// Whether it is prefetchable.
    pub prefetchable: bool,
    /// Why it is left out.
    pub left_out: Option<Cause>,
}

/// For memory that is to be written to.
impl Default for BarPlan {
    fn default() -> Self {
        Self { input: 0, place: None, frames: 1, is_64bit: false, prefetchable: false, left_out: None }
    }
}

impl BarPlan {
    /// The address of its first byte.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        self.place?.start().address()
    }
}

/// A module and its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ModulePlan {
    /// Its index in the input: the firmware's modules, then the guest's.
    pub input: usize,
    /// Its frames; `None` where there is no plan and it is in the way.
    #[cfg_attr(feature = "serde", serde(with = "crate::written::maybe"))]
    pub place: Option<GfnRange>,
    /// Why it is left out.
    pub left_out: Option<Cause>,
}

/// A guest's memory, laid out. All slices are in ascending order of address, or in that of the input where
/// they have a record for each thing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan<'s> {
    /// [`VERSION`] of the rules that made it.
    pub version: u32,
    /// How RAM lies.
    pub mode: Mode,
    /// How much memory was asked for, in frames.
    pub memory: u64,
    /// RAM to populate. All of it is the guest's memory, also where firmware or a module lies in it.
    pub ram: &'s [GfnRange],
    /// The regions.
    pub regions: &'s [RegionPlan],
    /// The BARs.
    pub bars: &'s [BarPlan],
    /// The modules.
    pub modules: &'s [ModulePlan],
    /// The memory map, as `XENMEM_set_memory_map` takes it.
    pub e820: &'s [E820Entry],
    /// What stays unallocated, for grants and foreign mappings.
    pub unallocated: &'s [GfnRange],
    /// The hole for BARs below 4 GiB; it starts lower than asked where 32-bit BARs needed that.
    pub hole: GfnRange,
    /// The end of RAM below the hole (libxl's `lowmem_end`).
    pub lowmem_end: Gfn,
    /// The end of RAM above 4 GiB, or 0 where there is none (libxl's `highmem_end`).
    pub highmem_end: Gfn,
}

/// RAM as `struct hvm_info_table` has it (`xen/include/public/hvm/hvm_info_table.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HvmInfo {
    /// The frame behind the last of RAM below 4 GiB.
    pub low_mem_pgend: u32,
    /// The frame behind the last of RAM from 4 GiB on; 0 where there is none.
    pub high_mem_pgend: u32,
}

impl Plan<'_> {
    /// What hvmloader is told of RAM, where that can say it: RAM up to one frame but for VGA's place, and from
    /// 4 GiB up to another, with nothing between.
    #[must_use]
    pub fn hvm_info(&self) -> Option<HvmInfo> {
        let (low, high) = (self.lowmem_end.raw(), self.highmem_end.raw());
        let [conventional, first_mib] = [0xa0, 0x100];
        // All that RAM has to be, and all that there is.
        let is_told = |range: &GfnRange| {
            let ends = (range.high() == low && range.low() <= first_mib) || range.high() == high;
            range.high() <= first_mib || ends && (range.low() == FRAMES_4G || range.low() <= first_mib)
        };
        let below: u64 =
            self.ram.iter().map(|ram| ram.high().min(conventional).saturating_sub(ram.low())).sum();
        (below == conventional && low > first_mib && self.ram.iter().all(is_told)).then_some(HvmInfo {
            low_mem_pgend: u32::try_from(low).ok()?,
            high_mem_pgend: u32::try_from(high).ok()?,
        })
    }

    /// Frames of RAM.
    #[must_use]
    pub fn ram_frames(&self) -> u64 {
        self.ram.iter().fold(0, |sum, ram| sum.saturating_add(ram.len()))
    }

    /// The ends of `ram` below and above the hole.
    pub(crate) fn ends(ram: &[GfnRange], high: GfnRange) -> (Gfn, Gfn) {
        let split = ram.partition_point(|range| range.low() < high.low());
        let (below, above) = ram.split_at_checked(split).unwrap_or((ram, &[]));
        let end = |ranges: &[GfnRange]| ranges.last().map_or(Gfn::new(0), |last| last.end());
        (end(below), end(above))
    }

    /// Where the guest gets frames of its own at a region's addresses ([`Policy::Private`]), beside its memory:
    /// to be zeroed before it sees them, and mapped for processor and device. By address, those of regions
    /// that are one together.
    pub fn private(&self) -> impl Iterator<Item = GfnRange> + '_ {
        let is_private = |region: &&RegionPlan| {
            region.policy == Policy::Private && region.verdict.is_honoured() && !region.frames.is_empty()
        };
        // The records are in the input's order: each range is the next above the one before.
        let mut from = 0;
        core::iter::from_fn(move || {
            let left = || self.regions.iter().filter(is_private).map(|region| region.frames);
            let first = left().filter(|frames| frames.low() >= from).min_by_key(GfnRange::start)?;
            let mut whole = first;
            while let Some(more) =
                left().find(|frames| frames.overlaps(&whole) && frames.high() > whole.high())
            {
                whole = whole.hull(&more);
            }
            from = whole.high();
            Some(whole)
        })
    }

    /// The first frames of `asked` that are off limits: a region is there, so nothing may be populated,
    /// ballooned in or mapped.
    #[must_use]
    pub fn off_limits(&self, asked: GfnRange) -> Option<GfnRange> {
        let honoured = self.regions.iter().filter(|region| region.verdict.is_honoured());
        honoured.filter_map(|region| region.frames.intersection(&asked)).min_by_key(GfnRange::start)
    }
}
