//! Page-table frames that can run out, are counted, and of which none is used after it was freed without that
//! showing.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use p2m::{Access, DeviceRoot, FrameSource, Mfn, PageSize, TableFrame};

/// Who hears of each write to a table.
type Listener = Box<dyn Fn(&Frames, Mfn, Range<usize>) + Send>;

/// A source of a fixed number of frames. A frame that is freed twice, or was never allocated, is a panic.
pub struct Frames {
    tables: Vec<TableFrame>,
    state: Mutex<State>,
    listener: Mutex<Option<Listener>>,
}

struct State {
    /// Indices; the one that was freed last is used first.
    free: Vec<usize>,
    live: BTreeSet<Mfn>,
    /// Allocations that still succeed; all of them when `None`.
    left: Option<u64>,
}

/// Frames have numbers from the top of what an entry can hold, so that no bit of them can get lost, with
/// others between them that are nobody's.
const FIRST: u64 = (1 << 40) - 0x10_0000;
const STEP: u64 = 3;
/// What a freed table holds: granted frames for p2m's look-ups, ways to nowhere for hardware.
const POISON: u64 = 0x07d0_adba_dbad_b007;

impl Frames {
    /// So many frames, all free.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let state = State { free: (0..count).rev().collect(), live: BTreeSet::new(), left: None };
        Self {
            tables: (0..count).map(|_| TableFrame([const { AtomicU64::new(POISON) }; 512])).collect(),
            state: Mutex::new(state),
            listener: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Lets only so many more allocations succeed; all of them, as long as there are frames, when `None`.
    pub fn limit(&self, left: impl Into<Option<u64>>) {
        self.state().left = left.into();
    }

    /// How many are allocated.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.state().live.len() as u64
    }

    /// Those that are allocated.
    #[must_use]
    pub fn live_frames(&self) -> BTreeSet<Mfn> {
        self.state().live.clone()
    }

    /// How many are free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.state().free.len()
    }

    /// Has `listener` hear of each write to a table, when it is done and before anything leads to what was
    /// written. It may look, and must not change anything.
    pub fn listen(&self, listener: impl Fn(&Self, Mfn, Range<usize>) + Send + 'static) {
        *self.listener.lock().unwrap() = Some(Box::new(listener));
    }

    /// Lets only so many allocations succeed from now on.
    pub fn allow(&self, allocations: usize) {
        self.limit(allocations as u64);
    }

    /// How many frames are allocated.
    #[must_use]
    pub fn used(&self) -> usize {
        self.state().live.len()
    }

    /// An empty second-stage table.
    ///
    /// # Panics
    /// Without a free frame.
    #[must_use]
    pub fn table_of(&self, levels: u8) -> DeviceRoot {
        DeviceRoot { root: self.allocate().expect("a frame for a table"), levels }
    }

    /// Maps a page in a second-stage table (§9.8); an empty `access` unmaps it.
    ///
    /// # Panics
    /// Without a free frame, or where a larger page is in the way.
    pub fn map(&self, table: DeviceRoot, gfn: u64, mfn: u64, size: PageSize, access: Access) {
        let leaf = match size {
            PageSize::Size4K => 0,
            PageSize::Size2M => 1,
            PageSize::Size1G => 2,
        };
        let mut frame = table.root;
        for level in (0..table.levels).rev() {
            let entries = &self.table(frame).expect("a table of ours").0;
            let entry = &entries[(gfn >> (9 * level) & 511) as usize];
            if level == leaf {
                let large = if leaf > 0 { 1 << 7 } else { 0 };
                let bits = u64::from(access.bits()) & 3;
                let value = if bits == 0 { 0 } else { mfn << 12 | large | bits };
                entry.store(value, Ordering::Release);
                return;
            }
            let old = entry.load(Ordering::Acquire);
            assert_eq!(old & 1 << 7, 0, "a larger page is in the way");
            frame = if old & 3 == 0 {
                let next = self.allocate().expect("a frame for a table");
                entry.store(next.raw() << 12 | 3, Ordering::Release);
                next
            } else {
                Mfn::containing(old & 0x000f_ffff_ffff_f000)
            };
        }
    }

    /// The words of all allocated frames, for writing them back.
    pub fn words(&self) -> impl Iterator<Item = &[AtomicU64]> {
        let live = self.live_frames();
        live.into_iter().filter_map(|frame| self.table(frame)).map(|table| table.0.as_slice())
    }

    fn index(&self, frame: Mfn) -> Option<usize> {
        let offset = frame.raw().checked_sub(FIRST)?;
        let index = usize::try_from(offset / STEP).ok()?;
        (offset.is_multiple_of(STEP) && index < self.tables.len()).then_some(index)
    }

    fn fill(&self, index: usize, value: u64) {
        self.tables[index].0.iter().for_each(|entry| entry.store(value, Ordering::Relaxed));
    }
}

// SAFETY: a frame is one element of `tables`, which do not move, and `free` holds it until it is allocated;
// it is zeroed then.
#[allow(unsafe_code, reason = "the trait asks for it")]
unsafe impl FrameSource for Frames {
    fn allocate(&self) -> Option<Mfn> {
        let mut state = self.state();
        if let Some(left) = state.left {
            state.left = Some(left.checked_sub(1)?);
        }
        let index = state.free.pop()?;
        self.fill(index, 0);
        let frame = Mfn::new(FIRST + index as u64 * STEP);
        assert!(state.live.insert(frame));
        Some(frame)
    }

    fn free(&self, frame: Mfn) {
        let mut state = self.state();
        assert!(state.live.remove(&frame), "{frame} is freed and was not allocated");
        let index = self.index(frame).unwrap();
        self.fill(index, POISON);
        state.free.push(index);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_run_out_where_they_are_told_to_and_where_there_are_no_more() {
        let frames = Frames::new(3);
        frames.limit(2);
        let taken = [frames.allocate(), frames.allocate(), frames.allocate()];
        assert!(taken[0].is_some() && taken[1].is_some() && taken[2].is_none());
        frames.limit(None);
        assert!(frames.allocate().is_some() && frames.allocate().is_none());
        assert_eq!((frames.live(), frames.free_count()), (3, 0));
    }

    #[test]
    fn a_frame_is_zero_when_it_is_allocated_and_not_when_it_was_freed() {
        let frames = Frames::new(1);
        let frame = frames.allocate().unwrap();
        let all =
            |value| frames.table(frame).unwrap().0.iter().all(|entry| entry.load(Ordering::Relaxed) == value);
        assert!(all(0));
        frames.free(frame);
        assert!(all(POISON));
        assert_eq!(frames.allocate(), Some(frame));
        assert!(all(0));
    }

    #[test]
    #[should_panic(expected = "was not allocated")]
    fn freeing_twice_is_noticed() {
        let frames = Frames::new(2);
        let frame = frames.allocate().unwrap();
        frames.free(frame);
        frames.free(frame);
    }
}
