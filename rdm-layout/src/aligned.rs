//! Places for things whose size is a power of two and that lie at a multiple of it, as BARs do.
//!
//! Two facts make the search exact. A block takes the place of just one block of its size or above, and of a
//! fixed number of each size below; so what counts is how many blocks of each size are free. And of all
//! choices, the smallest free block that is large enough leaves at least as many of every size as any other:
//! if there is an arrangement, one is found, in whatever order the things come.

use p2m::GfnRange;

use crate::frames::{Bounds, align_down, align_up, range};
use crate::taken::Taken;

/// Where a block of `frames`, a power of two, goes in `window`: into the smallest free block that holds it,
/// of those the highest.
pub(crate) fn tightest(taken: &Taken<'_>, window: GfnRange, frames: u64) -> Option<GfnRange> {
    let mut best: Option<(u32, u64)> = None;
    for gap in taken.gaps(window) {
        let Some(low) = align_up(gap.low(), frames) else { continue };
        let high = align_down(gap.high(), frames);
        if low >= high {
            continue;
        }
        // Free blocks grow from either end of a gap to its middle: the smallest that are large enough are the
        // outermost.
        let lowest = low.trailing_zeros().min(order(gap.high().saturating_sub(low)));
        let highest = high.trailing_zeros().min(order(high.saturating_sub(gap.low())));
        let (size, at) =
            if highest <= lowest { (highest, high.saturating_sub(frames)) } else { (lowest, low) };
        if best.is_none_or(|(smallest, _)| size <= smallest) {
            best = Some((size, at));
        }
    }
    best.map(|(_, at)| range(at, at.saturating_add(frames)))
}

/// The highest free place for a block of `frames`, a power of two, in `window`.
pub(crate) fn highest(taken: &Taken<'_>, window: GfnRange, frames: u64) -> Option<GfnRange> {
    taken.gaps(window).rev().find_map(|gap| {
        let high = align_down(gap.high(), frames);
        let low = high.checked_sub(frames)?;
        (low >= gap.low()).then(|| range(low, high))
    })
}

/// The largest power of two up to `frames`, as its exponent.
fn order(frames: u64) -> u32 {
    frames.checked_ilog2().unwrap_or(0)
}
