//! Units that do not do as told.

use super::*;
use testkit::vtd::Trouble;
use xen_iommu::vtd::registers::FaultStatus;

const A: u16 = 0x08;
const B: u16 = 0x10;

/// Two spaces, a device in each.
fn two_spaces(cap: u64, queue: bool, at_once: bool) -> (Rig, [DeviceRoot; 2]) {
    let rig = Rig::of(cap, MODEL_ECAP, queue, at_once);
    let tables = [rig.table(4, &[(1, 0x11)]), rig.table(4, &[(1, 0x22)])];
    for (source, index) in [(A, 0), (B, 1)] {
        rig.vtd.attach(device(0, source as u8).into(), SpaceId(index as u32), tables[index]).unwrap();
        assert!(rig.model.dma(source, 0x1000, false).is_ok());
    }
    (rig, tables)
}

fn timed_out(result: Result<(), HardwareError>) -> bool {
    matches!(result, Err(HardwareError::TimedOut { unit: BASE, .. }))
}

#[test]
fn waits_end() {
    let troubles = [
        (false, Trouble { context: true, ..Trouble::default() }),
        (false, Trouble { iotlb: true, ..Trouble::default() }),
        (true, Trouble { queue: true, ..Trouble::default() }),
    ];
    for (queue, trouble) in troubles {
        let (rig, tables) = two_spaces(CAP, queue, true);
        let before = rig.model.polls();
        rig.model.trouble(trouble);
        assert!(timed_out(rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1])));
        assert!(rig.model.polls() - before <= 2 * u64::from(POLLS));
        rig.model.trouble(Trouble::default());
        if !queue {
            // A command by register that never ends keeps the registers.
            continue;
        }
        rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1]).unwrap();
        assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000));
        rig.check();
    }
}

#[test]
fn an_id_with_old_translations_is_not_given_to_another_space() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let [old, new, third] = [0x11, 0x22, 0x33].map(|mfn| rig.table(4, &[(1, mfn)]));
    let (a, b) = (device(0, A as u8), device(0, B as u8));
    rig.vtd.attach(a.into(), SpaceId(1), old).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000));
    rig.model.trouble(Trouble { queue: true, ..Trouble::default() });
    assert!(timed_out(rig.vtd.attach(a.into(), SpaceId(2), new)));
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000), "nothing was invalidated");
    // No space has the old id any more, but it is not clean.
    assert!(timed_out(rig.vtd.attach(b.into(), SpaceId(3), third)));
    assert_eq!(rig.model.dma(B, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
    rig.model.trouble(Trouble::default());
    rig.vtd.attach(b.into(), SpaceId(3), third).unwrap();
    assert_eq!(rig.model.dma(B, 0x1000, false), Ok(0x3_3000));
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000), "settled");
}

#[test]
fn a_flush_of_a_space_that_is_left_in_doubt_is_not_forgotten() {
    let (rig, tables) = two_spaces(CAP, true, true);
    rig.model.trouble(Trouble { queue: true, ..Trouble::default() });
    assert!(timed_out(rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1])));
    // Space 0 has no device in memory, but one in the unit's caches.
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    assert!(timed_out(rig.vtd.flush(SpaceId(0), &flush_of(1, 2))));
    rig.model.trouble(Trouble::default());
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000));
}

#[test]
fn a_device_tlb_that_cannot_be_had_leaves_translated_requests_blocked() {
    let (rig, _) = two_spaces(CAP, true, true);
    let a = device(0, A as u8);
    rig.model.trouble(Trouble { queue: true, ..Trouble::default() });
    assert!(matches!(rig.vtd.use_device_tlb(a.into(), 0), Err(HardwareError::TimedOut { .. })));
    rig.model.trouble(Trouble::default());
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
    assert_eq!(rig.model.ats_request(A, 0x1000), Err(Reason::TRANSLATED_BLOCKED));
    assert_eq!(rig.model.dma(A, 0x1000, true), Ok(0x1_1000));
}

#[test]
fn a_detach_that_times_out_is_in_memory_all_the_same() {
    let (rig, _) = two_spaces(CAP, true, true);
    rig.model.trouble(Trouble { queue: true, ..Trouble::default() });
    for _ in 0..2 {
        rig.vtd.detach(device(0, A as u8).into()).unwrap_err();
    }
    rig.model.trouble(Trouble::default());
    // The retry has to make sure of it, though there is nothing left to write.
    rig.vtd.detach(device(0, A as u8).into()).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
}

#[test]
fn a_queue_error_leaves_the_device_where_it_was() {
    let errors = [FaultStatus::QUEUE_ERROR, FaultStatus::COMPLETION_ERROR, FaultStatus::TIME_OUT_ERROR];
    for error in errors {
        for at_once in [true, false] {
            for caching_mode in [0, 1 << 7] {
                let mut failed = 0;
                // An error at each descriptor in turn, until there is none left to fail.
                for after in 0.. {
                    let (rig, tables) = two_spaces(CAP | caching_mode, true, at_once);
                    rig.model.trouble(Trouble { queue_error: Some((after, error)), ..Trouble::default() });
                    let result = rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1]);
                    rig.model.trouble(Trouble::default());
                    if result.is_ok() {
                        assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000));
                        break;
                    }
                    failed += 1;
                    assert_eq!(result, Err(HardwareError::QueueError { unit: BASE, status: error.bits() }));
                    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000));
                    assert_eq!(rig.model.dma(B, 0x1000, false), Ok(0x2_2000));
                    let there = |rig: &Rig| [0, 1].map(|space| rig.vtd.units()[0].has_space(SpaceId(space)));
                    assert_eq!(there(&rig), [true, true]);
                    // And the queue works, and nothing was counted twice or forgotten.
                    rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1]).unwrap();
                    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000));
                    assert_eq!(there(&rig), [false, true]);
                    rig.vtd.detach(device(0, A as u8).into()).unwrap();
                    assert_eq!(there(&rig), [false, true]);
                    rig.vtd.detach(device(0, B as u8).into()).unwrap();
                    assert_eq!(there(&rig), [false, false]);
                    rig.check();
                }
                assert!(failed >= 4, "context, wait, IOTLB, wait at least: {failed}");
            }
        }
    }
}

#[test]
fn a_failed_detach_leaves_the_device_attached() {
    for after in 0..4 {
        let (rig, _) = two_spaces(CAP, true, true);
        let trouble = Trouble { queue_error: Some((after, FaultStatus::QUEUE_ERROR)), ..Trouble::default() };
        rig.model.trouble(trouble);
        let result = rig.vtd.detach(device(0, A as u8).into());
        assert!(matches!(result, Err(HardwareError::QueueError { .. })));
        assert_eq!(rig.model.dma(A, 0x1000, true), Ok(0x1_1000));
        rig.vtd.detach(device(0, A as u8).into()).unwrap();
        assert_eq!(rig.model.dma(A, 0x1000, true), Err(Reason::CONTEXT_NOT_PRESENT));
    }
}

#[test]
fn a_failed_flush_is_reported_and_remembered() {
    // The next flush of the space makes up for it, though it names another page, or is for mappings that were
    // added alone.
    for next in [flush_of(7, 8), added(7, 8)] {
        let (rig, tables) = two_spaces(CAP, true, true);
        rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
        let trouble = Trouble { queue_error: Some((0, FaultStatus::TIME_OUT_ERROR)), ..Trouble::default() };
        rig.model.trouble(trouble);
        let result = rig.vtd.flush(SpaceId(0), &flush_of(1, 2));
        assert!(matches!(result, Err(HardwareError::QueueError { status: 0x40, .. })));
        assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000), "still cached");
        rig.vtd.flush(SpaceId(0), &next).unwrap();
        assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
    }
}

#[test]
fn an_ignored_page_invalidation_becomes_a_wider_one() {
    let (rig, tables) = two_spaces(CAP, false, true);
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    for (round, ignores) in [&[3][..], &[3, 2]].into_iter().enumerate() {
        rig.model.trouble(Trouble { ignores, ..Trouble::default() });
        rig.model.take_events();
        rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
        let wider = 2 - round as u8;
        let events = rig.model.take_events();
        assert!(matches!(events[..], [Event::Iotlb(done, _)] if done.granularity() == wider), "{events:?}");
        assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
    }
    rig.model.trouble(Trouble { ignores: &[3, 2, 1], ..Trouble::default() });
    assert!(timed_out(rig.vtd.flush(SpaceId(0), &flush_of(1, 2))));
    rig.check();
}

#[test]
fn a_queue_that_stood_still_once_is_started_anew() {
    let (rig, tables) = two_spaces(CAP, true, true);
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    rig.model.trouble(Trouble { stalls: Some((0, 1)), ..Trouble::default() });
    assert!(timed_out(rig.vtd.flush(SpaceId(0), &flush_of(1, 2))));
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
    rig.check();
}

#[test]
fn faults_that_were_lost_are_told_though_the_queue_fails_before() {
    let (rig, _) = two_spaces(CAP, true, true);
    // One register, and one fault too many.
    for source in [0x40, 0x41] {
        rig.model.dma(source, 0x1000, true).unwrap_err();
    }
    let trouble = Trouble { queue_error: Some((0, FaultStatus::QUEUE_ERROR)), ..Trouble::default() };
    rig.model.trouble(trouble);
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap_err();
    assert_eq!(rig.faults().1, FaultSummary { faults: 1, overflow: true });
    assert_eq!(rig.faults().1, FaultSummary::default());
}

#[test]
fn ids_run_out_with_an_error_and_come_back() {
    // ND 0: 16 ids, of which 0 is nobody's.
    let rig = Rig::new(CAP & !7, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    for space in 0..15u8 {
        rig.vtd.attach(device(0, space).into(), SpaceId(u32::from(space)), table).unwrap();
    }
    let refused = HardwareError::NoDomainId { unit: BASE };
    assert_eq!(rig.vtd.attach(device(0, 20).into(), SpaceId(20), table), Err(refused));
    assert_eq!(rig.model.dma(20, 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
    // Another device of a space that has an id needs none.
    rig.vtd.attach(device(0, 20).into(), SpaceId(7), table).unwrap();
    rig.vtd.detach(device(0, 3).into()).unwrap();
    rig.vtd.attach(device(0, 3).into(), SpaceId(20), table).unwrap();
}

#[test]
fn levels_that_the_unit_does_not_walk_are_refused() {
    let rig = Rig::new(QEMU_CAP, MODEL_ECAP, true);
    assert!(rig.vtd.walks(3) && !rig.vtd.walks(4) && !rig.vtd.walks(0));
    for levels in [0, 2, 4, 5, 255] {
        let table = DeviceRoot { levels, ..rig.arena.table_of(3) };
        let result = rig.vtd.attach(device(0, 8).into(), SpaceId(1), table);
        assert_eq!(result, Err(HardwareError::Levels { unit: BASE, levels }));
    }
    assert!(!rig.vtd.units()[0].has_space(SpaceId(1)));
}

#[test]
fn running_out_of_frames_changes_nothing() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    rig.arena.allow(0);
    assert_eq!(rig.vtd.attach(device(5, 8).into(), SpaceId(1), table), Err(HardwareError::NoFrames));
    assert!(!rig.vtd.units()[0].has_space(SpaceId(1)));
    assert_eq!(rig.model.dma(0x508, 0x1000, false), Err(Reason::ROOT_NOT_PRESENT));
    rig.arena.allow(1);
    rig.vtd.attach(device(5, 8).into(), SpaceId(1), table).unwrap();
    assert_eq!(rig.model.dma(0x508, 0x1000, false), Ok(0x2000));
}
