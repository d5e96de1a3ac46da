//! Lists of capabilities, as configuration space has them.

use testkit::bus::{Bus, Function, port};
use xen_iommu::pci::{PortType, virtual_functions};

use crate::kit::at;

fn port_type(function: Function) -> Option<PortType> {
    PortType::read(at(0, 1, 0), &Bus::new().with(at(0, 1, 0), function))
}

fn has_sr_iov(function: Function) -> bool {
    virtual_functions(at(0, 1, 0), &Bus::new().with(at(0, 1, 0), function)).is_some()
}

/// The types of 7.5.3.2, and how reports name them.
#[test]
fn port_types_have_four_bits() {
    let types = [
        (0x0, PortType::Endpoint, "PCIe endpoint"),
        (0x1, PortType::LegacyEndpoint, "PCIe legacy endpoint"),
        (0x2, PortType::Other(2), "PCIe type 0x2"),
        (0x4, PortType::RootPort, "PCIe root port"),
        (0x5, PortType::Upstream, "PCIe upstream port"),
        (0x6, PortType::Downstream, "PCIe downstream port"),
        (0x7, PortType::ExpressToPci, "PCIe to PCI bridge"),
        (0x8, PortType::PciToExpress, "PCI to PCIe bridge"),
        (0x9, PortType::Integrated, "PCIe root complex endpoint"),
        (0xa, PortType::EventCollector, "PCIe event collector"),
        (0xf, PortType::Other(0xf), "PCIe type 0xf"),
    ];
    for (number, kind, words) in types {
        let function = Function::endpoint().express(number);
        assert_eq!(port_type(function.clone()), Some(kind));
        assert_eq!(kind.to_string(), words);
        // Slot implemented, and an interrupt's number, are beside it.
        let flags = function.read(0x40) | 0xff00_0000;
        assert_eq!(port_type(function.set(0x40, flags)), Some(kind));
    }
    assert_eq!(port_type(Function::endpoint()), None);
}

#[test]
fn a_list_is_followed_as_the_specification_has_it() {
    let express = || Function::endpoint().capability(0x01, &[0]).express(port::ENDPOINT);
    assert!(port_type(express()).is_some());
    // The low two bits of a pointer are reserved.
    assert!(port_type(express().set(0x34, 0x83)).is_some());
    let reserved = express().read(0x80) | 0x0300;
    assert!(port_type(express().set(0x80, reserved)).is_some());
    // Without the status bit there is no list, whatever is there.
    assert_eq!(port_type(express().set(0x04, !(1 << 20))), None);
    // The list ends at 0: what looks like a capability in the header, as a vendor's id may, is none.
    assert_eq!(port_type(Function::new(0x1410, 0x0007).capability(0x01, &[0])), None);
    let in_header = Function::endpoint().set(0x04, 1 << 20).set(0x34, 0x3c).set(0x3c, 0x10);
    assert_eq!(port_type(in_header), None);
    // As long as a list can be.
    let mut longest = Function::endpoint().set(0x04, 1 << 20).set(0x34, 0x40);
    for offset in (0x40..0xfc).step_by(4) {
        longest = longest.set(offset, u32::from(offset + 4) << 8 | 0x09);
    }
    assert_eq!(port_type(longest.clone().set(0xfc, 0x0009)), None);
    assert_eq!(port_type(longest.set(0xfc, 0x0042_0010)), Some(PortType::RootPort));
}

#[test]
fn extended_capabilities_are_on_pci_express_and_behind_the_first_256_bytes() {
    let express = || Function::endpoint().express(port::ENDPOINT);
    let sr_iov = |function: Function| function.acs(0, 0).ari(0).sr_iov(4, 0, 0x80, 1);
    assert!(has_sr_iov(sr_iov(express())));
    assert!(!has_sr_iov(sr_iov(Function::endpoint())), "not on PCI Express");
    // The low two bits of a pointer are reserved.
    let reserved = sr_iov(express()).read(0x100) | 3 << 20;
    assert!(has_sr_iov(sr_iov(express()).set(0x100, reserved)));
    // The list ends at 0: 0x0010 in the header is a vendor's id.
    assert!(!has_sr_iov(express().id(0x0010, 1).acs(0, 0).set(0x0c, 0x0004_0000).set(0x14, 0x0001_0008)));
    // No list: an empty header, or all ones.
    for first in [0, u32::MAX] {
        assert!(!has_sr_iov(express().set(0x100, first).set(0xffc, 0x0001_0010)));
    }
    // A pointer may lead down.
    let down = express().set(0x100, 0x8001_000d).set(0x800, 0x4001_000e).set(0x400, 0x0001_0010);
    assert!(has_sr_iov(down.set(0x40c, 1 << 16).set(0x414, 0x0001_0080)));
}
