//! The requester ids that a function's DMA may carry.
//!
//! A bridge from PCI Express to conventional PCI (or PCI-X) takes ownership of its secondary side's requests:
//! they carry its secondary bus number, device 0, function 0 (PCI Express to PCI/PCI-X Bridge Specification
//! 1.0, 2.3; VT-d 3.4.1), or the bridge's own id where it makes the request itself. A conventional bridge has
//! no such rule; its requests carry the bridge's own id, and one that knows PCI-X may do either. Which of
//! them a transaction takes depends on its kind, so that all that are possible must be translated alike.

use core::fmt;

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::alias_quirks::{Carries, quirk};
use crate::pci::buses::Bridge;
use crate::pci::config::{CAPABILITY_PCI_X, Space};
use crate::pci::functions::{FunctionIds, phantom_functions};
use crate::pci::port::PortType;
use crate::platform::Sbdf;

/// So many ids fit: a function, its seven phantoms, and four bridges that put two ids in place of it.
pub const MAX_IDS: usize = 16;

/// Every requester id that a function's DMA may carry: its own first, none twice.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequesterIds {
    /// Places that are free hold its own id, so that equal sets are equal.
    ids: [Sbdf; MAX_IDS],
    len: usize,
    complete: bool,
}

impl RequesterIds {
    /// Its own id alone.
    #[must_use]
    pub const fn one(own: Sbdf) -> Self {
        Self { ids: [own; MAX_IDS], len: 1, complete: true }
    }

    /// The function's own id.
    #[must_use]
    pub const fn own(&self) -> Sbdf {
        let [own, ..] = self.ids;
        own
    }

    /// Each id, its own first.
    pub fn iter(&self) -> impl Iterator<Item = Sbdf> + Clone {
        self.ids.into_iter().take(self.len)
    }

    /// How many there are: 1 to [`MAX_IDS`].
    #[expect(clippy::len_without_is_empty, reason = "its own id is always there")]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether `id` is one of them.
    #[must_use]
    pub fn contains(&self, id: Sbdf) -> bool {
        self.iter().any(|one| one == id)
    }

    /// Whether a requester id is in both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.iter().any(|id| other.contains(id))
    }

    /// Whether these are all. False after an id found no room: the function's DMA cannot be translated as a
    /// whole then, and no guest can have it.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Adds an id where it is not there yet; false where there is no room, and they are no longer complete.
    pub fn add(&mut self, id: Sbdf) -> bool {
        if self.contains(id) {
            return true;
        }
        match self.ids.get_mut(self.len) {
            Some(place) => {
                *place = id;
                self.len = self.len.saturating_add(1);
                true
            }
            None => {
                self.complete = false;
                false
            }
        }
    }

    /// Says that there are others.
    pub(crate) const fn leave_incomplete(&mut self) {
        self.complete = false;
    }

    /// Adds those that `function` itself may carry: its phantom functions', where they are switched on, and
    /// what it is known to carry by mistake.
    pub(crate) fn add_of_function(&mut self, function: Sbdf, pci: &impl ConfigRegionAccess) {
        for id in phantom_functions(function, pci).into_iter().flat_map(FunctionIds::iter) {
            self.add(id);
        }
        match quirk(&Space::new(function, pci)) {
            Some(Carries::Function(number)) => {
                self.add(Sbdf::new(function.segment(), function.bus(), function.device(), number));
            }
            Some(Carries::Devices(places)) => {
                for &(device, number) in places {
                    self.add(Sbdf::new(function.segment(), function.bus(), device, number));
                }
            }
            Some(Carries::AnyOfItsBus) => self.leave_incomplete(),
            // The bridge's own requests are its own.
            Some(Carries::Bridge) | None => {}
        }
    }
}

/// The ids that `bridge` may put in place of those of what is below it, where `parent` is the bridge above
/// it: none where it leaves them as they are.
pub(crate) fn ids_of_bridge(
    bridge: Bridge,
    parent: Option<Sbdf>,
    pci: &impl ConfigRegionAccess,
) -> [Option<Sbdf>; 2] {
    let space = Space::new(bridge.sbdf, pci);
    let secondary = Sbdf::new(bridge.sbdf.segment(), bridge.secondary, 0, 0);
    let takes_secondary = match space.express().map(|express| express.port) {
        Some(PortType::RootPort | PortType::Upstream | PortType::Downstream) => return [None, None],
        Some(PortType::ExpressToPci) => true,
        None if is_express_to_pci(&space, parent, pci) => true,
        // One whose port type is none of a bridge's is taken for a conventional one.
        _ => space.capability(CAPABILITY_PCI_X).is_some(),
    };
    [takes_secondary.then_some(secondary), Some(bridge.sbdf)]
}

/// Whether a bridge without a PCI Express capability is one of those that have it left out, and is used as
/// such: what is above it is PCI Express.
fn is_express_to_pci<A: ConfigRegionAccess>(bridge: &Space<'_, A>, parent: Option<Sbdf>, pci: &A) -> bool {
    matches!(quirk(bridge), Some(Carries::Bridge))
        && parent
            .and_then(|parent| PortType::read(parent, pci))
            .is_some_and(|port| port != PortType::ExpressToPci)
}

impl From<Sbdf> for RequesterIds {
    fn from(own: Sbdf) -> Self {
        Self::one(own)
    }
}

impl fmt::Debug for RequesterIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = f.debug_list();
        list.entries(self.iter());
        if self.complete { list.finish() } else { list.finish_non_exhaustive() }
    }
}
