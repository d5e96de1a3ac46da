//! A domain's tables: one that the CPU and the remapping hardware share, or one for each, updated as one.
//!
//! Separate tables hold the same: the same types, frames and accesses at the same guest frames, each in its
//! format. So what a guest and its devices see does not depend on the mode.

use crate::entry::{Access, Entry, P2mType, Run};
use crate::format::Format;
use crate::frame::{FrameSource, Gfn, GfnRange, MfnRange};
use crate::p2m::P2m;
use crate::space::{AddressSpace, DeviceRoot, Flush, Identity, IdentityError, OnConflict, Seen};
use crate::table::{MapError, Put, Retype, Spare, Table, Translation, check_mapping, run_at};

/// The CPU table and the IOMMU table of a domain.
#[derive(Debug)]
pub struct Domain<C: Format, D: Format, S: FrameSource> {
    cpu: Table<C, S>,
    /// `None`: the remapping hardware walks the CPU's.
    iommu: Option<Table<D, S>>,
}

/// One of two tables that are to be a domain's has mappings already: they could disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a domain's two tables start empty")]
pub struct NotEmpty;

/// Frames reserved for both tables.
type Spares = (Spare, Option<Spare>);

impl<C: Format, D: Format, S: FrameSource> Domain<C, D, S> {
    /// A domain whose devices use the CPU's table. The remapping hardware must walk tables of its levels and
    /// page sizes ([`SecondLevel::walks_levels`](crate::SecondLevel::walks_levels),
    /// [`SecondLevel::largest_page`](crate::SecondLevel::largest_page)).
    pub fn shared(table: Table<C, S>) -> Self {
        Self { cpu: table, iommu: None }
    }

    /// A domain with a table for each. What both can express is what the domain has.
    ///
    /// # Errors
    /// [`NotEmpty`].
    pub fn separate(cpu: Table<C, S>, iommu: Table<D, S>) -> Result<Self, NotEmpty> {
        if cpu.is_empty() && iommu.is_empty() { Ok(Self { cpu, iommu: Some(iommu) }) } else { Err(NotEmpty) }
    }

    /// The table of the CPU.
    #[must_use]
    pub fn cpu(&self) -> &Table<C, S> {
        &self.cpu
    }

    /// The table of the remapping hardware; `None` where that walks the CPU's.
    #[must_use]
    pub fn iommu(&self) -> Option<&Table<D, S>> {
        self.iommu.as_ref()
    }

    /// What is at `gfn` ([`Table::translate`]).
    #[inline]
    pub fn translate(&self, gfn: Gfn) -> Translation<C> {
        self.cpu.translate(gfn)
    }

    /// Frames in the tables, the top ones included.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.cpu.table_frames().wrapping_add(self.iommu.as_ref().map_or(0, Table::table_frames))
    }

    /// Frames that wait for [`confirm_flush`](AddressSpace::confirm_flush).
    #[must_use]
    pub fn held_frames(&self) -> u64 {
        self.cpu.held_frames().wrapping_add(self.iommu.as_ref().map_or(0, Table::held_frames))
    }

    /// Frames for both tables, or none and how many it takes.
    fn reserve(&self, cpu: u64, iommu: u64) -> Result<Spares, u64> {
        let needed = cpu.wrapping_add(iommu);
        let for_cpu = self.cpu.reserve(cpu).ok_or(needed)?;
        match self.iommu.as_ref().map(|table| table.reserve(iommu)) {
            None => Ok((for_cpu, None)),
            Some(Some(for_iommu)) => Ok((for_cpu, Some(for_iommu))),
            Some(None) => {
                self.cpu.release(for_cpu);
                Err(needed)
            }
        }
    }

    fn identity_limit(&self) -> Gfn {
        let cpu = self.cpu.identity_limit();
        self.iommu.as_ref().map_or(cpu, |iommu| cpu.min(iommu.identity_limit()))
    }
}

impl<C: Format, D: Format, S: FrameSource> P2m for Domain<C, D, S> {
    fn map(&mut self, gfns: GfnRange, first: Entry) -> Result<(), MapError> {
        check_mapping(gfns, first, P2m::limit(self))?;
        let mut cpu = Put::new(&self.cpu, gfns, first);
        let cpu_needs = self.cpu.inspect(&mut cpu, gfns)?;
        let (iommu, iommu_needs) = match &self.iommu {
            None => (None, 0),
            Some(table) => {
                let mut edit = Put::new(table, gfns, first);
                let needed = table.inspect(&mut edit, gfns)?;
                (Some(edit), needed)
            }
        };
        let (for_cpu, for_iommu) =
            self.reserve(cpu_needs, iommu_needs).map_err(|needed| MapError::NoFrames { needed })?;
        self.cpu.commit(&cpu, gfns, for_cpu);
        if let (Some(table), Some(edit), Some(spare)) = (&mut self.iommu, &iommu, for_iommu) {
            table.commit(edit, gfns, spare);
        }
        Ok(())
    }

    fn change_type(&mut self, gfns: GfnRange, from: P2mType, to: P2mType) -> Result<u64, MapError> {
        let mut cpu = Retype::new(&self.cpu, from, to)?;
        let limit = P2m::limit(self);
        if gfns.end() > limit {
            return Err(MapError::OutOfRange { limit });
        }
        let cpu_needs = self.cpu.inspect(&mut cpu, gfns)?;
        let (iommu, iommu_needs) = match &self.iommu {
            None => (None, 0),
            Some(table) => {
                let mut edit = Retype::new(table, from, to)?;
                let needed = table.inspect(&mut edit, gfns)?;
                (Some(edit), needed)
            }
        };
        let (for_cpu, for_iommu) =
            self.reserve(cpu_needs, iommu_needs).map_err(|needed| MapError::NoFrames { needed })?;
        self.cpu.commit(&cpu, gfns, for_cpu);
        if let (Some(table), Some(edit), Some(spare)) = (&mut self.iommu, &iommu, for_iommu) {
            table.commit(edit, gfns, spare);
        }
        Ok(cpu.changing)
    }

    fn runs(&self, gfns: GfnRange) -> impl Iterator<Item = Run> {
        let end = gfns.end().min(P2m::limit(self));
        self.cpu.runs(GfnRange::clamped(gfns.start(), end))
    }

    fn limit(&self) -> Gfn {
        let cpu = self.cpu.limit();
        self.iommu.as_ref().map_or(cpu, |iommu| cpu.min(iommu.limit()))
    }
}

impl<C: Format, D: Format, S: FrameSource> AddressSpace for Domain<C, D, S> {
    fn look_up(&self, gfn: Gfn) -> Run {
        run_at(&self.cpu, gfn)
    }

    fn map_identity(
        &mut self,
        range: MfnRange,
        access: Access,
        on_conflict: OnConflict,
        report: &mut dyn FnMut(Seen),
    ) -> Result<Identity, IdentityError> {
        let limit = self.identity_limit();
        if range.identity().end() > limit {
            return Err(IdentityError::OutOfRange { limit });
        }
        let cpu = self.cpu.plan_identity(range, access, on_conflict)?;
        let iommu = match &self.iommu {
            None => None,
            Some(table) => Some(table.plan_identity(range, access, on_conflict)?),
        };
        let (for_cpu, for_iommu) = self
            .reserve(cpu.frames, iommu.as_ref().map_or(0, |plan| plan.frames))
            .map_err(|needed| IdentityError::NoFrames { needed })?;
        cpu.tell(self.cpu.runs(range.identity()), report);
        self.cpu.commit_identity(&cpu, for_cpu);
        if let (Some(table), Some(plan), Some(spare)) = (&mut self.iommu, &iommu, for_iommu) {
            table.commit_identity(plan, spare);
        }
        Ok(cpu.outcome())
    }

    fn unmap_identity(&mut self, range: MfnRange) -> Result<(), IdentityError> {
        let iommu = self.iommu.as_ref().map_or(0, |table| table.frames_to_unmap_identity(range));
        let (for_cpu, for_iommu) = self
            .reserve(self.cpu.frames_to_unmap_identity(range), iommu)
            .map_err(|needed| IdentityError::NoFrames { needed })?;
        self.cpu.commit_unmap_identity(range, for_cpu);
        if let (Some(table), Some(spare)) = (&mut self.iommu, for_iommu) {
            table.commit_unmap_identity(range, spare);
        }
        Ok(())
    }

    fn mapped_otherwise(&self, range: MfnRange) -> Option<Run> {
        self.cpu.mapped_otherwise(range)
    }

    fn device_root(&self) -> DeviceRoot {
        self.iommu.as_ref().map_or_else(|| self.cpu.root(), Table::root)
    }

    fn take_flush(&mut self) -> Option<Flush> {
        // One token for both: hardware that walks either drops the same.
        let stamp = self.cpu.next_stamp();
        let cpu = self.cpu.take_owed(stamp);
        let iommu = self.iommu.as_mut().and_then(|iommu| iommu.take_owed(stamp));
        let all = match (cpu, iommu) {
            (Some(cpu), Some(iommu)) => Some(cpu.and(iommu)),
            (cpu, iommu) => cpu.or(iommu),
        };
        all.map(|all| Flush::new(all.gfns, all.only_added, stamp))
    }

    fn confirm_flush(&mut self, flush: Flush) {
        self.cpu.settle(flush.stamp());
        if let Some(iommu) = &mut self.iommu {
            iommu.settle(flush.stamp());
        }
    }
}
