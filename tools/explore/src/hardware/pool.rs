//! Page frames: which are in use, and which may have been written.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, TableFrame};
use xen_iommu::vtd::Registers;

use super::{Failure, Machine, Wrong};
use crate::memory::{Block, FRAMES};

/// The machine frame number of the block's first frame.
const FIRST: u64 = 0x10_0000;

/// The frames of a machine. As a frame source it is the remapping unit's way to memory: looking changes
/// nothing, and a free frame shows.
pub struct Pool {
    frames: &'static [TableFrame; FRAMES],
    allocated: Cell<u128>,
    /// Frames that were looked at through the machine, and may have been written, since
    /// [`take_touched`](Self::take_touched).
    touched: Cell<u128>,
    /// Frames whose content has changed since [`take_changed`](Self::take_changed).
    changed: Cell<u128>,
    walked_free: Cell<bool>,
}

impl Pool {
    /// All of them free.
    #[must_use]
    pub fn new(block: &Block) -> Self {
        Self {
            frames: block.frames(),
            allocated: Cell::new(0),
            touched: Cell::new(0),
            changed: Cell::new(0),
            walked_free: Cell::new(false),
        }
    }

    /// Frames that are not free.
    #[must_use]
    pub fn allocated(&self) -> u128 {
        self.allocated.get()
    }

    /// The frames that may have been written since the last time.
    pub fn take_touched(&self) -> u128 {
        self.touched.take()
    }

    /// The frames that hold something else than the last time.
    pub fn take_changed(&self) -> u128 {
        self.changed.take()
    }

    pub(super) fn is_changed(&self) -> bool {
        self.changed.get() != 0
    }

    pub(super) fn take_walked_free(&self) -> bool {
        self.walked_free.take()
    }

    pub(super) fn touch(&self, frames: u128) {
        self.touched.set(self.touched.get() | frames);
    }

    fn change(&self, frames: u128) {
        self.changed.set(self.changed.get() | frames);
    }

    /// A word of a frame.
    #[must_use]
    pub fn word(&self, frame: usize, number: usize) -> u64 {
        self.frames[frame].0[number].load(Ordering::Relaxed)
    }

    /// The words of a frame.
    #[must_use]
    pub fn words(&self, frame: usize) -> &'static [AtomicU64; 512] {
        &self.frames[frame].0
    }

    /// The index of a frame by its number.
    #[must_use]
    pub fn index(&self, frame: u64) -> Option<usize> {
        index(frame)
    }

    /// Where a table in memory leads for both reads and writes.
    #[must_use]
    pub fn walk(&self, root: usize, levels: u32, gfn: u64) -> Option<u64> {
        let mut frame = root;
        for level in (0..levels).rev() {
            let entry = self.word(frame, (gfn >> (9 * level) & 511) as usize);
            if entry & 3 != 3 {
                return None;
            }
            let target = entry >> 12 & 0xff_ffff_ffff;
            if level == 0 || entry & 1 << 7 != 0 {
                return Some(target + (gfn & ((1 << (9 * level)) - 1)));
            }
            frame = index(target)?;
        }
        None
    }
}

// SAFETY: nothing is given out, and frames stay where they are.
#[allow(unsafe_code, reason = "the frame source's promise")]
unsafe impl FrameSource for Pool {
    fn allocate(&self) -> Option<Mfn> {
        None
    }

    fn free(&self, _: Mfn) {}

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        let index = index(frame.raw())?;
        if self.allocated.get() & bit(index) == 0 {
            self.walked_free.set(true);
            return None;
        }
        Some(&self.frames[index])
    }
}

// SAFETY: the lowest free frame is handed out, its bit set until it is freed, and it is zeroed; frames stay
// where they are.
#[allow(unsafe_code, reason = "the frame source's promise")]
unsafe impl FrameSource for &'static Machine {
    fn allocate(&self) -> Option<Mfn> {
        let number = {
            let mut seen = self.seen.borrow_mut();
            seen.allocations += 1;
            seen.allocations - 1
        };
        if matches!(self.failure.get(), Failure::Frames(from) if number >= from) {
            return None;
        }
        let pool = self.pool;
        let index = pool.allocated.get().trailing_ones() as usize;
        if index >= FRAMES {
            return None;
        }
        self.check_cached(index);
        pool.allocated.set(pool.allocated.get() | bit(index));
        pool.touch(bit(index));
        pool.change(bit(index));
        pool.frames[index].0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        if self.kind.incoherent {
            // Of what was never written back, memory holds anything.
            super::store::forget(&pool.frames[index].0);
        }
        Some(Mfn::new(FIRST + index as u64))
    }

    fn free(&self, frame: Mfn) {
        let Some(index) = index(frame.raw()) else {
            self.wrong(Wrong::Foreign);
            return;
        };
        let pool = self.pool;
        if pool.allocated.get() & bit(index) == 0 {
            self.wrong(Wrong::FreedTwice);
            return;
        }
        self.check_cached(index);
        pool.allocated.set(pool.allocated.get() & !bit(index));
        self.observe();
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        let index = index(frame.raw())?;
        self.pool.touch(bit(index));
        Some(&self.pool.frames[index])
    }

    fn written(&self, frame: Mfn, entries: Range<usize>) {
        if let Some(index) = index(frame.raw()) {
            self.pool.change(bit(index));
            if self.kind.incoherent {
                (&self.unit).write_back(&self.pool.frames[index].0[entries]);
            }
            self.observe();
        }
    }
}

impl Machine {
    /// A translation that somebody can use came through the frame.
    fn check_cached(&self, index: usize) {
        let frame = Mfn::new(FIRST + index as u64);
        if self.watching.get() && self.unit.is_kept_through(self.sources(), self.board.probes, frame) {
            self.wrong(Wrong::FreedCached);
        }
    }
}

fn index(frame: u64) -> Option<usize> {
    usize::try_from(frame.checked_sub(FIRST)?).ok().filter(|index| *index < FRAMES)
}

/// A frame's number in its bit.
#[must_use]
pub fn bit(index: usize) -> u128 {
    1 << index
}

/// Frames that are in a table: the top one and all below it.
#[must_use]
pub fn frames_of(pool: &Pool, root: usize, levels: u32) -> u128 {
    let mut frames = bit(root);
    if levels > 1 {
        for word in pool.words(root) {
            if let Some(next) = child(word.load(Ordering::Relaxed)) {
                frames |= frames_of(pool, next, levels - 1);
            }
        }
    }
    frames
}

/// The table that an entry above the lowest level leads to.
#[must_use]
pub fn child(entry: u64) -> Option<usize> {
    if entry & 7 == 0 || entry & 1 << 7 != 0 { None } else { index(entry >> 12 & 0xff_ffff_ffff) }
}

/// A table frame's index by its number.
#[must_use]
pub fn frame_index(frame: Mfn) -> Option<usize> {
    index(frame.raw())
}
