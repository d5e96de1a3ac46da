//! Frames for tables, counted, with whatever was freed made unusable.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, TableFrame};

/// A source of a fixed number of frames.
pub(crate) struct Frames {
    tables: Vec<TableFrame>,
    free: RefCell<Vec<usize>>,
    live: RefCell<BTreeSet<u64>>,
    /// How many more may be taken.
    allowed: Cell<u64>,
}

/// Frames have numbers from the top of what an entry can hold, so that no bit of them can get lost.
const FIRST: u64 = (1 << 40) - 0x10_0000;
/// What a freed table holds: entries that a walk would go astray in.
const POISON: u64 = 0xdead_beef_dead_bfff;

impl Frames {
    pub(crate) fn new(count: usize) -> Self {
        let tables = (0..count).map(|_| TableFrame([const { AtomicU64::new(POISON) }; 512])).collect();
        Self {
            tables,
            free: RefCell::new((0..count).collect()),
            live: RefCell::default(),
            allowed: Cell::new(u64::MAX),
        }
    }

    /// Lets only `frames` more be taken.
    pub(crate) fn allow(&self, frames: u64) {
        self.allowed.set(frames);
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.borrow().len() as u64
    }

    fn index(&self, frame: Mfn) -> Option<usize> {
        let index = usize::try_from((frame.raw().checked_sub(FIRST)?) / 3).ok()?;
        (index < self.tables.len()).then_some(index)
    }
}

// SAFETY: a frame is one element of `tables`, and `free` holds it until it is allocated.
#[allow(unsafe_code, reason = "the trait asks for it")]
unsafe impl FrameSource for Frames {
    fn allocate(&self) -> Option<Mfn> {
        self.allowed.set(self.allowed.get().checked_sub(1)?);
        let index = self.free.borrow_mut().pop()?;
        for entry in &self.tables[index].0 {
            entry.store(0, Ordering::Relaxed);
        }
        let frame = FIRST + index as u64 * 3;
        assert!(self.live.borrow_mut().insert(frame));
        Some(Mfn::new(frame))
    }

    fn free(&self, frame: Mfn) {
        assert!(self.live.borrow_mut().remove(&frame.raw()), "{frame} is freed and was not allocated");
        let index = self.index(frame).unwrap();
        for entry in &self.tables[index].0 {
            entry.store(POISON, Ordering::Relaxed);
        }
        self.free.borrow_mut().push(index);
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        self.index(frame).map(|index| &self.tables[index])
    }
}
