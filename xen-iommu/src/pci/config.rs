//! A function's configuration space, as far as requester ids need it: its capabilities.

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};

use crate::platform::Sbdf;

/// PCI Express capability (PCI Express base specification 5.0, 7.5.3).
pub(crate) const CAPABILITY_EXPRESS: u8 = 0x10;
/// SR-IOV extended capability (same, 9.3.3).
pub(crate) const EXTENDED_SR_IOV: u16 = 0x10;
/// Longer lists have a loop in them: this is what configuration space has room for.
const CAPABILITIES: usize = 48;
const EXTENDED_CAPABILITIES: usize = 960;

/// A function's configuration space.
pub(crate) struct Space<'a, A> {
    address: PciAddress,
    pci: &'a A,
}

impl<'a, A: ConfigRegionAccess> Space<'a, A> {
    pub(crate) fn new(function: Sbdf, pci: &'a A) -> Self {
        Self { address: function.into(), pci }
    }

    /// The 32 bits at `offset`, of which the lowest two bits and those beyond the 4 KiB of a function are dropped.
    #[expect(unsafe_code, reason = "the trait's promise")]
    pub(crate) fn read(&self, offset: u16) -> u32 {
        // SAFETY: any `PciAddress` is a valid address, and the offset is aligned and inside the 4 KiB of a function's configuration space.
        unsafe { self.pci.read(self.address, offset & 0xffc) }
    }

    /// Where a capability is.
    pub(crate) fn capability(&self, wanted: u8) -> Option<u16> {
        // Status bit 4: there is a list (PCI Local Bus Specification 3.0, 6.2.3).
        let status = self.read(0x04);
        if status == u32::MAX || status & 1 << 20 == 0 {
            return None;
        }
        let mut next = self.read(0x34) as u8;
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

    /// Where an extended capability is.
    pub(crate) fn extended_capability(&self, wanted: u16) -> Option<u16> {
        let mut offset = 0x100_u16;
        for _ in 0..EXTENDED_CAPABILITIES {
            let header = self.read(offset);
            if header == 0 || header == u32::MAX {
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
