//! The unit's registers, as the driver reads and writes them, watched.

use std::sync::atomic::AtomicU64;

use xen_iommu::vtd::Registers;
use xen_iommu::vtd::registers::{GSTS, Global, IQA, IQH, IQT};

use super::Machine;

impl Registers for &'static Machine {
    fn read32(&self, offset: u32) -> u32 {
        (&self.unit).read32(offset)
    }

    fn read64(&self, offset: u32) -> u64 {
        (&self.unit).read64(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        (&self.unit).write32(offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        if offset != IQT {
            (&self.unit).write64(offset, value);
            return;
        }
        // The driver may have written context entries before.
        self.observe();
        let from = (&self.unit).read64(IQT);
        (&self.unit).write64(offset, value);
        let is_on = Global::from_bits_retain((&self.unit).read32(GSTS)).contains(Global::QUEUE);
        if is_on && from != value {
            self.learn(from, value);
            self.observe();
        }
    }

    fn relax(&self) {}

    fn write_back(&self, words: &[AtomicU64]) {
        (&self.unit).write_back(words);
    }
}

impl Machine {
    /// What came of the descriptors between two tails.
    fn learn(&self, mut at: u64, tail: u64) {
        if (&self.unit).read64(IQH) != tail {
            self.in_doubt.set(true);
            self.context_dropped.set(false);
            self.seen.borrow_mut().failed = true;
            return;
        }
        let Some(ring) = self.pool.index((&self.unit).read64(IQA) >> 12) else { return };
        while at != tail {
            let low = self.pool.word(ring, (at >> 3) as usize);
            match (low & 0xf, low >> 4 & 3) {
                (1, 1) => self.context_dropped.set(true),
                (2, 1) if self.context_dropped.get() => self.in_doubt.set(false),
                _ => {}
            }
            at = (at + 16) & 0xfff;
        }
    }
}
