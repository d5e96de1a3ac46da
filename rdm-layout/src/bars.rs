//! BARs: 32-bit ones in the hole, 64-bit ones there too as long as they fit, the others as high as the
//! guest's addresses go.
//!
//! Exact for a given hole: 32-bit BARs leave as many free blocks of each size as any arrangement can; of the
//! 64-bit ones the largest go first, and that brings the most into the hole of every size, which leaves the
//! most for RAM above 4 GiB and the fewest to be placed there. From above, they depend neither on the memory
//! nor on what is below.

use p2m::GfnRange;

use crate::aligned;
use crate::attempt::{Stop, Work, refuse};
use crate::error::Cause;
use crate::frames::{Bounds, range};
use crate::list::Full;
use crate::plan::BarPlan;
use crate::taken::Taken;

/// The order in which they are placed.
pub(crate) fn sort(bars: &mut [BarPlan]) {
    bars.sort_unstable_by(|one, other| {
        let by_size = one.is_64bit.cmp(&other.is_64bit).then_with(|| other.frames.cmp(&one.frames));
        by_size.then_with(|| (one.prefetchable, one.input).cmp(&(other.prefetchable, other.input)))
    });
}

fn small(bars: &mut [BarPlan]) -> impl Iterator<Item = &mut BarPlan> {
    bars.iter_mut().filter(|bar| bar.left_out.is_none() && !bar.is_64bit)
}

/// Places the 32-bit BARs in `hole`; the frames of the first that has no place.
fn into_hole(taken: &mut Taken<'_>, bars: &mut [BarPlan], hole: GfnRange) -> Result<Option<u64>, Full> {
    for bar in small(bars) {
        bar.place = aligned::tightest(taken, hole, bar.frames);
        let Some(place) = bar.place else { return Ok(Some(bar.frames)) };
        taken.take(place)?;
    }
    Ok(None)
}

/// The highest start that a hole with this end can have and hold the 32-bit BARs: the largest first, each as
/// high as it goes.
fn highest_start(taken: &mut Taken<'_>, bars: &mut [BarPlan], end: u64) -> Result<Option<u64>, Full> {
    let mut start = end;
    for bar in small(bars) {
        let Some(place) = aligned::highest(taken, range(0, end), bar.frames) else { return Ok(None) };
        taken.take(place)?;
        start = start.min(place.low());
    }
    Ok(Some(start))
}

impl Work<'_, '_> {
    /// Places the 32-bit BARs, and makes the hole as large as they need it and it may become.
    pub(crate) fn place_small_bars(&mut self) -> Result<(), Stop> {
        let Some(frames) = into_hole(&mut self.taken, self.bars, self.hole)? else { return Ok(()) };
        self.fixed_and_regions()?;
        let hole_start = highest_start(&mut self.taken, self.bars, self.hole.high())?;
        match hole_start {
            Some(start) if start >= self.machine.hole_lowest.raw() => {
                self.hole = range(start.min(self.hole.low()), self.hole.high());
                self.fixed_and_regions()?;
                match into_hole(&mut self.taken, self.bars, self.hole)? {
                    None => Ok(()),
                    Some(frames) => Err(refuse(Cause::Bar { frames, hole_start }, false)),
                }
            }
            _ => Err(refuse(Cause::Bar { frames, hole_start }, true)),
        }
    }

    /// Places the 64-bit BARs.
    pub(crate) fn place_large_bars(&mut self) -> Result<(), Stop> {
        let certain = !self.own_modules_may_move() && !self.hole_may_grow();
        for bar in self.bars.iter_mut().filter(|bar| bar.left_out.is_none() && bar.is_64bit) {
            bar.place = aligned::tightest(&self.taken, self.hole, bar.frames)
                .or_else(|| aligned::highest(&self.taken, self.machine.high, bar.frames));
            let Some(place) = bar.place else {
                return Err(refuse(Cause::Bar { frames: bar.frames, hole_start: None }, certain));
            };
            self.taken.take(place)?;
        }
        Ok(())
    }
}
