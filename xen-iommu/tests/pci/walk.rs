//! Which functions there are, below which bridges.

use testkit::bus::{Bus, Function, port};
use xen_iommu::pci::{Bridge, BusRange, Role, Topology};
use xen_iommu::{Arena, DeviceClass, Sbdf};

use crate::kit::{ALL, at, functions, visited, with_topology};

fn sbdfs(bus: &Bus) -> Vec<Sbdf> {
    functions(bus).iter().map(|function| function.sbdf).collect()
}

fn roles(bus: &Bus) -> Vec<(Sbdf, Role)> {
    functions(bus).iter().map(|function| (function.sbdf, function.role)).collect()
}

fn root_port(secondary: u8, subordinate: u8) -> Function {
    Function::bridge(secondary, subordinate).express(port::ROOT)
}

#[test]
fn roles_and_classes() {
    let bus = Bus::new()
        .with(at(0, 0, 0), Function::host_bridge())
        .with(at(0, 2, 0), Function::endpoint().class(0x03_00_00))
        .with(at(0, 0x1c, 0), root_port(1, 1))
        .with(at(0, 0x1d, 0), Function::endpoint().class(0x0c_03_20).multifunction())
        .with(at(0, 0x1d, 7), Function::endpoint())
        .with(at(0, 0x1e, 0), Function::cardbus(2, 2))
        .with(at(0, 0x1f, 0), Function::endpoint().class(0x06_01_00))
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT).sr_iov(4, 0, 0x80, 1))
        .with(at(2, 0, 0), Function::endpoint());
    assert_eq!(
        roles(&bus),
        [
            (at(0, 0, 0), Role::HostBridge),
            (at(0, 2, 0), Role::Endpoint),
            (at(0, 0x1c, 0), Role::Bridge),
            (at(0, 0x1d, 0), Role::Endpoint),
            (at(0, 0x1d, 7), Role::Endpoint),
            (at(0, 0x1e, 0), Role::Bridge),
            // One to what is no PCI bus is a device.
            (at(0, 0x1f, 0), Role::Endpoint),
            (at(1, 0, 0), Role::Physical),
            (at(2, 0, 0), Role::Endpoint),
        ]
    );
    let classes: Vec<_> = functions(&bus).iter().map(|function| function.class).collect();
    assert_eq!(classes[1], DeviceClass::Graphics);
    assert_eq!((classes[3], classes[4]), (DeviceClass::Usb, DeviceClass::Other));
    assert!(!Role::Bridge.is_device() && !Role::HostBridge.is_device() && Role::Physical.is_device());
}

#[test]
fn numbers_that_a_device_does_not_have_are_nobody() {
    // It answers for all eight, and says that it has one; and one answers without a function 0.
    let mut bus = Bus::new().with(at(0, 5, 3), Function::endpoint());
    for number in 0..8 {
        bus = bus.with(at(0, 4, number), Function::endpoint());
    }
    bus = bus.with(at(0, 6, 0), Function::new(0, 0)).with(at(0, 7, 0), Function::new(0xffff, 0x1234));
    assert_eq!(sbdfs(&bus), [at(0, 4, 0)]);
    with_topology(&bus, &[ALL], |topology| {
        for nobody in [at(0, 4, 3), at(0, 5, 3), at(0, 6, 0), at(0, 7, 0), at(9, 0, 0)] {
            assert_eq!(topology.function(nobody, &bus), None, "{nobody}");
        }
        assert_eq!(topology.function(Sbdf::new(1, 0, 4, 0), &bus), None, "another segment");
    });
}

#[test]
fn virtual_functions_are_there_once_enabled() {
    let nic =
        |number| Function::endpoint().express(port::ENDPOINT).multifunction().sr_iov(4, number, 0x100, 2);
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(3, 4))
        .with(at(3, 0, 0), nic(3).class(0x03_00_00))
        .with(at(3, 0, 1), nic(0));
    let physical = at(3, 0, 0);
    let expected = [
        (at(0, 1, 0), Role::Bridge),
        (physical, Role::Physical),
        // On the next bus, by twos.
        (at(4, 0, 0), Role::Virtual { physical }),
        (at(4, 0, 2), Role::Virtual { physical }),
        (at(4, 0, 4), Role::Virtual { physical }),
        (at(3, 0, 1), Role::Physical),
    ];
    assert_eq!(roles(&bus), expected);
    let all = functions(&bus);
    assert!(
        all.iter()
            .filter(|one| matches!(one.role, Role::Virtual { .. }))
            .all(|one| { one.class == DeviceClass::Graphics && one.ids.iter().eq([one.sbdf]) })
    );
    with_topology(&bus, &[ALL], |topology| {
        assert!(topology.function(at(4, 0, 6), &bus).is_none(), "not enabled");
        let above: Vec<_> = topology.upstream(at(4, 0, 2)).map(|bridge| bridge.sbdf).collect();
        assert_eq!(above, [at(0, 1, 0)]);
    });
}

#[test]
fn virtual_functions_of_an_integrated_one_may_be_on_the_next_root_bus() {
    let integrated = |offset| Function::endpoint().express(port::INTEGRATED).sr_iov(2, 2, offset, 1);
    let bus = Bus::new()
        // What is on a root bus after the next is not its own.
        .with(at(0, 0, 0), integrated(0x6c80))
        .with(at(0x6b, 0, 0), integrated(0x100))
        .with(at(0x80, 0, 0), Function::endpoint());
    let physical = at(0x6b, 0, 0);
    assert_eq!(sbdfs(&bus).len(), 5);
    assert_eq!(
        roles(&bus)[2..4],
        [(at(0x6c, 0, 0), Role::Virtual { physical }), (at(0x6c, 0, 1), Role::Virtual { physical })]
    );
}

#[test]
fn who_claims_ids_of_others_as_virtual_functions_does_not_get_them() {
    let greedy = |offset| Function::endpoint().express(port::ENDPOINT).sr_iov(0xffff, 0xffff, offset, 1);
    let mut bus = Bus::new()
        .with(at(0, 1, 0), root_port(3, 3))
        .with(at(0, 2, 0), root_port(4, 4))
        .with(at(4, 0, 0), Function::endpoint());
    for number in 0..8 {
        bus = bus.with(at(3, 0, number), greedy(8).multifunction());
    }
    for number in 0..8 {
        bus = bus.with(at(3, 1, number), greedy(1).multifunction());
    }
    let all = functions(&bus);
    assert_eq!(all.len(), 3 + 256, "what is on its bus, each once");
    let at_3 = all.iter().filter(|one| one.sbdf.bus() == 3);
    let virtuals = at_3.filter(|one| matches!(one.role, Role::Virtual { .. })).count();
    assert_eq!(virtuals, 256 - 16);
}

#[test]
fn ids_that_many_claim_are_the_lowest_ones() {
    // Each of device 0's has one; device 1's all claim the same; device 2 has one that nobody else claims.
    let function = || Function::endpoint().express(port::INTEGRATED).multifunction();
    let mut bus = Bus::new().with(at(0, 2, 0), function().sr_iov(1, 1, 0x90, 1));
    for number in 0..8 {
        bus = bus.with(at(0, 0, number), function().sr_iov(1, 1, 0x40, 1));
        bus = bus.with(at(0, 1, number), function().sr_iov(1, 1, 0x80 - u16::from(number), 1));
    }
    let claimed: Vec<_> = roles(&bus).into_iter().filter(|(sbdf, _)| *sbdf == at(0, 0x11, 0)).collect();
    assert_eq!(claimed, [(at(0, 0x11, 0), Role::Virtual { physical: at(0, 1, 0) })]);
    let last = (at(0, 0x14, 0), Role::Virtual { physical: at(0, 2, 0) });
    assert_eq!((roles(&bus).last(), sbdfs(&bus).len()), (Some(&last), 17 + 8 + 1 + 1));
}

#[test]
fn a_port_that_forwards_8_bit_numbers_leads_to_one_device() {
    let port = |ari: bool| {
        let port = root_port(1, 1);
        if ari { port.ari_forwarding() } else { port }
    };
    let function = |next| Function::endpoint().express(port::ENDPOINT).ari(next);
    let bus = |ari| {
        Bus::new()
            .with(at(0, 1, 0), port(ari))
            .with(at(1, 0, 0), function(9))
            // Functions 9 and 16.
            .with(at(1, 1, 1), function(16))
            .with(at(1, 2, 0), function(0))
    };
    assert_eq!(sbdfs(&bus(true))[1..], [at(1, 0, 0), at(1, 1, 1), at(1, 2, 0)]);
    assert_eq!(sbdfs(&bus(false))[1..], [at(1, 0, 0), at(1, 2, 0)]);
    let older = bus(true);
    // In the first version of the capability that register is something else.
    older.change(at(0, 1, 0), |port| port.set(0x40, 0x41_0010));
    assert_eq!(sbdfs(&older), sbdfs(&bus(false)));
    let without_0 = bus(true);
    without_0.remove(at(1, 0, 0));
    assert_eq!(sbdfs(&without_0), [at(0, 1, 0)]);
}

#[test]
fn bridges_above_come_nearest_first() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 9))
        .with(at(1, 0, 0), Function::bridge(2, 40).express(port::UPSTREAM))
        .with(at(2, 3, 0), Function::bridge(5, 6).express(port::DOWNSTREAM));
    with_topology(&bus, &[ALL], |topology| {
        let above = |bus| topology.upstream(at(bus, 0, 0)).collect::<Vec<_>>();
        let bridge = |sbdf, secondary, subordinate| Bridge { sbdf, secondary, subordinate };
        let way = [
            bridge(at(2, 3, 0), 5, 6),
            // What it claims beyond the port above it is cut off.
            bridge(at(1, 0, 0), 2, 9),
            bridge(at(0, 1, 0), 1, 9),
        ];
        assert_eq!(above(5), way);
        assert_eq!(above(6), way, "absent, but below it");
        assert_eq!(above(7), way[1..]);
        assert_eq!(above(0), []);
        assert_eq!(above(10), []);
        assert_eq!(topology.upstream(Sbdf::new(1, 5, 0, 0)).count(), 0);
        let by_bus = [way[2], way[1], way[0]];
        assert_eq!(format!("{topology:?}"), format!("{by_bus:?}"));
    });
}

#[test]
fn bridges_that_lie_lead_nowhere() {
    let nowhere = [
        Function::bridge(0, 0),
        Function::bridge(1, 1),
        Function::bridge(2, 9),
        Function::bridge(7, 6),
        Function::bridge(9, 9),
        Function::bridge(0xff, 0xff),
    ];
    let mut bus = Bus::new()
        .with(at(0, 1, 0), Function::bridge(2, 8))
        .with(at(0, 2, 0), Function::bridge(2, 0xff))
        .with(at(2, 9, 0), Function::bridge(3, 3))
        .with(at(3, 0, 0), Function::endpoint());
    for (device, bridge) in (0..).zip(nowhere) {
        bus = bus.with(at(2, device, 0), bridge);
    }
    with_topology(&bus, &[ALL], |topology| {
        let above = |bus| topology.upstream(at(bus, 0, 0)).map(|bridge| bridge.sbdf).collect::<Vec<_>>();
        assert_eq!(above(3), [at(2, 9, 0), at(0, 1, 0)]);
        assert_eq!(above(7), [at(0, 1, 0)], "ends before it begins");
        assert_eq!(above(9), []);
        assert_eq!(above(0xff), []);
    });
    assert_eq!(sbdfs(&bus).len(), 2 + 7 + 1);
}

#[test]
fn ranges_that_overlap_leave_every_function_visible() {
    let bus = Bus::new()
        .with(at(0, 1, 0), Function::bridge(2, 5))
        .with(at(0, 2, 0), Function::bridge(4, 7))
        .with(at(2, 0, 0), Function::endpoint())
        .with(at(4, 0, 0), Function::endpoint());
    assert_eq!(sbdfs(&bus), [at(0, 1, 0), at(0, 2, 0), at(2, 0, 0), at(4, 0, 0)]);
    with_topology(&bus, &[ALL], |topology| {
        let above = |bus| topology.upstream(at(bus, 0, 0)).map(|bridge| bridge.sbdf).collect::<Vec<_>>();
        assert_eq!(above(4), [at(0, 2, 0)]);
        assert_eq!(above(5), [at(0, 1, 0)]);
        assert_eq!(above(6), [at(0, 2, 0)]);
    });
}

#[test]
fn hostile_config_space_costs_bounded_reads() {
    // Lists that loop; every function answers, as a bridge to everything.
    let loops = Function::bridge(1, 0xff)
        .multifunction()
        .set(0x04, 1 << 20)
        .set(0x34, 0x40)
        .set(0x40, 0x42_5011)
        .set(0x50, 0x42_4010)
        .set(0x100, 0x1001_0001);
    let mut bus = Bus::new();
    for device in 0..32 {
        for number in 0..8 {
            bus = bus.with(at(0, device, number), loops.clone());
            bus = bus.with(at(1, device, number), loops.clone().set(0x18, 0));
        }
    }
    with_topology(&bus, &[ALL], |topology| {
        let mut count = 0;
        topology.functions(&bus, &mut |_| count += 1);
        assert_eq!(count, 512);
    });
    assert!(bus.reads() < 2_000_000, "{} reads", bus.reads());
}

#[test]
fn bridges_come_and_go() {
    let bus = Bus::new().with(at(0, 1, 0), root_port(1, 20)).with(at(0, 2, 0), root_port(21, 30));
    with_topology(&bus, &[ALL], |topology| {
        let above = |topology: &Topology<'_>, bus| {
            topology.upstream(at(bus, 0, 0)).map(|one| one.sbdf).collect::<Vec<_>>()
        };
        assert_eq!(above(topology, 3), [at(0, 1, 0)]);
        // A switch is plugged in.
        bus.put(at(1, 0, 0), Function::bridge(2, 10).express(port::UPSTREAM));
        bus.put(at(2, 1, 0), Function::bridge(3, 3).express(port::DOWNSTREAM));
        bus.put(at(2, 2, 0), Function::bridge(4, 6).express(port::DOWNSTREAM));
        bus.put(at(3, 0, 0), Function::endpoint());
        assert!(topology.function(at(3, 0, 0), &bus).is_none(), "nobody said so yet");
        topology.update(at(1, 0, 0), &bus);
        assert_eq!(above(topology, 3), [at(2, 1, 0), at(1, 0, 0), at(0, 1, 0)]);
        assert_eq!(above(topology, 6), [at(2, 2, 0), at(1, 0, 0), at(0, 1, 0)]);
        assert_eq!(above(topology, 11), [at(0, 1, 0)]);
        assert_eq!(visited(topology, &bus).len(), 6);
        // It is as if read anew.
        let anew = with_topology(&bus, &[ALL], |anew| format!("{anew:?}"));
        assert_eq!(format!("{topology:?}"), anew);
        // A port of it gets other buses.
        bus.change(at(2, 2, 0), |port| port.leading_to(7, 8));
        topology.update(at(2, 2, 0), &bus);
        assert_eq!(above(topology, 6), [at(1, 0, 0), at(0, 1, 0)]);
        assert_eq!(above(topology, 8), [at(2, 2, 0), at(1, 0, 0), at(0, 1, 0)]);
        // The root port's buses grow and shrink with what is below.
        bus.change(at(0, 1, 0), |port| port.leading_to(1, 7));
        topology.update(at(0, 1, 0), &bus);
        assert_eq!(above(topology, 8), []);
        assert_eq!(above(topology, 7), [at(2, 2, 0), at(1, 0, 0), at(0, 1, 0)]);
        // And it goes.
        bus.remove(at(1, 0, 0));
        topology.update(at(1, 0, 0), &bus);
        assert_eq!(above(topology, 3), [at(0, 1, 0)]);
        assert_eq!(above(topology, 22), [at(0, 2, 0)], "others are left alone");
        topology.update(Sbdf::new(7, 0, 0, 0), &bus);
    });
}

#[test]
fn segments_are_apart_and_ranges_may_be_several() {
    let ranges = [
        BusRange { segment: 0, first: 0, last: 0x7f },
        BusRange { segment: 0, first: 0x80, last: 0xff },
        BusRange { segment: 1, first: 0, last: 0x0f },
        // Says again what the first said.
        BusRange { segment: 0, first: 0x10, last: 0x20 },
        BusRange { segment: 3, first: 9, last: 8 },
    ];
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(0x11, 0xff))
        .with(at(0x11, 0, 0), Function::endpoint())
        .with(at(0x80, 0, 0), Function::endpoint())
        .with(Sbdf::new(1, 0, 1, 0), root_port(1, 1))
        .with(Sbdf::new(1, 1, 0, 0), Function::endpoint())
        .with(Sbdf::new(1, 0x10, 0, 0), Function::endpoint());
    with_topology(&bus, &ranges, |topology| {
        let found: Vec<_> = visited(topology, &bus).iter().map(|function| function.sbdf).collect();
        let second = [Sbdf::new(1, 0, 1, 0), Sbdf::new(1, 1, 0, 0)];
        assert_eq!(found, [&[at(0, 1, 0), at(0x11, 0, 0), at(0x80, 0, 0)][..], &second].concat());
        assert_eq!(topology.upstream(at(0x80, 0, 0)).count(), 0, "another host bridge's");
    });
    assert_eq!(Topology::memory(&[]), align_of::<usize>());
}

#[test]
fn virtual_functions_do_not_reach_into_another_range() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(0x10, 0x11))
        .with(at(0x10, 0, 0), Function::endpoint().express(port::ENDPOINT).sr_iov(2, 2, 0xff, 1));
    let ranges = |first_has_11| {
        let with_11 = BusRange { segment: 0, first: 0x11, last: if first_has_11 { 0x12 } else { 0x10 } };
        with_topology(&bus, &[with_11, ALL], |topology| visited(topology, &bus).len())
    };
    assert_eq!((ranges(false), ranges(true)), (4, 3));
}

#[test]
fn too_little_memory_is_said() {
    let bus = Bus::new();
    for bytes in [0, 64, 255] {
        let mut memory = vec![std::mem::MaybeUninit::uninit(); bytes];
        assert!(Topology::read(&bus, &[ALL], &mut Arena::new(&mut memory)).is_err());
    }
}
