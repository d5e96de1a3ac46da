//! The unit's registers, as the driver reads and writes them.

use std::sync::atomic::AtomicU64;

use xen_iommu::vtd::Registers;
use xen_iommu::vtd::registers::{
    CAP, Capability, ECAP, ExtendedCapability, FSTS, GCMD, GSTS, Global, IQA, IQH, IQT, RTADDR, VER,
};

use super::{Machine, Wrong};

impl Registers for &'static Machine {
    fn read32(&self, offset: u32) -> u32 {
        let unit = self.unit.borrow();
        match offset {
            VER => 0x10,
            GSTS => unit.status,
            FSTS => unit.faults,
            _ => 0,
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        let unit = self.unit.borrow();
        match offset {
            CAP => Capability::new()
                .with_domain_ids(2)
                .with_levels(0b110)
                .with_guest_width(47)
                .with_fault_offset(0x22)
                .with_large_pages(0b11)
                .with_page_selective(true)
                .with_max_mask(18)
                .into_bits(),
            ECAP => ExtendedCapability::new()
                .with_coherent(true)
                .with_queue(true)
                .with_iotlb_offset(0xf)
                .into_bits(),
            IQH => unit.head,
            IQT => unit.tail,
            IQA => unit.queue,
            _ => 0,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        {
            let mut unit = self.unit.borrow_mut();
            match offset {
                GCMD => {
                    let command = Global::from_bits_retain(value);
                    let kept = unit.status & Global::ONE_SHOT.bits();
                    unit.status = kept | command.difference(Global::ONE_SHOT).bits();
                    if command.contains(Global::ROOT_TABLE) {
                        unit.root = unit.root_register;
                        unit.status |= Global::ROOT_TABLE.bits();
                    }
                    if !command.contains(Global::QUEUE) {
                        unit.head = 0;
                    }
                }
                FSTS => unit.faults &= !value,
                _ => {
                    drop(unit);
                    self.wrong(Wrong::Malformed);
                }
            }
        }
    }

    fn write64(&self, offset: u32, value: u64) {
        let is_tail = offset == IQT;
        if is_tail {
            // The driver may have written context entries before.
            self.touched.set(self.touched.get() | self.unit_frames());
            self.observe();
        }
        {
            let mut unit = self.unit.borrow_mut();
            match offset {
                RTADDR => unit.root_register = value,
                IQT => unit.tail = value & 0xff0,
                IQA => unit.queue = value,
                _ => {
                    drop(unit);
                    self.wrong(Wrong::Malformed);
                    return;
                }
            }
        }
        if is_tail && self.run_queue() {
            self.observe();
        }
    }

    fn relax(&self) {}

    fn write_back(&self, _: &[AtomicU64]) {}
}
