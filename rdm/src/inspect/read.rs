//! What the scopes of a structure name, in the words of a report: the addresses that they led to or, where
//! they led nowhere, the paths.

use std::collections::{BTreeMap, BTreeSet};

use acpi_dmar::{DeviceScope, Dmar, ScopeKind, Structure};
use xen_iommu::Sbdf;
use xen_iommu::pci::Function;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::resolved::ResolvedScope;

use crate::device::Device;

/// The devices that a structure names.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// In the table's order, each once, and what is below a bridge scope.
    pub(super) devices: Vec<Device>,
    /// Those that a bridge scope names.
    pub(super) bridges: BTreeSet<Device>,
    /// What is no PCI device, or is named wrongly.
    pub(super) remarks: Vec<String>,
    known: BTreeSet<Device>,
}

impl Named {
    /// By where the structure's readable scopes lead, and the functions that are there.
    pub(super) fn of(
        structure: &Structure<'_>,
        dmar: &Dmar<'_>,
        resolved: &[ResolvedScope],
        functions: &BTreeMap<Sbdf, Function>,
    ) -> Self {
        let mut named = Self::default();
        let segment = structure.segment().unwrap_or_default();
        for (scope, resolved) in structure.scopes().filter_map(Result::ok).zip(resolved) {
            let place = resolved.place.map(|place| place.devices);
            match scope.kind() {
                ScopeKind::PciEndpoint | ScopeKind::PciBridge => match place {
                    Ok(devices) => named.add_found(devices, functions),
                    Err(error) => named.add_path(segment, &scope, (!error.is_absence()).then_some(error)),
                },
                ScopeKind::AcpiNamespace => {
                    let device = match place {
                        Ok(Devices::Function(function)) => Some(Device::at(function.into())),
                        _ => Device::of_scope(segment, &scope),
                    };
                    named.remarks.push(namespace_name(&scope, dmar, device.as_ref()));
                    device.into_iter().for_each(|device| named.add(device));
                }
                _ => named.remarks.push(no_pci_device(&scope)),
            }
        }
        named
    }

    fn add(&mut self, device: Device) {
        if self.known.insert(device.clone()) {
            self.devices.push(device);
        }
    }

    fn add_found(&mut self, devices: Devices, functions: &BTreeMap<Sbdf, Function>) {
        if let Some(function) = devices.function() {
            self.add(Device::at(function.into()));
        }
        if let (Devices::Below { bridge, .. }, Some((first, last))) = (devices, devices.interval()) {
            self.bridges.insert(Device::at(bridge.into()));
            for below in functions.range(first..=last) {
                self.add(Device::at((*below.0).into()));
            }
        }
    }

    fn add_path(&mut self, segment: u16, scope: &DeviceScope<'_>, wrong: Option<impl std::fmt::Display>) {
        let Some(device) = Device::of_scope(segment, scope) else {
            self.remarks.push(no_pci_device(scope));
            return;
        };
        match wrong {
            Some(error) => self.remarks.push(format!("{device}, which leads nowhere: {error}")),
            None if scope.kind() == ScopeKind::PciBridge => drop(self.bridges.insert(device.clone())),
            None => {}
        }
        self.add(device);
    }
}

fn namespace_name(scope: &DeviceScope<'_>, dmar: &Dmar<'_>, device: Option<&Device>) -> String {
    let number = scope.enumeration_id();
    let name = match dmar.namespace_device(number) {
        Some(andd) => andd.name_bytes().escape_ascii().to_string().replace("\\\\", "\\"),
        None => "declared by no ANDD".into(),
    };
    match device {
        Some(device) => format!("{device} is ACPI device {number} ({name})"),
        None => format!("ACPI device {number} ({name}), which has no PCI address"),
    }
}

fn no_pci_device(scope: &DeviceScope<'_>) -> String {
    let (bus, path, id) = (scope.start_bus(), scope.path(), scope.enumeration_id());
    match scope.kind() {
        ScopeKind::IoApic => format!("I/O APIC {id} ({bus:02x}:{path})"),
        ScopeKind::Hpet => format!("HPET {id} ({bus:02x}:{path})"),
        ScopeKind::Unknown(kind) => format!("a scope of unknown kind {kind} ({bus:02x}:{path})"),
        kind => format!("{kind} without a path on bus {bus:02x}"),
    }
}
