//! RAM in as many ranges as it takes.

use p2m::GfnRange;

use crate::frames::{Bounds, FRAMES_2M, align_down, align_up, range};
use crate::list::{Full, List};
use crate::taken::Taken;

/// A gap as RAM sees it: the part of whole 2 MiB, and what is left on either side.
struct Parts {
    below: GfnRange,
    aligned: GfnRange,
    above: GfnRange,
}

/// Cuts a gap. The first 2 MiB are firmware's and never a large page, so they count as aligned as they are.
fn cut(gap: GfnRange, large_pages: bool) -> Parts {
    let (low, high) = (gap.low(), gap.high());
    let start = if large_pages && low >= FRAMES_2M { align_up(low, FRAMES_2M).unwrap_or(high) } else { low };
    let end = if large_pages && high > FRAMES_2M { align_down(high, FRAMES_2M) } else { high };
    if start < end {
        Parts { below: range(low, start), aligned: range(start, end), above: range(end, high) }
    } else {
        Parts { below: gap, aligned: range(high, high), above: range(high, high) }
    }
}

/// How many frames are free in the windows.
pub(crate) fn capacity(taken: &Taken<'_>, windows: [GfnRange; 2]) -> u64 {
    let gaps = windows.iter().flat_map(|window| taken.gaps(*window));
    gaps.fold(0, |sum, gap| sum.saturating_add(gap.len()))
}

/// Fills the gaps of both windows from below until `memory` frames are there, which [`capacity`] allows. With `large_pages`, what is less
/// than 2 MiB beside something taken is used only where the rest does not suffice.
pub(crate) fn fill(
    taken: &Taken<'_>,
    windows: [GfnRange; 2],
    memory: u64,
    large_pages: bool,
    ram: &mut List<'_, GfnRange>,
) -> Result<(), Full> {
    let gaps = || windows.iter().flat_map(|window| taken.gaps(*window));
    let mut aligned = gaps().fold(0_u64, |sum, gap| sum.saturating_add(cut(gap, large_pages).aligned.len()));
    aligned = aligned.min(memory);
    let mut pieces = memory.saturating_sub(aligned);
    for gap in gaps() {
        if aligned == 0 && pieces == 0 {
            break;
        }
        let parts = cut(gap, large_pages);
        // Of what lies below, the upper end, so that it touches what it belongs to.
        let below = parts.below.len().min(pieces);
        ram.append(range(parts.below.high().saturating_sub(below), parts.below.high()))?;
        pieces = pieces.saturating_sub(below);
        ram.append(lowest(parts.aligned, &mut aligned))?;
        ram.append(lowest(parts.above, &mut pieces))?;
    }
    Ok(())
}

/// The lowest frames of `part`, as many as are wanted.
fn lowest(part: GfnRange, wanted: &mut u64) -> GfnRange {
    let frames = part.len().min(*wanted);
    *wanted = wanted.saturating_sub(frames);
    range(part.low(), part.low().saturating_add(frames))
}
