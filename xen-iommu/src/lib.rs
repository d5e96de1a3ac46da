//! Reserved-memory policy for PCI passthrough: regions, groups, device ownership, Xen's hypercalls and a VT-d
//! driver.
//!
//! The way of the data, from the firmware's table to a guest:
//!
//! 1. [`region::intake::Host`] reads a DMAR and the [`rmrr=` option](region::rmrr_option), judges each region
//!    on this machine, and registers it in a [`region::registry::RegistryBuilder`]; frozen, that is the
//!    [`region::registry::Registry`], which readers search without a lock.
//! 2. [`Policy`] knows the devices that are present ([`Policy::add_device`]), which of them must stay
//!    together, and who owns them. It moves them: [`Policy::assign`], [`Policy::deassign`], all or nothing,
//!    with their regions mapped 1:1 where their DMA goes.
//! 3. [`hypercall`] answers Xen's calls; [`abi`] is the crate with Xen's structures and numbers.
//! 4. [`pci`] walks the buses: which functions there are, the requester ids that their DMA may carry, and who
//!    reaches whom beside the hardware.
//! 5. [`vtd`] drives Intel's remapping hardware; [`RemappingHardware`] is for other drivers.
//!    [`vtd::coverage`] says what a DRHD's unit translates.
//!
//! Objects live in memory that the hypervisor gives at boot ([`Arena`]); nothing here allocates or panics.
//! Errors carry their cause ([`AssignError`], [`AddError`], [`DomainError`]), and what was done otherwise
//! than one might think comes as a [`Note`].
//!
//! The example `link` shows all that a hypervisor writes.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(any(test, feature = "lock-order"))]
extern crate std;

// Its example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod arena;
mod control;
mod error;
mod group;
pub mod hypercall;
mod index;
mod lock;
mod note;
mod owner;
mod ownership;
pub mod pci;
mod platform;
mod present;
pub mod region;
pub mod vtd;

pub use xen_abi as abi;

pub use arena::{Arena, OutOfMemory};
pub use control::{DeviceControl, NotQuiesced};
pub use error::{AddError, AssignError, DomainError, Holder, Together};
pub use group::{Isolation, Link};
pub use note::Note;
pub use owner::Owner;
pub use ownership::{Capacity, Inseparable, Mode, Policy, ScopeOutcome, Setup};
pub use pci::class::{DeviceClass, RelaxError};
pub use platform::{DomId, HardwareError, RemappingHardware, RequesterId, Sbdf, SpaceId};
pub use region::record::RegionName;
