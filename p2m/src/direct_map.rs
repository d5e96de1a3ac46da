//! The hypervisor's map of the machine's memory at a fixed offset, with large pages, and without a page that
//! reaches beyond a bank: device and reserved memory gets no second, cached name.

use crate::entry::{Access, Entry, P2mType};
use crate::frame::{Gfn, GfnRange, Mfn, MfnRange};
use crate::p2m::P2m;
use crate::table::MapError;

/// Why a bank was not mapped; those before it are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("memory {bank}: {cause}")]
pub struct DirectMapError {
    /// The bank.
    pub bank: MfnRange,
    /// Why.
    #[source]
    pub cause: DirectMapCause,
}

/// Why a bank was not mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DirectMapCause {
    /// Its place ends beyond what the tables can express.
    #[error("its place is beyond what the page tables express")]
    Beyond,
    /// Its place is taken: two banks overlap, or the window does not begin in free space. The bank was not
    /// handed over.
    #[error("its place is taken at frame {gfn}, by {found}")]
    Taken {
        /// The first frame of the place that is taken.
        gfn: Gfn,
        /// What is there.
        found: Entry,
    },
    /// The tables refuse it. The bank was handed over before.
    #[error("{0}")]
    Map(#[source] MapError),
}

/// Maps each bank of memory at `window` plus its frame number, for reads and writes, as `p2m_ram_rw`. A
/// window that begins at a multiple of 1 GiB gets the largest pages. Each bank goes to `hand_over` before it
/// is mapped, so that the tables for it can come from it: who makes tables in memory that is not mapped yet
/// has another way to it, such as the firmware's or the boot loader's map.
///
/// Returns how many frames were mapped.
///
/// # Errors
/// [`DirectMapError`] for the first bank that could not be mapped.
pub fn map_directly<P: P2m>(
    space: &mut P,
    window: Gfn,
    banks: impl IntoIterator<Item = MfnRange>,
    mut hand_over: impl FnMut(MfnRange),
) -> Result<u64, DirectMapError> {
    let mut mapped = 0_u64;
    for bank in banks {
        let stop = |cause| DirectMapError { bank, cause };
        let place = window
            .checked_add(bank.start().raw())
            .and_then(|start| GfnRange::with_len(start, bank.len()))
            .filter(|place| place.end() <= space.limit())
            .ok_or(stop(DirectMapCause::Beyond))?;
        if let Some(run) = space.runs(place).find(|run| run.entry.p2m_type != P2mType::Invalid) {
            return Err(stop(DirectMapCause::Taken { gfn: run.gfns.start(), found: run.entry }));
        }
        hand_over(bank);
        let first = Entry { p2m_type: P2mType::RamRw, mfn: Some(bank.start()), access: Access::READ_WRITE };
        space.map(place, first).map_err(|error| stop(DirectMapCause::Map(error)))?;
        mapped = mapped.saturating_add(bank.len());
    }
    Ok(mapped)
}

impl MfnRange {
    /// The whole frames between two byte addresses, the end exclusive: what of a memory map's entry can be
    /// mapped.
    #[must_use]
    pub fn whole_frames(start: u64, end: u64) -> Self {
        let first = Mfn::containing(start.saturating_add(0xfff));
        Self::clamped(first, Mfn::containing(end))
    }
}
