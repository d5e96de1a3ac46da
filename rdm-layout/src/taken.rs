//! Which frames are taken, and the gaps between.

use p2m::{Gfn, GfnRange};

use crate::frames::{Bounds, range};
use crate::list::Full;

/// Frames that something lies at: ranges in ascending order that neither overlap nor touch.
#[derive(Debug)]
pub(crate) struct Taken<'s> {
    memory: &'s mut [GfnRange],
    len: usize,
}

impl<'s> Taken<'s> {
    pub(crate) fn new(memory: &'s mut [GfnRange]) -> Self {
        Self { memory, len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// The ranges.
    pub(crate) fn ranges(&self) -> &[GfnRange] {
        self.memory.get(..self.len).unwrap_or_default()
    }

    /// Takes `added`, whether some of it is taken already or not.
    pub(crate) fn take(&mut self, added: GfnRange) -> Result<(), Full> {
        if added.is_empty() {
            return Ok(());
        }
        let ranges = self.ranges();
        if ranges.last().is_none_or(|last| last.high() < added.low()) {
            *self.memory.get_mut(self.len).ok_or(Full)? = added;
            self.len = self.len.saturating_add(1);
            return Ok(());
        }
        let first = ranges.partition_point(|taken| taken.high() < added.low());
        let touched = ranges.get(first..).unwrap_or_default();
        // Nearly always none, one or two; those that are more are gone then.
        let (mut count, mut merged) = (0_usize, added);
        for taken in touched.iter().take_while(|taken| taken.low() <= added.high()) {
            merged = merged.hull(taken);
            count = count.saturating_add(1);
        }
        if count == 0 {
            if self.len >= self.memory.len() {
                return Err(Full);
            }
            self.memory.copy_within(first..self.len, first.saturating_add(1));
            self.len = self.len.saturating_add(1);
        } else {
            // `first + count` is at most `len`: both count elements of the list.
            self.memory.copy_within(first.saturating_add(count)..self.len, first.saturating_add(1));
            self.len = self.len.saturating_sub(count.saturating_sub(1));
        }
        if let Some(place) = self.memory.get_mut(first) {
            *place = merged;
        }
        Ok(())
    }

    /// The lowest taken frame in `asked`.
    pub(crate) fn first_in(&self, asked: GfnRange) -> Option<Gfn> {
        let ranges = self.ranges();
        let first = ranges.partition_point(|taken| taken.high() <= asked.low());
        let taken = ranges.get(first)?.intersection(&asked)?;
        Some(taken.start())
    }

    /// The gaps inside of `window`, in ascending order.
    pub(crate) fn gaps(&self, window: GfnRange) -> impl DoubleEndedIterator<Item = GfnRange> + Clone + '_ {
        let ranges = self.ranges();
        let first = ranges.partition_point(|taken| taken.high() <= window.low());
        let inside = ranges.get(first..).unwrap_or_default();
        let inside =
            inside.get(..inside.partition_point(|taken| taken.low() < window.high())).unwrap_or_default();
        // A gap lies below each range, and one above the last.
        (0..=inside.len()).filter_map(move |above| {
            let below = above.checked_sub(1).and_then(|below| inside.get(below));
            let start = below.map_or(window.low(), |below| below.high());
            let end = inside.get(above).map_or(window.high(), |above| above.low());
            (start < end).then(|| range(start, end))
        })
    }
}
