//! What the scopes of a structure name: devices, on the machine's buses where there is a machine.

use std::collections::BTreeSet;

use acpi_dmar::resolve::{ResolveError, Resolved, resolve};
use acpi_dmar::{DeviceScope, Dmar, ScopeKind, Structure};

use crate::device::Device;
use crate::machine::Machine;

/// The devices that a structure names.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// In the table's order, each once; with a machine, what is below a bridge scope too.
    pub(super) devices: Vec<Device>,
    /// Those that a bridge scope names.
    pub(super) bridges: BTreeSet<Device>,
    /// Those that the machine has.
    pub(super) present: BTreeSet<Device>,
    /// What is no PCI device, or is named wrongly.
    pub(super) remarks: Vec<String>,
    known: BTreeSet<Device>,
}

impl Named {
    pub(super) fn of(structure: &Structure<'_>, dmar: &Dmar<'_>, machine: Option<&Machine>) -> Self {
        let mut named = Self::default();
        let segment = structure.segment().unwrap_or_default();
        for scope in structure.scopes().filter_map(Result::ok) {
            match machine {
                None => named.by_path(segment, &scope, dmar),
                Some(machine) => named.on_machine(segment, &scope, dmar, machine),
            }
        }
        named
    }

    fn add(&mut self, device: Device) {
        if self.known.insert(device.clone()) {
            self.devices.push(device);
        }
    }

    /// By the table alone: a path is the device's name.
    fn by_path(&mut self, segment: u16, scope: &DeviceScope<'_>, dmar: &Dmar<'_>) {
        let kind = scope.kind();
        match (kind, Device::of_scope(segment, scope)) {
            (ScopeKind::PciEndpoint | ScopeKind::PciBridge, Some(device)) => {
                if let Some(hop) = scope.invalid_hop() {
                    self.remarks.push(format!("{device}, a device that cannot exist: no bus can have {hop}"));
                }
                if kind == ScopeKind::PciBridge {
                    self.bridges.insert(device.clone());
                }
                self.add(device);
            }
            (ScopeKind::AcpiNamespace, device) => {
                self.remarks.push(namespace_name(scope, dmar, device.as_ref()));
                if let Some(device) = device {
                    self.add(device);
                }
            }
            _ => self.remarks.push(no_pci_device(scope)),
        }
    }

    /// On a machine: a path leads to an address, through bridges.
    fn on_machine(&mut self, segment: u16, scope: &DeviceScope<'_>, dmar: &Dmar<'_>, machine: &Machine) {
        match resolve(segment, scope, dmar, &machine.pci) {
            Ok(Resolved::Bridge { address, buses }) => {
                self.bridges.insert(Device::at(address));
                self.add_present(Device::at(address));
                let below = machine.pci.addresses();
                let below = below.filter(|below| below.segment() == segment && buses.contains(below.bus()));
                below.for_each(|below| self.add_present(Device::at(below)));
            }
            Ok(Resolved::Endpoint { address, present: false }) => {
                self.add(Device::of_scope(segment, scope).unwrap_or_else(|| Device::at(address)));
            }
            Ok(Resolved::Endpoint { address, .. } | Resolved::NotABridge(address)) => {
                self.add_present(Device::at(address));
            }
            Ok(Resolved::Namespace { address, present, .. }) => {
                let device = address.map(Device::at);
                self.remarks.push(namespace_name(scope, dmar, device.as_ref()));
                match device {
                    Some(device) if present => self.add_present(device),
                    Some(device) => self.add(device),
                    None => {}
                }
            }
            Ok(Resolved::IoApic { .. } | Resolved::Hpet { .. }) | Err(ResolveError::UnknownKind(_)) => {
                self.remarks.push(no_pci_device(scope));
            }
            Err(error) => match Device::of_scope(segment, scope) {
                None => self.remarks.push(no_pci_device(scope)),
                Some(device) => {
                    if !error.is_absence() {
                        self.remarks.push(format!("{device}, which leads nowhere: {error}"));
                    }
                    self.add(device);
                }
            },
        }
    }

    fn add_present(&mut self, device: Device) {
        self.present.insert(device.clone());
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
