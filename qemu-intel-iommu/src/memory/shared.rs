//! Memory that devices read and write while the processor looks on.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::memory::frames::{FRAME, FrameError, frames};
use crate::memory::paging;
use crate::memory::start_info::start_info;
use crate::memory::window::{Window, Word};

/// A range of physical memory which holds no Rust object, so that a device may change it at any time. Every
/// access is volatile; accesses outside it panic.
#[derive(Debug)]
pub struct Shared {
    window: Window,
    /// Frames to give back in the end.
    owned: bool,
}

/// Why memory that the firmware keeps could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotKept {
    /// The range asked for.
    pub range: Range<u64>,
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x},{:#x}) is not memory that the firmware keeps", self.range.start, self.range.end)
    }
}

impl Shared {
    /// `count` zeroed frames in a row, given back when dropped.
    pub fn alloc(count: u64) -> Option<Self> {
        let start = frames().alloc_contiguous(count, FRAME)?;
        Some(Self::of_frames(start..start + count * FRAME))
    }

    /// Memory that the firmware keeps to itself (reserved, ACPI's, or in the first MiB outside usable RAM),
    /// which is where RMRRs lie.
    pub fn kept_by_firmware(range: Range<u64>) -> Result<Self, NotKept> {
        if range.start < range.end && !start_info().map.touches_usable(&range) && paging::is_memory(&range) {
            // SAFETY: `is_memory` says that it is mapped, for good; no Rust object lies in what the firmware
            // keeps.
            Ok(Self { window: unsafe { Window::new(range) }, owned: false })
        } else {
            Err(NotKept { range })
        }
    }

    /// These very frames, not zeroed, given back when dropped.
    ///
    /// # Errors
    /// They are no usable RAM, or in use.
    pub fn take(range: Range<u64>) -> Result<Self, FrameError> {
        frames().take(range.clone())?;
        Ok(Self::of_frames(range))
    }

    /// Frames that were just handed out.
    fn of_frames(range: Range<u64>) -> Self {
        // SAFETY: RAM is mapped for good; until they are given back the frames are this value's alone, which
        // puts no Rust object in them.
        Self { window: unsafe { Window::new(range) }, owned: true }
    }

    /// The physical address of the first byte.
    pub fn start(&self) -> u64 {
        self.window.start
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.window.len
    }

    /// The physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.start()..self.start() + self.size()
    }

    /// Reads the byte at `offset`.
    pub fn read8(&self, offset: u64) -> u8 {
        self.read(offset)
    }

    /// Reads the 32-bit word at `offset`.
    pub fn read32(&self, offset: u64) -> u32 {
        self.read(offset)
    }

    /// Reads the 64-bit word at `offset`.
    pub fn read64(&self, offset: u64) -> u64 {
        self.read(offset)
    }

    /// Writes the byte at `offset`.
    pub fn write8(&self, offset: u64, value: u8) {
        self.write(offset, value);
    }

    /// Writes the 32-bit word at `offset`.
    pub fn write32(&self, offset: u64, value: u32) {
        self.write(offset, value);
    }

    /// Writes the 64-bit word at `offset`.
    pub fn write64(&self, offset: u64, value: u64) {
        self.write(offset, value);
    }

    /// Sets `len` bytes from `offset` on.
    pub fn fill(&self, offset: u64, len: u64, byte: u8) {
        self.each(offset, len, |at, step| match step {
            8 => self.write::<u64>(at, u64::from_ne_bytes([byte; 8])),
            _ => self.write(at, byte),
        });
    }

    /// Copies `bytes` to `offset`.
    pub fn copy_in(&self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            self.write(at, *byte);
        }
    }

    /// Copies `bytes.len()` bytes from `offset`.
    pub fn copy_out(&self, offset: u64, bytes: &mut [u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            *byte = self.read(at);
        }
    }

    /// Whether `len` bytes from `offset` on are all `byte`.
    pub fn is_filled(&self, offset: u64, len: u64, byte: u8) -> bool {
        let mut same = true;
        self.each(offset, len, |at, step| {
            same &= match step {
                8 => self.read::<u64>(at) == u64::from_ne_bytes([byte; 8]),
                _ => self.read::<u8>(at) == byte,
            };
        });
        same
    }

    /// Calls `visit` with every offset and step (8 or 1) that covers the bytes.
    fn each(&self, offset: u64, len: u64, mut visit: impl FnMut(u64, u64)) {
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let step = if (self.start() + at).is_multiple_of(8) && end - at >= 8 { 8 } else { 1 };
            visit(at, step);
            at += step;
        }
    }

    fn read<T: Word>(&self, offset: u64) -> T {
        self.window.read(offset)
    }

    fn write<T: Word>(&self, offset: u64, value: T) {
        self.window.write(offset, value);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.owned
            && let Err(error) = frames().free_range(self.range())
        {
            log::error!("memory shared with devices cannot be given back: {error}");
        }
    }
}

/// A copy of `len` bytes of memory that the firmware keeps, or `None` when not all of them are such memory.
pub fn copy_from_firmware(address: u64, len: u64) -> Option<Vec<u8>> {
    let kept = Shared::kept_by_firmware(address..address.checked_add(len)?).ok()?;
    let mut bytes = alloc::vec![0; len as usize];
    kept.copy_out(0, &mut bytes);
    Some(bytes)
}
