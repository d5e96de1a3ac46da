//! The page frames of usable RAM: a bitmap, one bit for each frame, set while the frame is free.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use spin::Once;
use spin::mutex::TicketMutex;

use crate::boot::exit::stop;
use crate::memory::map::MemoryMap;
use crate::memory::window::phys_to_ptr;

/// The size of a frame in bytes.
pub const FRAME: u64 = 4096;

/// How many ranges of usable RAM can be kept out: low memory, the image, the modules, the bitmap itself.
const KEPT_OUT: usize = 16;

static FRAMES: Once<Frames> = Once::new();

/// Why frames could not be taken or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Not a whole number of frames, or not at the start of one.
    Unaligned(u64),
    /// The address is not that of a frame which this allocator hands out.
    NotManaged(u64),
    /// The frame is in use.
    InUse(u64),
    /// The frame is free already.
    AlreadyFree(u64),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned(address) => write!(f, "{address:#x} is not a frame's address"),
            Self::NotManaged(address) => write!(f, "the frame at {address:#x} is not usable RAM"),
            Self::InUse(address) => write!(f, "the frame at {address:#x} is in use"),
            Self::AlreadyFree(address) => write!(f, "the frame at {address:#x} is free already"),
        }
    }
}

/// How many frames there are. A leak shows as fewer free ones after than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames that are handed out, or could be.
    pub managed: u64,
    /// Frames that could be handed out.
    pub free: u64,
}

impl fmt::Display for FrameCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} frames free", self.free, self.managed)
    }
}

/// The allocator. Every operation is atomic with respect to the others.
pub struct Frames {
    inner: TicketMutex<Inner>,
}

struct Inner {
    /// Bit `n % 64` of word `n / 64` is set while frame `n` is free.
    free: &'static mut [u64],
    /// The managed frames are the usable pages that are in none of these.
    usable: MemoryMap,
    kept_out: ArrayVec<Range<u64>, KEPT_OUT>,
    counts: FrameCounts,
    /// The word where the last search ended.
    hint: usize,
}

impl Frames {
    /// Takes over the usable RAM of `map` that is not in `kept_out`. `None` when there is no room for the
    /// bitmap, or more to keep out than is provided for.
    ///
    /// # Safety
    /// Called once. Nothing uses the usable RAM of `map` below 4 GiB outside `kept_out`, and it is mapped one
    /// to one.
    unsafe fn new(map: &MemoryMap, kept_out: &[Range<u64>]) -> Option<Self> {
        let mut kept: ArrayVec<Range<u64>, KEPT_OUT> = ArrayVec::new();
        for range in kept_out {
            kept.try_push(range.start & !(FRAME - 1)..range.end.next_multiple_of(FRAME)).ok()?;
        }
        let words = map.usable_end().div_ceil(FRAME).div_ceil(64);
        let len = (words * 8).next_multiple_of(FRAME);
        let place = first_fit(map, &kept, len)?;
        kept.try_push(place..place + len).ok()?;

        let bitmap = phys_to_ptr(place).cast::<u64>();
        // SAFETY: `words * 8` bytes of RAM that nobody else uses (the caller's contract, and `kept` from now
        // on), aligned to a page, below 4 GiB and so mapped; zeroed before the slice is made.
        let free = unsafe {
            bitmap.write_bytes(0, words as usize);
            core::slice::from_raw_parts_mut(bitmap, words as usize)
        };
        let counts = FrameCounts { managed: 0, free: 0 };
        let mut inner = Inner { free, usable: map.clone(), kept_out: kept, counts, hint: 0 };
        for range in map.usable_pages() {
            inner.set_all(range, true);
        }
        for range in inner.kept_out.clone() {
            inner.set_all(range, false);
        }
        inner.counts.managed = inner.free.iter().map(|word| u64::from(word.count_ones())).sum();
        inner.counts.free = inner.counts.managed;
        Some(Self { inner: TicketMutex::new(inner) })
    }

    /// A zeroed frame: its physical address.
    pub fn alloc(&self) -> Option<u64> {
        let address = self.inner.lock().take_any()? * FRAME;
        zero(address, 1);
        Some(address)
    }

    /// `count` zeroed frames in a row whose physical address is a multiple of `align` bytes (a power of two,
    /// at least a frame).
    pub fn alloc_contiguous(&self, count: u64, align: u64) -> Option<u64> {
        if count == 0 || !align.is_power_of_two() {
            return None;
        }
        let address = self.inner.lock().take_run(count, align.max(FRAME) / FRAME)? * FRAME;
        zero(address, count);
        Some(address)
    }

    /// Takes these very frames, all or none; they are not zeroed.
    pub fn take(&self, range: Range<u64>) -> Result<(), FrameError> {
        let frames = frames_of(&range)?;
        let mut inner = self.inner.lock();
        for frame in frames.clone() {
            if !inner.is_managed(frame) {
                return Err(FrameError::NotManaged(frame * FRAME));
            }
            if !inner.is_free(frame) {
                return Err(FrameError::InUse(frame * FRAME));
            }
        }
        inner.mark(frames, false);
        Ok(())
    }

    /// Gives one frame back.
    pub fn free(&self, address: u64) -> Result<(), FrameError> {
        self.free_range(address..address.saturating_add(FRAME))
    }

    /// Gives frames back, all or none.
    pub fn free_range(&self, range: Range<u64>) -> Result<(), FrameError> {
        let frames = frames_of(&range)?;
        let mut inner = self.inner.lock();
        for frame in frames.clone() {
            if !inner.is_managed(frame) {
                return Err(FrameError::NotManaged(frame * FRAME));
            }
            if inner.is_free(frame) {
                return Err(FrameError::AlreadyFree(frame * FRAME));
            }
        }
        inner.mark(frames, true);
        Ok(())
    }

    /// Whether the frame at `address` was handed out and not given back.
    pub fn is_taken(&self, address: u64) -> bool {
        let inner = self.inner.lock();
        let frame = address / FRAME;
        inner.is_managed(frame) && !inner.is_free(frame)
    }

    /// How many frames there are now.
    pub fn counts(&self) -> FrameCounts {
        self.inner.lock().counts
    }
}

impl Inner {
    fn is_managed(&self, frame: u64) -> bool {
        let address = frame * FRAME;
        self.usable.usable_pages().any(|range| range.contains(&address))
            && !self.kept_out.iter().any(|range| range.contains(&address))
    }

    fn is_free(&self, frame: u64) -> bool {
        self.free.get((frame / 64) as usize).is_some_and(|word| word & (1 << (frame % 64)) != 0)
    }

    fn set_free(&mut self, frame: u64, free: bool) {
        if let Some(word) = self.free.get_mut((frame / 64) as usize) {
            let bit = 1 << (frame % 64);
            *word = if free { *word | bit } else { *word & !bit };
        }
    }

    /// Sets the bits of all frames in `range` (bytes), a word at a time.
    fn set_all(&mut self, range: Range<u64>, free: bool) {
        let frames = range.start / FRAME..range.end / FRAME;
        for (word, at) in self.free.iter_mut().zip(0u64..).skip((frames.start / 64) as usize) {
            let first = frames.start.max(at * 64);
            let end = frames.end.min(at * 64 + 64);
            if first >= end {
                break;
            }
            let mask = (u64::MAX >> (64 - (end - first))) << (first % 64);
            *word = if free { *word | mask } else { *word & !mask };
        }
    }

    /// Marks frames of which every one is the other way now.
    fn mark(&mut self, frames: Range<u64>, free: bool) {
        let count = frames.end - frames.start;
        for frame in frames {
            self.set_free(frame, free);
        }
        if free {
            self.counts.free += count;
        } else {
            self.counts.free -= count;
        }
    }

    fn take_any(&mut self) -> Option<u64> {
        let words = self.free.len();
        for offset in 0..words {
            let at = (self.hint + offset) % words;
            let word = self.free.get(at).copied().unwrap_or(0);
            if word != 0 {
                let frame = at as u64 * 64 + u64::from(word.trailing_zeros());
                self.hint = at;
                self.mark(frame..frame + 1, false);
                return Some(frame);
            }
        }
        None
    }

    fn take_run(&mut self, count: u64, align: u64) -> Option<u64> {
        let end = self.free.len() as u64 * 64;
        let mut start = 0;
        while start + count <= end {
            match (start..start + count).rev().find(|frame| !self.is_free(*frame)) {
                None => {
                    self.mark(start..start + count, false);
                    return Some(start);
                }
                Some(used) => start = (used + 1).next_multiple_of(align),
            }
        }
        None
    }
}

/// The frames of usable RAM.
pub fn frames() -> &'static Frames {
    FRAMES.get().unwrap_or_else(|| stop("memory", "the frame allocator is used before it is set up"))
}

/// Whether [`set_up`] was called.
pub(super) fn is_set_up() -> bool {
    FRAMES.is_completed()
}

/// Makes the allocator that [`frames`] gives.
///
/// # Safety
/// As [`Frames::new`].
pub(super) unsafe fn set_up(map: &MemoryMap, kept_out: &[Range<u64>]) -> Option<&'static Frames> {
    // SAFETY: the caller's contract.
    let frames = unsafe { Frames::new(map, kept_out) }?;
    Some(FRAMES.call_once(|| frames))
}

/// The lowest `len` bytes of whole usable pages below 4 GiB that are not kept out.
fn first_fit(map: &MemoryMap, kept_out: &[Range<u64>], len: u64) -> Option<u64> {
    map.usable_pages().find_map(|range| {
        let mut start = range.start;
        while start + len <= range.end.min(1 << 32) {
            match kept_out.iter().find(|kept| kept.start < start + len && start < kept.end) {
                Some(kept) => start = kept.end,
                None => return Some(start),
            }
        }
        None
    })
}

fn frames_of(range: &Range<u64>) -> Result<Range<u64>, FrameError> {
    for address in [range.start, range.end] {
        if !address.is_multiple_of(FRAME) {
            return Err(FrameError::Unaligned(address));
        }
    }
    Ok(range.start / FRAME..range.end / FRAME)
}

fn zero(address: u64, count: u64) {
    // SAFETY: the frames were free until now and are handed out to this caller alone; RAM is mapped one to
    // one.
    unsafe { phys_to_ptr(address).write_bytes(0, (count * FRAME) as usize) };
}
