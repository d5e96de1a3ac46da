//! Who can reach whom beside the remapping unit: as VFIO's groups.

use testkit::bus::{ACS_ISOLATION, Bus, Function, port};

use crate::kit::{ALL, at, groups, visited, with_topology};

fn endpoint() -> Function {
    Function::endpoint().express(port::ENDPOINT)
}

fn root_port(secondary: u8, subordinate: u8) -> Function {
    Function::bridge(secondary, subordinate).express(port::ROOT)
}

trait Isolating {
    fn isolating(self) -> Self;
}

impl Isolating for Function {
    fn isolating(self) -> Self {
        self.acs(ACS_ISOLATION, ACS_ISOLATION)
    }
}

#[test]
fn a_root_port_without_acs_is_together_with_what_is_below() {
    let bus = |port: Function| Bus::new().with(at(0, 1, 0), port).with(at(1, 0, 0), endpoint());
    assert_eq!(groups(&bus(root_port(1, 1))), [vec![at(0, 1, 0), at(1, 0, 0)]]);
    assert_eq!(groups(&bus(root_port(1, 1).isolating())), [[at(0, 1, 0)], [at(1, 0, 0)]]);
    // Each of the four is needed, where it can be controlled.
    for bit in [1, 1 << 2, 1 << 3, 1 << 4] {
        let off = root_port(1, 1).acs(ACS_ISOLATION, ACS_ISOLATION & !bit);
        assert_eq!(groups(&bus(off)).len(), 1);
        let not_offered = root_port(1, 1).acs(ACS_ISOLATION & !bit, ACS_ISOLATION & !bit);
        assert_eq!(groups(&bus(not_offered)).len(), 2);
    }
}

/// An Intel desktop: root ports of one device, and functions of several classes on the root bus.
#[test]
fn root_ports_of_one_device_are_together_unless_they_isolate() {
    let bus = |port: &dyn Fn(u8) -> Function| {
        Bus::new()
            .with(at(0, 0, 0), Function::host_bridge())
            .with(at(0, 2, 0), Function::new(0x8086, 0x0102).class(0x03_00_00))
            .with(at(0, 0x1c, 0), port(1).multifunction())
            .with(at(0, 0x1c, 4), port(2).multifunction())
            .with(at(0, 0x1f, 0), Function::new(0x8086, 0x1c44).class(0x06_01_00).multifunction())
            .with(at(0, 0x1f, 2), Function::new(0x8086, 0x1c02))
            .with(at(1, 0, 0), endpoint())
            .with(at(2, 0, 0), endpoint())
    };
    let chipset = vec![at(0, 0x1f, 0), at(0, 0x1f, 2)];
    let (alone, host) = (vec![at(0, 2, 0)], vec![at(0, 0, 0)]);
    let plain = bus(&|secondary| root_port(secondary, secondary));
    let ports = vec![at(0, 0x1c, 0), at(0, 0x1c, 4), at(1, 0, 0), at(2, 0, 0)];
    assert_eq!(groups(&plain), [host.clone(), alone.clone(), ports.clone(), chipset.clone()]);

    // Sandy Bridge's, without the capability but on the list: the chipset must have been told.
    let pch = bus(&|secondary| root_port(secondary, secondary).id(0x8086, 0x1c10).set(0xd8, 1 << 26));
    assert_eq!(groups(&pch), groups(&plain));
    with_topology(&pch, &[ALL], |topology| {
        topology.set_pch_peers_closed(true);
        let all = visited(topology, &pch);
        let own = |sbdf| all.iter().any(|one| one.sbdf == sbdf && one.isolation == sbdf);
        assert!(ports.iter().all(|one| own(*one)));
    });
    // The 100 series, with its wide registers.
    let wide =
        |on| bus(&move |secondary| root_port(secondary, secondary).id(0x8086, 0xa110).wide_acs(0x1d, on));
    assert_eq!(groups(&wide(0)).len(), 4);
    assert_eq!(groups(&wide(0x1d)).len(), 7);
}

#[test]
fn a_switch_isolates_if_its_ports_do() {
    let bus = |root: Function, down: &dyn Fn(u8) -> Function| {
        Bus::new()
            .with(at(0, 1, 0), root)
            .with(at(1, 0, 0), Function::bridge(2, 4).express(port::UPSTREAM))
            .with(at(2, 0, 0), down(3))
            .with(at(2, 1, 0), down(4))
            .with(at(3, 0, 0), endpoint())
            .with(at(4, 0, 0), endpoint())
    };
    let down = |secondary| Function::bridge(secondary, secondary).express(port::DOWNSTREAM);
    let root = || root_port(1, 4);
    let everything = vec![at(0, 1, 0), at(1, 0, 0), at(2, 0, 0), at(2, 1, 0), at(3, 0, 0), at(4, 0, 0)];
    assert_eq!(groups(&bus(root(), &down)), std::slice::from_ref(&everything));
    // The ports are then on their own, each with what is below it.
    let with_ports = groups(&bus(root().isolating(), &down));
    assert_eq!(
        with_ports,
        [
            vec![at(0, 1, 0)],
            vec![at(1, 0, 0)],
            vec![at(2, 0, 0), at(3, 0, 0)],
            vec![at(2, 1, 0), at(4, 0, 0)]
        ]
    );
    assert_eq!(groups(&bus(root().isolating(), &|secondary| down(secondary).isolating())).len(), 6);
    // The whole way must: a root port without it takes all back together.
    assert_eq!(groups(&bus(root(), &|secondary| down(secondary).isolating())), [everything]);
}

#[test]
fn functions_of_a_device_are_together_unless_each_isolates() {
    let bus = |functions: &[Function]| {
        let mut bus = Bus::new().with(at(0, 1, 0), root_port(1, 1).isolating());
        for (number, function) in (0..).zip(functions) {
            bus = bus.with(at(1, 0, number), function.clone());
        }
        groups(&bus)[1..]
            .iter()
            .map(|group| group.iter().map(|one| one.function()).collect())
            .collect::<Vec<Vec<_>>>()
    };
    let one = || endpoint().multifunction();
    assert_eq!(bus(&[one(), one(), one()]), [[0, 1, 2]]);
    assert_eq!(bus(&[one(), one().isolating(), one()]), [vec![0, 2], vec![1]]);
    assert_eq!(bus(&[one().isolating(), one(), one()]), [vec![0], vec![1, 2]]);
    // Known to do without.
    let nic = || Function::new(0x8086, 0x1521).express(port::ENDPOINT).multifunction();
    assert_eq!(bus(&[nic(), nic()]), [[0], [1]]);
    // Conventional functions never isolate; a device alone in its slot has nobody to reach.
    let bus = Bus::new()
        .with(at(0, 4, 0), Function::endpoint().multifunction())
        .with(at(0, 4, 1), Function::endpoint())
        .with(at(0, 5, 0), Function::endpoint())
        .with(at(0, 6, 0), Function::endpoint());
    assert_eq!(groups(&bus), [vec![at(0, 4, 0), at(0, 4, 1)], vec![at(0, 5, 0)], vec![at(0, 6, 0)]]);
}

#[test]
fn integrated_endpoints_of_one_device_need_acs_or_intels_word() {
    let bus = |vendor| {
        let function = || Function::new(vendor, 0x1234).express(port::INTEGRATED).multifunction();
        groups(&Bus::new().with(at(0, 8, 0), function()).with(at(0, 8, 1), function()))
    };
    assert_eq!(bus(0x1022).len(), 1);
    assert_eq!(bus(0x8086).len(), 2);
    // Event collectors, and what is of a reserved type, have no ACS, whatever they say.
    for port in [port::EVENT_COLLECTOR, 0xc] {
        let function = Function::new(0x1022, 1).express(port).isolating().multifunction();
        let bus = Bus::new().with(at(0, 8, 0), function.clone()).with(at(0, 8, 1), function);
        assert_eq!(groups(&bus).len(), 1);
    }
}

#[test]
fn what_is_below_a_bridge_to_pci_is_together_with_it() {
    for bridge in [
        Function::bridge(2, 3).express(port::TO_PCI).isolating(),
        Function::bridge(2, 3),
        Function::bridge(2, 3).pci_x(),
        // Its number is a network controller's, whose functions are apart.
        Function::bridge(2, 3).id(0x8086, 0x1521),
        Function::bridge(2, 3).express(port::FROM_PCI).isolating(),
    ] {
        let bus = Bus::new()
            .with(at(0, 1, 0), root_port(1, 3).isolating())
            .with(at(1, 0, 0), bridge)
            .with(at(2, 0, 0), endpoint())
            .with(at(2, 1, 0), Function::endpoint())
            .with(at(2, 2, 0), root_port(3, 3).isolating())
            .with(at(3, 0, 0), endpoint());
        let below = vec![at(1, 0, 0), at(2, 0, 0), at(2, 1, 0), at(2, 2, 0), at(3, 0, 0)];
        assert_eq!(groups(&bus), [vec![at(0, 1, 0)], below]);
    }
}

#[test]
fn a_bridge_of_a_device_without_acs_takes_its_siblings_along() {
    // A root port that is one of several functions, of which another is a device.
    let bus = Bus::new()
        .with(at(0, 3, 0), Function::endpoint().express(port::INTEGRATED).multifunction())
        .with(at(0, 3, 1), root_port(1, 1).multifunction())
        .with(at(1, 0, 0), endpoint())
        .with(at(1, 1, 0), endpoint());
    assert_eq!(groups(&bus), [[at(0, 3, 0), at(0, 3, 1), at(1, 0, 0), at(1, 1, 0)]]);
}

#[test]
fn an_upstream_port_needs_acs_as_one_of_several_functions_only() {
    let root = || root_port(1, 9).isolating();
    let upstream = || Function::bridge(2, 9).express(port::UPSTREAM);
    let together = vec![vec![at(0, 1, 0)], vec![at(1, 0, 0), at(2, 0, 0), at(3, 0, 0)]];
    let apart: Vec<_> = [at(0, 1, 0), at(1, 0, 0), at(2, 0, 0), at(3, 0, 0)].map(|one| vec![one]).into();
    for (root, upstream, expected) in [
        (root(), upstream(), &apart),
        (root(), upstream().multifunction(), &together),
        (root(), upstream().multifunction().isolating(), &apart),
        // With 8-bit function numbers it says which function is next, or that there is none.
        (root().ari_forwarding(), upstream().ari(8), &together),
        (root().ari_forwarding(), upstream().ari(8).isolating(), &apart),
        (root().ari_forwarding(), upstream().ari(0), &apart),
        (root().ari_forwarding(), upstream(), &apart),
        // Without them nobody reaches the next.
        (root(), upstream().ari(8), &apart),
    ] {
        let bus = Bus::new()
            .with(at(0, 1, 0), root)
            .with(at(1, 0, 0), upstream)
            .with(at(2, 0, 0), Function::bridge(3, 3).express(port::DOWNSTREAM).isolating())
            .with(at(3, 0, 0), endpoint());
        assert_eq!(&groups(&bus), expected);
    }
}

#[test]
fn who_carries_anothers_id_is_together_with_it() {
    let isolating = |function: Function| function.express(port::ENDPOINT).multifunction().isolating();
    // Marvell's function 1 is there; and another function of that device is together with function 2 only.
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 1).isolating())
        .with(at(1, 0, 0), isolating(Function::new(0x1b4b, 0x9123)))
        .with(at(1, 0, 1), isolating(Function::new(0x1b4b, 0x91a4)))
        .with(at(1, 0, 2), isolating(Function::endpoint()));
    assert_eq!(groups(&bus), [vec![at(0, 1, 0)], vec![at(1, 0, 0), at(1, 0, 1)], vec![at(1, 0, 2)]]);
    // Over several: 3 carries 1's id, and 1 is open to 2.
    let bus = Bus::new()
        .with(at(0, 4, 0), Function::endpoint().multifunction().express(port::INTEGRATED).isolating())
        .with(at(0, 4, 1), Function::endpoint())
        .with(at(0, 4, 2), Function::endpoint())
        .with(at(0, 4, 3), Function::new(0x1b4b, 0x9123).express(port::INTEGRATED).isolating());
    assert_eq!(groups(&bus), [vec![at(0, 4, 0)], vec![at(0, 4, 1), at(0, 4, 2), at(0, 4, 3)]]);
}

#[test]
fn virtual_functions_have_the_way_of_their_physical_function() {
    let bus = |port: Function| {
        let nic = || endpoint().multifunction().sr_iov(4, 2, 8, 1);
        Bus::new().with(at(0, 1, 0), port).with(at(1, 0, 0), nic()).with(at(1, 0, 1), endpoint())
    };
    let (physical, first, second) = (at(1, 0, 0), at(1, 1, 0), at(1, 1, 1));
    assert_eq!(groups(&bus(root_port(1, 1))), [[at(0, 1, 0), physical, at(1, 0, 1), first, second]]);
    // Virtual functions are alone even where the physical ones of the device are not, as in Linux.
    let isolated = groups(&bus(root_port(1, 1).isolating()));
    assert_eq!(isolated, [vec![at(0, 1, 0)], vec![physical, at(1, 0, 1)], vec![first], vec![second]]);
}

#[test]
fn with_8_bit_numbers_all_functions_are_of_one_device() {
    let bus = |port: Function, function: &dyn Fn() -> Function| {
        groups(
            &Bus::new()
                .with(at(0, 1, 0), port)
                .with(at(1, 0, 0), function().ari(8))
                .with(at(1, 1, 0), function().ari(0)),
        )
    };
    let port = || root_port(1, 1).isolating();
    assert_eq!(bus(port(), &endpoint).len(), 3);
    assert_eq!(bus(port().ari_forwarding(), &endpoint), [vec![at(0, 1, 0)], vec![at(1, 0, 0), at(1, 1, 0)]]);
    assert_eq!(bus(port().ari_forwarding(), &|| endpoint().isolating()).len(), 3);
}
