//! Domain ids: which address space has which id on a unit, how many context entries carry it, and whether the
//! unit owes it a flush.
//!
//! Anybody may look for a space's id without a lock, so that flushes do not wait for units that have nothing
//! of the space; all changes are made under the unit's lock.

use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering, fence};

use crate::lock::relax;
use crate::platform::SpaceId;
use crate::vtd::tables::DomainId;

/// What a unit knows of one domain id; the hypervisor provides as many as there may be ids in use at once,
/// and one more for id 0.
#[derive(Debug)]
pub struct DomainSlot {
    space: AtomicU32,
    /// Context entries that have the id; [`FREE`] when no space has it. An id without entries lingers until
    /// the unit is known to have forgotten it.
    users: AtomicU32,
    /// A flush failed: translations that were to be dropped may be cached.
    owed: AtomicBool,
    /// The first id of the hash bucket that has this slot's index; 0, which no space has, is the end.
    first: AtomicU16,
    /// The next id of the bucket that this id is in, or the next free one.
    next: AtomicU16,
}

/// The number of users of an id that no space has.
const FREE: u32 = u32::MAX;

impl DomainSlot {
    /// A slot that is not in use.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            space: AtomicU32::new(0),
            users: AtomicU32::new(FREE),
            owed: AtomicBool::new(false),
            first: AtomicU16::new(0),
            next: AtomicU16::new(0),
        }
    }

    fn users(&self) -> u32 {
        self.users.load(Ordering::Relaxed)
    }
}

impl Default for DomainSlot {
    fn default() -> Self {
        Self::new()
    }
}

/// The domain ids of a unit: a hash table from spaces to ids that is chained through the slots, and a list of
/// the free ids.
#[derive(Debug)]
pub(crate) struct Domains<'m> {
    /// Indexed by domain id.
    slots: &'m [DomainSlot],
    /// Odd while the hash table changes: who looked meanwhile looks again.
    version: AtomicU32,
    /// The first free id: the one that became free last; 0 for none.
    free: AtomicU16,
}

impl<'m> Domains<'m> {
    /// Takes the memory; there are no ids before [`reset`](Self::reset).
    pub(crate) fn new(slots: &'m mut [DomainSlot]) -> Self {
        let this = Self { slots, version: AtomicU32::new(0), free: AtomicU16::new(0) };
        this.reset(0, false);
        this
    }

    /// No space has an id. There are `end` ids, as far as there is memory for them, less id 0, which belongs
    /// to the unit in caching mode (§6.1) and which nobody gets here; and less the last one with `reserve`,
    /// which is the driver's own and is returned.
    pub(crate) fn reset(&self, end: usize, reserve: bool) -> Option<DomainId> {
        self.change(|| {
            for slot in self.slots {
                slot.space.store(0, Ordering::Relaxed);
                slot.users.store(FREE, Ordering::Relaxed);
                slot.owed.store(false, Ordering::Relaxed);
                slot.first.store(0, Ordering::Relaxed);
                slot.next.store(0, Ordering::Relaxed);
            }
        });
        self.free.store(0, Ordering::Relaxed);
        let mut ids = (1..end.min(self.slots.len())).rev().filter_map(|id| u16::try_from(id).ok());
        let own = if reserve { ids.next() } else { None };
        for id in ids {
            self.put_free(id);
        }
        own.map(DomainId)
    }

    fn put_free(&self, id: u16) {
        if let Some(slot) = self.slots.get(usize::from(id)) {
            slot.next.store(self.free.load(Ordering::Relaxed), Ordering::Relaxed);
            self.free.store(id, Ordering::Relaxed);
        }
    }

    /// A change of the hash table.
    fn change(&self, work: impl FnOnce()) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        work();
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    fn slot(&self, id: DomainId) -> Option<&'m DomainSlot> {
        self.slots.get(usize::from(id.0))
    }

    /// The slot where the bucket of `space` starts. Spaces are often numbered in a row; the multiplication
    /// (2^32 over the golden ratio) spreads them whatever their bits mean.
    fn bucket(&self, space: SpaceId) -> Option<&'m DomainSlot> {
        let spread = u64::from(space.0.wrapping_mul(0x9e37_79b9));
        let slots = u64::try_from(self.slots.len()).unwrap_or(0);
        self.slots.get(usize::try_from(spread.saturating_mul(slots) >> 32).ok()?)
    }

    /// The id of a space that has one, or had one that lingers. Needs no lock: what the caller wrote to the
    /// space's tables before is what the unit reads if the space gets an id after this look.
    pub(crate) fn id_of(&self, space: SpaceId) -> Option<DomainId> {
        fence(Ordering::SeqCst);
        loop {
            let version = self.version.load(Ordering::Acquire);
            if version & 1 == 0 {
                let found = self.search(space);
                fence(Ordering::Acquire);
                if self.version.load(Ordering::Relaxed) == version {
                    return found;
                }
            }
            relax();
        }
    }

    fn search(&self, space: SpaceId) -> Option<DomainId> {
        let mut id = self.bucket(space)?.first.load(Ordering::Relaxed);
        // A chain has no more links than there are slots.
        for _ in self.slots {
            if id == 0 {
                break;
            }
            let slot = self.slot(DomainId(id))?;
            if slot.space.load(Ordering::Relaxed) == space.0 {
                return Some(DomainId(id));
            }
            id = slot.next.load(Ordering::Relaxed);
        }
        None
    }

    /// One more context entry for `space`, which gets an id if it has none; `None` when there is none left.
    pub(crate) fn acquire(&self, space: SpaceId) -> Option<DomainId> {
        if let Some(id) = self.search(space) {
            self.retain(id);
            return Some(id);
        }
        let id = DomainId(self.free.load(Ordering::Relaxed));
        let slot = self.slot(id).filter(|_| id.0 != 0)?;
        let bucket = self.bucket(space)?;
        self.free.store(slot.next.load(Ordering::Relaxed), Ordering::Relaxed);
        self.change(|| {
            slot.space.store(space.0, Ordering::Relaxed);
            slot.users.store(1, Ordering::Relaxed);
            slot.next.store(bucket.first.load(Ordering::Relaxed), Ordering::Relaxed);
            bucket.first.store(id.0, Ordering::Relaxed);
        });
        // Before any entry has the id: see `id_of`.
        fence(Ordering::SeqCst);
        Some(id)
    }

    /// One more context entry that carries `id`, which is in use.
    pub(crate) fn retain(&self, id: DomainId) {
        if let Some(slot) = self.slot(id) {
            slot.users.store(slot.users().saturating_add(1), Ordering::Relaxed);
        }
    }

    /// One context entry less that carries `id`. When it was the last, the id is free; or it lingers with
    /// `keep`, until [`settle`](Self::settle).
    pub(crate) fn release(&self, id: DomainId, keep: bool) {
        let Some(slot) = self.slot(id).filter(|slot| slot.users() != FREE) else { return };
        slot.users.store(slot.users().saturating_sub(1), Ordering::Relaxed);
        if !keep {
            self.free_if_unused(id);
        }
    }

    /// Whether a flush of the id is owed.
    pub(crate) fn is_owed(&self, id: DomainId) -> bool {
        self.slot(id).is_some_and(|slot| slot.owed.load(Ordering::Relaxed))
    }

    /// Remembers that a flush of the id failed, or that a whole one succeeded.
    pub(crate) fn set_owed(&self, id: DomainId, owed: bool) {
        if let Some(slot) = self.slot(id) {
            slot.owed.store(owed, Ordering::Relaxed);
        }
    }

    /// The unit has forgotten everything: nothing is owed, and ids that linger are free.
    pub(crate) fn settle(&self) {
        for (id, slot) in self.slots.iter().enumerate().filter(|(_, slot)| slot.users() != FREE) {
            slot.owed.store(false, Ordering::Relaxed);
            if let Ok(id) = u16::try_from(id) {
                self.free_if_unused(DomainId(id));
            }
        }
    }

    /// Unlinks an id that is in a bucket and has no users.
    fn free_if_unused(&self, id: DomainId) {
        let Some(slot) = self.slot(id).filter(|slot| slot.users() == 0) else { return };
        let Some(bucket) = self.bucket(SpaceId(slot.space.load(Ordering::Relaxed))) else { return };
        let next = slot.next.load(Ordering::Relaxed);
        self.change(|| {
            let mut link = &bucket.first;
            for _ in self.slots {
                let linked = link.load(Ordering::Relaxed);
                if linked == id.0 {
                    link.store(next, Ordering::Relaxed);
                    break;
                }
                let Some(before) = self.slot(DomainId(linked)).filter(|_| linked != 0) else { break };
                link = &before.next;
            }
            slot.users.store(FREE, Ordering::Relaxed);
        });
        slot.owed.store(false, Ordering::Relaxed);
        self.put_free(id.0);
    }
}

#[cfg(test)]
mod tests;
