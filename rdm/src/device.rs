//! A device as a table names it: by a start bus and the hops from there, since bus numbers below a bridge are
//! the system's choice.

use std::fmt;

use acpi_dmar::pci_types::PciAddress;
use acpi_dmar::{DeviceScope, Hop};

/// A PCI function by segment, start bus and path (VT-d 8.3.1). One that was found on the machine has a path
/// of one hop on its own bus.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    /// PCI segment group.
    pub segment: u16,
    /// The bus that the path starts on.
    pub bus: u8,
    /// The hops to the device: every one but the last is a bridge.
    pub path: Vec<Hop>,
}

impl Device {
    /// The device that the path of `scope`, of a structure with `segment`, names; `None` where it has no
    /// hops.
    #[must_use]
    pub fn of_scope(segment: u16, scope: &DeviceScope<'_>) -> Option<Self> {
        let path: Vec<_> = scope.path().collect();
        (!path.is_empty()).then(|| Self { segment, bus: scope.start_bus(), path })
    }

    /// The device at an address of the machine.
    #[must_use]
    pub fn at(address: PciAddress) -> Self {
        let hop = Hop { device: address.device(), function: address.function() };
        Self { segment: address.segment(), bus: address.bus(), path: vec![hop] }
    }

    /// Its address, where its path is one valid hop: what no bus numbering can change.
    #[must_use]
    pub fn address(&self) -> Option<PciAddress> {
        match self.path[..] {
            [hop] if hop.is_valid() => {
                Some(PciAddress::new(self.segment, self.bus, hop.device, hop.function))
            }
            _ => None,
        }
    }

    /// The bridges that its path goes through, nearest to the start bus first.
    pub fn bridges(&self) -> impl Iterator<Item = Self> + '_ {
        (1..self.path.len()).map(|hops| Self {
            segment: self.segment,
            bus: self.bus,
            path: self.path[..hops].to_vec(),
        })
    }
}

impl fmt::Display for Device {
    /// `0000:00:1c.0/00.0`: segment, bus, and the hops with a slash below each bridge.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:", self.segment, self.bus)?;
        for (index, hop) in self.path.iter().enumerate() {
            let separator = if index == 0 { "" } else { "/" };
            write!(f, "{separator}{hop}")?;
        }
        Ok(())
    }
}
