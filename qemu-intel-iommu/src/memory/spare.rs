//! Frames set aside for the hypervisor's own page tables.
#![allow(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, TableFrame};
use spin::Once;

use crate::memory::frames::FRAME;
use crate::memory::window::phys_to_ptr;

/// How many there can be: for 4 TiB of memory in pages of 2 MiB.
const MOST: usize = 4096 + 128;

/// Where they are once memory is set up.
pub static SPARE: Once<Spare> = Once::new();

/// Frames in a row, each free or part of the page tables.
pub struct Spare {
    range: Range<u64>,
    /// Bit `n % 64` of word `n / 64` is set while frame `n` is taken.
    taken: [AtomicU64; MOST / 64],
}

impl Spare {
    /// # Safety
    /// The frames at the physical addresses `range` are nobody else's for good, and mapped where
    /// `phys_to_ptr` says.
    pub unsafe fn new(range: Range<u64>) -> Self {
        Self { range, taken: [const { AtomicU64::new(0) }; MOST / 64] }
    }

    fn frames(&self) -> u64 {
        ((self.range.end - self.range.start) / FRAME).min(MOST as u64)
    }

    fn number(&self, frame: Mfn) -> Option<u64> {
        let address = frame.address()?;
        self.range
            .contains(&address)
            .then(|| (address - self.range.start) / FRAME)
            .filter(|number| *number < self.frames())
    }

    /// The word of frame `number`, and its bit there.
    fn bit(&self, number: u64) -> Option<(&AtomicU64, u64)> {
        Some((self.taken.get(usize::try_from(number / 64).ok()?)?, 1 << (number % 64)))
    }
}

// SAFETY: a frame is handed out once until it is freed, and zeroed then; `new`'s caller has seen to the rest.
unsafe impl FrameSource for Spare {
    fn allocate(&self) -> Option<Mfn> {
        let take = |number: &u64| {
            self.bit(*number).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::Relaxed) & bit == 0)
        };
        let number = (0..self.frames()).find(take)?;
        let address = self.range.start + number * FRAME;
        // SAFETY: a whole frame of memory that nobody uses, mapped.
        unsafe { phys_to_ptr(address).write_bytes(0, FRAME as usize) };
        Some(Mfn::containing(address))
    }

    fn free(&self, frame: Mfn) {
        if let Some((word, bit)) = self.number(frame).and_then(|number| self.bit(number)) {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        let address = frame.address().filter(|_| self.number(frame).is_some())?;
        // SAFETY: a frame of ours: mapped, a whole page and aligned; all access to it is by atomics.
        Some(unsafe { &*phys_to_ptr(address).cast::<TableFrame>() })
    }
}
