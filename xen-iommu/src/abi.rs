//! Xen's structures as they lie in guest memory, and the numbers of its calls. No policy here.
//!
//! Source: Xen's public headers `xen/include/public/memory.h`, `xen.h`, `physdev.h` and `errno.h`.

/// `__HYPERVISOR_memory_op`.
pub const HYPERVISOR_MEMORY_OP: u64 = 12;

/// `XENMEM_reserved_device_memory_map`, a command of memory_op.
pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u64 = 27;

/// `XENMEM_RDM_ALL`: all regions, whatever device the argument names.
pub const XENMEM_RDM_ALL: u32 = 1;

/// Bits of memory_op's command that hold the command; those above hold the extent to start from (`MEMOP_EXTENT_SHIFT`).
pub const MEMOP_EXTENT_SHIFT: u32 = 6;

/// An error number as Xen returns it, negated, from a hypercall (`xen/include/public/errno.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
#[allow(missing_docs, reason = "the names are POSIX's")]
pub enum Errno {
    EPERM = 1,
    ENOENT = 2,
    ESRCH = 3,
    EIO = 5,
    ENOMEM = 12,
    EFAULT = 14,
    EBUSY = 16,
    EEXIST = 17,
    ENODEV = 19,
    EINVAL = 22,
    ENOSPC = 28,
    ERANGE = 34,
    ENOSYS = 38,
    EOPNOTSUPP = 95,
    ENOBUFS = 105,
    ETIMEDOUT = 110,
}

impl Errno {
    /// What the hypercall returns: the number, negative.
    #[must_use]
    pub const fn result(self) -> i64 {
        (self as i64).wrapping_neg()
    }
}

/// Which caller's layouts hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// A 64-bit caller.
    Native,
    /// A 32-bit caller of a 64-bit hypervisor.
    Compat,
}

/// `struct xen_reserved_device_memory_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedDeviceMemoryMap {
    /// [`XENMEM_RDM_ALL`] or nothing.
    pub flags: u32,
    /// In: room in the buffer. Out: entries there are.
    pub nr_entries: u32,
    /// Where the entries go, a guest address.
    pub buffer: u64,
    /// `dev.pci.seg`.
    pub segment: u16,
    /// `dev.pci.bus`.
    pub bus: u8,
    /// `dev.pci.devfn`.
    pub devfn: u8,
}

impl ReservedDeviceMemoryMap {
    /// Where `nr_entries` lies in the structure, in bytes, in either layout.
    pub const NR_ENTRIES_OFFSET: u64 = 4;

    /// Bytes of the structure.
    #[must_use]
    pub const fn size(abi: Abi) -> usize {
        match abi {
            Abi::Native => 24,
            Abi::Compat => 16,
        }
    }

    /// Reads the structure from the first [`size`](Self::size) bytes of `bytes`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 24], abi: Abi) -> Self {
        let [f0, f1, f2, f3, n0, n1, n2, n3, b0, b1, b2, b3, b4, b5, b6, b7, rest @ ..] = *bytes;
        let (buffer, [s0, s1, bus, devfn]) = match abi {
            Abi::Native => {
                let [s0, s1, bus, devfn, ..] = rest;
                (u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7]), [s0, s1, bus, devfn])
            }
            Abi::Compat => (u32::from_le_bytes([b0, b1, b2, b3]).into(), [b4, b5, b6, b7]),
        };
        Self {
            flags: u32::from_le_bytes([f0, f1, f2, f3]),
            nr_entries: u32::from_le_bytes([n0, n1, n2, n3]),
            buffer,
            segment: u16::from_le_bytes([s0, s1]),
            bus,
            devfn,
        }
    }
}

/// `struct xen_reserved_device_memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservedDeviceMemory {
    /// The first frame.
    pub start_pfn: u64,
    /// How many frames.
    pub nr_pages: u64,
}

impl ReservedDeviceMemory {
    /// Bytes of the structure.
    #[must_use]
    pub const fn size(abi: Abi) -> usize {
        match abi {
            Abi::Native => 16,
            Abi::Compat => 8,
        }
    }

    /// The structure's bytes, in the first [`size`](Self::size) of those returned; `None` when a number does not fit a 32-bit caller's.
    #[must_use]
    pub fn to_bytes(self, abi: Abi) -> Option<[u8; 16]> {
        let (start, pages) = (self.start_pfn, self.nr_pages);
        let value = match abi {
            Abi::Native => u128::from(start) | u128::from(pages) << 64,
            Abi::Compat => {
                u32::try_from(start).ok().map(u128::from)? | u128::from(u32::try_from(pages).ok()?) << 32
            }
        };
        Some(value.to_le_bytes())
    }
}
