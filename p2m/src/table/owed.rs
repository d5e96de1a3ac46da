//! What hardware may still hold of a table's past: translations that have changed, and the frames that left
//! the tree by that.

use crate::frame::{FrameSource, GfnRange, Mfn};

use super::frame_list::Detached;

/// Translations that changed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changed {
    /// One range that covers them all.
    pub(crate) gfns: GfnRange,
    /// Whether all of them were not present before.
    pub(crate) only_added: bool,
}

impl Changed {
    /// What covers both.
    pub(crate) fn and(self, other: Self) -> Self {
        Self { gfns: self.gfns.hull(&other.gfns), only_added: self.only_added && other.only_added }
    }
}

/// What is owed a flush. What a token was made for stays here until that token is confirmed: a token that is
/// lost, or whose flush failed, costs nothing but that the next one covers it, too.
#[derive(Debug, Default)]
pub(crate) struct Owed {
    /// The stamp of the last token.
    stamp: u64,
    /// What changed after it was made.
    changed: Option<Changed>,
    detached: Detached,
    /// What it was made for.
    taken: Option<Changed>,
    taken_detached: Detached,
}

impl Owed {
    /// Nothing, with stamps that differ from those of other tables as long as 2^24 tokens last: a token that
    /// is handed to the wrong table settles nothing there.
    pub(super) fn new(root: Mfn) -> Self {
        Self { stamp: root.raw().wrapping_shl(24), ..Self::default() }
    }

    pub(super) fn note(&mut self, changed: Changed) {
        self.changed = Some(self.changed.map_or(changed, |earlier| earlier.and(changed)));
    }

    /// A table has left the tree.
    pub(super) fn detach<S: FrameSource>(&mut self, frame: Mfn, source: &S) {
        self.detached.push(frame, source);
    }

    /// Frames off the tree and not free yet.
    pub(super) fn frames(&self) -> u64 {
        self.detached.count().wrapping_add(self.taken_detached.count())
    }

    /// A stamp for the next token.
    pub(super) fn next_stamp(&mut self) -> u64 {
        self.stamp = self.stamp.wrapping_add(1);
        self.stamp
    }

    /// All that is owed, which the token of this stamp covers and no older one settles from now on.
    pub(super) fn take<S: FrameSource>(&mut self, stamp: u64, source: &S) -> Option<Changed> {
        self.taken_detached.append(core::mem::take(&mut self.detached), source);
        self.stamp = stamp;
        self.taken = match (self.taken, self.changed.take()) {
            (Some(earlier), Some(changed)) => Some(earlier.and(changed)),
            (earlier, changed) => earlier.or(changed),
        };
        self.taken
    }

    /// What the token of this stamp was made for has been flushed.
    pub(super) fn settle<S: FrameSource>(&mut self, stamp: u64, source: &S) {
        if self.taken.is_some() && self.stamp == stamp {
            self.taken = None;
            core::mem::take(&mut self.taken_detached).release(source);
        }
    }

    /// Frees all frames: no hardware walks the table any more.
    pub(super) fn release<S: FrameSource>(&mut self, source: &S) {
        core::mem::take(&mut self.detached).release(source);
        core::mem::take(&mut self.taken_detached).release(source);
    }
}
