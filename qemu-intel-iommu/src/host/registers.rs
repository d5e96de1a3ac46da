//! The registers of a remapping unit.

use core::sync::atomic::AtomicU64;

use xen_iommu::vtd::Registers;

use crate::memory::Mmio;

/// A unit's register window.
#[derive(Debug)]
pub struct UnitRegisters(pub Mmio);

impl Registers for UnitRegisters {
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset.into())
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.read64(offset.into())
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset.into(), value);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.write64(offset.into(), value);
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn write_back(&self, _: &[AtomicU64]) {
        // QEMU's unit says that it does not snoop caches, but there are none between it and memory.
    }
}
