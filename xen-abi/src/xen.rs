//! Hypercall numbers, reserved domain ids and the multicall (`xen/include/public/xen.h`).

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::layouts;

/// `HYPERVISOR_memory_op(cmd, arg)`: the commands of [`memory`](crate::memory).
pub const HYPERVISOR_MEMORY_OP: u64 = 12;
/// `HYPERVISOR_multicall(call_list, nr_calls)`: [`MulticallEntry`] each. libxenctrl sends its memory_op
/// commands in one.
pub const HYPERVISOR_MULTICALL: u64 = 13;
/// `HYPERVISOR_physdev_op(cmd, arg)`: the commands of [`physdev`](crate::physdev).
pub const HYPERVISOR_PHYSDEV_OP: u64 = 33;
/// `HYPERVISOR_domctl(arg)`: the commands of [`domctl`](crate::domctl).
pub const HYPERVISOR_DOMCTL: u64 = 36;

/// Ids from here on are no ordinary domain's.
pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
/// The caller itself, where a command says so. Domctls take no such id.
pub const DOMID_SELF: u16 = 0x7ff0;
/// Nobody's devices: toolstacks assign to it what is to wait in quarantine.
pub const DOMID_IO: u16 = 0x7ff1;
/// Xen's own memory.
pub const DOMID_XEN: u16 = 0x7ff2;
/// The owner of shared pages.
pub const DOMID_COW: u16 = 0x7ff3;
/// No domain. With it [`XEN_DOMCTL_TEST_ASSIGN_DEVICE`](crate::domctl::XEN_DOMCTL_TEST_ASSIGN_DEVICE) asks
/// whether any guest has the device.
pub const DOMID_INVALID: u16 = 0x7ff4;
/// The domain of idle processors.
pub const DOMID_IDLE: u16 = 0x7fff;
/// Bits that an id may have.
pub const DOMID_MASK: u16 = 0x7fff;

layouts! {
    /// `struct multicall_entry`: one call of several. Registers of the caller's size: in the compat layout 32
    /// bits each.
    pub struct MulticallEntry {
        /// IN: the hypercall's number.
        op: word;
        /// OUT: what it returned, below 0 a negated [`Errno`](crate::Errno). The multicall itself returns 0
        /// then.
        result: long;
        /// IN: its arguments, of which it takes as many as it has.
        args: args;
    }
}
