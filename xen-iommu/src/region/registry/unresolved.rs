//! Scopes that led nowhere at boot, as a bridge on their way was absent: kept with their regions until it
//! comes.
//!
//! Their places are made at boot; which devices they mean stands in an atomic, so that readers of the
//! registry need no lock for them either.

use core::sync::atomic::{AtomicU64, Ordering};

use bitfield_struct::bitfield;
use intrusive_collections::{SinglyLinkedListAtomicLink, intrusive_adapter};

use super::{Registry, RegistryBuilder};
use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;
use crate::region::devices::Devices;
use crate::region::record::{Origin, Region};

/// A scope of an RMRR of which it is open what it means.
pub(crate) struct UnresolvedScope<'m> {
    link: SinglyLinkedListAtomicLink,
    pub(crate) region: &'m Region<'m>,
    /// Where the scope is, in bytes from the table's start.
    offset: u32,
    /// A [`Place`].
    place: AtomicU64,
}

intrusive_adapter!(pub(super) UnresolvedScopes<'m> = &'m UnresolvedScope<'m>: UnresolvedScope<'m> { link => SinglyLinkedListAtomicLink });

/// What a scope means, as it stands in an atomic: zeros as long as it is open.
#[bitfield(u64)]
struct Place {
    /// The function, or the bridge.
    #[bits(32)]
    named: u32,
    /// The first bus below the bridge.
    first_bus: u8,
    /// The last one, inclusive.
    last_bus: u8,
    #[bits(14)]
    _unused: u16,
    /// Whether it means a bridge and what is below it.
    is_below: bool,
    is_known: bool,
}

impl From<Devices> for Place {
    fn from(devices: Devices) -> Self {
        let known = Self::new().with_is_known(true);
        match devices {
            Devices::Function(function) => known.with_named(function.raw()),
            Devices::Below { bridge, first_bus, last_bus } => known
                .with_is_below(true)
                .with_named(bridge.raw())
                .with_first_bus(first_bus)
                .with_last_bus(last_bus),
            // No device scope means one; it stays open.
            Devices::Requesters { .. } => Self::new(),
        }
    }
}

impl UnresolvedScope<'_> {
    /// What it means, once that is known.
    pub(crate) fn devices(&self) -> Option<Devices> {
        let place = Place::from(self.place.load(Ordering::Acquire));
        let named = Sbdf::from_raw(place.named());
        match (place.is_known(), place.is_below()) {
            (false, _) => None,
            (true, false) => Some(Devices::Function(named)),
            (true, true) => {
                let (first_bus, last_bus) = (place.first_bus(), place.last_bus());
                Some(Devices::Below { bridge: named, first_bus, last_bus })
            }
        }
    }

    /// From now on it means this.
    pub(crate) fn settle(&self, devices: Devices) {
        self.place.store(Place::from(devices).into(), Ordering::Release);
    }
}

impl<'m> RegistryBuilder<'m> {
    /// Keeps the scope at `offset` of the table with the region, to be looked at again when a bridge has
    /// appeared.
    pub(crate) fn add_unresolved(
        &mut self,
        arena: &mut Arena<'m>,
        region: &'m Region<'m>,
        offset: u32,
    ) -> Result<(), OutOfMemory> {
        let link = SinglyLinkedListAtomicLink::new();
        self.unresolved.push_front(arena.object(UnresolvedScope {
            link,
            region,
            offset,
            place: AtomicU64::new(Place::new().into()),
        })?);
        Ok(())
    }
}

impl<'m> Registry<'m> {
    /// The scope at `scope` of the RMRR at `structure`, both in bytes from the table's start, if it is open
    /// still.
    pub(crate) fn open(&self, structure: u32, scope: u32) -> Option<&UnresolvedScope<'m>> {
        let origin = Origin::Dmar { offset: structure };
        self.unresolved
            .iter()
            .find(|kept| kept.offset == scope && kept.region.origin() == origin && kept.devices().is_none())
    }

    /// Which devices a region belongs to: [`Region::devices`], and those that have been found since.
    pub fn devices_of<'r>(&'r self, region: &'r Region<'_>) -> impl Iterator<Item = Devices> + Clone + 'r {
        let scopes = self.unresolved.iter().filter(move |scope| core::ptr::eq(scope.region, region));
        region.devices().iter().copied().chain(scopes.filter_map(UnresolvedScope::devices))
    }
}

/// The regions of `device` by scopes found since boot, in no order, and some more than once.
#[cold]
pub(super) fn regions_of<'t, 'm>(
    registry: &'t Registry<'m>,
    device: Sbdf,
) -> impl Iterator<Item = &'m Region<'m>> + 't {
    let scopes = registry.unresolved.iter();
    scopes
        .filter(move |scope| scope.devices().is_some_and(|devices| devices.covers(device)))
        .map(|scope| scope.region)
}
