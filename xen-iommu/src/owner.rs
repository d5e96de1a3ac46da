//! Who owns a device.

use crate::platform::DomId;

/// Who owns a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A domain; the hardware domain too.
    Domain(DomId),
    /// Nobody: it waits, and its DMA reaches its own reserved regions and nothing else. Toolstacks call it by
    /// [`DomId::IO`].
    Quarantine,
}

impl core::fmt::Display for Owner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Domain(id) => write!(f, "{id}"),
            Self::Quarantine => f.write_str("quarantine"),
        }
    }
}

impl From<DomId> for Owner {
    /// [`DomId::IO`] stands for quarantine, as in Xen's calls.
    fn from(id: DomId) -> Self {
        if id == DomId::IO { Self::Quarantine } else { Self::Domain(id) }
    }
}

/// [`Owner::Quarantine`] as a number; domain ids have 16 bits.
pub(crate) const QUARANTINE: u32 = 1 << 16;

impl Owner {
    pub(crate) fn encode(self) -> u32 {
        match self {
            Self::Domain(id) => id.0.into(),
            Self::Quarantine => QUARANTINE,
        }
    }

    pub(crate) fn decode(raw: u32) -> Self {
        u16::try_from(raw).map_or(Self::Quarantine, |id| Self::Domain(DomId(id)))
    }
}
