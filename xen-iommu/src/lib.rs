//! Reserved-memory policy for PCI passthrough: regions, groups, device ownership, Xen's hypercalls and a VT-d driver.
//!
//! The way of the data, from the firmware's table to a guest:
//!
//! 1. [`verdict::Host`] reads a DMAR and the [`rmrr=` option](option), judges each region on this machine, and registers it in a
//!    [`registry::RegistryBuilder`]; frozen, that is the [`registry::Registry`], which readers search without a lock.
//! 2. [`Policy`] knows the devices that are present ([`Policy::add_device`]), which of them must stay together, and who owns them. It moves them:
//!    [`Policy::assign`], [`Policy::deassign`], all or nothing, with their regions mapped 1:1 where their DMA goes.
//! 3. [`hypercall`] answers Xen's calls; [`abi`] has Xen's structures and error numbers.
//! 4. [`vtd`] drives Intel's remapping hardware; [`RemappingHardware`] is for other drivers. [`coverage`] says what a DRHD's unit translates, and
//!    [`requester_id`] what a device's DMA is known by.
//!
//! Objects live in memory that the hypervisor gives at boot ([`Arena`]); nothing here allocates or panics. Errors carry their cause ([`AssignError`],
//! [`AddError`], [`DomainError`]), and what was done otherwise than one might think comes as a [`Note`].
//!
//! The example `link` shows all that a hypervisor writes.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(any(test, feature = "lock-order"))]
extern crate std;

pub mod abi;
mod arena;
mod class;
mod config;
mod device;
mod drhd;
mod error;
mod further_ids;
mod group;
pub mod hypercall;
mod index;
mod lock;
pub mod option;
mod ownership;
mod platform;
pub mod registry;
mod requester;
pub mod verdict;
pub mod vtd;

pub use arena::{Arena, OutOfMemory};
pub use class::{DeviceClass, RelaxError};
pub use device::Owner;
pub use drhd::coverage;
pub use error::{AddError, AssignError, DomainError, Note};
pub use further_ids::{FurtherIds, phantom_functions, virtual_functions};
pub use group::Link;
pub use ownership::{Capacity, GroupPolicy, LateScope, Mode, Policy};
pub use platform::{DomId, HardwareError, RemappingHardware, Sbdf, SpaceId};
pub use requester::{BridgeKind, Source, UpstreamBridge, requester_id};
