//! The requester ids that DMA may carry.

use testkit::bus::{Bus, Function, port};
use xen_iommu::Sbdf;
use xen_iommu::pci::RequesterIds;
use xen_iommu::pci::alias::MAX_IDS;

use crate::kit::{at, function, groups, ids};

fn root_port(secondary: u8, subordinate: u8) -> Function {
    Function::bridge(secondary, subordinate).express(port::ROOT)
}

#[test]
fn ports_pass_ids() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 9))
        .with(at(1, 0, 0), Function::bridge(2, 9).express(port::UPSTREAM))
        .with(at(2, 0, 0), Function::bridge(3, 3).express(port::DOWNSTREAM))
        .with(at(3, 0, 0), Function::endpoint().express(port::ENDPOINT));
    assert_eq!(ids(&bus, at(3, 0, 0)), [at(3, 0, 0)]);
}

/// QEMU's pcie-pci-bridge, as measured: what is behind it shows as (secondary, 00.0).
#[test]
fn a_bridge_from_express_to_pci_puts_its_secondary_bus() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 2))
        .with(at(1, 0, 0), Function::bridge(2, 2).id(0x1b36, 0x000e).express(port::TO_PCI))
        .with(at(2, 0, 0), Function::endpoint())
        .with(at(2, 1, 0), Function::endpoint());
    assert_eq!(ids(&bus, at(2, 1, 0)), [at(2, 1, 0), at(2, 0, 0), at(1, 0, 0)]);
    assert_eq!(ids(&bus, at(2, 0, 0)), [at(2, 0, 0), at(1, 0, 0)]);
    assert_eq!(ids(&bus, at(1, 0, 0)), [at(1, 0, 0)], "the bridge's own requests are its own");
}

/// QEMU's i82801b11-bridge, as measured: what is behind it shows as the bridge.
#[test]
fn a_conventional_bridge_puts_its_own_id() {
    let bus = Bus::new()
        .with(at(0, 0x1e, 0), Function::bridge(1, 3).id(0x8086, 0x2448))
        .with(at(1, 3, 0), Function::endpoint())
        .with(at(1, 4, 0), Function::bridge(2, 2).pci_x())
        .with(at(2, 5, 0), Function::endpoint());
    assert_eq!(ids(&bus, at(1, 3, 0)), [at(1, 3, 0), at(0, 0x1e, 0)]);
    // With PCI-X either may be seen.
    assert_eq!(ids(&bus, at(2, 5, 0)), [at(2, 5, 0), at(2, 0, 0), at(1, 4, 0), at(0, 0x1e, 0)]);
}

#[test]
fn a_cardbus_bridge_has_its_capabilities_elsewhere() {
    let below = |bridge| {
        let bus = Bus::new().with(at(0, 1, 0), bridge).with(at(2, 0, 1), Function::endpoint());
        bus.put(at(2, 0, 0), Function::endpoint().multifunction());
        ids(&bus, at(2, 0, 1))
    };
    assert_eq!(below(Function::cardbus(2, 2)), [at(2, 0, 1), at(0, 1, 0)]);
    let express = Function::cardbus(2, 2).express(port::TO_PCI);
    assert_eq!(below(express), [at(2, 0, 1), at(2, 0, 0), at(0, 1, 0)]);
}

#[test]
fn a_bridge_from_pci_to_express_is_a_conventional_one_upwards() {
    let bus = Bus::new()
        .with(at(0, 0x1e, 0), Function::bridge(1, 3).express(port::FROM_PCI))
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT))
        // A port type that is no bridge's.
        .with(at(0, 0x1f, 0), Function::bridge(4, 4).express(port::ENDPOINT))
        .with(at(4, 0, 0), Function::endpoint());
    assert_eq!(ids(&bus, at(1, 0, 0)), [at(1, 0, 0), at(0, 0x1e, 0)]);
    assert_eq!(ids(&bus, at(4, 0, 0)), [at(4, 0, 0), at(0, 0x1f, 0)]);
}

#[test]
fn bridges_without_the_capability_are_known_by_name() {
    let asmedia = |bus: Bus, above, secondary| {
        bus.with(above, Function::bridge(secondary, secondary).id(0x1b21, 0x1080))
            .with(at(secondary, 1, 0), Function::endpoint())
    };
    let below_a_port = asmedia(Bus::new().with(at(0, 1, 0), root_port(1, 2)), at(1, 0, 0), 2);
    assert_eq!(ids(&below_a_port, at(2, 1, 0)), [at(2, 1, 0), at(2, 0, 0), at(1, 0, 0)]);
    // Some work the other way round, too: what is above tells.
    let to_pci = Function::bridge(1, 2).express(port::TO_PCI);
    let below_pci = asmedia(Bus::new().with(at(0, 1, 0), to_pci), at(1, 0, 0), 2);
    assert_eq!(ids(&below_pci, at(2, 1, 0)), [at(2, 1, 0), at(1, 0, 0), at(0, 1, 0)]);
    let on_the_root_bus = asmedia(Bus::new(), at(0, 1, 0), 2);
    assert_eq!(ids(&on_the_root_bus, at(2, 1, 0)), [at(2, 1, 0), at(0, 1, 0)]);
    let unknown = Bus::new()
        .with(at(0, 1, 0), root_port(1, 2))
        .with(at(1, 0, 0), Function::bridge(2, 2))
        .with(at(2, 1, 0), Function::endpoint());
    assert_eq!(ids(&unknown, at(2, 1, 0)), [at(2, 1, 0), at(1, 0, 0)]);
}

#[test]
fn phantom_functions_are_among_them() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 1))
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT).phantom(2));
    assert_eq!(ids(&bus, at(1, 0, 0)), [0, 2, 4, 6].map(|number| at(1, 0, number)));
}

#[test]
fn known_functions_carry_anothers_id() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 1))
        // Its function 1 hides.
        .with(at(1, 0, 0), Function::new(0x1b4b, 0x9230).express(port::ENDPOINT))
        .with(at(0, 2, 0), Function::endpoint().multifunction())
        .with(at(0, 2, 1), Function::new(0x1180, 0xe832))
        .with(at(0, 3, 0), root_port(3, 3))
        .with(at(3, 0xe, 0), Function::new(0x9005, 0x0285).subsystem(0x9005, 0x02bc))
        .with(at(3, 0xf, 0), Function::new(0x9005, 0x0285).subsystem(0x9005, 0x02bd))
        .with(at(3, 0x10, 0), Function::new(0x9005, 0x0285).subsystem(0x1028, 0x02bc))
        .with(at(0, 4, 0), Function::new(0x8086, 0x2264));
    assert_eq!(ids(&bus, at(1, 0, 0)), [at(1, 0, 0), at(1, 0, 1)]);
    assert_eq!(ids(&bus, at(0, 2, 1)), [at(0, 2, 1), at(0, 2, 0)]);
    assert_eq!(ids(&bus, at(3, 0xe, 0)), [at(3, 0xe, 0), at(3, 1, 0)]);
    assert_eq!(ids(&bus, at(3, 0xf, 0)), [at(3, 0xf, 0)], "another subsystem");
    assert_eq!(ids(&bus, at(3, 0x10, 0)), [at(3, 0x10, 0)], "another vendor's");
    assert_eq!(ids(&bus, at(0, 4, 0)), [at(0, 4, 0), at(0, 0x10, 0), at(0, 0x11, 0), at(0, 0x12, 3)]);
}

#[test]
fn who_may_carry_any_id_of_its_bus_is_never_complete() {
    let bus = Bus::new()
        .with(at(0, 1, 0), root_port(1, 1).acs(0x1d, 0x1d))
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT))
        .with(at(1, 3, 0), Function::new(0x8086, 0x2954).express(port::ENDPOINT))
        .with(at(1, 4, 0), Function::endpoint().express(port::ENDPOINT));
    assert!(!function(&bus, at(1, 3, 0)).ids.is_complete());
    assert_eq!(groups(&bus), [vec![at(0, 1, 0)], vec![at(1, 0, 0), at(1, 3, 0), at(1, 4, 0)]]);
}

#[test]
fn more_bridges_than_ids_fit_is_said() {
    let mut bus = Bus::new();
    for number in 0..20 {
        bus = bus.with(at(number, 1, 0), Function::bridge(number + 1, 40).pci_x());
    }
    bus = bus.with(at(7, 0, 0), Function::endpoint()).with(at(20, 0, 0), Function::endpoint());
    assert!(function(&bus, at(7, 0, 0)).ids.is_complete());
    let deep = function(&bus, at(20, 0, 0)).ids;
    assert!(!deep.is_complete() && deep.len() == 16);
}

#[test]
fn ids_are_there_once_and_their_own_comes_first() {
    let own = Sbdf::new(1, 2, 3, 0);
    let mut ids = RequesterIds::from(own);
    assert_eq!((ids.own(), ids.len(), ids.is_complete()), (own, 1, true));
    let other = Sbdf::new(1, 2, 0, 0);
    assert!(ids.add(other) && ids.add(own) && ids.add(other));
    assert_eq!((ids.iter().collect::<Vec<_>>(), ids.len()), (vec![own, other], 2));
    assert!(ids.contains(other) && !ids.contains(Sbdf::new(0, 2, 0, 0)));
    assert!(ids.meets(&RequesterIds::one(other)) && !ids.meets(&RequesterIds::one(Sbdf::new(1, 2, 4, 0))));
    assert_ne!(ids, RequesterIds::one(own));
}

#[test]
fn one_id_too_many_is_said() {
    let mut ids = RequesterIds::one(Sbdf::new(1, 2, 3, 0));
    let at = |number| Sbdf::new(1, 9, number, 0);
    assert!((1..16).all(|number| ids.add(at(number))));
    assert!(ids.is_complete() && format!("{ids:?}").ends_with("0001:09:0f.0]"));
    assert!(!ids.add(at(16)) && ids.add(at(15)));
    assert_eq!((ids.len(), ids.is_complete(), ids.contains(at(16))), (MAX_IDS, false, false));
    assert!(format!("{ids:?}").ends_with("0001:09:0f.0, ..]"));
}
