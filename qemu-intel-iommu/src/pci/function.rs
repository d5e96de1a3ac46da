//! A PCI function: what is known of it, and how the log shows it.

use core::fmt;

use pci_types::{HeaderType, PciAddress};

/// The device/port type of a PCI Express function (PCI Express base specification, section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// An endpoint.
    Endpoint,
    /// A legacy endpoint.
    LegacyEndpoint,
    /// A root port.
    RootPort,
    /// A switch's upstream port.
    Upstream,
    /// A switch's downstream port.
    Downstream,
    /// A PCI Express to PCI or PCI-X bridge.
    ExpressToPci,
    /// A PCI or PCI-X to PCI Express bridge.
    PciToExpress,
    /// An endpoint in the root complex.
    Integrated,
    /// An event collector in the root complex.
    EventCollector,
    /// A reserved type.
    Other(u8),
}

impl PortType {
    /// The type with this number in the capability.
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits {
            0x0 => Self::Endpoint,
            0x1 => Self::LegacyEndpoint,
            0x4 => Self::RootPort,
            0x5 => Self::Upstream,
            0x6 => Self::Downstream,
            0x7 => Self::ExpressToPci,
            0x8 => Self::PciToExpress,
            0x9 => Self::Integrated,
            0xa => Self::EventCollector,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint => f.write_str("PCIe endpoint"),
            Self::LegacyEndpoint => f.write_str("PCIe legacy endpoint"),
            Self::RootPort => f.write_str("PCIe root port"),
            Self::Upstream => f.write_str("PCIe upstream port"),
            Self::Downstream => f.write_str("PCIe downstream port"),
            Self::ExpressToPci => f.write_str("PCIe to PCI bridge"),
            Self::PciToExpress => f.write_str("PCI to PCIe bridge"),
            Self::Integrated => f.write_str("PCIe root complex endpoint"),
            Self::EventCollector => f.write_str("PCIe event collector"),
            Self::Other(bits) => write!(f, "PCIe type {bits:#x}"),
        }
    }
}

/// The buses behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus right behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

/// One function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// The bridge that it is behind; `None` on a root bus.
    pub parent: Option<PciAddress>,
}

impl Function {
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
        Ok(())
    }
}
