//! Simulated PCI buses, and what must hold of any scope on them.

use std::cell::Cell;
use std::collections::BTreeMap;

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use acpi_dmar::resolve::{ResolveError, Resolved, address, resolve, static_address};
use acpi_dmar::{DeviceScope, Dmar};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    Endpoint,
    /// Class 06/80 after an endpoint's header.
    OtherBridge,
    Bridge {
        secondary: u8,
        subordinate: u8,
    },
    CardBus,
    /// Answers with zeros.
    Silent,
}

/// PCI functions by address; the rest answers all ones. Counts reads.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    pub(crate) functions: BTreeMap<PciAddress, Function>,
    pub(crate) reads: Cell<usize>,
}

impl Bus {
    pub(crate) fn with(mut self, segment: u16, bus: u8, device: u8, function: u8, is: Function) -> Self {
        self.functions.insert(PciAddress::new(segment, bus, device, function), is);
        self
    }

    fn answers(&self, address: PciAddress) -> bool {
        self.functions.get(&address).is_some_and(|function| !matches!(function, Function::Silent))
    }
}

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Bus {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.reads.set(self.reads.get() + 1);
        let Some(function) = self.functions.get(&address) else { return u32::MAX };
        if matches!(function, Function::Silent) {
            return 0;
        }
        let class = |base: u32, sub: u32| base << 24 | sub << 16;
        match (offset, function) {
            (0x00, _) => 0x1234_8086,
            (0x08, Function::Endpoint) => class(0x02, 0x00),
            (0x08, Function::OtherBridge) => class(0x06, 0x80),
            (0x08, Function::Bridge { .. }) => class(0x06, 0x04),
            (0x08, Function::CardBus) => class(0x06, 0x07),
            // Multi-function, as bit 7 must not matter.
            (0x0c, Function::Endpoint | Function::OtherBridge) => 0x80 << 16,
            (0x0c, Function::Bridge { .. }) => 0x81 << 16,
            (0x0c, Function::CardBus) => 0x82 << 16,
            (0x18, &Function::Bridge { secondary, subordinate }) => {
                u32::from(address.bus()) | u32::from(secondary) << 8 | u32::from(subordinate) << 16
            }
            other => panic!("read of {other:?} at {address}"),
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn write(&self, address: PciAddress, offset: u16, _: u32) {
        panic!("write to {address} at {offset:#x}");
    }
}

/// Whatever the table and the buses say, resolving ends after a few reads a hop, and what it finds is on the
/// bus.
pub(crate) fn check_resolution(segment: u16, scope: &DeviceScope<'_>, dmar: &Dmar<'_>, bus: &Bus) {
    let before = bus.reads.get();
    let found = resolve(segment, scope, dmar, bus);
    let reads = bus.reads.get() - before;
    assert!(reads <= 5 * scope.path().len() + 8, "{reads} reads");
    match found {
        Ok(Resolved::Endpoint { address, present }) => assert_eq!(present, bus.answers(address)),
        Ok(Resolved::NotABridge(there)) => {
            assert!(bus.answers(there) && !matches!(bus.functions[&there], Function::Bridge { .. }));
        }
        Ok(Resolved::Bridge { address: bridge, buses }) => {
            assert!(matches!(bus.functions[&bridge], Function::Bridge { .. }));
            assert!(bridge.bus() < buses.secondary && buses.secondary <= buses.subordinate);
        }
        Ok(Resolved::Namespace { address: Some(there), present, .. }) => {
            assert_eq!(present, bus.answers(there));
        }
        Err(ResolveError::NotPresent(absent)) => assert!(!bus.answers(absent)),
        _ => {}
    }
    if let Ok(found) = &found {
        assert!(found.address().is_none_or(|address| address.segment() == segment && found.covers(address)));
    }
    if let (Ok(found), Ok(walked)) = (&found, address(segment, scope, bus)) {
        assert_eq!(found.address(), Some(walked));
    }
    if let (Some(fixed), Ok(found)) = (static_address(segment, scope), &found) {
        assert_eq!(found.address(), Some(fixed));
    }
}
