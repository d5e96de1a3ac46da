//! ACS is switched on where it is offered.

use testkit::bus::{ACS_ISOLATION, Bus, Function, port};
use xen_iommu::pci::{Controls, Enabled, PchPeers, acs};

use crate::kit::{ALL, at, with_topology};

const PORT: xen_iommu::Sbdf = xen_iommu::Sbdf::new(0, 0, 0x1c, 0);

fn enable(port: Function) -> Option<Enabled> {
    let bus = Bus::new().with(PORT, port);
    let enabled = acs::enable(PORT, &bus);
    assert_eq!(acs::enable(PORT, &bus), enabled, "once is enough");
    enabled
}

#[test]
fn what_is_offered_and_isolates_is_set_and_the_rest_is_left() {
    let port = || Function::bridge(1, 1).express(port::ROOT);
    let all = enable(port().acs(0x7f, 0x20)).unwrap();
    assert_eq!((all.offered.bits(), all.on.bits()), (0x7f, 0x3d));
    assert!(all.isolates());
    let some = enable(port().acs(0x05, 0)).unwrap();
    assert_eq!(some.on, Controls::SOURCE_VALIDATION | Controls::REQUEST_REDIRECT);
    assert!(some.isolates(), "the rest cannot be controlled, and holds");
    let half_on = enable(port().acs(ACS_ISOLATION, 0x04)).unwrap();
    assert_eq!((half_on.on.bits(), half_on.isolates()), (0x1d, true));
    // The registers that cannot be written say so.
    let stuck = enable(port().acs(ACS_ISOLATION, 0).writable(0x104, 0)).unwrap();
    assert!(!stuck.isolates() && stuck.on.is_empty());
    let wide = enable(port().id(0x8086, 0xa110).wide_acs(0x1f, 0)).unwrap();
    assert_eq!((wide.offered.bits(), wide.on.bits()), (0x1f, 0x1d));
}

#[test]
fn where_nothing_is_offered_nothing_is_done() {
    assert_eq!(enable(Function::bridge(1, 1).express(port::ROOT)), None);
    assert_eq!(enable(Function::bridge(1, 1).acs(ACS_ISOLATION, 0)), None, "not on PCI Express");
    assert_eq!(acs::enable(at(9, 0, 0), &Bus::new()), None);
}

#[test]
fn all_of_a_machine_at_once() {
    let bus = Bus::new()
        .with(PORT, Function::bridge(1, 2).express(port::ROOT).acs(ACS_ISOLATION, 0))
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT).multifunction().acs(0x0c, 0))
        .with(at(1, 0, 1), Function::endpoint().express(port::ENDPOINT));
    with_topology(&bus, &[ALL], |topology| {
        let mut seen = Vec::new();
        topology.enable_acs(&bus, &mut |function, enabled| seen.push((function, enabled.on.bits())));
        assert_eq!(seen, [(PORT, 0x1d), (at(1, 0, 0), 0x0c)]);
    });
}

#[test]
fn an_older_intel_pch_needs_two_steps() {
    let port = Function::bridge(1, 1).id(0x8086, 0x1c10).express(port::ROOT).writable(0xd8, 1 << 26);
    let lpc = Function::new(0x8086, 0x1c44).class(0x06_01_00).set(0xf0, 0xfed1_c001);
    let bus = Bus::new()
        .with(PORT, port.clone())
        .with(at(0, 0x1f, 0), lpc)
        .with(at(1, 0, 0), Function::endpoint().express(port::ENDPOINT));
    let isolated = |peers_closed| {
        with_topology(&bus, &[ALL], |topology| {
            topology.set_pch_peers_closed(peers_closed);
            topology.function(at(1, 0, 0), &bus).unwrap().isolation == at(1, 0, 0)
        })
    };
    assert!(!isolated(true), "the port does not check ids yet");
    for _ in 0..2 {
        let enabled = acs::enable(PORT, &bus).unwrap();
        assert!(enabled.isolates() && enabled.on == Controls::SOURCE_VALIDATION);
        assert!(!isolated(false) && isolated(true));
    }
    // One whose bit cannot be set, whatever else is in the register.
    let stuck = port.set(0xd8, 0xfbff_ffff).writable(0xd8, 0);
    let enabled = enable(stuck).unwrap();
    assert_eq!((enabled.offered, enabled.on), (Controls::SOURCE_VALIDATION, Controls::empty()));
    assert!(!enabled.isolates());
}

#[test]
fn the_registers_of_an_older_intel_pch_are_found_by_its_lpc_bridge() {
    let port = Function::bridge(1, 1).id(0x8086, 0x1c10).express(port::ROOT);
    let lpc = || Function::new(0x8086, 0x1c44).class(0x06_01_00).set(0xf0, 0xfed1_c001);
    let find = |function, lpc| {
        let endpoint = Function::endpoint().express(port::ENDPOINT);
        let bus = Bus::new().with(PORT, port.clone()).with(at(0, 0x1f, 0), lpc).with(at(1, 0, 0), endpoint);
        PchPeers::find(function, &bus)
    };
    // BSPR and UPDCR are at 0x1104 and 0x1014 from RCBA, which is 16 KiB aligned.
    assert_eq!(find(PORT, lpc()), Some(PchPeers { strap: 0xfed1_d104, decode: 0xfed1_d014 }));
    let reserved_bits = lpc().set(0xf0, 0xfed1_ffff);
    assert_eq!(find(PORT, reserved_bits), Some(PchPeers { strap: 0xfed1_d104, decode: 0xfed1_d014 }));
    for (other, what) in [
        (lpc().set(0xf0, 0xfed1_c000), "not enabled"),
        (lpc().set(0xf0, 0xfed1_fffe), "not enabled, whatever reserved bits say"),
        (lpc().class(0x06_80_00), "no LPC bridge"),
        (lpc().id(0x1022, 0x1c44), "another vendor's"),
        (lpc().id(0x1022, 0x1c44).class(0x06_80_00), "another vendor's, and no LPC bridge"),
    ] {
        assert_eq!(find(PORT, other), None, "{what}");
    }
    assert_eq!(find(at(1, 0, 0), lpc()), None, "no port of a PCH");
    assert_eq!(find(at(7, 0, 0), lpc()), None, "nobody");
}

#[test]
fn peers_are_apart_by_the_straps_or_by_what_is_decoded() {
    for (strap, decode, closed) in [
        (0x300, 0x3f, true),
        (0xffff_ffff, 0x3f, true),
        (0x200, 0x01, false),
        (0x100, 0x20, false),
        (0xffff_fcff, 0x3f, false),
        (0x100, 0xffff_ffc0, true),
        (0, 0, true),
    ] {
        assert_eq!(PchPeers::closed(strap, decode), closed, "{strap:#x} {decode:#x}");
    }
    assert_eq!([0xff, 0x3f, 0xffff_ff80].map(PchPeers::close), [0xc0, 0, 0xffff_ff80]);
}
