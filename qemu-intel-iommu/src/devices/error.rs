//! Why a device cannot be used, or did not do what it was to do.

use core::fmt;

use crate::memory::MapError;
use crate::pci::PciError;
use crate::processor::interrupts::TimedOut;

/// Why a device cannot be used, or did not do what it was to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    /// Its configuration space does not fit.
    Pci(PciError),
    /// Its registers cannot be mapped.
    Map(MapError),
    /// No interrupt vector is left.
    NoVector,
    /// It did not answer in time: what was waited for.
    TimedOut { what: &'static str, error: TimedOut },
    /// A register does not read as it must: which one, and what it said.
    Register { name: &'static str, value: u64 },
    /// A transfer that the device cannot do: its length in bytes.
    Length(u64),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(error) => error.fmt(f),
            Self::Map(error) => write!(f, "the registers: {error}"),
            Self::NoVector => f.write_str("no interrupt vector is left"),
            Self::TimedOut { what, error } => write!(f, "{what}: {error}"),
            Self::Register { name, value } => write!(f, "{name} reads {value:#x}"),
            Self::Length(len) => write!(f, "the device cannot transfer {len} bytes"),
        }
    }
}

impl From<PciError> for DeviceError {
    fn from(error: PciError) -> Self {
        Self::Pci(error)
    }
}

impl From<MapError> for DeviceError {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}
