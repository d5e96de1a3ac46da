//! memory_op's commands about memory maps, reserved regions and populating (`xen/include/public/memory.h`).
//!
//! The first argument of the hypercall is the command with the [extent to start from](split_command) above
//! it, the second the guest address of the command's structure.

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::layouts;

/// Gives memory to a domain: [`MemoryReservation`]. Returns how many extents it did, from the first on.
pub const XENMEM_POPULATE_PHYSMAP: u64 = 6;
/// The caller's own memory map, as [`XENMEM_SET_MEMORY_MAP`] made it: [`MemoryMap`] and its [`E820Entry`]s.
/// As many as fit are written, without an error if that is not all; `ENOSYS` if no map was set.
pub const XENMEM_MEMORY_MAP: u64 = 9;
/// The machine's memory map, for the hardware domain: [`MemoryMap`]. A NULL buffer asks how many entries
/// there are; one that is too small is `EINVAL`.
pub const XENMEM_MACHINE_MEMORY_MAP: u64 = 10;
/// Sets a domain's memory map: [`ForeignMemoryMap`].
pub const XENMEM_SET_MEMORY_MAP: u64 = 13;
/// Which frames are reserved for devices: [`ReservedDeviceMemoryMap`] and its [`ReservedDeviceMemory`].
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u64 = 27;

/// Bits of memory_op's first argument that hold the command. Those above hold the extent to start from: 0 but
/// where Xen itself goes on with a call that it had interrupted (Xen's `include/xen/hypercall.h`, which no
/// public header repeats; part of the ABI all the same).
pub const MEMOP_EXTENT_SHIFT: u32 = 6;
/// The bits of the command.
pub const MEMOP_CMD_MASK: u64 = (1 << MEMOP_EXTENT_SHIFT) - 1;

/// The command, and the extent to start from, in memory_op's first argument.
#[must_use]
pub const fn split_command(argument: u64) -> (u64, u64) {
    (argument & MEMOP_CMD_MASK, argument >> MEMOP_EXTENT_SHIFT)
}

/// All regions, whatever device the argument names.
pub const XENMEM_RDM_ALL: u32 = 1;

/// Bits of [`MemoryReservation::mem_flags`] with the width that the memory's addresses may have at most; 0 is
/// any.
pub const XENMEMF_ADDRESS_BITS_MASK: u32 = 0xff;
/// Where in `mem_flags` the NUMA node is, plus 1, in 8 bits; 0 there is any node.
pub const XENMEMF_NODE_SHIFT: u32 = 8;
/// In `mem_flags`: populate on demand.
pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
/// In `mem_flags`: from the node given or not at all.
pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
/// In `mem_flags`: the node is a virtual one of the domain.
pub const XENMEMF_VNODE: u32 = 1 << 18;

/// `mem_flags` that ask for a NUMA node; those that have no 8 bits left over for it ask for any, as
/// `XENMEMF_node` does.
#[must_use]
pub const fn xenmemf_node(node: u8) -> u32 {
    ((node as u32).wrapping_add(1) & 0xff) << XENMEMF_NODE_SHIFT
}

/// Usable memory.
pub const E820_RAM: u32 = 1;
/// Reserved: not memory to use, such as a device's reserved region.
pub const E820_RESERVED: u32 = 2;
/// ACPI tables, usable once they were read.
pub const E820_ACPI: u32 = 3;
/// ACPI's non-volatile storage.
pub const E820_NVS: u32 = 4;
/// Broken memory.
pub const E820_UNUSABLE: u32 = 5;

layouts! {
    use physdev::PciDevice;

    /// `struct xen_reserved_device_memory_map`, of [`XENMEM_RESERVED_DEVICE_MEMORY_MAP`].
    pub struct ReservedDeviceMemoryMap {
        /// IN: [`XENMEM_RDM_ALL`] or nothing; another bit is `EINVAL`.
        flags: u32;
        /// IN: room in the buffer, in entries. OUT: entries that there are; when they are more than there was
        /// room for, the call fails with `ENOBUFS` (the header says `ERANGE`), and those that fit are
        /// written.
        nr_entries: u32;
        /// IN: guest address of the buffer. OUT, there: [`ReservedDeviceMemory`] each, in no order that one
        /// could rely on.
        buffer: word;
        /// IN, without [`XENMEM_RDM_ALL`]: the device whose regions are asked for (`dev.pci`).
        pci: PciDevice, pad: [4 | 0];
    }

    /// `struct xen_reserved_device_memory`: a reserved region.
    pub struct ReservedDeviceMemory {
        /// OUT: the first frame.
        start_pfn: word;
        /// OUT: how many frames of 4 KiB.
        nr_pages: word;
    }

    /// `struct xen_memory_map`, of [`XENMEM_MEMORY_MAP`] and [`XENMEM_MACHINE_MEMORY_MAP`].
    pub struct MemoryMap {
        /// IN: room in the buffer, in entries; [`XENMEM_SET_MEMORY_MAP`]: how many there are. OUT: how many
        /// were written.
        nr_entries: u32, pad: [4 | 0];
        /// IN: guest address of the buffer, which holds [`E820Entry`]s.
        buffer: word;
    }

    /// `struct xen_foreign_memory_map`, of [`XENMEM_SET_MEMORY_MAP`].
    pub struct ForeignMemoryMap {
        /// IN: the domain, [`DOMID_SELF`](crate::DOMID_SELF) for the caller.
        domid: u16, pad: [6 | 2];
        /// IN: its map.
        map: MemoryMap;
    }

    /// An entry of a memory map, as the BIOS call 0x15, EAX = 0xe820 has it: 20 bytes in either layout. No
    /// public header declares it; libxenctrl's `xenctrl.h` does, as `struct e820entry`.
    pub struct E820Entry {
        /// The first byte's address.
        addr: u64;
        /// Bytes.
        size: u64;
        /// [`E820_RAM`], [`E820_RESERVED`] and so on. (`type` in C.)
        kind: u32;
    }

    /// `struct xen_memory_reservation`, of [`XENMEM_POPULATE_PHYSMAP`] and its like.
    pub struct MemoryReservation {
        /// Guest address of a list of frame numbers, one of [`word_size`](crate::Layout::word_size) bytes for
        /// each extent. IN: the guest frame that the extent begins with. OUT, for a domain that is not
        /// translated: the machine frame.
        extent_start: word;
        /// IN: how many extents.
        nr_extents: word;
        /// IN: an extent is 2^`extent_order` frames, aligned to as many.
        extent_order: u32;
        /// IN: [`XENMEMF_ADDRESS_BITS_MASK`] and the other `XENMEMF_` numbers.
        mem_flags: u32;
        /// IN: the domain that gets the memory. A domain without privilege can name
        /// [`DOMID_SELF`](crate::DOMID_SELF) alone.
        domid: u16, pad: [6 | 2];
    }
}
