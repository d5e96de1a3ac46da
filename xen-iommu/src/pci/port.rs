//! What a function is on PCI Express.

use core::fmt;

/// The device/port type of a PCI Express function (PCI Express base specification 5.0, 7.5.3.2).
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
    /// A bridge from PCI Express to PCI or PCI-X.
    ExpressToPci,
    /// A bridge from PCI or PCI-X to PCI Express.
    PciToExpress,
    /// An endpoint in the root complex.
    Integrated,
    /// An event collector in the root complex.
    EventCollector,
    /// A reserved type.
    Other(u8),
}

impl PortType {
    /// From the low four bits.
    pub(crate) const fn of(bits: u16) -> Self {
        match bits & 0xf {
            0x0 => Self::Endpoint,
            0x1 => Self::LegacyEndpoint,
            0x4 => Self::RootPort,
            0x5 => Self::Upstream,
            0x6 => Self::Downstream,
            0x7 => Self::ExpressToPci,
            0x8 => Self::PciToExpress,
            0x9 => Self::Integrated,
            0xa => Self::EventCollector,
            other => Self::Other(other as u8),
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
