//! A window of physical addresses: volatile accesses that stay inside it.
#![allow(unsafe_code)]

use core::ops::Range;

/// Where the processor sees physical address `address`, provided that it is mapped: memory is, registers are
/// once [`Mmio::map`](super::Mmio::map) was called.
pub fn phys_to_ptr(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// A range of physical addresses which is mapped and holds no Rust object. Accesses outside it, or unaligned
/// ones, panic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// An integer that a device's register or a word of memory can hold.
pub(super) trait Word: Copy {}

impl Word for u8 {}
impl Word for u32 {}
impl Word for u64 {}

impl Window {
    /// # Safety
    /// The range is mapped where [`phys_to_ptr`] says for as long as there is the window, and no Rust object
    /// lies in it.
    pub(super) unsafe fn new(range: Range<u64>) -> Self {
        Self { start: range.start, len: range.end - range.start }
    }

    pub(super) fn read<T: Word>(&self, offset: u64) -> T {
        let place = self.at::<T>(offset);
        // SAFETY: `at` checked that the place is inside and aligned; the range is mapped (`new`), and any bit
        // pattern is an integer.
        unsafe { place.read_volatile() }
    }

    pub(super) fn write<T: Word>(&self, offset: u64, value: T) {
        let place = self.at::<T>(offset);
        // SAFETY: as in `read`; no Rust object is there (`new`).
        unsafe { place.write_volatile(value) };
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let size = size_of::<T>() as u64;
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.len);
        assert!(
            inside && (self.start + offset).is_multiple_of(size),
            "no {size} bytes at {offset:#x} of the window [{:#x},{:#x})",
            self.start,
            self.start + self.len
        );
        phys_to_ptr(self.start + offset).cast()
    }
}
