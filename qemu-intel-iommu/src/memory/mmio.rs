//! Device registers in memory space.
#![allow(unsafe_code)]

use core::ops::Range;

use crate::memory::frames::FRAME;
use crate::memory::paging::{Access, MapError, map};
use crate::memory::{phys_to_ptr, start_info};

/// A window of device registers, mapped uncached. Accesses outside it, or unaligned ones, panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    start: u64,
    len: u64,
}

impl Mmio {
    /// Maps the registers at physical addresses `range`. Refuses usable RAM, and whatever else is mapped as memory.
    pub fn map(range: Range<u64>) -> Result<Self, MapError> {
        let Range { start, end } = range;
        if start >= end {
            return Err(MapError::Range { start, end });
        }
        if start_info().map.touches_usable(&range) {
            return Err(MapError::Conflict { address: start });
        }
        map(start & !(FRAME - 1)..end.next_multiple_of(FRAME), Access::Registers)?;
        Ok(Self { start, len: end - start })
    }

    /// Reads the 32-bit register at `offset`.
    pub fn read32(&self, offset: u64) -> u32 {
        let register = self.at::<u32>(offset);
        // SAFETY: `at` checked that the register is in the window and aligned; the window is mapped and holds no Rust object.
        unsafe { register.read_volatile() }
    }

    /// Writes the 32-bit register at `offset`.
    pub fn write32(&self, offset: u64, value: u32) {
        let register = self.at::<u32>(offset);
        // SAFETY: as in `read32`.
        unsafe { register.write_volatile(value) };
    }

    /// Reads the 64-bit register at `offset`.
    pub fn read64(&self, offset: u64) -> u64 {
        let register = self.at::<u64>(offset);
        // SAFETY: as in `read32`.
        unsafe { register.read_volatile() }
    }

    /// Writes the 64-bit register at `offset`.
    pub fn write64(&self, offset: u64, value: u64) {
        let register = self.at::<u64>(offset);
        // SAFETY: as in `read32`.
        unsafe { register.write_volatile(value) };
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let size = size_of::<T>() as u64;
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        assert!(
            inside && (self.start + offset).is_multiple_of(size),
            "no register of {size} bytes at {offset:#x} of the window [{:#x},{:#x})",
            self.start,
            self.start + self.len
        );
        phys_to_ptr(self.start + offset).cast()
    }
}
