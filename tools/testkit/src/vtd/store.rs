//! Where a unit keeps what it has cached: in maps, or in memory that a test provides, which can be taken down
//! and put back.

use std::collections::BTreeMap;

/// What a unit remembers by a key.
pub trait Map<K, V: Copy>: Default {
    /// The value of a key.
    fn get(&self, key: K) -> Option<V>;

    /// Sets it.
    fn insert(&mut self, key: K, value: V);

    /// Forgets what `keep` says `false` of.
    fn retain(&mut self, keep: &mut dyn FnMut(K, V) -> bool);
}

impl<K: Ord + Copy, V: Copy> Map<K, V> for BTreeMap<K, V> {
    fn get(&self, key: K) -> Option<V> {
        BTreeMap::get(self, &key).copied()
    }

    fn insert(&mut self, key: K, value: V) {
        BTreeMap::insert(self, key, value);
    }

    fn retain(&mut self, keep: &mut dyn FnMut(K, V) -> bool) {
        BTreeMap::retain(self, |key, value| keep(*key, *value));
    }
}

/// The maps of a unit. None of them needs room for more than what a test's requesters, pages and domain ids
/// make.
pub trait Store {
    /// Context entries by source id.
    type Contexts: Map<u16, super::Context>;
    /// Translations by domain id and page.
    type Pages: Map<(u16, u64), super::Page>;
    /// Frames that devices keep, by source id and page.
    type DevicePages: Map<(u16, u64), u64>;
    /// Words of memory as the caches have written them back, by address; for units that do not snoop.
    type Memory: Map<usize, u64>;
}

/// Maps on the heap, as large as they become.
#[derive(Clone, Copy, Debug)]
pub struct Maps;

impl Store for Maps {
    type Contexts = BTreeMap<u16, super::Context>;
    type Pages = BTreeMap<(u16, u64), super::Page>;
    type DevicePages = BTreeMap<(u16, u64), u64>;
    type Memory = BTreeMap<usize, u64>;
}

/// A map of at most `N` keys that has nothing on the heap, so that its bytes are all of it.
#[derive(Clone, Copy, Debug)]
pub struct Few<K, V, const N: usize>([Option<(K, V)>; N]);

impl<K: Copy, V: Copy, const N: usize> Default for Few<K, V, N> {
    fn default() -> Self {
        Self([None; N])
    }
}

impl<K: Copy + PartialEq, V: Copy, const N: usize> Map<K, V> for Few<K, V, N> {
    fn get(&self, key: K) -> Option<V> {
        self.0.iter().flatten().find(|(its, _)| *its == key).map(|(_, value)| *value)
    }

    /// # Panics
    /// When there is no room left.
    fn insert(&mut self, key: K, value: V) {
        let same = self.0.iter().position(|place| place.is_some_and(|(its, _)| its == key));
        let place = same.or_else(|| self.0.iter().position(Option::is_none)).expect("room for a key");
        self.0[place] = Some((key, value));
    }

    fn retain(&mut self, keep: &mut dyn FnMut(K, V) -> bool) {
        for place in &mut self.0 {
            *place = place.filter(|(key, value)| keep(*key, *value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_kept_as_many_are() {
        let (mut few, mut many) = (Few::<u32, u32, 7>::default(), BTreeMap::new());
        for number in 0..1000_u32 {
            let key = number.wrapping_mul(0x9e37_79b9) >> 7;
            Map::insert(&mut few, key % 7, number);
            Map::insert(&mut many, key % 7, number);
            if number % 5 == 0 {
                few.retain(&mut |key, value| (key ^ value) & 1 == 0);
                Map::retain(&mut many, &mut |key, value| (key ^ value) & 1 == 0);
            }
            assert!((0..8).all(|key| Map::get(&few, key) == Map::get(&many, key)));
        }
    }
}
