//! Gaps between regions, and which of them RAM goes without.
//!
//! The memory map has 128 entries, and RAM on both sides of a region takes two. So where there are many regions, the smallest gaps between
//! them are closed: nothing lies there, and the map has them as reserved, so that what is beside them becomes one entry.

use p2m::GfnRange;

use crate::frames::{Bounds, range};
use crate::machine::Machine;
use crate::plan::RegionPlan;

/// Which gaps are closed: all that are smaller than a size, and the lowest few of that size.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closing {
    size: u64,
    of_that_size: usize,
}

/// The gaps between honoured regions, which come by address. One that something else lies in is none.
pub(crate) fn between<'a>(
    machine: &'a Machine<'_>,
    regions: &'a [RegionPlan],
) -> impl Iterator<Item = GfnRange> + 'a {
    let mut regions =
        regions.iter().filter(|region| region.verdict.is_honoured() && !region.frames.is_empty());
    let mut end = regions.next().map_or(u64::MAX, |region| region.frames.high());
    let gaps = regions.filter_map(move |region| {
        let gap = (end < region.frames.low()).then(|| range(end, region.frames.low()));
        end = end.max(region.frames.high());
        gap
    });
    gaps.filter(|gap| !machine.fixed().any(|fixed| fixed.range().overlaps(gap)))
}

impl Closing {
    /// Closes the `count` smallest of these gaps, of equal ones the lowest; `None` where there are fewer.
    pub(crate) fn smallest<I: Iterator<Item = GfnRange>>(count: usize, gaps: impl Fn() -> I) -> Option<Self> {
        let up_to = |size: u64| gaps().filter(|gap| gap.len() <= size).count();
        let (mut low, mut high) = (0, gaps().map(|gap| gap.len()).max()?);
        if up_to(high) < count {
            return None;
        }
        while low < high {
            let middle = low.midpoint(high);
            if up_to(middle) < count { low = middle.saturating_add(1) } else { high = middle }
        }
        let smaller = low.checked_sub(1).map_or(0, up_to);
        Some(Self { size: low, of_that_size: count.saturating_sub(smaller) })
    }

    /// Those of `gaps` that are closed.
    pub(crate) fn closed(self, gaps: impl Iterator<Item = GfnRange>) -> impl Iterator<Item = GfnRange> {
        let mut left = self.of_that_size;
        gaps.take_while(move |_| self.size > 0).filter(move |gap| {
            if gap.len() == self.size && left > 0 {
                left = left.saturating_sub(1);
                return true;
            }
            gap.len() < self.size
        })
    }
}
