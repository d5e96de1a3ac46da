//! Devices with TLBs of their own.

use testkit::vtd::{Silence, Trouble};
use xen_iommu::vtd::registers::FaultStatus;

use super::*;

const A: u16 = 0x08;
const B: u16 = 0x10;

#[test]
fn devices_with_tlbs_of_their_own_are_flushed_too() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2), (3, 4)]);
    let gpu = device(0, 8);
    rig.vtd.attach(gpu.into(), SpaceId(1), table).unwrap();
    assert_eq!(rig.model.ats_request(8, 0x1000), Err(Reason::TRANSLATED_BLOCKED));
    assert_eq!(rig.vtd.use_device_tlb(gpu.into(), 0), Ok(true));
    for gfn in [1, 3] {
        assert_eq!(rig.model.ats_request(8, gfn << 12), Ok((gfn + 1) << 12));
        rig.arena.map(table, gfn, 0, PageSize::Size4K, Access::empty());
    }
    rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
    assert_eq!(rig.model.ats_dma(8, 0x1000), None);
    assert_eq!(rig.model.ats_dma(8, 0x3000), Some(0x4000));
    rig.vtd.flush(SpaceId(1), &flush_of(2, 4)).unwrap();
    assert_eq!(rig.model.ats_dma(8, 0x3000), None);

    let other = rig.table(4, &[(1, 0x22)]);
    rig.arena.map(table, 1, 2, PageSize::Size4K, Access::READ_WRITE);
    assert_eq!(rig.model.ats_request(8, 0x1000), Ok(0x2000));
    rig.vtd.attach(gpu.into(), SpaceId(2), other).unwrap();
    assert_eq!(rig.model.ats_dma(8, 0x1000), None, "moved");
    assert_eq!(rig.model.ats_request(8, 0x1000), Ok(0x2_2000));
    rig.vtd.drop_device_tlb(gpu.into()).unwrap();
    assert_eq!(rig.model.ats_request(8, 0x1000), Err(Reason::TRANSLATED_BLOCKED));
    assert_eq!(rig.model.dma(8, 0x1000, true), Ok(0x2_2000));
    rig.vtd.detach(gpu.into()).unwrap();
    rig.vtd.stop().unwrap();
    rig.check();

    let no_queue = Rig::new(CAP, MODEL_ECAP, false);
    assert_eq!(no_queue.vtd.use_device_tlb(gpu.into(), 0), Ok(false));
    let no_support = Rig::new(CAP, MODEL_ECAP & !4, true);
    assert_eq!(no_support.vtd.use_device_tlb(gpu.into(), 0), Ok(false));
}

/// Spaces 0 and 1 with a device each, of which both keep their page themselves; the first one no longer
/// answers.
fn one_is_silent(silence: Silence) -> (Rig, [DeviceRoot; 2]) {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let tables = [rig.table(4, &[(1, 0x11)]), rig.table(4, &[(1, 0x22)])];
    for (source, index) in [(A, 0), (B, 1)] {
        let device = device(0, source as u8);
        rig.vtd.attach(device.into(), SpaceId(index as u32), tables[index]).unwrap();
        assert_eq!(rig.vtd.use_device_tlb(device.into(), 0), Ok(true));
        assert!(rig.model.ats_request(source, 0x1000).is_ok());
    }
    assert_eq!(cut_off(&rig), []);
    rig.model.trouble(Trouble { silent_device: Some((A, silence)), ..Trouble::default() });
    (rig, tables)
}

fn cut_off(rig: &Rig) -> Vec<Sbdf> {
    let mut found = Vec::new();
    rig.vtd.for_each_cut_off(&mut |device| found.push(device));
    found
}

#[test]
fn a_device_that_does_not_answer_is_cut_off_and_others_go_on() {
    for silence in [Silence::Waits, Silence::Told] {
        let (rig, tables) = one_is_silent(silence);
        for table in tables {
            rig.arena.map(table, 1, 0, PageSize::Size4K, Access::empty());
        }
        // The flush succeeds: what the device keeps is of no use to it.
        rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
        assert_eq!(rig.model.ats_dma(A, 0x1000), None);
        assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
        assert_eq!(cut_off(&rig), [device(0, A as u8)]);
        // The other's is still used, and flushed.
        assert_eq!(rig.model.ats_dma(B, 0x1000), Some(0x2_2000));
        rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
        assert_eq!(rig.model.ats_dma(B, 0x1000), None);
        // It is not waited for again, wherever it goes.
        rig.model.take_events();
        rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
        rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1]).unwrap();
        assert!(!rig.model.take_events().iter().any(|event| matches!(event, Event::DeviceTlb { .. })));
        assert_eq!(rig.model.ats_request(A, 0x1000), Err(Reason::TRANSLATED_BLOCKED));
        // Until its TLB is switched on anew.
        rig.model.trouble(Trouble::default());
        assert_eq!(rig.vtd.use_device_tlb(device(0, A as u8).into(), 0), Ok(true));
        assert_eq!(cut_off(&rig), []);
        rig.arena.map(tables[1], 1, 0x33, PageSize::Size4K, Access::READ_WRITE);
        assert_eq!(rig.model.ats_request(A, 0x1000), Ok(0x3_3000));
        rig.check();
    }
}

#[test]
fn a_device_that_does_not_answer_can_be_detached_and_moved() {
    for (moves, silence) in
        [false, true].map(|moves| [Silence::Waits, Silence::Told].map(|s| (moves, s))).concat()
    {
        let (rig, tables) = one_is_silent(silence);
        let requester = device(0, A as u8).into();
        if moves {
            rig.vtd.attach(requester, SpaceId(1), tables[1]).unwrap();
            assert_eq!(rig.model.dma(A, 0x1000, true), Ok(0x2_2000));
        } else {
            rig.vtd.detach(requester).unwrap();
            assert_eq!(rig.model.dma(A, 0x1000, true), Err(Reason::CONTEXT_NOT_PRESENT));
        }
        assert_eq!(rig.model.ats_dma(A, 0x1000), None, "it keeps the old page, and does not reach it");
        assert_eq!(cut_off(&rig), [device(0, A as u8)]);
        assert!(!rig.vtd.units()[0].has_space(SpaceId(0)));
        rig.vtd.drop_device_tlb(requester).unwrap();
        assert_eq!(cut_off(&rig), []);
        rig.check();
    }
}

#[test]
fn cutting_off_that_fails_is_owed() {
    let (rig, tables) = one_is_silent(Silence::Told);
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    // IOTLB, wait, the device, which is silent; then of the context cache's invalidation.
    let trouble = Trouble {
        silent_device: Some((A, Silence::Told)),
        queue_error: Some((3, FaultStatus::QUEUE_ERROR)),
        ..Trouble::default()
    };
    rig.model.trouble(trouble);
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap_err();
    assert_eq!(rig.model.ats_dma(A, 0x1000), Some(0x1_1000), "the old entry is cached");
    assert_eq!(cut_off(&rig), [device(0, A as u8)]);
    rig.vtd.flush(SpaceId(0), &flush_of(5, 5)).unwrap();
    assert_eq!(rig.model.ats_dma(A, 0x1000), None);
    assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
    rig.check();
}

#[test]
fn a_failed_flush_of_a_device_is_owed_with_the_rest() {
    let (rig, tables) = one_is_silent(Silence::Told);
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    // At the device, but not for the device.
    let trouble = Trouble { queue_error: Some((2, FaultStatus::QUEUE_ERROR)), ..Trouble::default() };
    rig.model.trouble(trouble);
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap_err();
    assert_eq!(rig.model.ats_dma(A, 0x1000), Some(0x1_1000));
    rig.vtd.flush(SpaceId(0), &flush_of(7, 8)).unwrap();
    assert_eq!(rig.model.ats_dma(A, 0x1000), None, "dropped");
    assert_eq!(cut_off(&rig), []);
    rig.check();
}

#[test]
fn a_unit_that_stands_still_is_not_taken_for_the_device() {
    let (rig, tables) = one_is_silent(Silence::Told);
    rig.model.trouble(Trouble { queue: true, ..Trouble::default() });
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    let result = rig.vtd.flush(SpaceId(0), &flush_of(1, 2));
    assert!(matches!(result, Err(HardwareError::TimedOut { unit: BASE, .. })));
    assert_eq!(cut_off(&rig), []);
}

#[test]
fn a_device_without_a_tlb_is_served_as_such_beside_one_that_has_one() {
    let (rig, tables) = one_is_silent(Silence::Told);
    let requester = device(0, 0x18).into();
    rig.vtd.attach(requester, SpaceId(1), tables[1]).unwrap();
    assert_eq!(rig.model.ats_request(0x18, 0x1000), Err(Reason::TRANSLATED_BLOCKED));
    rig.model.take_events();
    rig.vtd.detach(requester).unwrap();
    let events = rig.model.take_events();
    assert!(matches!(events[..], [Event::Context(_), Event::Iotlb(..)]), "{events:?}");
    rig.check();
}

/// PFSID means something only where the unit throttles by it (ECAP.DIT), and is reserved elsewhere.
#[test]
fn the_physical_function_is_named_where_the_unit_counts_by_it() {
    let (physical, virtual_function) = (device(3, 0x10), device(4, 0x81));
    for (ecap, named) in [(MODEL_ECAP, 0), (MODEL_ECAP | 1 << 41, 0x0310)] {
        let rig = Rig::new(CAP, ecap, true);
        let table = rig.table(4, &[(1, 2)]);
        let requester = RequesterId { id: virtual_function, unit_of: physical };
        rig.vtd.attach(requester, SpaceId(1), table).unwrap();
        assert_eq!(rig.vtd.use_device_tlb(requester, 0x15), Ok(true));
        for (flush, expected) in [
            (flush_of(5, 6), 0x5000),
            // S, and the lowest zero from bit 12 on: bit 12 for 2 pages, bit 20 for 512 (PCIe ATS).
            (flush_of(6, 8), 0x6001),
            (flush_of(0x200, 0x400), 0x2f_f001),
            // All of them.
            (flush_of(0, u64::MAX), 0x7fff_ffff_ffff_f001),
        ] {
            rig.model.take_events();
            rig.vtd.flush(SpaceId(1), &flush).unwrap();
            let event = Event::DeviceTlb {
                source: 0x0481,
                physical_function: named,
                max_pending: 0x15,
                address: expected,
            };
            assert_eq!(rig.model.take_events()[1..], [event]);
        }
        rig.check();
    }
}

#[test]
fn a_device_of_another_segment_is_named_with_it() {
    let arena = arena(64);
    let model = model(CAP, MODEL_ECAP, arena);
    let mut setup = setup(BASE, model, &[Coverage::All { segment: 3 }], true);
    setup.segment = 3;
    let vtd = Vtd::new(Vec::leak(vec![Unit::new(setup)]), arena);
    vtd.start(&mut |_, error| panic!("{error}"));
    let device = Sbdf::new(3, 0, 1, 0);
    vtd.attach(device.into(), SpaceId(0), arena.table_of(4)).unwrap();
    assert_eq!(vtd.use_device_tlb(device.into(), 0), Ok(true));
    model.trouble(Trouble { silent_device: Some((device.source_id(), Silence::Told)), ..Trouble::default() });
    vtd.detach(device.into()).unwrap();
    let mut found = Vec::new();
    vtd.for_each_cut_off(&mut |device| found.push(device));
    assert_eq!(found, [device]);
}
