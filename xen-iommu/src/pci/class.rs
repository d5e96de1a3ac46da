//! What a device is, as far as its reserved regions are concerned.

use acpi_dmar::pci_types::{ConfigRegionAccess, PciHeader};

use crate::platform::Sbdf;

/// A device's kind by its class code (PCI Code and ID Assignment Specification 1.11, section 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceClass {
    /// A USB controller (0c/03). Firmware uses its regions to make keyboard and mouse look like older ones,
    /// until the operating system takes the controller over.
    Usb,
    /// A display controller (03): its regions are memory that it shows pictures from, for as long as it runs.
    Graphics,
    /// Any other.
    Other,
}

impl DeviceClass {
    /// By base class and subclass.
    #[must_use]
    pub const fn of(base: u8, sub: u8) -> Self {
        match (base, sub) {
            (0x0c, 0x03) => Self::Usb,
            (0x03, _) => Self::Graphics,
            _ => Self::Other,
        }
    }

    /// Reads it from a function's configuration space (PCI Local Bus Specification 3.0, 6.2.1).
    #[must_use]
    pub fn read(device: Sbdf, pci: &impl ConfigRegionAccess) -> Self {
        let (_, base, sub, _) = PciHeader::new(device.into()).revision_and_class(pci);
        Self::of(base, sub)
    }
}

/// Why a device's regions cannot be left out without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelaxError {
    /// The device is not present.
    #[error("there is no device {0}")]
    UnknownDevice(Sbdf),
    /// A display controller goes on using its regions. It can be assigned relaxed, which says so each time.
    #[error("{0} is a display controller, which goes on using its regions: assign it relaxed, or give it up")]
    Graphics(Sbdf),
    /// Nothing is known about what such a device's regions are for.
    #[error("{0} is no USB controller: nobody knows when it stops using its regions")]
    Other(Sbdf),
}
