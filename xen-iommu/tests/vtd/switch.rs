//! Moving a device that is in the middle of its DMA.

use std::vec;

use super::*;
use p2m::{FrameSource, Mfn};
use xen_iommu::vtd::tables::{
    AtOnce, ContextEntry, ContextHigh, ContextLow, ContextSlot, DomainId, context_table,
};

const RMRR: u64 = 0x50;
/// A page that is elsewhere in each space.
const OWN: u64 = 0x99;
const MOVING: u16 = 0x08;
const STAYS_IN_OLD: u16 = 0x10;
const LIVES_IN_NEW: u16 = 0x18;

/// Three devices, two spaces that both have the RMRR: one device moves, while each register write is followed
/// by reads of all three.
fn move_one(queue: bool, at_once: bool, old_levels: u8, new_levels: u8) -> (Rig, Vec<testkit::vtd::Probed>) {
    let rig = Rig::of(CAP, MODEL_ECAP, queue, at_once);
    let old = rig.table(old_levels, &[(RMRR, RMRR), (OWN, 0x1)]);
    let new = rig.table(new_levels, &[(RMRR, RMRR), (OWN, 0x2)]);
    for (source, space, table) in [(MOVING, 1, old), (STAYS_IN_OLD, 1, old), (LIVES_IN_NEW, 2, new)] {
        rig.vtd.attach(device(0, source as u8).into(), SpaceId(space), table).unwrap();
    }
    rig.model.take_probed();
    rig.model.probe(&[
        (MOVING, OWN << 12),
        (MOVING, RMRR << 12),
        (STAYS_IN_OLD, OWN << 12),
        (LIVES_IN_NEW, OWN << 12),
    ]);
    rig.vtd.attach(device(0, MOVING as u8).into(), SpaceId(2), new).unwrap();
    rig.model.probe(&[]);
    let probed = rig.model.take_probed();
    assert!(probed.len() >= 8, "the move was looked into: {}", probed.len());
    assert_eq!(rig.model.dma(MOVING, OWN << 12, false), Ok(0x2000));
    assert_eq!(rig.model.dma(STAYS_IN_OLD, OWN << 12, false), Ok(0x1000));
    assert_eq!(rig.model.dma(LIVES_IN_NEW, OWN << 12, false), Ok(0x2000));
    rig.check();
    (rig, probed)
}

#[test]
fn reserved_memory_stays_reachable_and_nobody_sees_another_space() {
    for queue in WAYS {
        for at_once in [true, false] {
            let (_, probed) = move_one(queue, at_once, 4, 4);
            for one in probed {
                match (one.source, one.address >> 12) {
                    (_, RMRR) => assert_eq!(one.result, Ok(RMRR << 12), "{one:?}"),
                    (MOVING, _) => assert!(matches!(one.result, Ok(0x1000 | 0x2000)), "{one:?}"),
                    (STAYS_IN_OLD, _) => assert_eq!(one.result, Ok(0x1000), "{one:?}"),
                    _ => assert_eq!(one.result, Ok(0x2000), "{one:?}"),
                }
            }
        }
    }
}

#[test]
fn a_change_of_levels_is_no_gap_either_where_both_words_change_at_once() {
    for queue in WAYS {
        for (old, new) in [(3, 4), (4, 3)] {
            let (_, probed) = move_one(queue, true, old, new);
            assert!(probed.iter().filter(|one| one.address >> 12 == RMRR).all(|one| one.result.is_ok()));
        }
    }
}

#[test]
fn without_cmpxchg16b_a_change_of_levels_blocks_rather_than_walks_the_wrong_way() {
    for queue in WAYS {
        for (old, new) in [(3, 4), (4, 3)] {
            let (_, probed) = move_one(queue, false, old, new);
            let mut blocked = 0;
            for one in probed.iter().filter(|one| one.source == MOVING) {
                match one.result {
                    Ok(target) => assert!([0x1000, 0x2000, RMRR << 12].contains(&target), "{one:?}"),
                    Err(reason) => {
                        assert_eq!(reason, Reason::CONTEXT_NOT_PRESENT);
                        blocked += 1;
                    }
                }
            }
            assert!(blocked > 0, "this is the way that is documented");
        }
    }
}

/// The reason for all this: the hazard is real, and the model shows it.
#[test]
fn a_half_made_entry_would_leak_one_space_into_another() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let old = rig.table(4, &[(OWN, 0x1)]);
    let new = rig.table(4, &[(OWN, 0x2)]);
    rig.vtd.attach(device(0, MOVING as u8).into(), SpaceId(1), old).unwrap();
    rig.vtd.attach(device(0, LIVES_IN_NEW as u8).into(), SpaceId(2), new).unwrap();
    let root = rig.arena.table(Mfn::containing(rig.model.root())).unwrap();
    let table = rig.arena.table(context_table(root, 0).unwrap()).unwrap();
    let slots = [MOVING, LIVES_IN_NEW].map(|source| ContextSlot::of(table, source as u8).unwrap());
    let new_id = slots[1].read().domain().unwrap();
    slots[0].replace_by_words(slots[0].read().tagged(new_id));
    assert_eq!(rig.model.dma(MOVING, OWN << 12, false), Ok(0x1000));
    assert_eq!(rig.model.dma(LIVES_IN_NEW, OWN << 12, false), Ok(0x1000), "the other space's page");
}

#[test]
fn entries_have_the_bits_of_the_specification() {
    let root = DeviceRoot { root: Mfn::new(0x1234), levels: 4 };
    let entry = ContextEntry::translating(root, DomainId(0xabcd), false).unwrap();
    assert_eq!(entry.low.into_bits(), 0x0123_4001);
    assert_eq!(entry.high.into_bits(), 0x00ab_cd02);
    let entry = ContextEntry::translating(root, DomainId(1), true).unwrap();
    assert_eq!(entry.low.into_bits(), 0x0123_4005);
    for levels in [0, 1, 2, 6, 255] {
        assert_eq!(ContextEntry::translating(DeviceRoot { levels, ..root }, DomainId(1), false), None);
    }
    let far = DeviceRoot { root: Mfn::new(1 << 52), levels: 4 };
    assert_eq!(ContextEntry::translating(far, DomainId(1), false), None);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn entries_are_replaced_at_once_where_the_processor_can() {
    assert_eq!(AtOnce::detect().is_some(), std::arch::is_x86_feature_detected!("cmpxchg16b"));
}

#[test]
fn both_ways_of_replacing_write_the_same() {
    let arena = arena(1);
    let frame = arena.allocate().unwrap();
    let table = arena.table(frame).unwrap();
    let entry =
        |low, high| ContextEntry { low: ContextLow::from_bits(low), high: ContextHigh::from_bits(high) };
    for devfn in [0, 1, 255] {
        let slot = ContextSlot::of(table, devfn).unwrap();
        for value in [entry(0x1001, 0x102), entry(0x2001, 0x202), ContextEntry::ABSENT] {
            if let Some(how) = AtOnce::detect() {
                assert!(slot.replace_at_once(how, value));
                assert_eq!(slot.read(), value);
            }
            slot.replace_by_words(value);
            assert_eq!(slot.read(), value);
        }
        slot.replace_by_words(entry(0x3001, 0x302));
    }
    let words = vec![0x3001, 0x302];
    for index in [0, 1, 255] {
        let found: Vec<u64> = table.0[index * 2..index * 2 + 2]
            .iter()
            .map(|word| word.load(core::sync::atomic::Ordering::Relaxed))
            .collect();
        assert_eq!(found, words);
    }
}

/// Somebody who reads an entry all the time, as hardware may, never sees one word of one entry with a word of
/// another.
#[test]
fn a_reader_never_sees_a_half_made_entry() {
    use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    let frame = Box::new(p2m::TableFrame(core::array::from_fn(|_| AtomicU64::new(0))));
    let slot = ContextSlot::of(&frame, 5).unwrap();
    let numbered = |number: u64| ContextEntry {
        low: ContextLow::new().with_present(true).with_table(number),
        high: ContextHigh::new().with_width(2).with_domain_id(number as u16),
    };
    let at_once = AtOnce::detect();
    let (seen, end) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                let [low, high] = slot.words() else { panic!("two words") };
                let before = low.load(Ordering::SeqCst);
                let high = ContextHigh::from_bits(high.load(Ordering::SeqCst));
                let low = ContextLow::from_bits(low.load(Ordering::SeqCst));
                if low.into_bits() == before && low.present() {
                    assert_eq!(high.domain_id(), low.table() as u16);
                    seen.store(true, Ordering::Relaxed);
                }
            }
        });
        for number in 1..400_000 {
            if number > u64::from(rounds(400_000)) && seen.load(Ordering::Relaxed) {
                break;
            }
            slot.replace_by_words(numbered(number * 2));
            // From one present entry to another, or by way of none.
            if let (Some(how), 0) = (at_once, number % 2)
                && !slot.replace_at_once(how, numbered(number * 2 + 1))
            {
                break;
            }
            slot.replace_by_words(ContextEntry::ABSENT);
        }
        end.store(true, Ordering::Relaxed);
        assert!(!slot.read().low.present(), "the loop came to its end");
        reader.join().unwrap();
        assert!(seen.load(Ordering::Relaxed), "the reader looked");
    });
}

/// The same of the driver's moves, with the pair that belongs together told by the number of the table.
#[test]
fn a_reader_never_sees_a_table_under_the_other_spaces_id() {
    use core::sync::atomic::{AtomicBool, Ordering};

    for at_once in [true, false] {
        let rig = Rig::of(CAP, MODEL_ECAP, true, at_once);
        // Nobody walks these tables; each move has one of its own, even numbers for space 0 and odd ones for
        // space 1.
        let table = |number: u64| DeviceRoot { root: Mfn::new(0x10_0000 + number), levels: 4 };
        for number in 0..2 {
            let devfn = [LIVES_IN_NEW, STAYS_IN_OLD][number as usize] as u8;
            rig.vtd.attach(device(0, devfn).into(), SpaceId(number), table(u64::from(number))).unwrap();
        }
        let root = rig.arena.table(Mfn::containing(rig.model.root())).unwrap();
        let contexts = rig.arena.table(context_table(root, 0).unwrap()).unwrap();
        let id = |source: u16| ContextSlot::of(contexts, source as u8).unwrap().read().domain().unwrap().0;
        let ids = [LIVES_IN_NEW, STAYS_IN_OLD].map(id);
        let slot = ContextSlot::of(contexts, MOVING as u8).unwrap();
        let (seen, end) = (AtomicBool::new(false), AtomicBool::new(false));
        let (wrong, last) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut wrong = None;
                while !end.load(Ordering::Relaxed) {
                    let [low, high] = slot.words() else { panic!("two words") };
                    let before = low.load(Ordering::SeqCst);
                    let id = ContextHigh::from_bits(high.load(Ordering::SeqCst)).domain_id();
                    let low = ContextLow::from_bits(low.load(Ordering::SeqCst));
                    if low.into_bits() == before && low.present() {
                        seen.store(true, Ordering::Relaxed);
                        let other = ids[1 - (low.table() & 1) as usize];
                        wrong = wrong.or((id == other).then_some((low.table(), id)));
                    }
                }
                wrong
            });
            let mut last = 1;
            for number in 2..40_000 {
                if number > u64::from(rounds(40_000)) && seen.load(Ordering::Relaxed) {
                    break;
                }
                let result =
                    rig.vtd.attach(device(0, MOVING as u8).into(), SpaceId(number as u32 & 1), table(number));
                if result.is_err() {
                    break;
                }
                last = number;
            }
            end.store(true, Ordering::Relaxed);
            (reader.join().unwrap(), last)
        });
        assert!(
            last >= u64::from(rounds(39_999)) && slot.read().low.table() == 0x10_0000 + last,
            "to the end"
        );
        assert_eq!(wrong, None);
        assert!(seen.load(Ordering::Relaxed), "the reader looked");
    }
}

#[test]
fn what_one_move_left_under_the_transit_id_is_not_the_next_ones() {
    let rig = Rig::of(CAP, MODEL_ECAP, true, false);
    let tables = [1, 2, 3, 4].map(|mfn| rig.table(4, &[(OWN, mfn)]));
    for (source, space) in [(0x08u8, 0), (0x10, 2)] {
        rig.vtd.attach(device(0, source).into(), SpaceId(space as u32), tables[space]).unwrap();
        rig.model.probe(&[(u16::from(source), OWN << 12)]);
        rig.vtd.attach(device(0, source).into(), SpaceId(space as u32 + 1), tables[space + 1]).unwrap();
        rig.model.probe(&[]);
        let probed = rig.model.take_probed();
        let allowed = [space as u64 + 1, space as u64 + 2].map(|mfn| Ok(mfn << 12));
        assert!(probed.iter().all(|one| allowed.contains(&one.result)), "{probed:?}");
    }
}

#[test]
fn what_was_absent_needs_no_transit() {
    for at_once in [true, false] {
        let rig = Rig::of(CAP, MODEL_ECAP, true, at_once);
        let table = rig.table(4, &[(OWN, 1)]);
        let device = device(0, MOVING as u8);
        rig.model.take_events();
        rig.vtd.attach(device.into(), SpaceId(0), table).unwrap();
        assert_eq!(rig.model.take_events(), [], "nothing was cached");
        // The same space under the same id: one word changes, if any.
        rig.vtd.attach(device.into(), SpaceId(0), table).unwrap();
        let events = rig.model.take_events();
        assert!(matches!(events[..], [Event::Context(_), Event::Iotlb(..)]), "{events:?}");
        rig.vtd.detach(device.into()).unwrap();
        let events = rig.model.take_events();
        assert!(matches!(events[..], [Event::Context(_), Event::Iotlb(..)]), "{events:?}");
        rig.vtd.detach(device.into()).unwrap();
        assert_eq!(rig.model.take_events(), []);
    }
}
