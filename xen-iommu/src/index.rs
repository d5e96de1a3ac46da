//! Finding a number by a PCI function, in a few instructions however many there are: open addressing, in
//! memory given at boot.

use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;
use crate::region::record::NONE;

/// Numbers by keys. The keys themselves are kept where the numbers lead.
pub(crate) struct Index<'m> {
    /// Numbers, [`NONE`] where there is none; a power of two of them, at most half of them taken.
    slots: &'m mut [u32],
    /// Leaves of 32 bits those that number the slots.
    shift: u32,
    /// How many more may be in.
    room: usize,
}

impl<'m> Index<'m> {
    /// Has room for `capacity` numbers.
    pub(crate) fn new(capacity: usize, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let twice = capacity.max(1).saturating_mul(2);
        let len = twice.checked_next_power_of_two().unwrap_or(usize::MAX);
        let slots = arena.slice(len, |_| NONE)?;
        Ok(Self { slots, shift: u32::BITS.saturating_sub(len.trailing_zeros()), room: capacity })
    }

    /// What `at` finds under one of the numbers of `key`; `at` is to answer `None` for other keys' numbers.
    #[inline]
    pub(crate) fn find<T>(&self, key: Sbdf, at: impl Fn(u32) -> Option<T>) -> Option<T> {
        let mut slot = self.home(key);
        // A free slot ends it.
        loop {
            let number = *self.slots.get(slot)?;
            if number == NONE {
                return None;
            }
            if let Some(found) = at(number) {
                return Some(found);
            }
            slot = self.after(slot);
        }
    }

    /// Adds a number, unless as many are in as there is room for.
    pub(crate) fn insert(&mut self, key: Sbdf, number: u32) {
        let Some(room) = self.room.checked_sub(1) else { return };
        let mut slot = self.home(key);
        // Half of the slots are free.
        while self.slots.get(slot).is_some_and(|there| *there != NONE) {
            slot = self.after(slot);
        }
        self.set(slot, number);
        self.room = room;
    }

    /// Takes a number out; `key_of` tells the key of any number that is in.
    pub(crate) fn remove(&mut self, key: Sbdf, number: u32, key_of: impl Fn(u32) -> Option<Sbdf>) {
        let mut gap = self.home(key);
        while let Some(&there) = self.slots.get(gap)
            && there != number
        {
            if there == NONE {
                return;
            }
            gap = self.after(gap);
        }
        // What follows moves up where that brings it no further than its home, so that searches find no gap
        // before it.
        let mut slot = self.after(gap);
        while let Some(&there) = self.slots.get(slot)
            && there != NONE
        {
            let from_home = key_of(there).map_or(0, |key| self.distance(self.home(key), slot));
            if from_home >= self.distance(gap, slot) {
                self.set(gap, there);
                gap = slot;
            }
            slot = self.after(slot);
        }
        self.set(gap, NONE);
        self.room = self.room.saturating_add(1);
    }

    fn set(&mut self, slot: usize, number: u32) {
        if let Some(place) = self.slots.get_mut(slot) {
            *place = number;
        }
    }

    /// Where a key's numbers begin: multiplying by 2^32 over the golden ratio sends neighbours far apart
    /// (Knuth, The Art of Computer Programming 6.4).
    #[inline]
    fn home(&self, key: Sbdf) -> usize {
        key.raw().wrapping_mul(0x9e37_79b9).wrapping_shr(self.shift) as usize
    }

    #[inline]
    fn after(&self, slot: usize) -> usize {
        slot.wrapping_add(1) & self.slots.len().wrapping_sub(1)
    }

    /// Steps from one slot to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & self.slots.len().wrapping_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::mem::MaybeUninit;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Against a map, with few keys and a full table, so that runs are long and wrap around.
        #[test]
        fn finds_what_is_in_and_nothing_else(steps in prop::collection::vec((any::<bool>(), 0_u32..24), 0..200)) {
            const CAPACITY: usize = 12;
            let mut memory = [MaybeUninit::uninit(); 4096];
            let mut index = Index::new(CAPACITY, &mut Arena::new(&mut memory)).unwrap();
            // The number of a key is itself.
            let mut map = BTreeMap::new();
            for (insert, raw) in steps {
                let key = Sbdf::from_raw(raw);
                if insert && map.len() < CAPACITY && map.insert(raw, ()).is_none() {
                    index.insert(key, raw);
                } else if !insert && map.remove(&raw).is_some() {
                    index.remove(key, raw, |number| Some(Sbdf::from_raw(number)));
                }
                if map.len() == CAPACITY {
                    index.insert(Sbdf::from_raw(24), 24);
                }
                index.remove(Sbdf::from_raw(25), 25, |number| Some(Sbdf::from_raw(number)));
                let found: Vec<u32> = (0..26)
                    .filter(|raw| index.find(Sbdf::from_raw(*raw), |n| (n == *raw).then_some(())).is_some())
                    .collect();
                prop_assert_eq!(found, map.keys().copied().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_has_no_room_is_an_error_and_nothing_is_found_in_an_empty_one() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let mut arena = Arena::new(&mut memory);
        assert!(Index::new(usize::MAX, &mut arena).is_err());
        assert!(Index::new(9, &mut arena).is_err());
        let index = Index::new(0, &mut arena).unwrap();
        assert_eq!(index.find(Sbdf::from_raw(7), Some), None);
    }

    #[test]
    fn there_is_room_for_as_many_as_were_asked_for() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let mut arena = Arena::new(&mut memory);
        for capacity in [0, 1, 3] {
            let mut index = Index::new(capacity, &mut arena).unwrap();
            // All of one key.
            let key = Sbdf::new(0, 0, 2, 0);
            (0..9).for_each(|number| index.insert(key, number));
            let found = |index: &Index<'_>| {
                let is_in =
                    |number: &u32| index.find(key, |there| (there == *number).then_some(())).is_some();
                (0..9).filter(is_in).collect::<Vec<_>>()
            };
            assert_eq!(found(&index).len(), capacity);
            for number in 0..9 {
                index.remove(key, number, |_| Some(key));
            }
            assert_eq!(found(&index), []);
            (4..9).for_each(|number| index.insert(key, number));
            assert_eq!(found(&index), (4..).take(capacity).collect::<Vec<_>>());
        }
    }
}
