//! Units that start, and units that do not; which unit a device has.

use super::*;
use testkit::vtd::Trouble;
use xen_iommu::vtd::UnitError;
use xen_iommu::vtd::registers::{FECTL, FSTS, FaultStatus, GSTS, Global};

fn start_one(model: Hardware, queue: bool, arena: &'static Frames) -> Result<(), UnitError> {
    let unit = Unit::new(setup(BASE, model, &[Coverage::All { segment: 0 }], queue));
    let vtd = Vtd::new(Vec::leak(vec![unit]), arena);
    let mut result = Ok(());
    vtd.start(&mut |_, error| result = Err(error));
    assert_eq!(vtd.units()[0].is_started(), result.is_ok());
    result
}

fn start(cap: u64, ecap: u64, queue: bool, adjust: impl Fn(Hardware)) -> (Result<(), UnitError>, usize) {
    let arena = arena(8);
    let model = model(cap, ecap, arena);
    adjust(model);
    let result = start_one(model, queue, arena);
    (result, arena.used())
}

#[test]
fn an_address_without_a_unit_is_none() {
    let text = |result: (Result<(), UnitError>, usize)| {
        assert_eq!(result.1, 0, "frames were given back");
        result.0.unwrap_err().to_string()
    };
    assert_eq!(
        text(start(CAP, MODEL_ECAP, true, |model| model.set_version(u32::MAX))),
        "there is no remapping unit at 0xfed90000: its version reads as 0xffffffff"
    );
    assert_eq!(
        text(start(CAP, MODEL_ECAP, true, |model| model.set_version(0))),
        "there is no remapping unit at 0xfed90000: its version reads as 0x0"
    );
    let old = text(start(CAP, MODEL_ECAP, true, |model| model.set_version(1)));
    assert!(old.contains("its major version is 0"), "{old}");
    assert_eq!(
        text(start(u64::MAX, MODEL_ECAP, true, |_| ())),
        "there is no remapping unit at 0xfed90000: its capability register reads as 0xffffffffffffffff"
    );
    assert_eq!(
        text(start(CAP, 0, true, |_| ())),
        "there is no remapping unit at 0xfed90000: its extended capability register reads as 0x0"
    );
    let text = text(start(CAP & !0x1f00, MODEL_ECAP, true, |_| ()));
    assert!(text.contains("neither 3, 4 nor 5 levels"), "{text}");
}

#[test]
fn registers_beyond_the_window_are_not_touched() {
    let unusable = |result: (Result<(), UnitError>, usize)| {
        assert_eq!(result.1, 0);
        matches!(result.0, Err(UnitError::Unusable { .. }))
    };
    // The fault registers at 0xff0, two of them: 0x10 too far.
    assert!(unusable(start(CAP & !(0x3ff << 24) | 0xff << 24 | 1 << 40, MODEL_ECAP, true, |_| ())));
    assert!(start(CAP & !(0x3ff << 24) | 0xff << 24, MODEL_ECAP, true, |_| ()).0.is_ok());
    assert!(unusable(start(CAP, MODEL_ECAP & !0x3ff00 | 0x100 << 8, false, |_| ())));
    // With 16 bytes from 0xff0 on they end with the window.
    assert!(start(CAP, MODEL_ECAP & !0x3ff00 | 0xff << 8, false, |_| ()).0.is_ok());
    // Nor where a queue is asked for that there is not.
    assert!(unusable(start(CAP, MODEL_ECAP & !0x3ff02 | 0x100 << 8, true, |_| ())));
    assert!(unusable(start(CAP, MODEL_ECAP & !2, true, |model| model.set_version(0x60))));
    assert!(start(CAP, MODEL_ECAP, false, |model| model.set_version(0x50)).0.is_ok());
    // The queue needs no IOTLB registers.
    assert!(start(CAP, MODEL_ECAP & !0x3ff00 | 0x100 << 8, true, |_| ()).0.is_ok());
    // Version 6 has no register-based invalidation.
    assert!(unusable(start(CAP, MODEL_ECAP, false, |model| model.set_version(0x60))));
    assert!(start(CAP, MODEL_ECAP, true, |model| model.set_version(0x60)).0.is_ok());
}

#[test]
fn a_start_that_fails_gives_back_what_it_took() {
    let troubles = [
        (true, Trouble { global: true, ..Trouble::default() }),
        (false, Trouble { global: true, ..Trouble::default() }),
        (true, Trouble { queue: true, ..Trouble::default() }),
        (false, Trouble { context: true, ..Trouble::default() }),
        (false, Trouble { iotlb: true, ..Trouble::default() }),
    ];
    for (queue, trouble) in troubles {
        let (result, used) = start(CAP, MODEL_ECAP, queue, |model| model.trouble(trouble));
        assert!(matches!(result, Err(UnitError::Hardware(HardwareError::TimedOut { .. }))), "{result:?}");
        assert_eq!(used, 0, "{trouble:?}");
    }
    for frames in 0..3 {
        let arena = arena(frames);
        let model = model(CAP, MODEL_ECAP, arena);
        let result = start_one(model, true, arena);
        assert_eq!(result, Err(UnitError::Hardware(HardwareError::NoFrames)));
        assert_eq!(arena.used(), 0);
    }
}

#[test]
fn what_a_boot_loader_left_on_is_taken_over() {
    for (queue, protected) in WAYS.into_iter().zip([1 << 5, 1 << 6]) {
        let arena = arena(16);
        let model = model(CAP | protected, MODEL_ECAP, arena);
        // FLS: a fault log was given to the unit.
        let fault_log = Global::from_bits_retain(1 << 29);
        model.leave_on(
            Global::TRANSLATION
                | Global::QUEUE
                | Global::ROOT_TABLE
                | Global::INTERRUPT_REMAPPING
                | fault_log,
            0x8000_0001,
        );
        let unit = Unit::new(setup(BASE, model, &[Coverage::All { segment: 0 }], queue));
        let vtd = Vtd::new(Vec::leak(vec![unit]), arena);
        vtd.start(&mut |_, error| panic!("{error}"));
        assert!(!vtd.units()[0].is_enabled());
        vtd.enable().unwrap();
        vtd.enable().unwrap();
        assert!(vtd.units()[0].is_enabled());
        assert_eq!(model.protected(), 0, "translation replaces the protected regions");
        let status = Registers::read32(&model, GSTS);
        assert_eq!(status >> 26 & 1, u32::from(queue), "the queue, if it was asked for");
        assert!(Global::from_bits_retain(status).contains(Global::INTERRUPT_REMAPPING), "not ours");
        assert_eq!(model.violations(), [] as [&str; 0]);
        vtd.disable().unwrap();
        assert_eq!(model.dma(8, 0x1234, true), Ok(0x1234));
    }
}

#[test]
fn faults_of_somebody_before_are_not_told_as_ours() {
    for queue in WAYS {
        let arena = arena(16);
        let model = model(CAP, MODEL_ECAP, arena);
        model.leave_on(Global::TRANSLATION | Global::ROOT_TABLE, 0);
        // One register, and one fault too many.
        for source in [0x40, 0x41] {
            model.dma(source, 0x1000, true).unwrap_err();
        }
        model.leave_errors(FaultStatus::QUEUE_ERRORS);
        Registers::write32(&model, FECTL, 0);
        assert_eq!(Registers::read32(&model, FSTS), 0x73);
        let unit = Unit::new(setup(BASE, model, &[Coverage::All { segment: 0 }], queue));
        assert!(!unit.is_enabled(), "not by us");
        let vtd = Vtd::new(Vec::leak(vec![unit]), arena);
        vtd.start(&mut |_, error| panic!("{error}"));
        assert_eq!(Registers::read32(&model, FSTS), 0);
        assert_eq!(model.fault_event()[0], 1 << 31, "their interrupt is masked");
        assert_eq!(vtd.read_faults(&mut |fault| panic!("{fault}")), FaultSummary::default());
        assert_eq!(model.violations(), [] as [&str; 0]);
    }
}

#[test]
fn a_queue_is_used_only_where_there_is_one() {
    for version in [0x10, 0x50] {
        let rig = Rig::new(CAP, MODEL_ECAP & !2, true);
        rig.model.set_version(version);
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), rig.table(4, &[(1, 2)])).unwrap();
        rig.vtd.detach(device(0, 8).into()).unwrap();
        assert_eq!(Registers::read32(&rig.model, GSTS) >> 26 & 1, 0);
        rig.check();
    }
}

#[test]
fn what_a_unit_covers_and_can_do_is_told() {
    let rig = Rig::new(CAP | 3 << 36, MODEL_ECAP | 1 << 7, true);
    assert!(rig.vtd.is_coherent() && rig.vtd.has_snoop_control());
    let unit = &rig.vtd.units()[0];
    assert!(unit.covers(device(7, 1)) && !unit.covers(Sbdf::new(1, 7, 0, 1)));
    assert_eq!(unit.largest_page(), Some(PageSize::Size1G), "whatever larger ones it knows");
    // Bit 34 is 2 MiB, bit 35 1 GiB; pages of 1 GiB are used only where there are both.
    for (pages, largest) in [(0, PageSize::Size4K), (1, PageSize::Size2M), (2, PageSize::Size4K)] {
        let rig = Rig::new(CAP & !(3 << 34) | pages << 34, MODEL_ECAP, true);
        assert_eq!(rig.vtd.units()[0].largest_page(), Some(largest));
        assert_eq!(rig.vtd.largest_page(), largest);
    }
}

#[test]
fn stopping_gives_all_frames_back() {
    for queue in WAYS {
        let rig = Rig::new(CAP, MODEL_ECAP, queue);
        let table = rig.table(4, &[(1, 2)]);
        let own = rig.arena.used();
        for bus in [0, 1, 255] {
            rig.vtd.attach(device(bus, 8).into(), SpaceId(1), table).unwrap();
        }
        assert_eq!(rig.arena.used(), own + 3);
        rig.vtd.stop().unwrap();
        assert_eq!(rig.arena.used(), 4, "the table of this test");
        assert_eq!(
            rig.vtd.attach(device(0, 8).into(), SpaceId(1), table),
            Err(HardwareError::NoUnit { requester: device(0, 8) })
        );
        // And again.
        rig.vtd.start(&mut |_, error| panic!("{error}"));
        rig.vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
        rig.vtd.enable().unwrap();
        assert_eq!(rig.model.dma(8, 0x1000, false), Ok(0x2000));
        rig.check();
    }
}

#[test]
fn the_closest_scope_names_the_unit() {
    let arena = arena(64);
    let buses = |first, last| Coverage::Buses { segment: 0, first, last };
    let coverages: [&[Coverage]; 7] = [
        &[Coverage::All { segment: 0 }],
        &[buses(0x10, 0x1f), Coverage::Endpoint(device(0, 0x10))],
        // A bridge below the one of the unit before.
        &[buses(0x18, 0x19), buses(0x40, 0x41)],
        &[
            Coverage::Endpoint(device(0x18, 8)),
            Coverage::Endpoint(device(0, 0x10)),
            Coverage::Endpoint(device(0, 9)),
        ],
        &[Coverage::All { segment: 1 }, buses(0, 0xff)],
        // A reversed range covers nothing.
        &[buses(0x60, 0x50)],
        // The inner bridge is in another segment.
        &[buses(0x40, 0x4f), Coverage::Buses { segment: 1, first: 0x40, last: 0x40 }],
    ];
    let units = coverages.iter().enumerate().map(|(index, coverage)| {
        let mut setup = setup(BASE + 0x1000 * index as u64, model(CAP, MODEL_ECAP, arena), coverage, true);
        setup.segment = u16::from(index == 4);
        Unit::new(setup)
    });
    let vtd = Vtd::new(Vec::leak(units.collect()), arena);
    let unit_of = |sbdf: Sbdf| vtd.unit_of(sbdf.into()).map(|unit| (unit.base() - BASE) / 0x1000);
    assert_eq!(unit_of(device(0, 0)), Some(0));
    assert_eq!(unit_of(device(0x55, 0)), Some(0));
    assert_eq!(unit_of(device(0x10, 0)), Some(1));
    assert_eq!(unit_of(device(0x1f, 0xff)), Some(1));
    assert_eq!(unit_of(device(0x20, 0)), Some(0));
    assert_eq!(unit_of(device(0x18, 0)), Some(2), "the inner bridge");
    assert_eq!(unit_of(device(0x40, 0)), Some(2), "not the wider bridge");
    assert_eq!(unit_of(device(0x42, 0)), Some(6));
    assert_eq!(unit_of(device(0x18, 8)), Some(3), "an endpoint below both");
    assert_eq!(unit_of(device(0, 0x10)), Some(1), "named twice: the first");
    assert_eq!(unit_of(device(0, 9)), Some(3));
    assert_eq!(unit_of(Sbdf::new(1, 3, 0, 0)), Some(4), "the bridge scope is in another segment");
    assert_eq!(unit_of(Sbdf::new(2, 0, 0, 0)), None);
}

#[test]
fn a_unit_that_does_not_start_keeps_its_devices_to_itself() {
    let arena = arena(64);
    let (dead, live) = (model(CAP, MODEL_ECAP, arena), model(QEMU_CAP, MODEL_ECAP & !1, arena));
    dead.set_version(u32::MAX);
    let igd = device(0, 0x10);
    let units = vec![
        Unit::new(setup(0xfed9_0000, dead, &[Coverage::Endpoint(igd)], true)),
        Unit::new(setup(0xfed9_1000, live, &[Coverage::All { segment: 0 }], true)),
    ];
    let vtd = Vtd::new(Vec::leak(units), arena);
    let mut failed = Vec::new();
    vtd.start(&mut |unit, error| failed.push((unit.base(), error)));
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].0, 0xfed9_0000);
    vtd.enable().unwrap();
    let table = arena.table_of(3);
    assert_eq!(vtd.attach(igd.into(), SpaceId(1), table), Err(HardwareError::NoUnit { requester: igd }));
    assert_eq!(vtd.detach(igd.into()), Err(HardwareError::NoUnit { requester: igd }));
    assert_eq!(vtd.use_device_tlb(igd.into(), 0), Ok(false));
    vtd.attach(device(0, 8).into(), SpaceId(1), table).unwrap();
    // What all can do is what the live one can do.
    assert!(vtd.walks(3) && !vtd.walks(4) && !vtd.is_coherent() && !vtd.has_snoop_control());
    assert_eq!((vtd.largest_page(), vtd.guest_width()), (PageSize::Size1G, 39));
    vtd.stop().unwrap();
    assert_eq!(arena.used(), 1);
}

#[test]
fn several_units_have_the_least_in_common_and_are_flushed_together() {
    let arena = arena(64);
    let models = [
        model(CAP & !(2 << 34), MODEL_ECAP, arena),
        model(CAP, MODEL_ECAP, arena),
        model(CAP, MODEL_ECAP, arena),
    ];
    let units = models.iter().enumerate().map(|(index, model)| {
        let coverage = [Coverage::Buses { segment: 0, first: index as u8, last: index as u8 }];
        Unit::new(setup(BASE + 0x1000 * index as u64, model, &coverage, index != 1))
    });
    let vtd = Vtd::new(Vec::leak(units.collect()), arena);
    vtd.start(&mut |_, error| panic!("{error}"));
    vtd.enable().unwrap();
    assert_eq!(vtd.largest_page(), PageSize::Size2M);
    let table = arena.table_of(4);
    arena.map(table, 1, 2, PageSize::Size4K, Access::READ_WRITE);
    for bus in 0..2 {
        vtd.attach(device(bus, 8).into(), SpaceId(1), table).unwrap();
        assert_eq!(models[usize::from(bus)].dma(u16::from(bus) << 8 | 8, 0x1000, true), Ok(0x2000));
    }
    for model in models {
        model.take_events();
    }
    arena.map(table, 1, 0, PageSize::Size4K, Access::empty());
    // One unit's failure does not keep the other from being flushed.
    models[0].trouble(Trouble { queue: true, ..Trouble::default() });
    assert!(matches!(
        vtd.flush(SpaceId(1), &flush_of(1, 2)),
        Err(HardwareError::TimedOut { unit: BASE, .. })
    ));
    assert_eq!(models[1].dma(0x108, 0x1000, true), Err(Reason::NO_WRITE));
    assert_eq!(models[2].take_events(), [], "no device of the space is there");
    models[0].trouble(Trouble::default());
    vtd.flush(SpaceId(1), &flush_of(1, 2)).unwrap();
    assert_eq!(models[0].dma(0x008, 0x1000, true), Err(Reason::NO_WRITE));
    let mut faults = Vec::new();
    let summary = vtd.read_faults(&mut |fault| faults.push((fault.unit, fault.source)));
    assert_eq!(faults, [(BASE, device(0, 8)), (BASE + 0x1000, device(1, 8))]);
    assert_eq!(summary, FaultSummary { faults: 2, overflow: false });
    // Lost ones of one unit, and of two.
    for count in 1..=2 {
        for (bus, model) in models.iter().enumerate().take(count) {
            for _ in 0..2 {
                model.dma((bus as u16) << 8 | 8, 0x1000, true).unwrap_err();
            }
        }
        let summary = vtd.read_faults(&mut |_| ());
        assert_eq!(summary, FaultSummary { faults: count as u32, overflow: true });
    }
}

/// The id of a virtual function depends on its physical function's NumVFs and ARI, which change; its unit
/// does not.
#[test]
fn a_virtual_function_has_the_unit_of_its_physical_function() {
    let arena = arena(64);
    let models = [model(CAP, MODEL_ECAP, arena), model(CAP, MODEL_ECAP, arena)];
    let physical = device(3, 0);
    let coverages = [Coverage::All { segment: 0 }, Coverage::Endpoint(physical)];
    let units = coverages.into_iter().enumerate().map(|(index, coverage)| {
        Unit::new(setup(BASE + 0x1000 * index as u64, models[index], &[coverage], true))
    });
    let vtd = Vtd::new(Vec::leak(units.collect()), arena);
    vtd.start(&mut |_, error| panic!("{error}"));
    vtd.enable().unwrap();
    let table = arena.table_of(4);
    arena.map(table, 1, 2, PageSize::Size4K, Access::READ_WRITE);
    // On its own bus, and on the next, wherever the offset puts it.
    for id in [device(3, 0x10), device(4, 0), device(9, 0x81)] {
        let requester = RequesterId { id, unit_of: physical };
        assert_eq!(vtd.unit_of(requester).map(Unit::base), Some(BASE + 0x1000));
        vtd.attach(requester, SpaceId(1), table).unwrap();
        assert_eq!(models[1].dma(id.source_id(), 0x1000, true), Ok(0x2000));
        assert!(models[0].dma(id.source_id(), 0x1000, true).is_err(), "it never gets there");
        vtd.detach(requester).unwrap();
        assert!(models[1].dma(id.source_id(), 0x1000, true).is_err());
    }
    let elsewhere = RequesterId { id: physical, unit_of: Sbdf::new(7, 0, 0, 0) };
    assert_eq!(vtd.attach(elsewhere, SpaceId(1), table), Err(HardwareError::NoUnit { requester: physical }));
}

#[test]
fn a_unit_that_does_not_translate_is_told() {
    let arena = arena(64);
    let gone = model(CAP, MODEL_ECAP, arena);
    let models = [model(CAP, MODEL_ECAP, arena), model(CAP, MODEL_ECAP, arena), gone];
    models[1].set_version(u32::MAX);
    let units = models.iter().enumerate().map(|(bus, model)| {
        let coverage = [Coverage::Buses { segment: 0, first: bus as u8, last: bus as u8 }];
        Unit::new(setup(BASE + 0x1000 * bus as u64, model, &coverage, true))
    });
    let vtd = Vtd::new(Vec::leak(units.collect()), arena);
    vtd.start(&mut |_, _| ());
    let check = |bus: u8| vtd.check_translating(device(bus, 8).into());
    let off = |bus: u64| Err(HardwareError::NotTranslating { unit: BASE + 0x1000 * bus });
    assert_eq!((check(0), check(1), check(2)), (off(0), off(1), off(2)));
    // One that cannot be switched on.
    models[2].trouble(Trouble { global: true, ..Trouble::default() });
    assert!(matches!(vtd.enable(), Err(HardwareError::TimedOut { .. })));
    assert_eq!((check(0), check(1), check(2)), (Ok(()), off(1), off(2)));
    assert_eq!(check(3), Err(HardwareError::NoUnit { requester: device(3, 8) }));
    vtd.disable().unwrap();
    assert_eq!(check(0), off(0));
}

#[test]
fn addresses_are_as_wide_as_the_unit_says_and_its_tables_have_room_for() {
    // SAGAW, MGAW less one, and what comes of them.
    for (levels, width, expected) in [(0b010, 38, 39), (0b110, 38, 39), (0b010, 47, 39), (0b1110, 51, 52)] {
        let cap = QEMU_CAP & !(0x1f << 8 | 0x3f << 16) | levels << 8 | width << 16;
        let rig = Rig::new(cap, MODEL_ECAP, true);
        assert_eq!(rig.vtd.address_width(device(0, 8).into()), Some(expected));
        assert_eq!(rig.vtd.guest_width(), expected);
        assert_eq!(rig.vtd.address_width(Sbdf::new(1, 0, 0, 0).into()), None);
        rig.vtd.stop().unwrap();
        assert_eq!(rig.vtd.address_width(device(0, 8).into()), None);
    }
}
