//! Frames for tables, counted, with whatever was freed made unusable.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, TableFrame};

/// Who hears of each write to a table.
type Listener = Box<dyn Fn(&Frames, Mfn, Range<usize>) + Send>;

/// A source of a fixed number of frames.
pub(crate) struct Frames {
    tables: Vec<TableFrame>,
    free: Mutex<Vec<usize>>,
    live: Mutex<BTreeSet<u64>>,
    /// How many more may be taken.
    allowed: AtomicU64,
    listener: Mutex<Option<Listener>>,
}

/// Frames have numbers from the top of what an entry can hold, so that no bit of them can get lost.
const FIRST: u64 = (1 << 40) - 0x10_0000;
/// What a freed table holds: granted frames for our look-ups, ways to nowhere for hardware.
const POISON: u64 = 0x07d0_adba_dbad_b007;

impl Frames {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            tables: (0..count).map(|_| TableFrame([const { AtomicU64::new(POISON) }; 512])).collect(),
            free: Mutex::new((0..count).collect()),
            live: Mutex::default(),
            allowed: AtomicU64::new(u64::MAX),
            listener: Mutex::default(),
        }
    }

    /// Lets only `frames` more be taken.
    pub(crate) fn allow(&self, frames: u64) {
        self.allowed.store(frames, Ordering::Relaxed);
    }

    pub(crate) fn live(&self) -> u64 {
        self.live.lock().unwrap().len() as u64
    }

    pub(crate) fn listen(&self, listener: impl Fn(&Self, Mfn, Range<usize>) + Send + 'static) {
        *self.listener.lock().unwrap() = Some(Box::new(listener));
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
        let less = |allowed: u64| allowed.checked_sub(1);
        self.allowed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        let index = self.free.lock().unwrap().pop()?;
        for entry in &self.tables[index].0 {
            entry.store(0, Ordering::Relaxed);
        }
        let frame = FIRST + index as u64 * 3;
        assert!(self.live.lock().unwrap().insert(frame));
        Some(Mfn::new(frame))
    }

    fn free(&self, frame: Mfn) {
        assert!(self.live.lock().unwrap().remove(&frame.raw()), "{frame} is freed and was not allocated");
        let index = self.index(frame).unwrap();
        for entry in &self.tables[index].0 {
            entry.store(POISON, Ordering::Relaxed);
        }
        self.free.lock().unwrap().push(index);
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        self.index(frame).map(|index| &self.tables[index])
    }

    fn written(&self, frame: Mfn, entries: Range<usize>) {
        if let Some(listener) = self.listener.lock().unwrap().as_ref() {
            listener(self, frame, entries);
        }
    }
}
