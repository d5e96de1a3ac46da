//! Reserved-memory policy for PCI passthrough: regions, groups, device ownership, Xen's hypercalls and a VT-d driver.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

pub mod abi;
mod arena;
mod device;
mod drhd;
mod error;
mod group;
pub mod hypercall;
pub mod option;
mod ownership;
mod platform;
pub mod registry;
mod requester;
pub mod verdict;
pub mod vtd;

pub use arena::{Arena, OutOfMemory};
pub use device::Owner;
pub use drhd::coverage;
pub use error::{AddError, AssignError, DomainError, Note};
pub use group::Link;
pub use ownership::{Capacity, GroupPolicy, Mode, Policy};
pub use platform::{DomId, HardwareError, RemappingHardware, Sbdf, SpaceId};
pub use requester::{BridgeKind, UpstreamBridge, requester_id};
