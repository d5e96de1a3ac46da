//! Made-up parts for tests: what a hypervisor and its machine would give to the libraries.
//!
//! - [`frames`]: page-table frames that can run out.
//! - [`tables`]: what page tables are tested against.
//!
//! With the feature `machine`, which is on unless switched off (p2m's tests do without, and so need not build
//! what is above p2m):
//! - [`bus`]: PCI configuration space of made-up devices and bridges.
//! - [`world`]: devices, regions and owners under the real policy.
//! - [`hypercall`]: a caller's memory, and what calls need of a hypervisor.
//! - [`vtd`]: a remapping unit in software, register by register.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tools for tests, which say so when they are used wrongly"
)]

#[cfg(feature = "machine")]
pub mod bus;
pub mod frames;
#[cfg(feature = "machine")]
pub mod hypercall;
pub mod tables;
#[cfg(feature = "machine")]
pub mod vtd;
#[cfg(feature = "machine")]
pub mod world;
