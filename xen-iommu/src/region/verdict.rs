//! What is made of a region, and why.
//!
//! Overlaps and shared pages are legal: they join devices into groups, and are no matter of this module.

use core::fmt;

use p2m::{MfnRange, PAGE_SHIFT};

use super::forbidden::Forbidden;
use super::pages::pages_of;

bitflags::bitflags! {
    /// How a region had to be repaired before it could be accepted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Repairs: u8 {
        /// The base was not on a page edge; the page is taken from its start.
        const BASE_WIDENED = 1 << 0;
        /// The limit was not the last byte of a page; the page is taken to its end.
        const LIMIT_WIDENED = 1 << 1;
        /// Some of its memory is in no entry of the memory map; it is taken as reserved.
        const UNKNOWN_TAKEN_AS_RESERVED = 1 << 2;
        /// Some of its memory is RAM; the hypervisor has taken those frames out of its allocator.
        const TAKEN_OUT_OF_RAM = 1 << 3;
        /// A bridge scope ends at a function that is no bridge; that function is meant.
        const BRIDGE_IS_ENDPOINT = 1 << 4;
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences = [
            (Self::BASE_WIDENED, "base widened to its page's start"),
            (Self::LIMIT_WIDENED, "limit widened to its page's end"),
            (Self::UNKNOWN_TAKEN_AS_RESERVED, "memory that the map does not know taken as reserved"),
            (Self::TAKEN_OUT_OF_RAM, "frames taken out of RAM"),
            (Self::BRIDGE_IS_ENDPOINT, "bridge scope taken as the endpoint it names"),
        ];
        let mut separator = "";
        for (repair, sentence) in sentences {
            if self.contains(repair) {
                write!(f, "{separator}{sentence}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// Why a region cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The first byte is after the last.
    #[error("its base {base:#x} is above its limit {limit:#x}")]
    BaseAboveLimit {
        /// The first byte.
        base: u64,
        /// The last byte.
        limit: u64,
    },
    /// The last byte is beyond what DMA can address on this machine.
    #[error("its limit {limit:#x} is beyond the host address width of {width} bits")]
    BeyondAddressWidth {
        /// The last byte.
        limit: u64,
        /// Bits of a host address.
        width: u8,
    },
    /// The number of its bytes does not fit 64 bits: it is all there is.
    #[error("{base:#x} to {limit:#x} is more than 2^64 - 1 bytes long")]
    Overflow {
        /// The first byte.
        base: u64,
        /// The last byte.
        limit: u64,
    },
    /// No device is named for it.
    #[error("no device scope names a device for it")]
    NoScope,
    /// Some of it is what no guest may reach.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// A remapping unit that its devices are behind cannot translate its addresses.
    #[error(
        "its limit {limit:#x} is beyond the {width} bits that the remapping unit of its devices translates"
    )]
    BeyondUnit {
        /// The last byte.
        limit: u64,
        /// Bits of address: the least of all such units.
        width: u8,
    },
    /// Some of it is RAM that the hypervisor cannot take out of its allocator.
    #[error("frames {:#x} to {:#x} are RAM in use", .ram.start().raw(), .ram.end().raw().saturating_sub(1))]
    InRam {
        /// The first run of RAM in it.
        ram: MfnRange,
    },
}

/// What becomes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As firmware says.
    Accepted(MfnRange),
    /// With changes.
    Repaired(MfnRange, Repairs),
    /// Kept until one of its devices, which are all absent, appears. Only who knows the bus can say so, by
    /// [`Verdict::dormant`].
    Dormant(MfnRange, Repairs),
    /// Not to be mapped; its devices are not to be assigned unless their owner accepts that.
    Rejected(Rejection),
}

impl Verdict {
    /// The pages to map 1:1, also while dormant; `None` if rejected.
    #[must_use]
    pub const fn pages(&self) -> Option<MfnRange> {
        match *self {
            Self::Accepted(pages) | Self::Repaired(pages, _) | Self::Dormant(pages, _) => Some(pages),
            Self::Rejected(_) => None,
        }
    }

    /// What was repaired.
    #[must_use]
    pub const fn repairs(&self) -> Repairs {
        match *self {
            Self::Repaired(_, repairs) | Self::Dormant(_, repairs) => repairs,
            Self::Accepted(_) | Self::Rejected(_) => Repairs::empty(),
        }
    }

    /// The same while all its devices are absent. A rejected region stays rejected.
    #[must_use]
    pub const fn dormant(self) -> Self {
        match self {
            Self::Accepted(pages) => Self::Dormant(pages, Repairs::empty()),
            Self::Repaired(pages, repairs) => Self::Dormant(pages, repairs),
            other => other,
        }
    }

    /// The same once one of its devices has appeared.
    #[must_use]
    pub const fn awake(self) -> Self {
        match self {
            Self::Dormant(pages, repairs) if repairs.is_empty() => Self::Accepted(pages),
            Self::Dormant(pages, repairs) => Self::Repaired(pages, repairs),
            other => other,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(_) => f.write_str("accepted"),
            Self::Repaired(_, repairs) => write!(f, "repaired: {repairs}"),
            Self::Dormant(_, repairs) if repairs.is_empty() => {
                f.write_str("dormant: no device of it is present")
            }
            Self::Dormant(_, repairs) => {
                write!(f, "dormant: no device of it is present; repaired: {repairs}")
            }
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
        }
    }
}

/// The whole pages of a region, and how they differ from what is stated.
pub(super) fn bounds(base: u64, limit: u64, width: u8) -> Result<(MfnRange, Repairs), Rejection> {
    let pages = pages_of(base, limit).ok_or(Rejection::BaseAboveLimit { base, limit })?;
    if is_beyond(limit, width) {
        return Err(Rejection::BeyondAddressWidth { limit, width });
    }
    if pages.len() > u64::MAX >> PAGE_SHIFT {
        return Err(Rejection::Overflow { base, limit });
    }
    let in_page = |address: u64| address & ((1 << PAGE_SHIFT) - 1);
    let mut repairs = Repairs::empty();
    repairs.set(Repairs::BASE_WIDENED, in_page(base) != 0);
    repairs.set(Repairs::LIMIT_WIDENED, in_page(limit) != in_page(u64::MAX));
    Ok((pages, repairs))
}

/// Whether an address takes more than `width` bits.
pub(super) fn is_beyond(address: u64, width: u8) -> bool {
    address.checked_shr(width.into()).is_some_and(|beyond| beyond != 0)
}

#[cfg(test)]
mod tests;
