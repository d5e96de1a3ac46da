//! Zero-copy reader of the ACPI DMAR table (Intel VT-d), with device-scope resolution.
//!
//! The DMAR table is how firmware tells an operating system or hypervisor which IOMMUs a machine has, which
//! devices are behind which, and which memory devices must keep reaching (reserved memory regions, RMRRs).
//! Section numbers in these docs are those of Intel's Virtualization Technology for Directed I/O
//! specification, revision 4.1, chapter 8.
//!
//! ```
//! # #[cfg(feature = "builder")] {
//! # use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
//! # let bytes = TableBuilder::new()
//! #     .structure(StructureBuilder::rmrr(0, 0x9b80_0000, 0x9fff_ffff).scope(ScopeBuilder::endpoint(0, &[(2, 0)])))
//! #     .build();
//! use acpi_dmar::{Dmar, Structure};
//!
//! let dmar = Dmar::parse(&bytes)?;
//! for structure in dmar.structures() {
//!     match structure {
//!         Ok(Structure::Rmrr(rmrr)) => {
//!             println!("{:#x} to {:#x} is used by", rmrr.base(), rmrr.limit());
//!             for scope in rmrr.scopes().flatten() {
//!                 println!("  {} {:02x}:{}", scope.kind(), scope.start_bus(), scope.path());
//!             }
//!         }
//!         Ok(other) => println!("{other}"),
//!         Err(error) => println!("passed over: {error}"),
//!     }
//! }
//! # }
//! # Ok::<(), acpi_dmar::TableError>(())
//! ```
//!
//! - **Every structure and scope kind**, with every field; unknown types pass through as bytes.
//! - **Any bytes are safe to read**: no unsafe code, no allocation, no panic, and time linear in the length.
//!   Each length is checked against what encloses it. A structure or scope that is wrong gives an error with
//!   its offset, value and rule; where its length still shows the next one, reading goes on there.
//! - [`resolve`] finds the device that a scope names on this machine's buses, through bridges, by PCI config
//!   reads.
//! - `{}` prints a table to be read beside `iasl -d`; the `sysfs` example prints this machine's.
//!
//! # Features
//!
//! - `builder`: composes tables, right ones and ones that are wrong on purpose. Needs `alloc`.
#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(feature = "builder")]
extern crate alloc;
#[cfg(test)]
extern crate std;

/// Its example compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// Reads a little-endian field at a constant offset of a byte array; an offset outside the array does not
/// compile.
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
mod display;
mod error;
pub mod resolve;
mod scope;
mod structure;
mod table;
mod walk;

pub use display::Size;
pub use error::{ScopeError, ScopeErrorKind, StructureError, StructureErrorKind, TableError};
pub use scope::{DeviceScope, Hop, Path, ScopeFlags, ScopeKind, Scopes};
pub use structure::{
    Andd, Atsr, AtsrFlags, Drhd, DrhdFlags, Rhsa, Rmrr, Satc, SatcFlags, Sidp, Structure, StructureKind,
    Unknown,
};
pub use table::{Dmar, DmarFlags, HEADER_LENGTH, Header, SIGNATURE};
pub use walk::Structures;

/// Re-exported because its types appear in this crate's API.
pub use pci_types;
