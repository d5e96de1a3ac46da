//! A list in memory of the caller's.

use core::ops::Range;

use p2m::GfnRange;

use crate::frames::{Bounds, range};

/// The caller's memory is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// A list in a slice.
#[derive(Debug)]
pub(crate) struct List<'s, T> {
    memory: &'s mut [T],
    len: usize,
}

impl<'s, T: Copy> List<'s, T> {
    pub(crate) fn new(memory: &'s mut [T]) -> Self {
        Self { memory, len: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    pub(crate) fn items(&self) -> &[T] {
        self.memory.get(..self.len).unwrap_or_default()
    }

    pub(crate) fn items_mut(&mut self) -> &mut [T] {
        self.memory.get_mut(..self.len).unwrap_or_default()
    }

    pub(crate) fn into_items(self) -> &'s [T] {
        let memory: &'s [T] = self.memory;
        memory.get(..self.len).unwrap_or_default()
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Moves all items to the end of the memory, so that others can be pushed before they are taken from
    /// there: where they are.
    pub(crate) fn move_to_end(&mut self) -> Range<usize> {
        // `len` is at most the memory's length.
        let start = self.memory.len().saturating_sub(self.len);
        self.memory.copy_within(..self.len, start);
        self.len = 0;
        start..self.memory.len()
    }

    /// Takes the first of the items that were moved to the end.
    pub(crate) fn take_first(&mut self, moved: &mut Range<usize>) -> Option<T> {
        self.memory.get(moved.next()?).copied()
    }

    pub(crate) fn push(&mut self, item: T) -> Result<(), Full> {
        *self.memory.get_mut(self.len).ok_or(Full)? = item;
        self.len = self.len.saturating_add(1);
        Ok(())
    }
}

impl List<'_, GfnRange> {
    /// Adds a range behind the others: to the last one where they touch, and not at all where it is empty.
    pub(crate) fn append(&mut self, added: GfnRange) -> Result<(), Full> {
        if added.is_empty() {
            return Ok(());
        }
        match self.items_mut().last_mut() {
            Some(last) if last.high() == added.low() => {
                *last = range(last.low(), added.high());
                Ok(())
            }
            _ => self.push(added),
        }
    }

    /// Sorts, and makes one of ranges that touch.
    pub(crate) fn join(&mut self) {
        self.items_mut().sort_unstable_by_key(GfnRange::start);
        let mut kept = 0_usize;
        for index in 0..self.len {
            let Some(next) = self.items().get(index).copied() else { break };
            match kept.checked_sub(1).and_then(|last| self.items_mut().get_mut(last)) {
                Some(last) if next.low() <= last.high() => *last = last.hull(&next),
                _ => {
                    if let Some(place) = self.items_mut().get_mut(kept) {
                        *place = next;
                    }
                    kept = kept.saturating_add(1);
                }
            }
        }
        self.truncate(kept);
    }
}
