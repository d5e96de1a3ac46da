//! Domain ids against a map.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use proptest::prelude::*;

use super::{DomainSlot, Domains};
use crate::platform::SpaceId;

fn slots(count: usize) -> Vec<DomainSlot> {
    (0..count).map(|_| DomainSlot::new()).collect()
}

#[derive(Clone, Debug)]
enum Call {
    Acquire(u32),
    Release { space: u32, keep: bool },
    Settle,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let space = prop_oneof![0u32..12, (0u32..4).prop_map(|n| 0x8000_0000 | n << 8), Just(u32::MAX)];
    let call = prop_oneof![
        4 => space.clone().prop_map(Call::Acquire),
        4 => (space, prop::bool::weighted(0.3)).prop_map(|(space, keep)| Call::Release { space, keep }),
        1 => Just(Call::Settle),
    ];
    prop::collection::vec(call, 0..80)
}

proptest! {
    #[test]
    fn ids_follow_the_spaces(calls in calls(), ids in 1usize..16, reserve: bool) {
        let mut slots = slots(9);
        let domains = Domains::new(&mut slots);
        let room = ids.min(9) - 1;
        let own = domains.reset(ids, reserve).map(|id| usize::from(id.0));
        prop_assert_eq!(own, (reserve && room > 0).then_some(room));
        let room = room - usize::from(own.is_some());
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
                Call::Release { space, keep } => {
                    let Some(id) = domains.id_of(SpaceId(space)) else { continue };
                    domains.release(id, keep);
                    let entry = expected.get_mut(&space).unwrap();
                    entry.1 = entry.1.saturating_sub(1);
                    if entry.1 == 0 && !keep {
                        expected.remove(&space);
                    }
                }
                Call::Settle => {
                    domains.settle();
                    expected.retain(|_, entry| entry.1 != 0);
                }
            }
            for space in (0..12).chain((0..4).map(|n| 0x8000_0000 | n << 8)).chain([u32::MAX]) {
                let entry = expected.get(&space);
                let id = domains.id_of(SpaceId(space));
                prop_assert_eq!(id.map(|id| id.0), entry.map(|entry| entry.0));
                let users = id.and_then(|id| domains.slot(id)).map(DomainSlot::users);
                prop_assert_eq!(users, entry.map(|entry| entry.1));
            }
        }
    }
}

#[test]
fn no_memory_is_no_ids() {
    for count in 0..2 {
        let mut slots = slots(count);
        let domains = Domains::new(&mut slots);
        assert_eq!(domains.reset(16, true), None);
        assert_eq!(domains.acquire(SpaceId(1)), None);
        assert_eq!(domains.id_of(SpaceId(1)), None);
    }
}

/// Two spaces in a few slots, so that some share a bucket: whichever goes first, the other one stays.
#[test]
fn an_id_is_found_though_another_of_its_bucket_went() {
    for (first, second) in (0..8).flat_map(|first| (0..8).map(move |second| (first, second))) {
        if first == second {
            continue;
        }
        let mut slots = slots(3);
        let domains = Domains::new(&mut slots);
        domains.reset(3, false);
        let ids = [first, second].map(|space| domains.acquire(SpaceId(space)).unwrap());
        domains.release(ids[0], false);
        assert_eq!(domains.id_of(SpaceId(first)), None);
        assert_eq!(domains.id_of(SpaceId(second)), Some(ids[1]));
    }
}

#[test]
fn debts_go_with_the_id() {
    let mut slots = slots(3);
    let domains = Domains::new(&mut slots);
    domains.reset(3, false);
    let id = domains.acquire(SpaceId(1)).unwrap();
    domains.set_owed(id, true);
    assert!(domains.is_owed(id));
    domains.release(id, false);
    let again = domains.acquire(SpaceId(2)).unwrap();
    assert_eq!((again, domains.is_owed(again)), (id, false), "the id that became free last, without debts");
    domains.set_owed(id, true);
    domains.settle();
    assert!(!domains.is_owed(id));
}

/// Who looks while ids come and go finds a space that has its id all the time, and never finds another
/// space's.
#[test]
fn looking_needs_no_lock() {
    let mut slots = slots(9);
    let domains = &Domains::new(&mut slots);
    domains.reset(9, false);
    let stays = domains.acquire(SpaceId(7)).unwrap();
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                if domains.id_of(SpaceId(7)) != Some(stays) || domains.id_of(SpaceId(99)).is_some() {
                    return false;
                }
            }
            true
        });
        // Fewer where proptest is asked for fewer cases than its 256.
        let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
        let mut lost = None;
        'rounds: for round in 0..20_000 * cases.unwrap_or(256).min(256) / 256 {
            for space in [round % 5, 100 + round % 7, 200] {
                domains.acquire(SpaceId(space));
            }
            for space in [200, round % 5, 100 + round % 7] {
                let Some(id) = domains.id_of(SpaceId(space)) else {
                    // The reader has to come to its end.
                    lost = Some(space);
                    break 'rounds;
                };
                domains.release(id, false);
            }
        }
        end.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap());
        assert_eq!(lost, None);
    });
}
