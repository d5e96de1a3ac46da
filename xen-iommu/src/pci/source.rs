//! One requester id for a device, as the callers know it that do not use
//! [`RequesterIds`](crate::pci::RequesterIds) yet; it goes after them.
//!
//! A bridge from PCI Express to conventional PCI (or PCI-X) takes ownership of its secondary side's requests:
//! they carry its secondary bus number, device 0, function 0 (PCI Express to PCI/PCI-X Bridge Specification
//! 1.0, 2.3; VT-d 3.4.1). A conventional PCI-to-PCI bridge that sits in the root complex itself has no such
//! rule; its requests carry the bridge's own id.

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::port::PortType;
use crate::platform::Sbdf;

/// Under which requester ids a device's DMA comes: one, and those of its phantom functions where it has
/// switched them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The requester id.
    pub id: Sbdf,
    /// The distance of its phantom functions: the `stride` of
    /// [`phantom_functions`](crate::phantom_functions), or 0 where there are none, as below a bridge that
    /// puts its own id in place of the device's.
    pub phantom_stride: u8,
}

impl From<Sbdf> for Source {
    fn from(id: Sbdf) -> Self {
        Self { id, phantom_stride: 0 }
    }
}

/// What a bridge does to the requester ids of what is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeKind {
    /// A PCI Express root port or switch port: requests pass as they are.
    PciExpress,
    /// A bridge from PCI Express to conventional PCI or PCI-X.
    ExpressToPci,
    /// A conventional PCI-to-PCI bridge, or one from PCI to PCI Express.
    Pci,
}

impl BridgeKind {
    /// Reads it from the configuration space of `bridge`, by the device/port type (PCI Express base
    /// specification 5.0, 7.5.3.2).
    #[must_use]
    pub fn read(bridge: Sbdf, pci: &impl ConfigRegionAccess) -> Self {
        match PortType::read(bridge, pci) {
            Some(PortType::ExpressToPci) => Self::ExpressToPci,
            None | Some(PortType::PciToExpress) => Self::Pci,
            Some(_) => Self::PciExpress,
        }
    }
}

/// A bridge on the way from a device to the root complex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpstreamBridge {
    /// The bridge itself.
    pub address: Sbdf,
    /// The bus below it.
    pub secondary_bus: u8,
    /// What it does to requester ids.
    pub kind: BridgeKind,
}

/// The requester id of `device`, below these bridges, nearest first. The topmost bridge that changes ids
/// decides.
pub fn requester_id(device: Sbdf, upstream: impl IntoIterator<Item = UpstreamBridge>) -> Sbdf {
    upstream.into_iter().fold(device, |source, bridge| match bridge.kind {
        BridgeKind::PciExpress => source,
        BridgeKind::ExpressToPci => Sbdf::new(bridge.address.segment(), bridge.secondary_bus, 0, 0),
        BridgeKind::Pci => bridge.address,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: Sbdf = Sbdf::new(0, 3, 1, 0);

    fn bridge(address: Sbdf, secondary_bus: u8, kind: BridgeKind) -> UpstreamBridge {
        UpstreamBridge { address, secondary_bus, kind }
    }

    #[test]
    fn express_ports_pass_ids_and_bridges_to_pci_take_them() {
        let port = bridge(Sbdf::new(0, 0, 0x1c, 0), 2, BridgeKind::PciExpress);
        let to_pci = bridge(Sbdf::new(0, 2, 0, 0), 3, BridgeKind::ExpressToPci);
        assert_eq!(requester_id(DEVICE, []), DEVICE);
        assert_eq!(requester_id(DEVICE, [port]), DEVICE);
        assert_eq!(requester_id(DEVICE, [to_pci, port]), Sbdf::new(0, 3, 0, 0));
        let root = bridge(Sbdf::new(0, 0, 0x1e, 0), 3, BridgeKind::Pci);
        assert_eq!(requester_id(DEVICE, [root]), Sbdf::new(0, 0, 0x1e, 0));
        // A conventional bridge below one from PCI Express: that one takes over.
        let inner = bridge(Sbdf::new(0, 3, 4, 0), 4, BridgeKind::Pci);
        assert_eq!(requester_id(Sbdf::new(0, 4, 1, 0), [inner, to_pci, port]), Sbdf::new(0, 3, 0, 0));
    }
}
