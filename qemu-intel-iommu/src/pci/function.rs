//! A PCI function: what is known of it, and how the log shows it.

use core::fmt;

use pci_types::{HeaderType, PciAddress, PciHeader};
use xen_iommu::pci::PortType;
use xen_iommu::{Sbdf, pci};

use super::config::Config;

/// The buses behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus right behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

/// One function.
#[derive(Clone, Copy, Debug)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and interface: 0xBBSSII.
    pub class: u32,
    /// The layout of its header.
    pub header: HeaderType,
    /// The buses behind it, when it is a bridge.
    pub bridge: Option<Bridge>,
    /// The type it has on PCI Express; `None` for conventional PCI.
    pub express: Option<PortType>,
    /// What the policy needs to know of it: role, requester ids, isolation.
    pub policy: pci::Function,
}

impl Function {
    /// Reads the header of a function that the walk has found.
    pub(super) fn read(policy: pci::Function, config: &Config) -> Self {
        let address = PciAddress::from(policy.sbdf);
        let header = PciHeader::new(address);
        let (vendor, device) = header.id(config);
        let (_, base, sub, interface) = header.revision_and_class(config);
        let kind = header.header_type(config);
        let bridge = (kind == HeaderType::PciPciBridge).then(|| {
            let [_, secondary, subordinate, _] = config.read32(address, 0x18).to_le_bytes();
            Bridge { secondary, subordinate }
        });
        Self {
            address,
            vendor,
            device,
            class: u32::from_be_bytes([0, base, sub, interface]),
            header: kind,
            bridge,
            express: PortType::read(policy.sbdf, config),
            policy,
        }
    }

    /// Vendor and device id.
    pub fn ids(&self) -> (u16, u16) {
        (self.vendor, self.device)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:04x}:{:04x} class {:06x}", self.address, self.vendor, self.device, self.class)?;
        if let Some(bridge) = self.bridge {
            write!(f, ", bridge to [{:02x}-{:02x}]", bridge.secondary, bridge.subordinate)?;
        }
        if let HeaderType::Unknown(header) = self.header {
            write!(f, ", header type {header:#x}")?;
        }
        if let Some(express) = self.express {
            write!(f, ", {express}")?;
        }
        let others = self.policy.ids.iter().filter(|id| *id != Sbdf::from(self.address));
        for (index, id) in others.enumerate() {
            write!(f, "{}{id}", if index == 0 { ", requests also as " } else { " or " })?;
        }
        if self.policy.isolation != self.policy.sbdf {
            write!(f, ", isolated as {}", self.policy.isolation)?;
        }
        Ok(())
    }
}
