//! Memory that devices read and write while the processor looks on.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Range;

use crate::memory::frames::{FRAME, FrameError};
use crate::memory::{frames, paging, phys_to_ptr, start_info};

/// A range of physical memory which holds no Rust object, so that a device may change it at any time. Every access is volatile; accesses
/// outside it panic.
#[derive(Debug)]
pub struct Shared {
    start: u64,
    len: u64,
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
        Some(Self { start, len: count * FRAME, owned: true })
    }

    /// Memory that the firmware keeps to itself (reserved, ACPI's, or in the first MiB outside usable RAM), which is where RMRRs lie.
    pub fn kept_by_firmware(range: Range<u64>) -> Result<Self, NotKept> {
        if range.start < range.end && !start_info().map.touches_usable(&range) && paging::is_memory(&range) {
            Ok(Self { start: range.start, len: range.end - range.start, owned: false })
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
        Ok(Self { start: range.start, len: range.end - range.start, owned: true })
    }

    /// The physical address of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// The physical addresses.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.len
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
            let step = if (self.start + at).is_multiple_of(8) && end - at >= 8 { 8 } else { 1 };
            visit(at, step);
            at += step;
        }
    }

    fn read<T: Copy>(&self, offset: u64) -> T {
        let place = self.at::<T>(offset);
        // SAFETY: `at` checked that the place is inside and aligned; the range is mapped, and any bit pattern is an integer.
        unsafe { place.read_volatile() }
    }

    fn write<T: Copy>(&self, offset: u64, value: T) {
        let place = self.at::<T>(offset);
        // SAFETY: as in `read`; no Rust object is there (each constructor's condition).
        unsafe { place.write_volatile(value) };
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let size = size_of::<T>() as u64;
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        assert!(
            inside && (self.start + offset).is_multiple_of(size),
            "no {size} bytes at {offset:#x} of the memory [{:#x},{:#x})",
            self.start,
            self.start + self.len
        );
        phys_to_ptr(self.start + offset).cast()
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
