#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

pub mod domctl;
mod errno;
mod layout;
pub mod memory;
pub mod physdev;
pub mod xen;

pub use domctl::{AssignDevice, Domctl, GetDeviceGroup, Operation};
pub use errno::Errno;
pub use layout::{Bytes, Layout, TooShort, TooWide};
pub use memory::{
    E820Entry, ForeignMemoryMap, MemoryMap, MemoryReservation, ReservedDeviceMemory, ReservedDeviceMemoryMap,
};
pub use physdev::{ManagePci, ManagePciExt, PciDevice, PciDeviceAdd};
pub use xen::{
    DOMID_COW, DOMID_FIRST_RESERVED, DOMID_IDLE, DOMID_INVALID, DOMID_IO, DOMID_MASK, DOMID_SELF, DOMID_XEN,
    HYPERVISOR_DOMCTL, HYPERVISOR_MEMORY_OP, HYPERVISOR_MULTICALL, HYPERVISOR_PHYSDEV_OP, MulticallEntry,
};
pub use zerocopy;
