//! Scopes on simulated buses.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "common/bus.rs"]
mod bus;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use acpi_dmar::resolve::{Buses, ResolveError, Resolved, resolve, static_address};
use acpi_dmar::{DeviceScope, Dmar, DrhdFlags, Hop, Structure};
use proptest::prelude::*;

use crate::bus::{Bus, Function, check_resolution};

const BRIDGE: Function = Function::Bridge { secondary: 1, subordinate: 4 };

fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress::new(0, bus, device, function)
}

/// A table with `scope` in a unit of `segment`, and ANDD 1.
fn table(segment: u16, scope: ScopeBuilder) -> Vec<u8> {
    TableBuilder::new()
        .structure(StructureBuilder::drhd(DrhdFlags::empty(), segment, 0xfed9_0000).scope(scope))
        .structure(StructureBuilder::andd(1, r"\_SB.I2C0"))
        .build()
}

fn first_scope<'a>(dmar: &Dmar<'a>) -> DeviceScope<'a> {
    dmar.structures().next().unwrap().unwrap().scopes().next().unwrap().unwrap()
}

/// Resolves `scope` on `bus`; the name of a namespace device comes beside it.
fn resolved(
    segment: u16,
    scope: ScopeBuilder,
    bus: &Bus,
) -> Result<(Option<PciAddress>, Option<Buses>), ResolveError> {
    let bytes = table(segment, scope);
    let dmar = Dmar::parse(&bytes).unwrap();
    resolve(segment, &first_scope(&dmar), &dmar, bus).map(|resolved| {
        let buses = match resolved {
            Resolved::Bridge { buses, .. } => Some(buses),
            _ => None,
        };
        (resolved.address(), buses)
    })
}

#[test]
fn an_endpoint_on_its_start_bus() {
    let bus = Bus::default().with(0, 0, 2, 0, Function::Endpoint);
    assert_eq!(resolved(0, ScopeBuilder::endpoint(0, &[(2, 0)]), &bus), Ok((Some(at(0, 2, 0)), None)));
    // One that is absent is named all the same, as it may come.
    let bus = bus.with(0, 0, 2, 2, Function::Silent);
    for (function, there) in [(0, true), (1, false), (2, false)] {
        let bytes = table(0, ScopeBuilder::endpoint(0, &[(2, function)]));
        let dmar = Dmar::parse(&bytes).unwrap();
        let endpoint = Resolved::Endpoint { address: at(0, 2, function), present: there };
        assert_eq!(resolve(0, &first_scope(&dmar), &dmar, &bus), Ok(endpoint));
    }
}

#[test]
fn segments_are_kept_apart() {
    let bus = Bus::default().with(7, 0x80, 2, 0, Function::Endpoint);
    let there = PciAddress::new(7, 0x80, 2, 0);
    assert_eq!(resolved(7, ScopeBuilder::endpoint(0x80, &[(2, 0)]), &bus), Ok((Some(there), None)));
    let bytes = table(0, ScopeBuilder::endpoint(0x80, &[(2, 0)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let absent = Resolved::Endpoint { address: at(0x80, 2, 0), present: false };
    assert_eq!(resolve(0, &first_scope(&dmar), &dmar, &bus), Ok(absent));
}

#[test]
fn a_path_goes_through_bridges_by_their_secondary_buses() {
    let bus = Bus::default()
        .with(0, 0, 0x1c, 0, Function::Bridge { secondary: 3, subordinate: 9 })
        .with(0, 3, 0, 0, Function::Bridge { secondary: 5, subordinate: 9 })
        .with(0, 5, 1, 2, Function::Endpoint);
    let path = [(0x1c, 0), (0, 0), (1, 2)];
    assert_eq!(resolved(0, ScopeBuilder::endpoint(0, &path), &bus), Ok((Some(at(5, 1, 2)), None)));
    let below = Buses { secondary: 5, subordinate: 9 };
    assert_eq!(resolved(0, ScopeBuilder::bridge(0, &path[..2]), &bus), Ok((Some(at(3, 0, 0)), Some(below))));
}

#[test]
fn bridges_cover_the_buses_below() {
    let bus = Bus::default().with(0, 0, 0x1c, 0, BRIDGE);
    let bytes = table(0, ScopeBuilder::bridge(0, &[(0x1c, 0)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let bridge = resolve(0, &first_scope(&dmar), &dmar, &bus).unwrap();
    for (address, covered) in [
        (at(0, 0x1c, 0), true),
        (at(0, 0x1c, 1), false),
        (at(1, 0, 0), true),
        (at(4, 31, 7), true),
        (at(5, 0, 0), false),
        (PciAddress::new(1, 1, 0, 0), false),
    ] {
        assert_eq!(bridge.covers(address), covered, "{address}");
    }
}

#[test]
fn other_functions_cover_themselves_alone() {
    let address = Some(at(0, 2, 0));
    let bytes = table(0, ScopeBuilder::endpoint(0, &[(2, 0)]));
    let Some(Ok(Structure::Andd(andd))) = Dmar::parse(&bytes).unwrap().structures().nth(1) else { panic!() };
    for found in [
        Resolved::Endpoint { address: at(0, 2, 0), present: false },
        Resolved::NotABridge(at(0, 2, 0)),
        Resolved::IoApic { id: 0, address: at(0, 2, 0) },
        Resolved::Hpet { number: 0, address: at(0, 2, 0) },
        Resolved::Namespace { andd, address, present: true },
    ] {
        assert_eq!(found.address(), address);
        let covered = [at(0, 2, 0), at(0, 2, 1), at(1, 2, 0), PciAddress::new(1, 0, 2, 0)];
        assert_eq!(covered.map(|address| found.covers(address)), [true, false, false, false], "{found:?}");
    }
    assert!(!Resolved::Namespace { andd, address: None, present: false }.covers(at(0, 2, 0)));
}

#[test]
fn a_bridge_has_one_bus_at_least_and_all_that_follow_at_most() {
    for (secondary, subordinate) in [(1, 1), (0xff, 0xff), (1, 0xff)] {
        let bus = Bus::default().with(0, 0, 2, 0, Function::Bridge { secondary, subordinate });
        let below = Buses { secondary, subordinate };
        assert_eq!(
            resolved(0, ScopeBuilder::bridge(0, &[(2, 0)]), &bus),
            Ok((Some(at(0, 2, 0)), Some(below)))
        );
    }
}

/// A bus whose functions are all gone after so many reads.
struct Leaving(Bus, usize);

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Leaving {
    // SAFETY: any address and offset will do, as for the bus.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        // SAFETY: as above.
        let read = unsafe { self.0.read(address, offset) };
        if self.0.reads.get() > self.1 { u32::MAX } else { read }
    }

    // SAFETY: any address and offset will do, as for the bus.
    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        // SAFETY: as above.
        unsafe { self.0.write(address, offset, value) }
    }
}

#[test]
fn a_bridge_that_goes_while_it_is_read_is_not_present() {
    let bytes = table(0, ScopeBuilder::bridge(0, &[(2, 0)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let all = |reads| {
        let bus = Leaving(Bus::default().with(0, 0, 2, 0, BRIDGE), reads);
        (resolve(0, &first_scope(&dmar), &dmar, &bus), bus.0.reads.get())
    };
    let (there, reads) = all(usize::MAX);
    assert!(matches!(there, Ok(Resolved::Bridge { .. })));
    for answered in 0..reads {
        assert_eq!(
            all(answered).0,
            Err(ResolveError::NotPresent(at(0, 2, 0))),
            "{answered} reads of {reads}"
        );
    }
}

#[test]
fn what_stands_in_the_way_is_named() {
    let bus = Bus::default()
        .with(0, 0, 1, 0, Function::Endpoint)
        .with(0, 0, 2, 0, BRIDGE)
        .with(0, 0, 3, 0, Function::CardBus)
        .with(0, 0, 4, 0, Function::OtherBridge)
        .with(0, 0, 5, 0, Function::Bridge { secondary: 0, subordinate: 0 })
        .with(0, 0, 6, 0, Function::Bridge { secondary: 9, subordinate: 8 })
        .with(0, 0, 7, 0, Function::Bridge { secondary: 20, subordinate: 30 })
        .with(0, 20, 0, 0, Function::Bridge { secondary: 20, subordinate: 30 })
        .with(0, 20, 1, 0, Function::Bridge { secondary: 1, subordinate: 30 });
    let through = |path: &[(u8, u8)]| resolved(0, ScopeBuilder::endpoint(0, path), &bus);
    assert_eq!(through(&[(1, 0), (0, 0)]), Err(ResolveError::NotABridge(at(0, 1, 0))));
    assert_eq!(through(&[(9, 0), (0, 0)]), Err(ResolveError::NotPresent(at(0, 9, 0))));
    assert_eq!(through(&[(2, 0), (0, 0), (0, 0)]), Err(ResolveError::NotPresent(at(1, 0, 0))));
    assert_eq!(through(&[(3, 0), (0, 0)]), Err(ResolveError::NotABridge(at(0, 3, 0))));
    assert_eq!(through(&[(4, 0), (0, 0)]), Err(ResolveError::NotABridge(at(0, 4, 0))));
    let not_set_up = ResolveError::BadBus { bridge: at(0, 5, 0), secondary: 0, subordinate: 0 };
    assert_eq!(through(&[(5, 0), (0, 0)]), Err(not_set_up));
    assert!(not_set_up.is_absence());
    let reversed = ResolveError::BadBus { bridge: at(0, 6, 0), secondary: 9, subordinate: 8 };
    assert_eq!(through(&[(6, 0), (0, 0)]), Err(reversed));
    assert!(!reversed.is_absence());
    let own = ResolveError::Loop { bridge: at(20, 0, 0), secondary: 20 };
    assert_eq!(through(&[(7, 0), (0, 0), (0, 0)]), Err(own));
    let up = ResolveError::Loop { bridge: at(20, 1, 0), secondary: 1 };
    assert_eq!(through(&[(7, 0), (1, 0), (0, 0)]), Err(up));
    assert_eq!(through(&[]), Err(ResolveError::NoPath));
    let hop = Hop { device: 32, function: 0 };
    assert_eq!(through(&[(2, 0), (32, 0)]), Err(ResolveError::BadHop { index: 1, hop }));

    let bridge = |path: &[(u8, u8)]| resolved(0, ScopeBuilder::bridge(0, path), &bus);
    let bytes = table(0, ScopeBuilder::bridge(0, &[(1, 0)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let endpoint = Resolved::NotABridge(at(0, 1, 0));
    assert_eq!(
        resolve(0, &first_scope(&dmar), &dmar, &bus),
        Ok(endpoint),
        "a bridge scope ends at an endpoint"
    );
    for (device, expected) in [
        (3, Resolved::NotABridge(at(0, 3, 0))),
        // Non-transparent bridges are functions on their own.
        (4, Resolved::Endpoint { address: at(0, 4, 0), present: true }),
    ] {
        let bytes = table(0, ScopeBuilder::bridge(0, &[(device, 0)]));
        let dmar = Dmar::parse(&bytes).unwrap();
        assert_eq!(resolve(0, &first_scope(&dmar), &dmar, &bus), Ok(expected));
    }
    assert_eq!(bridge(&[(9, 0)]), Err(ResolveError::NotPresent(at(0, 9, 0))));
    assert_eq!(bridge(&[(5, 0)]), Err(not_set_up));
    assert_eq!(through(&[(2, 0)]), Ok((Some(at(0, 2, 0)), None)), "the bridge's own function");

    let unknown = ScopeBuilder::new(77.into(), 0, 0, &[(1, 0)]);
    assert_eq!(resolved(0, unknown, &bus), Err(ResolveError::UnknownKind(77)));
}

#[test]
fn io_apics_and_hpets_need_not_be_seen() {
    let bus = Bus::default();
    let bytes = table(3, ScopeBuilder::io_apic(8, 0xf0, &[(0x1f, 0)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let apic = Resolved::IoApic { id: 8, address: PciAddress::new(3, 0xf0, 0x1f, 0) };
    assert_eq!(resolve(3, &first_scope(&dmar), &dmar, &bus), Ok(apic));
    let bytes = table(0, ScopeBuilder::hpet(2, 0, &[(0x1f, 6)]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let hpet = Resolved::Hpet { number: 2, address: at(0, 0x1f, 6) };
    assert_eq!(resolve(0, &first_scope(&dmar), &dmar, &bus), Ok(hpet));
    assert_eq!(bus.reads.get(), 0);
}

#[test]
fn namespace_scopes_go_through_andd_to_the_name_and_the_function() {
    let bus = Bus::default().with(0, 0, 0x15, 0, Function::Endpoint);
    for (path, expected) in [
        (vec![(0x15, 0)], Some((at(0, 0x15, 0), true))),
        (vec![(0x15, 1)], Some((at(0, 0x15, 1), false))),
        (vec![], None),
    ] {
        let bytes = table(0, ScopeBuilder::namespace(1, 0, &path));
        let dmar = Dmar::parse(&bytes).unwrap();
        let resolved = resolve(0, &first_scope(&dmar), &dmar, &bus);
        let Ok(Resolved::Namespace { andd, address, present }) = resolved else { panic!("{resolved:?}") };
        assert_eq!(andd.name(), Some(r"\_SB.I2C0"));
        assert_eq!(
            (address, present),
            (expected.map(|(address, _)| address), expected.is_some_and(|(_, there)| there))
        );
    }
    let missing = ResolveError::NoAndd { number: 2, address: Some(at(0, 0x15, 0)) };
    assert_eq!(resolved(0, ScopeBuilder::namespace(2, 0, &[(0x15, 0)]), &bus), Err(missing));
    let absent = ResolveError::NotPresent(at(0, 9, 0));
    assert_eq!(resolved(0, ScopeBuilder::namespace(1, 0, &[(9, 0), (0, 0)]), &bus), Err(absent));
}

#[test]
fn a_single_hop_needs_no_bus() {
    let cases: [(&[(u8, u8)], _); 5] = [
        (&[(2, 1)], Some(PciAddress::new(4, 6, 2, 1))),
        (&[(2, 1), (0, 0)], None),
        (&[], None),
        (&[(32, 0)], None),
        (&[(0, 8)], None),
    ];
    for (path, expected) in cases {
        let bytes = table(4, ScopeBuilder::endpoint(6, path));
        assert_eq!(static_address(4, &first_scope(&Dmar::parse(&bytes).unwrap())), expected);
    }
}

fn function() -> impl Strategy<Value = Function> {
    prop_oneof![
        Just(Function::Endpoint),
        Just(Function::OtherBridge),
        Just(Function::CardBus),
        (0u8..6, 0u8..6).prop_map(|(secondary, subordinate)| Function::Bridge { secondary, subordinate }),
    ]
}

proptest! {
    /// Whatever the table and the buses say, resolving ends after a few reads a hop, and what it finds is on
    /// the bus.
    #[test]
    fn resolution_ends_on_any_bus(
        functions in prop::collection::btree_map((0u8..6, 0u8..3, 0u8..2), function(), 0..24),
        kind in 0u8..8,
        start in 0u8..6,
        path in prop::collection::vec((0u8..4, 0u8..3), 0..124),
        garbage: bool,
    ) {
        let mut bus = Bus::default();
        for ((number, device, index), is) in functions {
            bus = bus.with(0, number, device, index, is);
        }
        let mut path = path;
        if garbage && let Some(last) = path.last_mut() {
            *last = (0xff, 0xff);
        }
        let bytes = table(0, ScopeBuilder::new(kind.into(), 1, start, &path));
        let dmar = Dmar::parse(&bytes).unwrap();
        let scope = first_scope(&dmar);
        check_resolution(0, &scope, &dmar, &bus);
        prop_assert!(bus.reads.get() <= 2 * (5 * path.len().min(8) + 8), "{} reads", bus.reads.get());
        let unit = matches!(dmar.structures().next(), Some(Ok(Structure::Drhd(_))));
        prop_assert!(unit);
    }
}
