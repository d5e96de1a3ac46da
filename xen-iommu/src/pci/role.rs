//! What a function is to the policy.

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::config::{EXTENDED_SR_IOV, Space};
use crate::platform::Sbdf;

/// The part that a function plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A device of its own.
    Endpoint,
    /// A bridge to another bus (header type 1 or 2). It is never given away: it carries the DMA of what is
    /// below it.
    Bridge,
    /// A host bridge (class 06/00). It does no DMA of its own and is never given away.
    HostBridge,
    /// A physical function: it has an SR-IOV capability, and with it its virtual functions in its hand,
    /// whether or not they are switched on.
    Physical,
    /// A virtual function that is switched on. It answers all ones as its vendor id (SR-IOV 1.1, 3.4.1.1).
    Virtual {
        /// The function whose SR-IOV capability brought it about.
        physical: Sbdf,
    },
}

impl Role {
    /// Reads the role of a function that answers; it is not a virtual one.
    pub(crate) fn read<A: ConfigRegionAccess>(space: &Space<'_, A>) -> Self {
        let class = (space.read(0x08) >> 16) as u16;
        if matches!(space.header(), 1 | 2) {
            Self::Bridge
        } else if class == 0x0600 {
            Self::HostBridge
        } else if space.extended_capability(EXTENDED_SR_IOV).is_some() {
            Self::Physical
        } else {
            Self::Endpoint
        }
    }

    /// Whether it is something to give to a domain, and not a part of the way there.
    #[must_use]
    pub const fn is_device(self) -> bool {
        !matches!(self, Self::Bridge | Self::HostBridge)
    }
}
