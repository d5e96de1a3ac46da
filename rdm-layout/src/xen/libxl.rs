//! What libxl does with reserved regions, as far as it was seen (4.17): a model to compare a plan with, in
//! words of our own.
//!
//! RAM goes from 0 to the hole and on from 4 GiB. A region that lies in the low range and starts above a
//! boundary moves the low range's end down to it, and what was above goes to the high range. What then still
//! lies in either range is a conflict: an error under strict, and passed over under relaxed. Of regions with
//! one start, it looks at the first.

use p2m::{Gfn, GfnRange};

use crate::frames::{Bounds, FRAMES_4G, range};
use crate::machine::Region;
use crate::xen::firmware::HVMLOADER;

/// `rdm_mem_boundary` of xl.cfg where that is left out: 2 GiB.
pub const BOUNDARY: Gfn = Gfn::new(0x8_0000);
/// Where the hole starts, if not told otherwise (`mmio_hole` of xl.cfg).
pub const HOLE: Gfn = Gfn::new(0xf_0000);

/// Where libxl ends RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The low range's end.
    pub lowmem_end: Gfn,
    /// The high range's end; 0 where there is none.
    pub highmem_end: Gfn,
}

/// What becomes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// No RAM lies there.
    Free,
    /// RAM lies there: an error under strict, and passed over with a warning under relaxed.
    Conflict,
    /// RAM lies there, and it does not look: another region with this start came first.
    Overlooked,
}

impl Ends {
    /// For a guest of `memory` frames with these regions, in the order of the host's list.
    #[must_use]
    pub fn new(memory: u64, hole: Gfn, boundary: Gfn, regions: &[Region]) -> Self {
        let natural = memory.min(hole.raw());
        let starts = regions.iter().map(|region| region.frames.low());
        let moved = starts.filter(|start| *start > boundary.raw()).min().unwrap_or(natural);
        let low = natural.min(moved);
        let high = match memory.saturating_sub(low) {
            0 => 0,
            rest => FRAMES_4G.saturating_add(rest),
        };
        Self { lowmem_end: Gfn::new(low), highmem_end: Gfn::new(high) }
    }

    /// Whether no RAM lies at these frames.
    #[must_use]
    pub fn is_free(&self, frames: &GfnRange) -> bool {
        let [low, high] = [range(0, self.lowmem_end.raw()), range(FRAMES_4G, self.highmem_end.raw())];
        !low.overlaps(frames) && !high.overlaps(frames)
    }

    /// What becomes of the region of this index.
    #[must_use]
    pub fn fate(&self, regions: &[Region], index: usize) -> Option<Fate> {
        let frames = regions.get(index)?.frames;
        if self.is_free(&frames) {
            return Some(Fate::Free);
        }
        let before = regions.get(..index).unwrap_or_default();
        let overlooked = before.iter().any(|other| other.frames.start() == frames.start());
        Some(if overlooked { Fate::Overlooked } else { Fate::Conflict })
    }
}

/// What of unmodified hvmloader's a region meets, though no RAM of the guest's lies there: it stops, or puts
/// its own there. By name.
#[must_use]
pub fn hvmloader_in_the_way(frames: &GfnRange) -> Option<&'static str> {
    let mut fixed = HVMLOADER.fixed.iter().filter(|fixed| !fixed.yields);
    fixed.find(|fixed| fixed.range().overlaps(frames)).map(|fixed| fixed.name)
}
