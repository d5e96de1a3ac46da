//! Device registers in port space.
#![allow(unsafe_code)]

use x86::io::{inl, inw, outw};

/// A window of ports that a function's BAR names. Accesses outside it panic.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    first: u16,
    len: u16,
}

impl Ports {
    /// `len` ports from `first` on.
    ///
    /// # Safety
    /// They are a device's, whose driver alone uses them.
    pub(super) unsafe fn new(first: u16, len: u16) -> Self {
        Self { first, len }
    }

    /// Reads the 16-bit register at `offset`.
    pub(super) fn read16(&self, offset: u16) -> u16 {
        // SAFETY: the port is in the window, which is the driver's (`new`).
        unsafe { inw(self.at(offset, 2)) }
    }

    /// Reads the 32-bit register at `offset`.
    pub(super) fn read32(&self, offset: u16) -> u32 {
        // SAFETY: as in `read16`.
        unsafe { inl(self.at(offset, 4)) }
    }

    /// Writes the 16-bit register at `offset`.
    pub(super) fn write16(&self, offset: u16, value: u16) {
        // SAFETY: as in `read16`.
        unsafe { outw(self.at(offset, 2), value) };
    }

    fn at(&self, offset: u16, size: u16) -> u16 {
        assert!(
            offset + size <= self.len,
            "no {size} ports at {offset:#x} of the window at {:#x}",
            self.first
        );
        self.first + offset
    }
}
