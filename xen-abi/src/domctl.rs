//! domctl's commands about giving devices to domains (`xen/include/public/domctl.h`). Both layouts are alike:
//! handles have 64 bits here.
//!
//! A caller says in each call which version of the interface it was built for, and Xen answers all but its
//! own with `EACCES`. The versions differ in other commands: those here have the same numbers, flags and
//! layouts in all of them.
//!
//! | version | Xen |
//! | --- | --- |
//! | 0x15 | 4.17 |
//! | 0x16 | 4.18 |
//! | 0x17 | 4.19 to 4.21 |
//! | 0x18 | 4.22 |

use core::ops::RangeInclusive;

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::{Bytes, Layout, TooShort, layouts};

/// The versions of the interface in which the commands are as they are here.
pub const XEN_DOMCTL_INTERFACE_VERSIONS: RangeInclusive<u32> = 0x15..=0x18;

/// Gives a device to a domain, or with [`DOMID_IO`](crate::DOMID_IO) to quarantine: [`AssignDevice`].
pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
/// Asks whether a device could be given to a domain, that is whether it is there and no guest has it:
/// [`AssignDevice`]. Otherwise `EINVAL`.
pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
/// Takes a device from a domain: [`AssignDevice`].
pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
/// Asks which devices belong together with one: [`GetDeviceGroup`].
pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;

/// In [`AssignDevice::dev`]: a PCI function.
pub const XEN_DOMCTL_DEV_PCI: u32 = 0;
/// In [`AssignDevice::dev`]: a node of a device tree, on Arm.
pub const XEN_DOMCTL_DEV_DT: u32 = 1;

/// In [`AssignDevice::flags`]: conflicts about reserved regions do not make the call fail.
pub const XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;

layouts! {
    /// The start of `struct xen_domctl`, what comes before its `u`.
    pub struct DomctlHeader {
        /// IN: the command.
        cmd: u32;
        /// IN: one of [`XEN_DOMCTL_INTERFACE_VERSIONS`].
        interface_version: u32;
        /// IN: the domain that the command is about.
        domain: u16, pad: [6 | 6];
    }

    /// `struct xen_domctl_assign_device`, with the `pci` of its union.
    pub struct AssignDevice {
        /// IN: [`XEN_DOMCTL_DEV_PCI`]. With [`XEN_DOMCTL_DEV_DT`] the union holds a path, which is not read
        /// here; on x86 that is `ENODEV`.
        dev: u32;
        /// IN: [`XEN_DOMCTL_DEV_RDM_RELAXED`] or nothing, for [`XEN_DOMCTL_ASSIGN_DEVICE`]; nothing for the
        /// others. Another bit is `EINVAL`.
        flags: u32;
        /// IN: the function (`u.pci.machine_sbdf`), as
        /// [`PciDevice::machine_sbdf`](crate::PciDevice::machine_sbdf) has it.
        machine_sbdf: u32, pad: [12 | 12];
    }

    /// `struct xen_domctl_get_device_group`.
    pub struct GetDeviceGroup {
        /// IN: the function.
        machine_sbdf: u32;
        /// IN: room in the array.
        max_sdevs: u32;
        /// OUT: how many were written to the array; 0 if the call failed.
        num_sdevs: u32, pad: [4 | 4];
        /// IN: guest address of the array. OUT, there: 32 bits each, [`GetDeviceGroup::entry`].
        sdev_array: u64;
    }
}

/// `struct xen_domctl`, with what of its union the command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domctl {
    /// IN: one of [`XEN_DOMCTL_INTERFACE_VERSIONS`].
    pub interface_version: u32,
    /// IN: the domain that the command is about. [`Operation::TestAssignDevice`] takes
    /// [`DOMID_INVALID`](crate::DOMID_INVALID) for any.
    pub domain: u16,
    /// The command and its arguments.
    pub operation: Operation,
}

/// A command of [`Domctl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`XEN_DOMCTL_ASSIGN_DEVICE`].
    AssignDevice(AssignDevice),
    /// [`XEN_DOMCTL_TEST_ASSIGN_DEVICE`].
    TestAssignDevice(AssignDevice),
    /// [`XEN_DOMCTL_DEASSIGN_DEVICE`].
    DeassignDevice(AssignDevice),
    /// [`XEN_DOMCTL_GET_DEVICE_GROUP`].
    GetDeviceGroup(GetDeviceGroup),
    /// Another one.
    Other {
        /// Its number.
        cmd: u32,
        /// Its arguments.
        u: [u8; Domctl::U_SIZE],
    },
}

impl GetDeviceGroup {
    /// How the array names a function, otherwise than `machine_sbdf`: the bus in bits 16 to 23, device and
    /// function in bits 8 to 15. There is no segment; it is that of the function asked about. (So in Xen's
    /// `iommu_get_device_group`, and so do callers read it; the header does not say.)
    #[must_use]
    pub const fn entry(bus: u8, devfn: u8) -> u32 {
        u32::from_le_bytes([0, devfn, bus, 0])
    }
}

impl Operation {
    /// The command's number.
    #[must_use]
    pub const fn cmd(&self) -> u32 {
        match self {
            Self::AssignDevice(_) => XEN_DOMCTL_ASSIGN_DEVICE,
            Self::TestAssignDevice(_) => XEN_DOMCTL_TEST_ASSIGN_DEVICE,
            Self::DeassignDevice(_) => XEN_DOMCTL_DEASSIGN_DEVICE,
            Self::GetDeviceGroup(_) => XEN_DOMCTL_GET_DEVICE_GROUP,
            Self::Other { cmd, .. } => *cmd,
        }
    }
}

impl Domctl {
    /// Where the union `u` begins, in bytes.
    pub const U_OFFSET: usize = DomctlHeader::SIZE;
    /// Bytes of the union.
    pub const U_SIZE: usize = 128;
    /// Bytes of the structure: all of them are read and written by Xen, whatever the command.
    pub const SIZE: usize = 144;

    /// Reads the structure from the start of `bytes`.
    ///
    /// # Errors
    /// There are fewer than [`SIZE`](Self::SIZE) bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TooShort> {
        let short = TooShort { size: Self::SIZE, available: bytes.len() };
        let u: &[u8; Self::U_SIZE] =
            bytes.get(Self::U_OFFSET..).and_then(|rest| rest.first_chunk()).ok_or(short)?;
        let header = DomctlHeader::from_bytes(bytes, Layout::Native)?;
        let operation = match header.cmd {
            XEN_DOMCTL_ASSIGN_DEVICE => Operation::AssignDevice(AssignDevice::from_bytes(u, Layout::Native)?),
            XEN_DOMCTL_TEST_ASSIGN_DEVICE => {
                Operation::TestAssignDevice(AssignDevice::from_bytes(u, Layout::Native)?)
            }
            XEN_DOMCTL_DEASSIGN_DEVICE => {
                Operation::DeassignDevice(AssignDevice::from_bytes(u, Layout::Native)?)
            }
            XEN_DOMCTL_GET_DEVICE_GROUP => {
                Operation::GetDeviceGroup(GetDeviceGroup::from_bytes(u, Layout::Native)?)
            }
            cmd => Operation::Other { cmd, u: *u },
        };
        Ok(Self { interface_version: header.interface_version, domain: header.domain, operation })
    }

    /// The structure as it lies in the caller's memory, with zeros for padding and for what of the union the
    /// command leaves.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let Self { interface_version, domain, operation } = *self;
        let header = DomctlHeader { cmd: operation.cmd(), interface_version, domain };
        let u: Bytes<{ Self::U_SIZE }> = match operation {
            Operation::AssignDevice(of) | Operation::TestAssignDevice(of) | Operation::DeassignDevice(of) => {
                Bytes::new(native::AssignDevice::from(of).as_bytes())
            }
            Operation::GetDeviceGroup(of) => Bytes::new(native::GetDeviceGroup::from(of).as_bytes()),
            Operation::Other { u, .. } => Bytes::new(&u),
        };
        let mut bytes = [0; Self::SIZE];
        let header = native::DomctlHeader::from(header);
        for (to, from) in bytes.iter_mut().zip(header.as_bytes().iter().chain(&*u)) {
            *to = *from;
        }
        bytes
    }
}
