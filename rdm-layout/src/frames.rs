//! Arithmetic on frame numbers that cannot overflow.

use p2m::{Gfn, GfnRange};

/// Frames below 4 GiB.
pub(crate) const FRAMES_4G: u64 = 1 << 20;
/// Frames of a 2 MiB page.
pub(crate) const FRAMES_2M: u64 = 1 << 9;
/// Frames of 64 MiB.
pub(crate) const FRAMES_64M: u64 = 1 << 14;

/// The range from `start` up to `end`; empty where that lies below.
pub(crate) fn range(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end.max(start))).unwrap_or_default()
}

/// `frames` frames from `start` on; up to the last frame there is a number for.
pub(crate) fn span(start: Gfn, frames: u64) -> GfnRange {
    range(start.raw(), start.raw().saturating_add(frames))
}

/// The bounds of a range as numbers.
pub(crate) trait Bounds {
    /// The first frame.
    fn low(&self) -> u64;
    /// The frame behind the last one.
    fn high(&self) -> u64;
}

impl Bounds for GfnRange {
    fn low(&self) -> u64 {
        self.start().raw()
    }

    fn high(&self) -> u64 {
        self.end().raw()
    }
}

/// The next multiple of `align`, a power of two (0 counts as 1), from `value` on; `None` beyond the numbers.
pub(crate) fn align_up(value: u64, align: u64) -> Option<u64> {
    let mask = align.saturating_sub(1);
    value.checked_add(mask).map(|sum| sum & !mask)
}

/// The last multiple of `align`, a power of two (0 counts as 1), up to `value`.
pub(crate) fn align_down(value: u64, align: u64) -> u64 {
    value & !align.saturating_sub(1)
}
