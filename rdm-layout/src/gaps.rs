//! Gaps between regions, and which of them RAM goes without.
//!
//! The memory map has 128 entries, and RAM on both sides of a region takes two. So where there are many
//! regions, the smallest gaps between them are closed: nothing lies there, and the map has them as reserved,
//! so that what is beside them becomes one entry.

use p2m::GfnRange;

use crate::frames::{Bounds, range};
use crate::list::{Full, List};
use crate::machine::Machine;
use crate::plan::RegionPlan;

/// Which gaps are closed: all that are smaller than a size, and the lowest few of that size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closing {
    size: u64,
    of_that_size: usize,
}

/// The honoured regions that have frames, by address.
fn honoured(regions: &[RegionPlan]) -> impl Iterator<Item = GfnRange> + '_ {
    let honoured = regions.iter().filter(|region| region.verdict.is_honoured());
    honoured.map(|region| region.frames).filter(|frames| !frames.is_empty())
}

/// The gaps between them.
fn between(regions: &[RegionPlan]) -> impl Iterator<Item = GfnRange> + '_ {
    let mut regions = honoured(regions);
    let mut end = regions.next().map_or(u64::MAX, |first| first.high());
    regions.filter_map(move |region| {
        let gap = (end < region.low()).then(|| range(end, region.low()));
        end = end.max(region.high());
        gap
    })
}

/// Whether nothing lies fast in a gap.
fn is_free(machine: &Machine<'_>, gap: &GfnRange) -> bool {
    !machine.fixed().any(|fixed| fixed.range().overlaps(gap))
}

impl Closing {
    /// Closes the `wanted` smallest gaps, of equal ones the lowest, or as many as there are; says how many.
    /// `memory` is to work in.
    pub(crate) fn smallest(
        machine: &Machine<'_>,
        regions: &[RegionPlan],
        wanted: usize,
        memory: &mut List<'_, GfnRange>,
    ) -> Result<(Self, usize), Full> {
        memory.clear();
        for gap in between(regions).filter(|gap| is_free(machine, gap)) {
            memory.push(gap)?;
        }
        let gaps = memory.items_mut();
        gaps.sort_unstable_by_key(GfnRange::len);
        let count = wanted.min(gaps.len());
        let closed = gaps.get(..count).unwrap_or_default();
        let Some(size) = closed.last().map(GfnRange::len) else { return Ok((Self::default(), 0)) };
        let of_that_size = closed.iter().rev().take_while(|gap| gap.len() == size).count();
        Ok((Self { size, of_that_size }, count))
    }

    /// Whether a gap is closed; they come by address, and `left` counts those of the largest size.
    fn closes(&self, machine: &Machine<'_>, gap: &GfnRange, left: &mut usize) -> bool {
        if gap.len() > self.size || !is_free(machine, gap) {
            return false;
        }
        if gap.len() < self.size {
            return true;
        }
        let closes = *left > 0;
        *left = left.saturating_sub(1);
        closes
    }

    /// Whether all gaps end at `end` or below that may be closed by their size.
    pub(crate) fn lies_below(&self, end: u64, regions: &[RegionPlan]) -> bool {
        between(regions).all(|gap| gap.high() <= end || gap.len() > self.size)
    }

    /// The gaps that are closed.
    pub(crate) fn closed<'a>(
        self,
        machine: &'a Machine<'_>,
        regions: &'a [RegionPlan],
    ) -> impl Iterator<Item = GfnRange> + 'a {
        let mut left = self.of_that_size;
        between(regions).filter(move |gap| self.closes(machine, gap, &mut left))
    }

    /// What is reserved, by address: honoured regions and closed gaps, as one where they overlap or touch.
    pub(crate) fn reserved<'a>(
        self,
        machine: &'a Machine<'_>,
        regions: &'a [RegionPlan],
    ) -> impl Iterator<Item = GfnRange> + 'a {
        let mut left = self.of_that_size;
        let mut regions = honoured(regions);
        let mut next = regions.next();
        core::iter::from_fn(move || {
            let first = next.take()?;
            let mut end = first.high();
            for region in regions.by_ref() {
                let gap = range(end, region.low());
                if !gap.is_empty() && !self.closes(machine, &gap, &mut left) {
                    next = Some(region);
                    break;
                }
                end = end.max(region.high());
            }
            Some(range(first.low(), end))
        })
    }
}
