//! Made-up parts for tests: what a hypervisor and its machine would give to the libraries.
//!
//! - [`frames`]: page-table frames that can run out.
//! - [`bus`]: PCI configuration space of made-up devices and bridges.
//! - [`vtd`]: a remapping unit in software, register by register.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tools for tests, which say so when they are used wrongly"
)]

pub mod bus;
pub mod frames;
pub mod vtd;
