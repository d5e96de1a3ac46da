//! Page-table frames for all that is measured: one pool, so that taking a frame costs everyone the same.
//! Machine addresses are this process's own.
#![allow(unsafe_code, reason = "page tables in memory are what is measured")]

use std::cell::RefCell;

use p2m::{FrameSource, Mfn, TableFrame};

thread_local! {
    /// Addresses of the free frames.
    static FREE: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Adds frames to the pool. They stay for the life of the process.
pub(crate) fn provide(count: usize) {
    let bytes = vec![[0_u64; 512]; count + 1].leak();
    let first = bytes.as_mut_ptr().expose_provenance().next_multiple_of(size_of::<TableFrame>());
    FREE.with_borrow_mut(|free| {
        free.extend((0..count).rev().map(|index| first + index * size_of::<TableFrame>()));
    });
}

/// Takes a frame, with whatever is in it.
#[inline]
pub(crate) fn take() -> Option<usize> {
    FREE.with_borrow_mut(Vec::pop)
}

/// Gives a frame back.
#[inline]
pub(crate) fn give(address: usize) {
    FREE.with_borrow_mut(|free| free.push(address));
}

/// How many are free.
pub(crate) fn left() -> usize {
    FREE.with_borrow(Vec::len)
}

/// The pool as a hypervisor with a map of all memory has it: a frame's memory is where its number says.
#[derive(Clone, Copy)]
pub(crate) struct DirectMap;

// SAFETY: a frame of the pool is handed out once until it is given back, zeroed then, and stays where it is.
// `table` is asked by `p2m` for frames that it has from `allocate` and for no others.
unsafe impl FrameSource for DirectMap {
    fn allocate(&self) -> Option<Mfn> {
        let address = take()?;
        // SAFETY: the frame is this call's alone.
        unsafe { std::ptr::with_exposed_provenance_mut::<TableFrame>(address).write_bytes(0, 1) };
        Some(Mfn::containing(address as u64))
    }

    fn free(&self, frame: Mfn) {
        give((frame.raw() << p2m::PAGE_SHIFT) as usize);
    }

    #[inline]
    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        // SAFETY: a frame of the pool is memory of this size and alignment for the life of the process, and
        // its entries are atomics.
        Some(unsafe { &*std::ptr::with_exposed_provenance((frame.raw() << p2m::PAGE_SHIFT) as usize) })
    }
}

/// The same, and it checks that the number is one that can be.
#[derive(Clone, Copy)]
pub(crate) struct Checked {
    first: u64,
    count: u64,
}

impl Checked {
    /// Knows the pool's frames; the lowest and the highest that are free now bound it.
    pub(crate) fn new() -> Self {
        FREE.with_borrow(|free| {
            let lowest = free.iter().min().copied().unwrap_or_default() as u64 >> p2m::PAGE_SHIFT;
            let highest = free.iter().max().copied().unwrap_or_default() as u64 >> p2m::PAGE_SHIFT;
            Self { first: lowest, count: highest - lowest + 1 }
        })
    }
}

// SAFETY: as for the direct map, which it asks after checking.
unsafe impl FrameSource for Checked {
    fn allocate(&self) -> Option<Mfn> {
        DirectMap.allocate()
    }

    fn free(&self, frame: Mfn) {
        DirectMap.free(frame);
    }

    #[inline]
    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        // SAFETY: as for the direct map.
        (frame.raw().wrapping_sub(self.first) < self.count).then(|| unsafe {
            &*std::ptr::with_exposed_provenance((frame.raw() << p2m::PAGE_SHIFT) as usize)
        })
    }
}
