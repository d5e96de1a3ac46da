//! RAM as one range from the bottom and one from 4 GiB on.
//!
//! The low range ends where the first thing lies in its way, and no lower: whatever is above it has to go to
//! the high range, which nothing may lie in. A lower end would make the high range longer, so if there is any
//! such layout, this is one.

use p2m::GfnRange;

use crate::error::Cause;
use crate::frames::{Bounds, range};
use crate::taken::Taken;

/// The two ranges for `memory` frames, the high one perhaps empty.
///
/// `limit` is where the hole starts, `floor` what the low range has to reach, with what may lie in it below;
/// `high` are the addresses from 4 GiB on.
pub(crate) fn ends(
    taken: &Taken<'_>,
    memory: u64,
    limit: u64,
    floor: u64,
    high: GfnRange,
) -> Result<(GfnRange, GfnRange), Cause> {
    let natural = memory.min(limit);
    let end = taken.first_in(range(floor.min(natural), natural)).map_or(natural, |first| first.raw());
    if memory < floor {
        return Err(Cause::TooLittle { end: floor });
    }
    if end < floor {
        return Err(Cause::LowEnd { at: end, floor });
    }
    let rest = memory.saturating_sub(end);
    let above = range(high.low(), high.low().saturating_add(rest));
    if rest == 0 {
        return Ok((range(0, end), above));
    }
    if rest > high.len() {
        return Err(Cause::Memory { room: end.saturating_add(high.len()) });
    }
    match taken.first_in(above) {
        Some(first) => Err(Cause::HighRange { at: first.raw(), end: above.high() }),
        None => Ok((range(0, end), above)),
    }
}
