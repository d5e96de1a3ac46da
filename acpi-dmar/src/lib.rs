//! Zero-copy reader of the ACPI DMAR table (Intel VT-d), with device-scope resolution.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(any(test, feature = "builder"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

/// Reads a little-endian field at a constant offset of a byte array; an offset outside the array does not compile.
macro_rules! le {
    ($bytes:expr, u16, $at:literal) => {
        u16::from_le_bytes([$bytes[$at], $bytes[$at + 1]])
    };
    ($bytes:expr, u32, $at:literal) => {
        u32::from_le_bytes([$bytes[$at], $bytes[$at + 1], $bytes[$at + 2], $bytes[$at + 3]])
    };
    ($bytes:expr, u64, $at:literal) => {
        u64::from_le_bytes([
            $bytes[$at],
            $bytes[$at + 1],
            $bytes[$at + 2],
            $bytes[$at + 3],
            $bytes[$at + 4],
            $bytes[$at + 5],
            $bytes[$at + 6],
            $bytes[$at + 7],
        ])
    };
}

#[cfg(feature = "builder")]
pub mod builder;
mod error;
pub mod resolve;
mod scope;
mod structure;
mod table;
pub mod verdict;

pub use error::{ScopeError, ScopeErrorKind, StructureError, StructureErrorKind, TableError};
pub use scope::{DeviceScope, Hop, Path, ScopeFlags, ScopeKind, Scopes};
pub use structure::{
    Andd, Atsr, AtsrFlags, Drhd, DrhdFlags, Rhsa, Rmrr, Satc, SatcFlags, Sidp, Structure, StructureKind,
    Structures, Unknown,
};
pub use table::{Dmar, DmarFlags, HEADER_LENGTH, Header, SIGNATURE};

/// Re-exported because its types appear in this crate's API.
pub use pci_types;
