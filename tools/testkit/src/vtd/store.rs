//! Where a unit keeps what it has cached: in maps, or in memory that a test provides, which can be taken down and put back.

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

/// The maps of a unit. None of them needs room for more than what a test's requesters, pages and domain ids make.
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
