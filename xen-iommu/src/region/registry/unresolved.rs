//! Scopes that led nowhere at boot, as a bridge on their way was absent: kept with their regions until it
//! comes.
//!
//! Their places are made at boot; which devices they mean stands in an atomic, so that readers of the
//! registry need no lock for them either.

use core::sync::atomic::{AtomicU64, Ordering};

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
    /// See [`encode`]; 0 as long as it is open.
    place: AtomicU64,
}

intrusive_adapter!(pub(super) UnresolvedScopes<'m> = &'m UnresolvedScope<'m>: UnresolvedScope<'m> { link => SinglyLinkedListAtomicLink });

const KNOWN: u64 = 1 << 63;
const BELOW: u64 = 1 << 62;

fn encode(devices: Devices) -> u64 {
    match devices {
        Devices::Function(function) => KNOWN | u64::from(function.raw()),
        Devices::Below { bridge, first_bus, last_bus } => {
            KNOWN | BELOW | u64::from(last_bus) << 40 | u64::from(first_bus) << 32 | u64::from(bridge.raw())
        }
        // No device scope means one; it stays open.
        Devices::Requesters { .. } => 0,
    }
}

impl UnresolvedScope<'_> {
    /// What it means, once that is known.
    pub(crate) fn devices(&self) -> Option<Devices> {
        let place = self.place.load(Ordering::Acquire);
        let named = Sbdf::from_raw(place as u32);
        match (place & KNOWN != 0, place & BELOW != 0) {
            (false, _) => None,
            (true, false) => Some(Devices::Function(named)),
            (true, true) => {
                let (first_bus, last_bus) = ((place >> 32) as u8, (place >> 40) as u8);
                Some(Devices::Below { bridge: named, first_bus, last_bus })
            }
        }
    }

    /// From now on it means this.
    pub(crate) fn settle(&self, devices: Devices) {
        self.place.store(encode(devices), Ordering::Release);
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
            place: AtomicU64::new(0),
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
