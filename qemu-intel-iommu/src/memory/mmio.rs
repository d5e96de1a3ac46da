//! Device registers in memory space.
#![allow(unsafe_code)]

use core::ops::Range;

use crate::memory::frames::FRAME;
use crate::memory::paging::{MapError, PageUse, map};
use crate::memory::start_info::start_info;
use crate::memory::window::Window;

/// A window of device registers, mapped uncached. Accesses outside it, or unaligned ones, panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mmio {
    window: Window,
}

impl Mmio {
    /// Maps the registers at physical addresses `range`. Refuses usable RAM, and whatever else is mapped as
    /// memory.
    pub fn map(range: Range<u64>) -> Result<Self, MapError> {
        let Range { start, end } = range;
        if start >= end {
            return Err(MapError::Range { start, end });
        }
        if start_info().map.touches_usable(&range) {
            return Err(MapError::Conflict { address: start });
        }
        map(start & !(FRAME - 1)..end.next_multiple_of(FRAME), PageUse::Registers)?;
        // SAFETY: just mapped, for good, and as registers, which hold no Rust object.
        Ok(Self { window: unsafe { Window::new(range) } })
    }

    /// Reads the 32-bit register at `offset`.
    pub fn read32(&self, offset: u64) -> u32 {
        self.window.read(offset)
    }

    /// Writes the 32-bit register at `offset`.
    pub fn write32(&self, offset: u64, value: u32) {
        self.window.write(offset, value);
    }

    /// Reads the 64-bit register at `offset`.
    pub fn read64(&self, offset: u64) -> u64 {
        self.window.read(offset)
    }

    /// Writes the 64-bit register at `offset`.
    pub fn write64(&self, offset: u64, value: u64) {
        self.window.write(offset, value);
    }
}
