//! What a unit in trouble owes, and to whom.

use testkit::vtd::Trouble;
use xen_iommu::vtd::registers::FaultStatus;

use super::*;

const A: u16 = 0x08;
const B: u16 = 0x10;
fn stuck() -> Trouble {
    Trouble { queue: true, ..Trouble::default() }
}

/// Spaces 0 and 1, with a device each that has used its page.
fn two_spaces() -> (Rig, [DeviceRoot; 2]) {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    let tables = [rig.table(4, &[(1, 0x11)]), rig.table(4, &[(1, 0x22)])];
    for (source, index) in [(A, 0), (B, 1)] {
        rig.vtd.attach(device(0, source as u8).into(), SpaceId(index as u32), tables[index]).unwrap();
        assert!(rig.model.dma(source, 0x1000, false).is_ok());
    }
    rig.model.take_events();
    (rig, tables)
}

fn timed_out(result: Result<(), HardwareError>) -> bool {
    matches!(result, Err(HardwareError::TimedOut { unit: BASE, .. }))
}

fn fails_at(descriptor: u32) -> Trouble {
    Trouble { queue_error: Some((descriptor, FaultStatus::QUEUE_ERROR)), ..Trouble::default() }
}

#[test]
fn a_unit_in_doubt_fails_only_the_flushes_of_spaces_that_were_there() {
    let (rig, tables) = two_spaces();
    // Another one was there once, and went cleanly.
    let gone = device(0, 0x18);
    rig.vtd.attach(gone.into(), SpaceId(2), tables[0]).unwrap();
    rig.vtd.detach(gone.into()).unwrap();
    rig.model.trouble(stuck());
    assert!(timed_out(rig.vtd.attach(device(0, A as u8).into(), SpaceId(1), tables[1])));
    let polls = rig.model.polls();
    for never_there in [2, 3, 1 << 31] {
        rig.vtd.flush(SpaceId(never_there), &flush_of(1, 2)).unwrap();
    }
    assert_eq!(rig.model.polls(), polls, "nobody waited");
    // Of space 0 nothing is left but what may be cached; space 1 has a device.
    for there in [0, 1] {
        assert!(rig.vtd.units()[0].has_space(SpaceId(there)));
        assert!(timed_out(rig.vtd.flush(SpaceId(there), &flush_of(1, 2))));
    }
    rig.model.trouble(Trouble::default());
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap();
    assert!(!rig.vtd.units()[0].has_space(SpaceId(0)), "settled");
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x2_2000));
    rig.check();
}

#[test]
fn a_failed_flush_is_owed_to_its_space_alone() {
    let (rig, tables) = two_spaces();
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    rig.model.trouble(fails_at(0));
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap_err();
    rig.model.take_events();
    // The other space's flush is what it asks for and no more.
    rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
    assert!(matches!(rig.model.take_events()[..], [Event::Iotlb(_, 0x1000)]));
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000), "still owed");
    for nothing in [flush_of(5, 5), flush_of(9, 9)] {
        rig.vtd.flush(SpaceId(0), &nothing).unwrap();
        assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ), "done");
    }
    // Nothing is owed any more.
    rig.model.take_events();
    rig.vtd.flush(SpaceId(0), &flush_of(5, 5)).unwrap();
    assert_eq!(rig.model.take_events(), []);
    rig.check();
}

#[test]
fn a_debt_lasts_until_a_flush_succeeds_however_often_it_fails() {
    let (rig, tables) = two_spaces();
    rig.arena.map(tables[0], 1, 0, PageSize::Size4K, Access::empty());
    for round in 0..5 {
        rig.model.trouble(if round % 2 == 0 { fails_at(0) } else { stuck() });
        rig.vtd.flush(SpaceId(0), &flush_of(round, round + 1)).unwrap_err();
        rig.model.trouble(Trouble::default());
        rig.vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
    }
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x1_1000));
    rig.vtd.flush(SpaceId(0), &flush_of(9, 10)).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Err(Reason::NO_READ));
}

#[test]
fn a_debt_goes_with_the_last_device() {
    let (rig, tables) = two_spaces();
    rig.model.trouble(fails_at(0));
    rig.vtd.flush(SpaceId(0), &flush_of(1, 2)).unwrap_err();
    rig.vtd.detach(device(0, A as u8).into()).unwrap();
    assert!(!rig.vtd.units()[0].has_space(SpaceId(0)));
    // The next space gets its id, and neither its translations nor its debt.
    let table = rig.table(4, &[(1, 0x33)]);
    rig.vtd.attach(device(0, A as u8).into(), SpaceId(5), table).unwrap();
    assert_eq!(rig.model.dma(A, 0x1000, false), Ok(0x3_3000));
    rig.model.take_events();
    rig.vtd.flush(SpaceId(5), &flush_of(5, 5)).unwrap();
    assert_eq!(rig.model.take_events(), []);
    let _ = tables;
}

#[test]
fn ids_that_linger_are_free_once_the_unit_has_settled() {
    // ND 0: 16 ids, of which 0 is nobody's.
    let rig = Rig::new(CAP & !7, MODEL_ECAP, true);
    let table = rig.table(4, &[(1, 2)]);
    for space in 0..15u8 {
        rig.vtd.attach(device(0, space).into(), SpaceId(u32::from(space)), table).unwrap();
    }
    rig.model.trouble(stuck());
    for space in 0..15u8 {
        assert!(timed_out(rig.vtd.detach(device(0, space).into())));
    }
    rig.model.trouble(Trouble::default());
    for space in 20..35u8 {
        rig.vtd.attach(device(0, space).into(), SpaceId(u32::from(space)), table).unwrap();
    }
    for space in 0..15u8 {
        assert_eq!(rig.model.dma(u16::from(space), 0x1000, false), Err(Reason::CONTEXT_NOT_PRESENT));
    }
    rig.check();
}
