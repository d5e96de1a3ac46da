//! What the reserved-memory policy needs of an address space. [`crate`]'s own tables are one implementation;
//! a hypervisor with tables of its own implements the trait for those and uses the policy alone.

use crate::entry::{Access, Entry, Run};
use crate::frame::{Gfn, GfnRange, Mfn, MfnRange};

/// What to do where a 1:1 mapping meets something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse the whole range and change nothing.
    Refuse,
    /// Leave what is there, map the rest, and report each run that was left (Xen's
    /// `XEN_DOMCTL_DEV_RDM_RELAXED`).
    Skip,
}

/// What a 1:1 mapping found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Nothing was there; all of it was installed.
    Mapped,
    /// All of it was mapped 1:1 with this access before; no mapping was changed. (Pages that an earlier call
    /// installed are cut at the ends of the range, so that its removal takes no frames: where it shares pages
    /// with other ranges this can take frames.)
    AlreadyIdentical,
    /// Part of it was installed; the rest was reported run by run.
    Mixed {
        /// Frames installed.
        installed: u64,
        /// Frames that were mapped 1:1 before.
        identical: u64,
        /// Frames left as they were, under [`OnConflict::Skip`].
        skipped: u64,
    },
}

/// A run that a 1:1 mapping met and left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It was mapped 1:1 with the same access before.
    Identical(GfnRange),
    /// Something else is there, and [`OnConflict::Skip`] left it.
    Skipped(Run),
}

/// Why a 1:1 mapping was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Something else is at a guest frame of the range.
    #[error("guest frame {gfn} already holds {found}")]
    Conflict {
        /// The first such frame.
        gfn: Gfn,
        /// What is there.
        found: Entry,
    },
    /// There are too few frames for the page tables.
    #[error("{needed} page-table frames are needed and not to be had")]
    NoFrames {
        /// How many the range takes.
        needed: u64,
    },
    /// The range ends beyond what the tables can express.
    #[error("the page tables end below guest frame {limit}")]
    OutOfRange {
        /// The first frame that cannot be mapped.
        limit: Gfn,
    },
}

/// The table that the remapping hardware walks for an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRoot {
    /// The top table's frame.
    pub root: Mfn,
    /// Its number of levels, 3 to 5.
    pub levels: u8,
}

/// A flush that is owed: translations that hardware may still hold although the tables have changed, to be
/// dropped from every TLB and paging-structure cache that serves the address space.
///
/// It is a token: it goes back to [`AddressSpace::confirm_flush`] when the flush is done. Where the flush
/// failed it is dropped; that loses nothing, for what is not confirmed is in the next one again.
#[must_use = "hardware may use the old translations until they are flushed; confirm it then"]
#[derive(Debug)]
pub struct Flush {
    gfns: GfnRange,
    only_added: bool,
    stamp: u64,
}

impl Flush {
    /// For implementers of [`AddressSpace`] with tables of their own. By its `stamp` they know it again in
    /// `confirm_flush`.
    pub const fn new(gfns: GfnRange, only_added: bool, stamp: u64) -> Self {
        Self { gfns, only_added, stamp }
    }

    /// The guest frames concerned; one range that covers all.
    #[must_use]
    pub const fn gfns(&self) -> GfnRange {
        self.gfns
    }

    /// Whether only not-present entries became present: hardware that does not cache those needs no flush
    /// (VT-d 6.1, caching mode).
    #[must_use]
    pub const fn only_added(&self) -> bool {
        self.only_added
    }

    /// What its maker knows it by.
    #[must_use]
    pub const fn stamp(&self) -> u64 {
        self.stamp
    }
}

/// A domain's guest-physical address space, for the CPU and for its devices.
pub trait AddressSpace {
    /// What is at `gfn`, and how far beyond it the same goes on (the run starts at `gfn`). Asks the tables,
    /// never memory.
    fn look_up(&self, gfn: Gfn) -> Run;

    /// Maps machine frames at the guest frames of the same numbers as `p2m_mmio_direct`: all or nothing.
    /// Looks at the whole range, then makes sure of the table frames, then writes. `report` hears of each run
    /// that was left as it was.
    ///
    /// # Errors
    /// [`IdentityError`]; the address space is then as it was before.
    fn map_identity(
        &mut self,
        range: MfnRange,
        access: Access,
        on_conflict: OnConflict,
        report: &mut dyn FnMut(Seen),
    ) -> Result<Identity, IdentityError>;

    /// Removes what [`map_identity`](Self::map_identity) installed in this range; what was there before it,
    /// or came otherwise, stays.
    ///
    /// # Errors
    /// [`IdentityError::NoFrames`] when `range` cuts a page in two and there is no frame for the pieces;
    /// never for a range that was given to `map_identity` as it stands.
    fn unmap_identity(&mut self, range: MfnRange) -> Result<(), IdentityError>;

    /// The first run within the guest frames of the same numbers as `range` that leads to a machine frame of
    /// `range` and was not installed by [`map_identity`](Self::map_identity): memory that this address space
    /// reaches on its own account.
    fn mapped_otherwise(&self, range: MfnRange) -> Option<Run>;

    /// What the remapping hardware walks for this address space; the same for its whole life.
    fn device_root(&self) -> DeviceRoot;

    /// All that is owed a flush, `None` when nothing is: what changed after the last call, and what earlier
    /// calls returned and nobody has confirmed.
    ///
    /// The policy has the remapping hardware flush it. Where processors run in the address space, the
    /// hypervisor wraps this call and has their TLBs flush the same before the token is confirmed.
    fn take_flush(&mut self) -> Option<Flush>;

    /// The flush is done, everywhere. Settles what was owed when the token was made, and frees the table
    /// frames that had left the tables by then. What changed after that stays owed, and frames that left
    /// after it stay as they are until a later token is confirmed.
    ///
    /// A token settles nothing when a newer one has been made: that covers all of its. So callers that take
    /// turns (take, flush, confirm under one lock) settle each; of those that overlap, the last.
    fn confirm_flush(&mut self, flush: Flush);
}
