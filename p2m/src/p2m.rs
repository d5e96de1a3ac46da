//! A guest's map as a hypervisor works on it, and one table as such.

use crate::entry::{Access, Entry, P2mType, Run};
use crate::format::Format;
use crate::frame::{FrameSource, Gfn, GfnRange, MfnRange};
use crate::space::{AddressSpace, DeviceRoot, Flush, Identity, IdentityError, OnConflict, Seen};
use crate::table::{Edit, MapError, Put, Retype, Spare, Table, check_mapping, run_at};

/// A guest-physical to machine map: what [`AddressSpace`] is for the reserved-memory policy, and the rest
/// that a hypervisor needs.
pub trait P2m: AddressSpace {
    /// Puts `first`, and for types with machine frames the frames that follow it, at all of `gfns`, in place
    /// of what is there: all or nothing. The largest pages are used that alignment, format and hardware
    /// allow. Who must not overwrite anything calls [`populate`](crate::populate()).
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed then.
    fn map(&mut self, gfns: GfnRange, first: Entry) -> Result<(), MapError>;

    /// Leaves nothing at `gfns`: all or nothing.
    ///
    /// # Errors
    /// [`MapError::NoFrames`] when an end of the range cuts a page in two, [`MapError::Reserved`],
    /// [`MapError::OutOfRange`].
    fn unmap(&mut self, gfns: GfnRange) -> Result<(), MapError> {
        self.map(gfns, Entry::NOTHING)
    }

    /// Gives the frames of type `from` in `gfns` the type `to`, both types with machine frames (Xen:
    /// `p2m_change_type_range`): all or nothing. Frame and access stay. What 1:1 mappings of reserved regions
    /// installed is left alone. Returns how many frames changed.
    ///
    /// # Errors
    /// [`MapError`]; nothing was changed then.
    fn change_type(&mut self, gfns: GfnRange, from: P2mType, to: P2mType) -> Result<u64, MapError>;

    /// The runs of equal mappings in `gfns`, in order, without a gap; frames beyond the limit are left out.
    fn runs(&self, gfns: GfnRange) -> impl Iterator<Item = Run>;

    /// The first guest frame that cannot be expressed.
    fn limit(&self) -> Gfn;
}

impl<F: Format, S: FrameSource> Table<F, S> {
    /// Reserves what an update takes, and does it.
    fn apply<E: Edit>(&mut self, edit: &E, gfns: GfnRange, needed: u64) -> Result<(), MapError> {
        let spare = self.reserve(needed).ok_or(MapError::NoFrames { needed })?;
        self.commit(edit, gfns, spare);
        Ok(())
    }

    pub(crate) fn reserve_identity(&self, needed: u64) -> Result<Spare, IdentityError> {
        self.reserve(needed).ok_or(IdentityError::NoFrames { needed })
    }
}

impl<F: Format, S: FrameSource> P2m for Table<F, S> {
    fn map(&mut self, gfns: GfnRange, first: Entry) -> Result<(), MapError> {
        check_mapping(gfns, first, Table::limit(self))?;
        let mut edit = Put::new(self, gfns, first);
        let needed = self.inspect(&mut edit, gfns)?;
        self.apply(&edit, gfns, needed)
    }

    fn change_type(&mut self, gfns: GfnRange, from: P2mType, to: P2mType) -> Result<u64, MapError> {
        let mut edit = Retype::new(self, from, to)?;
        let limit = Table::limit(self);
        if gfns.end() > limit {
            return Err(MapError::OutOfRange { limit });
        }
        let needed = self.inspect(&mut edit, gfns)?;
        self.apply(&edit, gfns, needed)?;
        Ok(edit.changing)
    }

    fn runs(&self, gfns: GfnRange) -> impl Iterator<Item = Run> {
        Table::runs(self, gfns)
    }

    fn limit(&self) -> Gfn {
        Table::limit(self)
    }
}

impl<F: Format, S: FrameSource> AddressSpace for Table<F, S> {
    fn look_up(&self, gfn: Gfn) -> Run {
        run_at(self, gfn)
    }

    fn map_identity(
        &mut self,
        range: MfnRange,
        access: Access,
        on_conflict: OnConflict,
        report: &mut dyn FnMut(Seen),
    ) -> Result<Identity, IdentityError> {
        let plan = self.plan_identity(range, access, on_conflict)?;
        let spare = self.reserve_identity(plan.frames)?;
        plan.tell(Table::runs(self, range.identity()), report);
        self.commit_identity(&plan, spare);
        Ok(plan.outcome())
    }

    fn unmap_identity(&mut self, range: MfnRange) -> Result<(), IdentityError> {
        let spare = self.reserve_identity(self.frames_to_unmap_identity(range))?;
        self.commit_unmap_identity(range, spare);
        Ok(())
    }

    fn mapped_otherwise(&self, range: MfnRange) -> Option<Run> {
        Table::runs(self, range.identity())
            .next_of(|run, identity| if identity { None } else { run.leading_to(range) })
    }

    fn device_root(&self) -> DeviceRoot {
        self.root()
    }

    fn take_flush(&mut self) -> Option<Flush> {
        let stamp = self.next_stamp();
        self.take_owed(stamp).map(|all| Flush::new(all.gfns, all.only_added, stamp))
    }

    fn confirm_flush(&mut self, flush: Flush) {
        self.settle(flush.stamp());
    }
}
