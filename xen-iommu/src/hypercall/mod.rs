//! Xen's hypercalls, as far as they are about reserved memory: the edge where causes become error numbers.
//!
//! One function for each: [`domctl`](domctl()), [`physdev_op`](physdev_op()), [`memory_op`](memory_op()), and
//! [`multicall`](multicall()), by which libxenctrl sends memory_op. Each takes the policy, the
//! [`Hypervisor`], and the [`Call`]: who calls, the caller's memory, its layout, where its argument is.
//! Arguments are copied in once. `docs/xen.md` has the table of error numbers.
//!
//! Guest memory is read and written with nothing locked. No query waits for an assignment.

mod commands;
mod domctl;
mod errno;
mod hypervisor;
mod memory_map;
mod memory_op;
mod multicall;
mod physdev_op;
mod populate;

pub use commands::memory_op;
pub use domctl::domctl;
pub use hypervisor::{Call, GroupMove, Hypervisor};
pub use memory_map::{MAX_ENTRIES, MemoryMaps, NoMemory, memory_map, set_memory_map};
pub use memory_op::{Caller, reserved_device_memory_map};
pub use multicall::multicall;
pub use physdev_op::{Described, NewDevices, physdev_op};
pub use populate::{NotPopulated, Populate, populate_physmap};

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
