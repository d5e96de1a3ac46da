//! Putting frames where there is nothing, and only there. What is at a guest frame is asked of the tables,
//! never probed by writing to memory.

use crate::entry::{Access, Entry, P2mType};
use crate::frame::{Gfn, GfnRange, MfnRange};
use crate::holes::first_hole;
use crate::p2m::P2m;
use crate::table::MapError;

/// Why a range was not populated. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PopulateError {
    /// Something is there already.
    #[error("guest frame {gfn} already holds {found}")]
    Occupied {
        /// The first such frame.
        gfn: Gfn,
        /// What is there.
        found: Entry,
    },
    /// It is kept free for a reserved region.
    #[error("guest frame {gfn} belongs to the reserved region {region}")]
    Reserved {
        /// The first such frame.
        gfn: Gfn,
        /// The region.
        region: GfnRange,
    },
    /// The tables refuse it.
    #[error("{0}")]
    Map(#[source] MapError),
}

/// Puts `first` and the frames that follow it at `gfns`, if there is nothing anywhere in it (`p2m_invalid` or
/// `p2m_mmio_dm`) and it meets none of the `reserved` regions: all or nothing.
///
/// # Errors
/// [`PopulateError`], for the first frame in the way.
pub fn populate<P: P2m>(
    space: &mut P,
    gfns: GfnRange,
    first: Entry,
    reserved: &[GfnRange],
) -> Result<(), PopulateError> {
    let occupied = space.runs(gfns).find(|run| !run.entry.p2m_type.is_vacant());
    let meets = reserved
        .iter()
        .filter_map(|region| region.intersection(&gfns).map(|both| (both.start(), *region)))
        .min_by_key(|(gfn, _)| *gfn);
    match (meets, occupied) {
        (Some((gfn, region)), run) if run.is_none_or(|run| gfn <= run.gfns.start()) => {
            Err(PopulateError::Reserved { gfn, region })
        }
        (_, Some(run)) => Err(PopulateError::Occupied { gfn: run.gfns.start(), found: run.entry }),
        _ => space.map(gfns, first).map_err(PopulateError::Map),
    }
}

/// Where filling holes came to an end. All holes before `at` are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{filled} frames were populated; guest frame {at}: {cause}")]
pub struct FillError {
    /// The first frame that is still a hole.
    pub at: Gfn,
    /// Frames that were populated.
    pub filled: u64,
    /// Why.
    #[source]
    pub cause: FillCause,
}

/// Why filling holes came to an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillCause {
    /// There was no more memory.
    #[error("no memory")]
    NoMemory,
    /// The range goes on beyond what the tables can express.
    #[error("beyond what the page tables express")]
    Beyond,
    /// The tables refused these frames; they are not used.
    #[error("machine frames {unused} not used: {error}")]
    Refused {
        /// The frames, for the caller to take back.
        unused: MfnRange,
        /// Why.
        #[source]
        error: MapError,
    },
}

/// Populates the holes of `gfns` that meet none of the `reserved` regions with frames from `supply`, which is
/// asked for a hole and gives machine frames for its beginning: at least one, at most as many as the hole
/// has. Leaves all else as it is, also what a device model emulates.
///
/// Returns how many frames were populated.
///
/// # Errors
/// [`FillError`]: what was filled up to there stays.
pub fn fill_holes<P: P2m>(
    space: &mut P,
    gfns: GfnRange,
    reserved: &[GfnRange],
    p2m_type: P2mType,
    access: Access,
    supply: &mut dyn FnMut(GfnRange) -> Option<MfnRange>,
) -> Result<u64, FillError> {
    let mut filled = 0_u64;
    let mut left = gfns;
    while let Some(hole) = first_hole(space, left, reserved) {
        let stop = |cause| FillError { at: hole.start(), filled, cause };
        let frames = supply(hole).filter(|frames| !frames.is_empty()).ok_or(stop(FillCause::NoMemory))?;
        let entry = Entry { p2m_type, mfn: Some(frames.start()), access };
        let refused = |error| stop(FillCause::Refused { unused: frames, error });
        let part = GfnRange::with_len(hole.start(), frames.len())
            .filter(|part| part.end() <= hole.end())
            .ok_or(refused(MapError::OutOfRange { limit: hole.end() }))?;
        space.map(part, entry).map_err(refused)?;
        filled = filled.saturating_add(part.len());
        left = GfnRange::clamped(part.end(), left.end());
    }
    let limit = space.limit();
    if gfns.end() > limit {
        return Err(FillError { at: gfns.start().max(limit), filled, cause: FillCause::Beyond });
    }
    Ok(filled)
}
