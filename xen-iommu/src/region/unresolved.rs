//! Scopes that led nowhere at boot, as a bridge on their way was absent: kept with their regions until it comes.
//!
//! Their places are made at boot; which devices they mean stands in an atomic, so that readers of the registry need no lock for them either.

use core::sync::atomic::{AtomicU64, Ordering};

use intrusive_collections::{SinglyLinkedListAtomicLink, intrusive_adapter, singly_linked_list};

use super::registry::{Origin, Region, Registry, RegistryBuilder, Scope};
use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;

/// A scope of an RMRR of which it is open what it means.
pub(crate) struct Late<'m> {
    link: SinglyLinkedListAtomicLink,
    pub(crate) region: &'m Region<'m>,
    /// Where the scope is, in bytes from the table's start.
    offset: u32,
    /// See [`encode`]; 0 as long as it is open.
    place: AtomicU64,
}

intrusive_adapter!(pub(super) Lates<'m> = &'m Late<'m>: Late<'m> { link => SinglyLinkedListAtomicLink });

const KNOWN: u64 = 1 << 63;
const BELOW: u64 = 1 << 62;

fn encode(scope: Scope) -> u64 {
    match scope {
        Scope::Function(function) => KNOWN | u64::from(function.raw()),
        Scope::Below { bridge, first_bus, last_bus } => {
            KNOWN | BELOW | u64::from(last_bus) << 40 | u64::from(first_bus) << 32 | u64::from(bridge.raw())
        }
    }
}

impl Late<'_> {
    /// What it means, once that is known.
    pub(crate) fn scope(&self) -> Option<Scope> {
        let place = self.place.load(Ordering::Acquire);
        let named = Sbdf::from_raw(place as u32);
        match (place & KNOWN != 0, place & BELOW != 0) {
            (false, _) => None,
            (true, false) => Some(Scope::Function(named)),
            (true, true) => {
                let (first_bus, last_bus) = ((place >> 32) as u8, (place >> 40) as u8);
                Some(Scope::Below { bridge: named, first_bus, last_bus })
            }
        }
    }

    /// From now on it means this.
    pub(crate) fn settle(&self, scope: Scope) {
        self.place.store(encode(scope), Ordering::Release);
    }
}

impl<'m> RegistryBuilder<'m> {
    /// Keeps the scope at `offset` of the table with the region, to be looked at again when a bridge has appeared.
    pub(crate) fn add_late(
        &mut self,
        arena: &mut Arena<'m>,
        region: &'m Region<'m>,
        offset: u32,
    ) -> Result<(), OutOfMemory> {
        let link = SinglyLinkedListAtomicLink::new();
        self.late.push_front(arena.object(Late { link, region, offset, place: AtomicU64::new(0) })?);
        Ok(())
    }
}

impl<'m> Registry<'m> {
    /// The scope at `scope` of the RMRR at `structure`, both in bytes from the table's start, if it is open still.
    pub(crate) fn open(&self, structure: u32, scope: u32) -> Option<&Late<'m>> {
        let origin = Origin::Dmar { offset: structure };
        self.late
            .iter()
            .find(|late| late.offset == scope && late.region.origin() == origin && late.scope().is_none())
    }

    /// Which devices a region belongs to: [`Region::scopes`], and those that have been found since.
    pub fn scopes_of<'r>(&'r self, region: &'r Region<'m>) -> impl Iterator<Item = Scope> + 'r {
        let late = self.late.iter().filter(move |late| core::ptr::eq(late.region, region));
        region.scopes().iter().copied().chain(late.filter_map(Late::scope))
    }
}

/// The regions of `device` by scopes found since boot, each once, without those that it has by others.
#[cold]
pub(super) fn regions_of<'t, 'm>(
    left: &mut singly_linked_list::Iter<'t, Lates<'m>>,
    all: impl Fn() -> singly_linked_list::Iter<'t, Lates<'m>>,
    device: Sbdf,
) -> Option<&'m Region<'m>> {
    let covers = |late: &Late<'_>| late.scope().is_some_and(|scope| scope.covers(device));
    let late = left.find(|late| {
        covers(late)
            && !late.region.scopes().iter().any(|scope| scope.covers(device))
            && all()
                .find(|first| core::ptr::eq(first.region, late.region) && covers(first))
                .is_some_and(|first| core::ptr::eq(first, *late))
    });
    late.map(|late| late.region)
}
