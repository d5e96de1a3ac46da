//! Why a PCI function cannot be used.

use core::fmt;

use pci_types::PciAddress;

/// The number of a base address register, 0 to 5.
pub type BarIndex = u8;

/// Why a function cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PciError {
    /// No such function was found.
    Absent(PciAddress),
    /// The function is not what the driver drives: vendor and device id, class code.
    NotThis { address: PciAddress, ids: (u16, u16), class: u32 },
    /// The register holds no address of the kind that is needed.
    NoBar { address: PciAddress, index: BarIndex },
    /// The function has no capability for message-signalled interrupts.
    NoMsi(PciAddress),
    /// The function is no port with a slot.
    NoSlot(PciAddress),
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(address) => write!(f, "there is no function {address}"),
            Self::NotThis { address, ids: (vendor, device), class } => {
                write!(
                    f,
                    "{address} is {vendor:04x}:{device:04x} of class {class:06x}, \
                     which this driver does not drive"
                )
            }
            Self::NoBar { address, index } => write!(f, "{address} has no usable address in BAR {index}"),
            Self::NoSlot(address) => write!(f, "{address} is no port with a slot"),
            Self::NoMsi(address) => write!(f, "{address} has no MSI capability"),
        }
    }
}
