//! A function's configuration space: its header and its capabilities.

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};

use crate::pci::port::PortType;
use crate::platform::Sbdf;

/// PCI-X capability (PCI-X Addendum 1.0b, 7.2).
pub(crate) const CAPABILITY_PCI_X: u8 = 0x07;
/// PCI Express capability (PCI Express base specification 5.0, 7.5.3).
pub(crate) const CAPABILITY_EXPRESS: u8 = 0x10;
/// Access Control Services (same, 7.7.8).
pub(crate) const EXTENDED_ACS: u16 = 0x0d;
/// Alternative routing ids (same, 7.8.7).
pub(crate) const EXTENDED_ARI: u16 = 0x0e;
/// SR-IOV (same, 9.3.3).
pub(crate) const EXTENDED_SR_IOV: u16 = 0x10;
/// Longer lists have a loop in them: this is what configuration space has room for.
const CAPABILITIES: usize = 48;
const EXTENDED_CAPABILITIES: usize = 960;

/// A function's configuration space.
pub(crate) struct Space<'a, A> {
    address: PciAddress,
    pci: &'a A,
}

/// Where the PCI Express capability is, and its first register.
#[derive(Clone, Copy)]
pub(crate) struct Express {
    pub(crate) offset: u16,
    pub(crate) port: PortType,
    /// Of the structure: the second control register exists from 2 on.
    pub(crate) version: u8,
}

impl PortType {
    /// Reads it from the configuration space of `function`; `None` for conventional PCI and PCI-X.
    #[must_use]
    pub fn read(function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Self> {
        Space::new(function, pci).express().map(|express| express.port)
    }
}

impl<'a, A: ConfigRegionAccess> Space<'a, A> {
    pub(crate) fn new(function: Sbdf, pci: &'a A) -> Self {
        Self { address: function.into(), pci }
    }

    /// The 32 bits at `offset`, of which the lowest two bits and those beyond the 4 KiB of a function are
    /// dropped.
    #[expect(unsafe_code, reason = "the trait's promise")]
    pub(crate) fn read(&self, offset: u16) -> u32 {
        // SAFETY: any `PciAddress` is a valid address, and the offset is aligned and inside the 4 KiB of a
        // function's configuration space.
        unsafe { self.pci.read(self.address, offset & 0xffc) }
    }

    /// Writes the 32 bits at `offset`, which is cut as for [`read`](Self::read).
    #[expect(unsafe_code, reason = "the trait's promise")]
    pub(crate) fn write(&self, offset: u16, value: u32) {
        // SAFETY: as for `read`; the registers that are written here (ACS control and its like) decide how
        // requests are routed, not what memory is.
        unsafe { self.pci.write(self.address, offset & 0xffc, value) }
    }

    /// Vendor and device id.
    pub(crate) fn id(&self) -> (u16, u16) {
        let id = self.read(0);
        (id as u16, (id >> 16) as u16)
    }

    /// Whether a function answers. All ones is what nobody answers, virtual functions neither; some bridges
    /// answer zeros then.
    pub(crate) fn present(&self) -> bool {
        !matches!(self.id().0, 0 | 0xffff)
    }

    /// The header's layout (PCI Local Bus Specification 3.0, 6.2.1): 0 an endpoint's, 1 a bridge's, 2 a
    /// CardBus bridge's.
    pub(crate) fn header(&self) -> u8 {
        (self.read(0x0c) >> 16) as u8 & 0x7f
    }

    /// Whether function 0 says that there are others (same).
    pub(crate) fn multifunction(&self) -> bool {
        self.read(0x0c) & 1 << 23 != 0
    }

    /// Where a capability is.
    pub(crate) fn capability(&self, wanted: u8) -> Option<u16> {
        // Status bit 4: there is a list (PCI Local Bus Specification 3.0, 6.2.3).
        let status = self.read(0x04);
        if status == u32::MAX || status & 1 << 20 == 0 {
            return None;
        }
        // A CardBus bridge has its pointer elsewhere (PCI Power Management 1.2, 3.1).
        let pointer = if self.header() == 2 { 0x14 } else { 0x34 };
        let mut next = self.read(pointer) as u8;
        for _ in 0..CAPABILITIES {
            let offset = u16::from(next & !3);
            if offset < 0x40 {
                return None;
            }
            let header = self.read(offset);
            if header as u8 == wanted {
                return Some(offset);
            }
            next = (header >> 8) as u8;
        }
        None
    }

    /// The PCI Express capability; `None` for conventional PCI and PCI-X.
    pub(crate) fn express(&self) -> Option<Express> {
        let offset = self.capability(CAPABILITY_EXPRESS)?;
        let flags = (self.read(offset) >> 16) as u16;
        Some(Express { offset, port: PortType::of(flags >> 4), version: flags as u8 & 0xf })
    }

    /// Where an extended capability of a PCI Express function is. Others have none; below a bridge to
    /// conventional PCI the accesses would come out somewhere in the first 256 bytes.
    pub(crate) fn extended_capability(&self, wanted: u16) -> Option<u16> {
        self.capability(CAPABILITY_EXPRESS)?;
        let mut offset = 0x100_u16;
        for _ in 0..EXTENDED_CAPABILITIES {
            let header = self.read(offset);
            if header == u32::MAX {
                return None;
            }
            if header as u16 == wanted {
                return Some(offset);
            }
            offset = (header >> 20) as u16 & 0xffc;
            if offset < 0x100 {
                return None;
            }
        }
        None
    }
}
