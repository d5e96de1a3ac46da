//! A region whose scope leads through a bridge that is absent at boot: dormant, and its device's once the bridge has come.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::memory::{KeepRam, MemoryKind, MemoryRegion};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{Arena, Capacity, DomId, GroupPolicy, LateScope, Mode, Owner, Policy, Sbdf};

use crate::world::{Frames, HARDWARE_DOMAIN, Hardware, space, walk};

const BRIDGE: Sbdf = Sbdf::new(0, 0, 0x1c, 0);
const ROOT: Sbdf = Sbdf::new(0, 0, 3, 0);

/// A root bus with [`ROOT`] and, once it has come, [`BRIDGE`] to one bus with one device on it.
struct Pci {
    bus: RefCell<Option<u8>>,
}

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Pci {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let (function, bus) = (Sbdf::from(address), *self.bus.borrow());
        let below = bus.is_some_and(|bus| function == Sbdf::new(0, bus, 2, 0));
        match (offset, bus) {
            (0, Some(_)) if function == BRIDGE => 0x5678_8086,
            (8, Some(_)) if function == BRIDGE => 0x0604_0000,
            (0xc, Some(_)) if function == BRIDGE => 0x0001_0000,
            (0x18, Some(bus)) if function == BRIDGE => u32::from(bus) << 16 | u32::from(bus) << 8,
            (0, _) if function == ROOT || below => 0x1234_8086,
            _ if function == ROOT || below || (function == BRIDGE && bus.is_some()) => 0,
            _ => u32::MAX,
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

#[test]
fn a_scope_through_an_absent_bridge_means_something_once_the_bridge_comes() {
    let scope = |path: &[(u8, u8)]| ScopeBuilder::endpoint(0, path);
    let bytes = TableBuilder::new()
        .host_address_width(39)
        .structure(StructureBuilder::rmrr(0, 0x1000_0000, 0x1000_0fff).scope(scope(&[(0x1c, 0), (2, 0)])))
        .structure(
            StructureBuilder::rmrr(0, 0x2000_0000, 0x2000_0fff)
                .scope(scope(&[(3, 0)]))
                .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)])),
        )
        .build();
    let dmar = Dmar::parse(&bytes).unwrap();
    let pci = Pci { bus: RefCell::new(None) };
    let memory_map = [MemoryRegion { start: 0x1000_0000, end: 0x8000_0000, kind: MemoryKind::Reserved }];
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut host = Host {
        pci: &pci,
        memory: &memory_map,
        frames: &mut KeepRam,
        address_width: 39,
        windows: &[] as &[Window; 0],
        unit_width: &|_| None,
    };
    let mut verdicts = Vec::new();
    let mut report = |finding: Finding<'_>| {
        if let Finding::Region(region) = finding {
            verdicts.push(region.verdict().to_string());
        }
    };
    let scopes = ResolvedScopes::read(&dmar, &pci, &mut arena).unwrap();
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut report).unwrap();
    assert_eq!(verdicts, ["dormant: no device of it is present", "accepted"]);
    let registry = builder.freeze(&mut arena).unwrap();
    let hardware = Hardware::default();
    let told = hardware.0.clone();
    let capacity = Capacity { devices: 8, requesters: 8, domains: 2 };
    let first = (HARDWARE_DOMAIN, space(&frames).unwrap());
    let policy = Policy::new(registry, GroupPolicy::Refuse, hardware, first, capacity, &mut arena).unwrap();
    policy.create_domain(DomId(1), space(&frames).unwrap()).unwrap();
    let add = |device| policy.add_device(device, device, || space(&frames), &mut |_| {});
    let resolve = || {
        let mut found = Vec::new();
        policy.resolve_scopes(&dmar, &pci, &mut |late| {
            found.push(match late {
                LateScope::Found { region, devices } => format!("{region}: {devices}"),
                LateScope::TooLate { device, .. } => format!("{device} was there first"),
            });
        });
        found
    };
    add(ROOT).unwrap();
    assert!(resolve().is_empty(), "the bridge is still absent");

    // The bridge has come; its device is added too early, then in order.
    *pci.bus.borrow_mut() = Some(5);
    let below = Sbdf::new(0, 5, 2, 0);
    add(below).unwrap();
    assert_eq!(resolve(), ["0000:05:02.0 was there first", "0000:05:02.0 was there first"]);
    assert_eq!(policy.registry().regions_of(below).count(), 0);
    policy.remove_device(below, &mut |_| {}).unwrap();
    assert_eq!(
        resolve(),
        [
            "[0x10000000, 0x10000fff]: 0000:05:02.0",
            "[0x20000000, 0x20000fff]: all below bridge 0000:00:1c.0 (buses 05 to 05)"
        ]
    );
    assert!(resolve().is_empty(), "nothing is open any more");
    assert_eq!(policy.registry().regions_of(below).count(), 2);
    assert_eq!(policy.registry().regions_of(BRIDGE).count(), 1);
    assert_eq!(add(below).unwrap(), Owner::Domain(HARDWARE_DOMAIN));
    let region = policy.registry().regions().next().unwrap();
    assert!(policy.has_present_device(region));
    assert_eq!(region.owner(), Some(HARDWARE_DOMAIN));

    // It shares the second region with the device on the root bus.
    policy.assign(&[below], DomId(1), Mode::Strict, &mut |_| {}).unwrap_err();
    policy.assign(&[below, ROOT], DomId(1), Mode::Strict, &mut |_| {}).unwrap();
    let root = told.lock().unwrap().attached[&below];
    for frame in [0x1_0000, 0x2_0000] {
        assert_eq!(walk(&frames, root, frame), Some(frame));
    }
    policy.deassign(&[below, ROOT], DomId(1), &mut |_| {}).unwrap();
    assert!(policy.registry().regions().all(|region| region.owner().is_none()));
}
