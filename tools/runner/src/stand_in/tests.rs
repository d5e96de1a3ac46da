//! Placement on made-up scopes, and on real tables where they are there.

use std::path::Path;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};

use super::*;

fn scope(path: &[(u8, u8)]) -> Scope {
    let path = path.iter().map(|&(device, function)| Slot::new(device, function)).collect();
    Scope { bridge: false, segment: 0, bus: 0, path }
}

fn placed(scopes: impl IntoIterator<Item = Scope>) -> Placement {
    place(&scopes.into_iter().collect())
}

fn arguments(placement: &Placement) -> Vec<String> {
    placement
        .devices
        .iter()
        .map(|device| device.argument().replace(",dma_mask=0xffffffffffffffff", ""))
        .collect()
}

fn reason(scope: Scope) -> String {
    let placement = placed([scope]);
    assert!(placement.devices.is_empty() && placement.placed.is_empty(), "{placement:?}");
    assert_eq!(placement.left.len(), 1);
    placement.left[0].reason.clone()
}

#[test]
fn a_device_on_the_root_bus_is_an_edu() {
    let placement = placed([scope(&[(0x14, 0)]), scope(&[(2, 0)])]);
    assert_eq!(arguments(&placement), ["edu,addr=2.0", "edu,addr=14.0"]);
    assert_eq!(placement.placed, ["00:02.0", "00:14.0"]);
    assert!(placement.left.is_empty());
}

#[test]
fn function_0_says_that_there_are_others() {
    let placement = placed([scope(&[(0x1d, 7)]), scope(&[(0x1d, 0)]), scope(&[(0x1d, 1)])]);
    assert_eq!(arguments(&placement), ["edu,addr=1d.0,multifunction=on", "edu,addr=1d.1", "edu,addr=1d.7"]);
}

#[test]
fn a_slot_without_function_0_gets_one_filler() {
    let placement = placed([scope(&[(0x16, 7)]), scope(&[(0x16, 3)])]);
    assert_eq!(
        arguments(&placement),
        ["pci-testdev,addr=16.0,multifunction=on", "edu,addr=16.3", "edu,addr=16.7"]
    );
    assert_eq!(placement.placed, ["00:16.3", "00:16.7"]);
}

#[test]
fn free_functions_of_the_slot_that_qemu_uses_are_used() {
    assert_eq!(arguments(&placed([scope(&[(0x1f, 5)])])), ["edu,addr=1f.5"]);
}

#[test]
fn a_path_goes_through_a_root_port() {
    let placement = placed([scope(&[(0x1c, 4), (0, 0)]), scope(&[(0x1c, 4), (0, 2)]), scope(&[(0x1c, 0)])]);
    assert_eq!(
        arguments(&placement),
        [
            "edu,addr=1c.0,multifunction=on",
            "pcie-root-port,id=port2,addr=1c.4,chassis=2",
            "edu,bus=port2,addr=0.0,multifunction=on",
            "edu,bus=port2,addr=0.2",
        ]
    );
    assert_eq!(placement.placed, ["00:1c.0", "00:1c.4 -> 00.0", "00:1c.4 -> 00.2"]);
}

#[test]
fn a_function_behind_a_port_gets_its_filler_too() {
    assert_eq!(
        arguments(&placed([scope(&[(1, 0), (0, 1)])])),
        [
            "pcie-root-port,id=port1,addr=1.0,chassis=1",
            "pci-testdev,bus=port1,addr=0.0,multifunction=on",
            "edu,bus=port1,addr=0.1",
        ]
    );
}

#[test]
fn a_bridge_scope_gets_a_bridge_with_something_below() {
    let bridge = Scope { bridge: true, ..scope(&[(0x1e, 0)]) };
    assert_eq!(
        arguments(&placed([bridge])),
        ["pcie-root-port,id=port1,addr=1e.0,chassis=1", "edu,bus=port1,addr=0.0"]
    );
}

#[test]
fn what_cannot_be_placed_has_a_reason() {
    assert!(reason(scope(&[])).contains("no path"));
    assert!(reason(scope(&[(32, 0)])).contains("20.0"));
    assert!(reason(scope(&[(1, 8)])).contains("01.8"));
    assert!(reason(scope(&[(0, 0)])).contains("host bridge"));
    assert!(reason(scope(&[(0, 3)])).contains("host bridge"));
    assert!(reason(scope(&[(0x1f, 0)])).contains("ISA"));
    assert!(reason(scope(&[(0x1f, 2)])).contains("SATA"));
    assert!(reason(scope(&[(0x1f, 3)])).contains("SMBus"));
    assert!(reason(scope(&[(1, 0), (3, 0)])).contains("device 03"));
    assert!(reason(scope(&[(1, 0), (0, 0), (0, 0)])).contains("more than one bridge"));
    assert!(reason(Scope { segment: 1, ..scope(&[(2, 0)]) }).contains("segment"));
    assert!(reason(Scope { bus: 3, ..scope(&[(0, 0)]) }).contains("another bus"));
    assert!(reason(Scope { bridge: true, ..scope(&[(1, 0), (0, 0)]) }).contains("more than one bridge"));
}

#[test]
fn a_slot_cannot_be_device_and_bridge() {
    let placement = placed([scope(&[(1, 0)]), scope(&[(1, 0), (0, 0)])]);
    assert_eq!(placement.placed, ["00:01.0 -> 00.0"]);
    assert_eq!(placement.left.len(), 1);
    assert_eq!(placement.left[0].scope, "00:01.0");
}

#[test]
fn the_bridges_have_an_end() {
    let all = (1..=0x1e).flat_map(|device| (0..8).map(move |function| scope(&[(device, function), (0, 0)])));
    let placement = placed(all);
    assert_eq!(placement.placed.len(), BRIDGES);
    assert_eq!(placement.left.len(), 240 - BRIDGES);
}

#[test]
fn scopes_that_are_no_pci_devices_are_told() {
    let rmrr = StructureBuilder::rmrr(0, 0x1000, 0x1fff)
        .scope(ScopeBuilder::namespace(1, 0, &[(2, 0)]))
        .scope(ScopeBuilder::endpoint(0, &[(2, 0)]))
        .scope(ScopeBuilder::endpoint(0, &[(3, 0)]).override_length(3));
    let table = TableBuilder::new().structure(rmrr).build();
    let (scopes, left) = scopes(&Dmar::parse(&table).unwrap());
    assert_eq!(scopes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["00:02.0"]);
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|left| left.scope.contains("0x1000")));
}

/// Real tables, where they lie beside the checkout.
#[test]
fn real_tables_find_their_places() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/dmar-corpus");
    let Ok(files) = std::fs::read_dir(&corpus) else {
        eprintln!("skipped: no tables in {}", corpus.display());
        return;
    };
    let mut tables = 0;
    for file in files {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "dmar") {
            continue;
        }
        tables += 1;
        let bytes = std::fs::read(&path).unwrap();
        let (scopes, unread) = scopes(&Dmar::parse(&bytes).unwrap());
        assert!(unread.is_empty(), "{}: {unread:?}", path.display());
        let placement = place(&scopes);
        assert_eq!(placement.placed.len() + placement.left.len(), scopes.len(), "{}", path.display());
        // Real tables name little that QEMU cannot have: only what begins behind a bridge.
        for scope in scopes.iter().filter(|scope| scope.bus == 0) {
            assert!(placement.placed.contains(&scope.to_string()), "{}: {scope}", path.display());
        }
        // One device a slot.
        let mut seen = BTreeSet::new();
        for device in &placement.devices {
            assert!(seen.insert((device.bus.clone(), device.slot)), "{}: {device:?}", path.display());
        }
    }
    assert!(tables > 0, "{} holds no table", corpus.display());
}
