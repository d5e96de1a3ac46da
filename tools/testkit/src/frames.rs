//! Page-table frames that can run out.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use p2m::{Access, DeviceRoot, FrameSource, Mfn, PageSize, TableFrame};

/// So many frames of memory, as page tables are made of them.
pub struct Frames {
    frames: Vec<Box<TableFrame>>,
    free: Mutex<Vec<usize>>,
    /// Allocations that still succeed.
    left: AtomicUsize,
}

/// The number of the first frame.
const FIRST: u64 = 0x1000;

impl Frames {
    /// `frames` of them, all free.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            frames: (0..frames)
                .map(|_| Box::new(TableFrame(array::from_fn(|_| AtomicU64::new(0)))))
                .collect(),
            free: Mutex::new((0..frames).rev().collect()),
            left: AtomicUsize::new(usize::MAX),
        }
    }

    /// How many frames are allocated.
    #[must_use]
    pub fn used(&self) -> usize {
        self.frames.len() - self.free.lock().unwrap().len()
    }

    /// Lets only so many allocations succeed from now on.
    pub fn allow(&self, allocations: usize) {
        self.left.store(allocations, Ordering::Relaxed);
    }

    fn index(frame: Mfn) -> Option<usize> {
        usize::try_from(frame.raw().checked_sub(FIRST)?).ok()
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
        let free = self.free.lock().unwrap().clone();
        let allocated = self.frames.iter().enumerate().filter(move |(index, _)| !free.contains(index));
        allocated.map(|(_, frame)| frame.0.as_slice())
    }
}

// SAFETY: `free` holds the index of each frame that is not allocated, once, so a frame is given to one caller at a time; its entries are zeroed on
// the way out; and `table` finds the frame by its number, in memory that does not move while they live.
#[allow(unsafe_code, reason = "an implementation for tests")]
unsafe impl FrameSource for Frames {
    fn allocate(&self) -> Option<Mfn> {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).ok()?;
        let index = self.free.lock().unwrap().pop()?;
        for entry in &self.frames[index].0 {
            entry.store(0, Ordering::Relaxed);
        }
        Some(Mfn::new(FIRST + index as u64))
    }

    fn free(&self, frame: Mfn) {
        let index = Self::index(frame).filter(|&index| index < self.frames.len()).expect("a frame of ours");
        let mut free = self.free.lock().unwrap();
        assert!(!free.contains(&index), "{frame} is freed twice");
        // What hardware reads of a frame that is not its any more.
        for entry in &self.frames[index].0 {
            entry.store(u64::MAX, Ordering::Relaxed);
        }
        free.push(index);
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        self.frames.get(Self::index(frame)?).map(|frame| &**frame)
    }
}
