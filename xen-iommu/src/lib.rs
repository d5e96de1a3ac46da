//! Reserved-memory policy for PCI passthrough: regions, groups, device ownership, Xen's hypercalls and a VT-d driver.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

mod arena;
pub mod option;
mod platform;
pub mod vtd;

pub use arena::{Arena, OutOfMemory};
pub use platform::{HardwareError, RemappingHardware, Sbdf, SpaceId};
