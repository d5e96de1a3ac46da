//! Frames that are not in the tree, on lists that are threaded through the frames themselves: no memory is
//! needed to remember any number of them.

use crate::format::{LINK_ENTRIES, MACHINE_FRAMES};
use crate::frame::{FrameSource, Mfn};
use core::sync::atomic::Ordering;

use super::{load, slot, store};

/// Frames reserved for new tables: zeroed, but for the first entry, which holds the number of the next.
#[derive(Debug)]
#[must_use = "the frames must be given back or used"]
pub(crate) struct Spare {
    first: Mfn,
    count: u64,
}

/// All of `count` frames, or none. A frame that an entry cannot point to, or that the source does not know
/// again, counts as none.
pub(crate) fn reserve<S: FrameSource>(source: &S, count: u64) -> Option<Spare> {
    let mut spare = Spare { first: Mfn::new(0), count: 0 };
    while spare.count < count {
        let Some(frame) = source.allocate() else {
            spare.release(source);
            return None;
        };
        let usable = frame.raw() < MACHINE_FRAMES;
        let Some(table) = source.table(frame).filter(|_| usable) else {
            source.free(frame);
            spare.release(source);
            return None;
        };
        slot(table, 0).store(spare.first.raw(), Ordering::Relaxed);
        spare.first = frame;
        spare.count = spare.count.wrapping_add(1);
    }
    Some(spare)
}

impl Spare {
    /// One frame, all zero.
    pub(crate) fn take<S: FrameSource>(&mut self, source: &S) -> Option<Mfn> {
        self.count = self.count.checked_sub(1)?;
        let frame = self.first;
        let next = slot(source.table(frame)?, 0);
        self.first = Mfn::new(next.swap(0, Ordering::Relaxed));
        Some(frame)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn release<S: FrameSource>(mut self, source: &S) {
        while let Some(frame) = self.take(source) {
            source.free(frame);
        }
    }
}

/// Tables off the tree. Hardware and readers may still be in them, so the link to the next is in bits that
/// neither looks at (see [`crate::format`]), and all else stays as it was.
#[derive(Debug, Default)]
pub(crate) struct Detached {
    /// How many; there is neither a first nor a last of none.
    count: u64,
    first: Mfn,
    last: Mfn,
}

impl Detached {
    pub(crate) fn push<S: FrameSource>(&mut self, frame: Mfn, source: &S) {
        if self.count == 0 {
            self.last = frame;
        } else {
            link(frame, self.first, source);
        }
        self.first = frame;
        self.count = self.count.wrapping_add(1);
    }

    pub(crate) fn append<S: FrameSource>(&mut self, other: Self, source: &S) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            self.first = other.first;
        } else {
            link(self.last, other.first, source);
        }
        self.last = other.last;
        self.count = self.count.wrapping_add(other.count);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn release<S: FrameSource>(self, source: &S) {
        let mut frame = self.first;
        for _ in 0..self.count {
            let next = linked(frame, source);
            source.free(frame);
            frame = next;
        }
    }
}

fn link<S: FrameSource>(frame: Mfn, next: Mfn, source: &S) {
    if let Some(table) = source.table(frame) {
        for (number, entry) in (0_u32..).zip(table.0.iter().take(LINK_ENTRIES)) {
            store(entry, load(entry).with_link(next.raw(), number));
        }
    }
}

fn linked<S: FrameSource>(frame: Mfn, source: &S) -> Mfn {
    let Some(table) = source.table(frame) else { return Mfn::new(0) };
    let link = (0_u32..)
        .zip(table.0.iter().take(LINK_ENTRIES))
        .fold(0, |link, (number, entry)| link | load(entry).link(number));
    Mfn::new(link)
}
