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

/// Fills the gaps of both windows from below until `memory` frames are there. With `large_pages`, what is
/// less than 2 MiB beside something taken is used only where the rest does not suffice. Returns how many
/// frames there is room for: where that is less, nothing is filled.
pub(crate) fn fill(
    taken: &Taken<'_>,
    windows: [GfnRange; 2],
    memory: u64,
    large_pages: bool,
    ram: &mut List<'_, GfnRange>,
) -> Result<u64, Full> {
    let (mut room, mut aligned) = (0_u64, 0_u64);
    for window in windows {
        for gap in taken.gaps(window) {
            room = room.saturating_add(gap.len());
            aligned = aligned.saturating_add(cut(gap, large_pages).aligned.len());
        }
    }
    if room < memory {
        return Ok(room);
    }
    aligned = aligned.min(memory);
    let mut pieces = memory.saturating_sub(aligned);
    for window in windows {
        for gap in taken.gaps(window) {
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
    }
    Ok(room)
}

/// The lowest frames of `part`, as many as are wanted.
fn lowest(part: GfnRange, wanted: &mut u64) -> GfnRange {
    let frames = part.len().min(*wanted);
    *wanted = wanted.saturating_sub(frames);
    range(part.low(), part.low().saturating_add(frames))
}
