//! Places for domains, and their address spaces.

use crate::arena::{Arena, OutOfMemory};
use crate::lock::{Lock, Rank};
use crate::platform::{DomId, SpaceId};
use crate::present::Number;
use crate::region::record::NONE;

/// A domain's place.
pub(super) struct Domain<S> {
    pub(super) number: u32,
    /// Its id, or [`NONE`] in a free place.
    id: Number,
    /// Its address space, under the domain's table lock.
    pub(super) space: Lock<Option<S>>,
}

impl<S> Domain<S> {
    pub(super) fn id(&self) -> Option<DomId> {
        u16::try_from(self.id.get()).ok().map(DomId)
    }

    pub(super) fn space_id(&self) -> SpaceId {
        SpaceId(self.number)
    }

    pub(super) fn occupy(&self, id: DomId, space: S) {
        *self.space.lock() = Some(space);
        self.id.set(id.0.into());
    }

    pub(super) fn vacate(&self) -> Option<S> {
        self.id.set(NONE);
        self.space.lock().take()
    }
}

/// Places for `capacity` domains.
pub(super) fn places<'m, S>(capacity: usize, arena: &mut Arena<'m>) -> Result<&'m [Domain<S>], OutOfMemory> {
    let places = arena.slice(capacity, |index| Domain {
        number: u32::try_from(index).unwrap_or(NONE),
        id: Number::new(NONE),
        space: Lock::new(Rank::Tables, None),
    })?;
    Ok(places)
}
