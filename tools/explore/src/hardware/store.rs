//! The unit's caches, in places of fixed size so that they live in the block; and memory as the unit sees it
//! where it does not snoop.

use std::sync::atomic::AtomicU64;

use testkit::vtd::{Context, Map, Page, Store};

use crate::machine::{PROBES, SOURCES};
use crate::memory::shadow;

/// Domain ids, 0 and the one for entries that change included: three domains, a quarantine each, and some
/// that linger after a failure.
pub const IDS: usize = 16;

/// Caches of fixed size.
pub struct Fixed;

impl Store for Fixed {
    type Contexts = Few<u16, Context, SOURCES>;
    type Pages = Rows;
    type DevicePages = Few<(u16, u64), u64, PROBES>;
    type Memory = Shadow;
}

/// A few values.
pub struct Few<K, V, const N: usize>([Option<(K, V)>; N]);

impl<K, V, const N: usize> Default for Few<K, V, N> {
    fn default() -> Self {
        Self([const { None }; N])
    }
}

impl<K: Copy + PartialEq, V: Copy, const N: usize> Map<K, V> for Few<K, V, N> {
    fn get(&self, key: K) -> Option<V> {
        self.0.iter().flatten().find_map(|(its, value)| (*its == key).then_some(*value))
    }

    fn insert(&mut self, key: K, value: V) {
        let is_same = |place: &Option<(K, V)>| place.as_ref().is_some_and(|(its, _)| *its == key);
        let place = self.0.iter().position(is_same).or_else(|| self.0.iter().position(Option::is_none));
        self.0[place.expect("no more keys than places")] = Some((key, value));
    }

    fn retain(&mut self, keep: &mut dyn FnMut(K, V) -> bool) {
        for place in &mut self.0 {
            if place.is_some_and(|(key, value)| !keep(key, value)) {
                *place = None;
            }
        }
    }
}

/// Translations: a row for each domain id.
#[derive(Default)]
pub struct Rows([Few<u64, Page, PROBES>; IDS]);

impl Map<(u16, u64), Page> for Rows {
    fn get(&self, (id, page): (u16, u64)) -> Option<Page> {
        self.0.get(usize::from(id))?.get(page)
    }

    fn insert(&mut self, (id, page): (u16, u64), value: Page) {
        self.0[usize::from(id)].insert(page, value);
    }

    fn retain(&mut self, keep: &mut dyn FnMut((u16, u64), Page) -> bool) {
        for (id, row) in (0..).zip(&mut self.0) {
            row.retain(&mut |page, value| keep((id, page), value));
        }
    }
}

/// The words of frames as they were last written back.
#[derive(Default)]
pub struct Shadow;

impl Map<usize, u64> for Shadow {
    fn get(&self, word: usize) -> Option<u64> {
        Some(shadow(word).load(std::sync::atomic::Ordering::Relaxed))
    }

    fn insert(&mut self, word: usize, value: u64) {
        shadow(word).store(value, std::sync::atomic::Ordering::Relaxed);
    }

    fn retain(&mut self, _: &mut dyn FnMut(usize, u64) -> bool) {}
}

/// Nobody has written these words back.
pub(super) fn forget(words: &[AtomicU64]) {
    for word in words {
        shadow(std::ptr::from_ref(word).addr()).store(u64::MAX, std::sync::atomic::Ordering::Relaxed);
    }
}
