//! Domain ids against a map.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;

use super::leak;
use crate::platform::SpaceId;
use crate::vtd::domains::{DomainSlot, Domains};

#[derive(Clone, Debug)]
enum Call {
    Acquire(u32),
    Release(u32),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let space = prop_oneof![0u32..12, (0u32..4).prop_map(|n| 0x8000_0000 | n << 8), Just(u32::MAX)];
    let call = prop_oneof![
        3 => space.clone().prop_map(Call::Acquire),
        3 => space.prop_map(Call::Release),
    ];
    prop::collection::vec(call, 0..80)
}

proptest! {
    #[test]
    fn ids_follow_the_spaces(calls in calls(), ids in 1usize..16) {
        let mut domains = Domains::new(leak(9, DomainSlot::EMPTY), leak(1, u64::MAX));
        domains.reset(ids);
        let room = ids.min(9) - 1;
        // Space to id and users.
        let mut expected: BTreeMap<u32, (u16, u32)> = BTreeMap::new();
        for call in calls {
            match call {
                Call::Acquire(space) => {
                    let got = domains.acquire(SpaceId(space));
                    if let Some(entry) = expected.get_mut(&space) {
                        prop_assert_eq!(got.map(|id| id.0), Some(entry.0));
                        entry.1 += 1;
                    } else if expected.len() < room {
                        let id = got.expect("there is an id left").0;
                        prop_assert!(id != 0 && usize::from(id) <= room);
                        prop_assert!(expected.values().all(|entry| entry.0 != id), "given twice");
                        expected.insert(space, (id, 1));
                    } else {
                        prop_assert_eq!(got, None);
                    }
                }
                Call::Release(space) => {
                    let Some(id) = domains.id_of(SpaceId(space)) else { continue };
                    domains.release(id);
                    let entry = expected.get_mut(&space).unwrap();
                    entry.1 = entry.1.saturating_sub(1);
                }
            }
            expected.retain(|_, entry| entry.1 != 0);
            for space in (0..12).chain((0..4).map(|n| 0x8000_0000 | n << 8)).chain([u32::MAX]) {
                let entry = expected.get(&space);
                prop_assert_eq!(domains.id_of(SpaceId(space)).map(|id| id.0), entry.map(|entry| entry.0));
                prop_assert_eq!(domains.users(SpaceId(space)), entry.map_or(0, |entry| entry.1));
            }
        }
    }
}

#[test]
fn no_memory_is_no_ids() {
    for (slots, words) in [(0, 0), (0, 1), (1, 1), (4, 0)] {
        let mut domains = Domains::new(leak(slots, DomainSlot::EMPTY), leak(words, 0));
        domains.reset(16);
        assert_eq!(domains.acquire(SpaceId(1)), None);
        assert_eq!(domains.reserve(), None);
        assert_eq!(domains.id_of(SpaceId(1)), None);
    }
}
