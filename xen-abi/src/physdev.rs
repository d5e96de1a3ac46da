//! physdev_op's commands by which the hardware domain tells of PCI devices (`xen/include/public/physdev.h`).
//! Both layouts are alike.

use zerocopy::{FromBytes, IntoBytes};

use crate::layout::layouts;

/// A device of segment 0 is there: [`ManagePci`]. The oldest of the three commands that say so.
pub const PHYSDEVOP_MANAGE_PCI_ADD: u32 = 15;
/// A device of segment 0 goes: [`ManagePci`].
pub const PHYSDEVOP_MANAGE_PCI_REMOVE: u32 = 16;
/// A device of segment 0 is there, and what kind of function it is: [`ManagePciExt`].
pub const PHYSDEVOP_MANAGE_PCI_ADD_EXT: u32 = 20;
/// A device is there: [`PciDeviceAdd`].
pub const PHYSDEVOP_PCI_DEVICE_ADD: u32 = 25;
/// A device goes: [`PciDevice`].
pub const PHYSDEVOP_PCI_DEVICE_REMOVE: u32 = 26;

/// In [`PciDeviceAdd::flags`]: an extended function (ARI), whose `devfn` has an 8-bit function number and no
/// device number.
pub const XEN_PCI_DEV_EXTFN: u32 = 1;
/// In [`PciDeviceAdd::flags`]: a virtual function of `physfn_bus`, `physfn_devfn`.
pub const XEN_PCI_DEV_VIRTFN: u32 = 2;
/// In [`PciDeviceAdd::flags`]: the proximity domain follows, at [`PciDeviceAdd::OPTARR_OFFSET`].
pub const XEN_PCI_DEV_PXM: u32 = 4;

layouts! {
    /// `struct physdev_pci_device`: a PCI function, of [`PHYSDEVOP_PCI_DEVICE_REMOVE`] and wherever one is
    /// named.
    pub struct PciDevice {
        /// IN: the segment group.
        seg: u16;
        /// IN: the bus.
        bus: u8;
        /// IN: device and function, 5 and 3 bits.
        devfn: u8;
    }

    /// `struct physdev_pci_device_add`, of [`PHYSDEVOP_PCI_DEVICE_ADD`], without the array at its end.
    pub struct PciDeviceAdd {
        /// IN: the segment group.
        seg: u16;
        /// IN: the bus.
        bus: u8;
        /// IN: device and function.
        devfn: u8;
        /// IN: the `XEN_PCI_DEV_` numbers.
        flags: u32;
        /// IN, with [`XEN_PCI_DEV_VIRTFN`]: the physical function's bus (`physfn.bus`), in the same segment
        /// group.
        physfn_bus: u8;
        /// IN, with [`XEN_PCI_DEV_VIRTFN`]: the physical function's device and function (`physfn.devfn`).
        physfn_devfn: u8, pad: [2 | 2];
    }

    /// `struct physdev_manage_pci`, of [`PHYSDEVOP_MANAGE_PCI_ADD`] and [`PHYSDEVOP_MANAGE_PCI_REMOVE`]: a
    /// function in segment group 0.
    pub struct ManagePci {
        /// IN: the bus.
        bus: u8;
        /// IN: device and function.
        devfn: u8;
    }

    /// `struct physdev_manage_pci_ext`, of [`PHYSDEVOP_MANAGE_PCI_ADD_EXT`]: a function in segment group 0.
    pub struct ManagePciExt {
        /// IN: the bus.
        bus: u8;
        /// IN: device and function.
        devfn: u8, pad0: [2 | 2];
        /// IN: not 0 for an extended function (ARI).
        is_extfn: u32;
        /// IN: not 0 for a virtual function.
        is_virtfn: u32;
        /// IN, for a virtual function: the physical function's bus (`physfn.bus`).
        physfn_bus: u8;
        /// IN, for a virtual function: the physical function's device and function (`physfn.devfn`).
        physfn_devfn: u8, pad1: [2 | 2];
    }
}

impl PciDeviceAdd {
    /// Where `optarr` begins, right behind the structure: 32 bits each. The first is the proximity domain
    /// (ACPI's `_PXM`), there with [`XEN_PCI_DEV_PXM`].
    pub const OPTARR_OFFSET: usize = Self::SIZE;
}

impl PciDevice {
    /// The number by which [`domctl`](crate::domctl) names a function: segment group, bus, device and
    /// function, from the high bits on.
    #[must_use]
    pub const fn machine_sbdf(self) -> u32 {
        let [seg_low, seg_high] = self.seg.to_le_bytes();
        u32::from_le_bytes([self.devfn, self.bus, seg_low, seg_high])
    }

    /// The function that [`domctl`](crate::domctl) names by this number.
    #[must_use]
    pub const fn from_machine_sbdf(sbdf: u32) -> Self {
        let [devfn, bus, seg_low, seg_high] = sbdf.to_le_bytes();
        Self { seg: u16::from_le_bytes([seg_low, seg_high]), bus, devfn }
    }
}
