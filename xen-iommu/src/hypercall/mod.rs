//! Xen's hypercalls, as far as they are about reserved memory: the edge where causes become error numbers.

mod errno;
mod memory_op;

pub use memory_op::{Caller, reserved_device_memory_map};

/// A guest address could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestFault;

/// The calling domain's memory, by the addresses that it uses.
pub trait GuestMemory {
    /// Whether an address may be the guest's at all. One of the hypervisor's own is not (Xen's
    /// `guest_handle_okay`).
    fn is_guest_address(&self, address: u64) -> bool;

    /// Copies guest memory from `address` on to `bytes`.
    ///
    /// # Errors
    /// [`GuestFault`] when some of it cannot be read.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault>;

    /// Copies `bytes` to guest memory from `address` on.
    ///
    /// # Errors
    /// [`GuestFault`] when some of it cannot be written.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault>;
}
