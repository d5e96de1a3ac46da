//! Which devices a region belongs to.

use core::fmt;

use crate::platform::Sbdf;

/// Which devices a region belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Devices {
    /// One function.
    Function(Sbdf),
    /// A bridge and every device below it.
    Below {
        /// The bridge.
        bridge: Sbdf,
        /// The first bus below it (its secondary bus).
        first_bus: u8,
        /// The last bus below it (its subordinate bus), inclusive.
        last_bus: u8,
    },
    /// The functions of a range of requester ids.
    Requesters {
        /// The first.
        first: Sbdf,
        /// The last, inclusive. Below the first there is none.
        last: Sbdf,
    },
}

impl Devices {
    /// Whether `device` is meant.
    #[must_use]
    pub fn covers(&self, device: Sbdf) -> bool {
        self.function() == Some(device)
            || self.interval().is_some_and(|(first, last)| (first..=last).contains(&device))
    }

    /// The single function that is meant, or the bridge beside what is below it.
    #[must_use]
    pub fn function(&self) -> Option<Sbdf> {
        match *self {
            Self::Function(function) => Some(function),
            Self::Below { bridge, .. } => Some(bridge),
            Self::Requesters { .. } => None,
        }
    }

    /// All that are meant beside [`function`](Self::function): from the first to the last, inclusive.
    #[must_use]
    pub fn interval(&self) -> Option<(Sbdf, Sbdf)> {
        match *self {
            Self::Function(_) => None,
            Self::Below { bridge, first_bus, last_bus } => Some((
                Sbdf::new(bridge.segment(), first_bus, 0, 0),
                Sbdf::new(bridge.segment(), last_bus, 0x1f, 7),
            )),
            Self::Requesters { first, last } => Some((first, last)),
        }
    }
}

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(function) => write!(f, "{function}"),
            Self::Below { bridge, first_bus, last_bus } => {
                write!(f, "all below bridge {bridge} (buses {first_bus:02x} to {last_bus:02x})")
            }
            Self::Requesters { first, last } => write!(f, "requester ids {first} to {last}"),
        }
    }
}
