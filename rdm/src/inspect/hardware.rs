//! A hypervisor in which nothing happens: what the policy works on when it is only asked.

use std::sync::atomic::AtomicU64;

use p2m::{
    Access, AddressSpace, DeviceRoot, Entry, Flush, Gfn, GfnRange, Identity, IdentityError, Mfn, MfnRange,
    OnConflict, Run, Seen,
};
use xen_iommu::region::forbidden::{Bar, Window};
use xen_iommu::region::memory::{FramesInUse, ReserveFrames};
use xen_iommu::vtd::{Registers, Unit};
use xen_iommu::{DeviceControl, HardwareError, NotQuiesced, RemappingHardware, RequesterId, Sbdf, SpaceId};

/// An address space that has room for everything and keeps nothing.
pub(super) struct Space;

impl AddressSpace for Space {
    fn look_up(&self, gfn: Gfn) -> Run {
        let all = GfnRange::new(gfn, Gfn::new(u64::MAX)).unwrap_or_default();
        Run { gfns: all, entry: Entry::NOTHING }
    }

    fn map_identity(
        &mut self,
        _: MfnRange,
        _: Access,
        _: OnConflict,
        _: &mut dyn FnMut(Seen),
    ) -> Result<Identity, IdentityError> {
        Ok(Identity::Mapped)
    }

    fn unmap_identity(&mut self, _: MfnRange) -> Result<(), IdentityError> {
        Ok(())
    }

    fn mapped_otherwise(&self, _: MfnRange) -> Option<Run> {
        None
    }

    fn device_root(&self) -> DeviceRoot {
        DeviceRoot { root: Mfn::new(0), levels: 4 }
    }

    fn take_flush(&mut self) -> Option<Flush> {
        None
    }

    fn confirm_flush(&mut self, _: Flush) {}
}

/// Units that do as told, and of which only that is known which devices are theirs.
pub(super) struct Hardware<'m>(pub(super) Vec<Unit<'m, NoRegisters>>);

impl Hardware<'_> {
    fn check(&self, requester: RequesterId) -> Result<(), HardwareError> {
        let covered = self.0.iter().any(|unit| unit.covers(requester.unit_of));
        covered.then_some(()).ok_or(HardwareError::NoUnit { requester: requester.id })
    }
}

impl RemappingHardware for Hardware<'_> {
    fn attach(&self, requester: RequesterId, _: SpaceId, _: DeviceRoot) -> Result<(), HardwareError> {
        self.check(requester)
    }

    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError> {
        self.check(requester)
    }

    fn flush(&self, _: SpaceId, _: &Flush) -> Result<(), HardwareError> {
        Ok(())
    }

    fn check_translating(&self, requester: RequesterId) -> Result<(), HardwareError> {
        self.check(requester)
    }

    /// That is in registers, which nobody shows.
    fn address_width(&self, _: RequesterId) -> Option<u8> {
        None
    }
}

/// The registers of a unit that is never started.
pub(super) struct NoRegisters;

impl Registers for NoRegisters {
    fn read32(&self, _: u32) -> u32 {
        u32::MAX
    }

    fn read64(&self, _: u32) -> u64 {
        u64::MAX
    }

    fn write32(&self, _: u32, _: u32) {}

    fn write64(&self, _: u32, _: u64) {}

    fn relax(&self) {}

    fn write_back(&self, _: &[AtomicU64]) {}
}

/// The devices, of which the BARs are known.
pub(super) struct Control<'a>(pub(super) &'a [Window]);

impl DeviceControl for Control<'_> {
    fn quiesce(&mut self, _: Sbdf) -> Result<(), NotQuiesced> {
        Ok(())
    }

    fn resume(&mut self, _: Sbdf) {}

    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar)) {
        for window in self.0 {
            if let Window::Bar(bar) = window {
                visit(*bar);
            }
        }
    }
}

/// A frame allocator that gives up any frames: what a tool can only suppose.
pub(super) struct GivesRam;

impl ReserveFrames for GivesRam {
    fn take_out_of_ram(&mut self, _: MfnRange) -> Result<(), FramesInUse> {
        Ok(())
    }
}
