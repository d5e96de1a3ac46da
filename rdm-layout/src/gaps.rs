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

/// The gaps between honoured regions, which come by address.
fn between(regions: &[RegionPlan]) -> impl Iterator<Item = GfnRange> + '_ {
    let mut regions =
        regions.iter().filter(|region| region.verdict.is_honoured() && !region.frames.is_empty());
    let mut end = regions.next().map_or(u64::MAX, |region| region.frames.high());
    regions.filter_map(move |region| {
        let gap = (end < region.frames.low()).then(|| range(end, region.frames.low()));
        end = end.max(region.frames.high());
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

    /// The gaps that are closed.
    pub(crate) fn closed<'a>(
        self,
        machine: &'a Machine<'_>,
        regions: &'a [RegionPlan],
    ) -> impl Iterator<Item = GfnRange> + 'a {
        let mut left = self.of_that_size;
        let small =
            between(regions).take_while(move |_| self.size > 0).filter(move |gap| gap.len() <= self.size);
        small.filter(|gap| is_free(machine, gap)).filter(move |gap| {
            if gap.len() == self.size && left > 0 {
                left = left.saturating_sub(1);
                return true;
            }
            gap.len() < self.size
        })
    }
}
