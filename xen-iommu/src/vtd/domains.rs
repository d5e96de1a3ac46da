//! Domain ids: which address space has which id on a unit, and how many context entries carry it.

use bitvec::order::Lsb0;
use bitvec::slice::BitSlice;
use bitvec::view::BitView;

use crate::platform::SpaceId;
use crate::vtd::tables::DomainId;

/// What a unit knows of one domain id; the hypervisor provides as many as there may be ids in use at once, and one more for id 0.
#[derive(Clone, Copy, Debug)]
pub struct DomainSlot {
    space: SpaceId,
    /// Context entries that have the id.
    users: u32,
    /// The first id of the hash bucket that has this slot's index; 0, which no space has, is the end.
    first: u16,
    /// The next id of the bucket that this id is in.
    next: u16,
}

impl DomainSlot {
    /// A slot that is not in use.
    pub const EMPTY: Self = Self { space: SpaceId(0), users: 0, first: 0, next: 0 };
}

/// The domain ids of a unit: a hash table from spaces to ids that is chained through the slots, and a bitmap of the ids in use.
#[derive(Debug)]
pub(crate) struct Domains<'m> {
    /// Indexed by domain id.
    slots: &'m mut [DomainSlot],
    /// A set bit for each id in use.
    ids: &'m mut BitSlice<u64, Lsb0>,
    /// Where to look for a free id first: the id that became free last, or the one behind the id given last.
    likely: usize,
}

impl<'m> Domains<'m> {
    /// Takes the memory; there are no ids before [`reset`](Self::reset).
    pub(crate) fn new(slots: &'m mut [DomainSlot], bits: &'m mut [u64]) -> Self {
        Self { slots, ids: bits.view_bits_mut::<Lsb0>(), likely: 0 }
    }

    /// No space has an id. There are `end` ids, as far as there is memory for them, less id 0, which belongs to the unit in caching mode (§6.1) and
    /// which nobody gets here.
    pub(crate) fn reset(&mut self, end: usize) {
        self.slots.fill(DomainSlot::EMPTY);
        self.ids.fill(false);
        let end = end.min(self.slots.len());
        if let Some(beyond) = self.ids.get_mut(end..) {
            beyond.fill(true);
        }
        self.mark(DomainId(0), true);
        self.likely = 0;
    }

    /// Keeps an id for the driver itself.
    pub(crate) fn reserve(&mut self) -> Option<DomainId> {
        let id = DomainId(u16::try_from(self.ids.last_zero()?).ok()?);
        self.mark(id, true);
        Some(id)
    }

    fn mark(&mut self, id: DomainId, used: bool) {
        if let Some(mut bit) = self.ids.get_mut(usize::from(id.0)) {
            *bit = used;
        }
    }

    fn slot(&mut self, id: DomainId) -> Option<&mut DomainSlot> {
        self.slots.get_mut(usize::from(id.0))
    }

    /// The index of the slot where the bucket of `space` starts. Spaces are often numbered in a row; the multiplication (2^32 over the golden ratio)
    /// spreads them whatever their bits mean.
    fn bucket(&self, space: SpaceId) -> usize {
        let spread = u64::from(space.0.wrapping_mul(0x9e37_79b9));
        let slots = u64::try_from(self.slots.len()).unwrap_or(0);
        usize::try_from(spread.saturating_mul(slots) >> 32).unwrap_or(0)
    }

    /// The id of a space that has one.
    pub(crate) fn id_of(&self, space: SpaceId) -> Option<DomainId> {
        let mut id = self.slots.get(self.bucket(space))?.first;
        // A chain has no more links than there are slots.
        for _ in 0..self.slots.len() {
            if id == 0 {
                break;
            }
            let slot = self.slots.get(usize::from(id))?;
            if slot.space == space {
                return Some(DomainId(id));
            }
            id = slot.next;
        }
        None
    }

    /// One more context entry for `space`, which gets an id if it has none; `None` when there is none left.
    pub(crate) fn acquire(&mut self, space: SpaceId) -> Option<DomainId> {
        if let Some(id) = self.id_of(space) {
            self.retain(id);
            return Some(id);
        }
        let free = self.find_free()?;
        let id = DomainId(u16::try_from(free).ok()?);
        let bucket = self.bucket(space);
        let next = self.slots.get(bucket)?.first;
        let slot = self.slot(id)?;
        (slot.space, slot.users, slot.next) = (space, 1, next);
        self.slots.get_mut(bucket)?.first = id.0;
        self.mark(id, true);
        self.likely = free.saturating_add(1);
        Some(id)
    }

    fn find_free(&self) -> Option<usize> {
        let ahead = self.ids.get(self.likely..).and_then(BitSlice::first_zero);
        ahead.and_then(|offset| offset.checked_add(self.likely)).or_else(|| self.ids.first_zero())
    }

    /// One more context entry that carries `id`, which is in use.
    pub(crate) fn retain(&mut self, id: DomainId) {
        if let Some(slot) = self.slot(id) {
            slot.users = slot.users.saturating_add(1);
        }
    }

    /// One context entry less that carries `id`; when it was the last, the id is free.
    pub(crate) fn release(&mut self, id: DomainId) {
        if let Some(slot) = self.slot(id) {
            slot.users = slot.users.saturating_sub(1);
        }
        self.free_if_unused(id);
    }

    /// How many context entries carry the id of `space`.
    #[cfg(test)]
    pub(crate) fn users(&self, space: SpaceId) -> u32 {
        let id = self.id_of(space).map_or(0, |id| usize::from(id.0));
        self.slots.get(id).map_or(0, |slot| slot.users)
    }

    /// Unlinks an id that is in a bucket and has no users.
    fn free_if_unused(&mut self, id: DomainId) {
        let Some(&DomainSlot { space, users: 0, next, .. }) = self.slots.get(usize::from(id.0)) else {
            return;
        };
        if self.id_of(space) != Some(id) {
            return;
        }
        let bucket = self.bucket(space);
        let Some(head) = self.slots.get_mut(bucket) else { return };
        if head.first == id.0 {
            head.first = next;
        } else {
            let mut before = head.first;
            for _ in 0..self.slots.len() {
                let Some(slot) = self.slot(DomainId(before)) else { return };
                if slot.next == id.0 {
                    slot.next = next;
                    break;
                }
                before = slot.next;
            }
        }
        self.mark(id, false);
        self.likely = usize::from(id.0);
    }
}
