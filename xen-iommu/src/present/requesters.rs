//! Requesters: all the requester ids that the DMA of a device may carry, and the devices whose DMA may carry
//! any of them. No hardware can tell these apart, so a requester is translated as one.

use core::sync::atomic::{AtomicU8, Ordering};

use super::{Device, Number, numbered};
use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;
use crate::lock::{Lock, Rank};
use crate::pci::{Function, RequesterIds, Role};
use crate::platform::{RequesterId, Sbdf, SpaceId};
use crate::region::record::NONE;

/// One requester id.
struct Id {
    id: Number,
    /// The function by which its unit is found.
    unit_of: Number,
    /// The number of the requester that it belongs to.
    requester: Number,
    /// The next of that requester, or of free places.
    next: Number,
}

/// Requester ids that are translated as one.
pub(crate) struct Requester {
    pub(crate) number: u32,
    /// Its first id, or the next of free places.
    first_id: Number,
    /// A present device that uses it and is no bridge; [`NONE`] without one.
    pub(crate) first_user: Number,
    /// Present devices that use it, and bridges that have an id of it.
    pub(crate) users: Number,
    pub(crate) bridges: Number,
    /// The number of the domain through whose tables its DMA goes; [`NONE`] in quarantine.
    holder: Number,
    /// Where it was before the move under way.
    pub(crate) left: Number,
    /// The number of a domain that its DMA may reach beside that of its holder; [`NONE`] where all is
    /// certain, [`NO_DOMAIN`] where it may reach another place that is no domain's, [`ANY_DOMAIN`] where it
    /// may reach several.
    stray: Number,
    flags: AtomicU8,
}

/// See [`Requester::set_suspect`].
const NO_DOMAIN: u32 = NONE - 1;
/// It may reach several.
const ANY_DOMAIN: u32 = NONE - 2;

/// Switched by the move under way, to be switched back if that fails.
const SWITCHED: u8 = 1 << 0;
/// A unit translates its DMA.
const TRANSLATED: u8 = 1 << 1;
/// In quarantine its DMA is blocked, its regions included: a guest has their memory.
const BLOCKED: u8 = 1 << 2;
/// It could not have all its ids, as others that are elsewhere have them.
const CONTESTED: u8 = 1 << 3;

impl Requester {
    /// The number of the domain that it goes through.
    pub(crate) fn holder(&self) -> Option<u32> {
        Some(self.holder.get()).filter(|holder| *holder != NONE)
    }

    pub(crate) fn set_holder(&self, domain: Option<u32>) {
        self.holder.set(domain.unwrap_or(NONE));
    }

    /// Marks it as switched; whether it was not.
    pub(crate) fn switch(&self) -> bool {
        let was = self.has(SWITCHED);
        self.set(SWITCHED, true);
        !was
    }

    /// Takes that mark away; whether it was there.
    pub(crate) fn unswitch(&self) -> bool {
        let was = self.has(SWITCHED);
        self.set(SWITCHED, false);
        was
    }

    pub(crate) fn is_translated(&self) -> bool {
        self.has(TRANSLATED)
    }

    pub(crate) fn set_translated(&self, translated: bool) {
        self.set(TRANSLATED, translated);
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.has(BLOCKED)
    }

    pub(crate) fn set_blocked(&self, blocked: bool) {
        self.set(BLOCKED, blocked);
    }

    pub(crate) fn is_contested(&self) -> bool {
        self.has(CONTESTED)
    }

    /// Whether nobody knows where its DMA goes.
    pub(crate) fn is_suspect(&self) -> bool {
        self.stray.get() != NONE
    }

    /// Whether it may reach the domain of this number by a move that failed.
    pub(crate) fn may_reach(&self, domain: u32) -> bool {
        [domain, ANY_DOMAIN].contains(&self.stray.get())
    }

    /// From now on it may reach the domain of this number, or some quarantine, beside where its devices are
    /// and what it may reach already.
    pub(crate) fn set_suspect(&self, domain: Option<u32>) {
        let stray = match (self.stray.get(), domain) {
            (NONE | NO_DOMAIN, domain) => domain.unwrap_or(NO_DOMAIN),
            (before, None) => before,
            (before, Some(domain)) if before == domain => before,
            _ => ANY_DOMAIN,
        };
        self.stray.set(stray);
    }

    pub(crate) fn set_certain(&self) {
        self.stray.set(NONE);
    }

    /// Its quarantine's id; domains have the ids below.
    pub(crate) fn space_id(&self) -> SpaceId {
        SpaceId(self.number | 1 << 31)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u8, to: bool) {
        let flags = self.flags.load(Ordering::Relaxed);
        self.flags.store(if to { flags | flag } else { flags & !flag }, Ordering::Relaxed);
    }
}

/// What the DMA of a requester goes through in quarantine: its devices' regions and nothing else. `None` when
/// they have none: its DMA is blocked then.
pub(crate) type Quarantine<S> = Lock<Option<S>>;

/// What ids a new function finds taken.
pub(crate) enum Taken<'m> {
    /// None of them.
    Free,
    /// All that are taken belong to this requester.
    By(&'m Requester),
    /// These belong to different ones; here is an id of the second.
    ByTwo(Sbdf),
}

/// The requesters of present functions.
pub(crate) struct Requesters<'m, S> {
    places: &'m [Requester],
    ids: &'m [Id],
    /// By the requesters' numbers.
    quarantines: &'m [Quarantine<S>],
    index: Index<'m>,
    free: u32,
    free_id: u32,
    ids_left: u32,
}

impl<'m, S> Requesters<'m, S> {
    pub(super) fn new(capacity: usize, ids: usize, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let places: &'m [Requester] = arena.slice(capacity, |index| {
            let (number, next) = numbered(index, capacity);
            Requester {
                number,
                first_id: Number::new(next),
                first_user: Number::new(NONE),
                users: Number::new(0),
                bridges: Number::new(0),
                holder: Number::new(NONE),
                left: Number::new(NONE),
                stray: Number::new(NONE),
                flags: AtomicU8::new(0),
            }
        })?;
        let id_places: &'m [Id] = arena.slice(ids, |index| Id {
            id: Number::new(0),
            unit_of: Number::new(0),
            requester: Number::new(NONE),
            next: Number::new(numbered(index, ids).1),
        })?;
        let quarantines: &'m [Quarantine<S>] = arena.slice(capacity, |_| Lock::new(Rank::Tables, None))?;
        let first = |len: usize| if len == 0 { NONE } else { 0 };
        let ids_left = u32::try_from(ids).unwrap_or(NONE);
        let index = Index::new(ids, arena)?;
        let (free, free_id) = (first(capacity), first(ids));
        Ok(Self { places, ids: id_places, quarantines, index, free, free_id, ids_left })
    }

    pub(crate) fn of(&self, device: &Device) -> Option<&'m Requester> {
        self.places.get(device.requester.get() as usize)
    }

    /// The requester that `id` belongs to.
    pub(crate) fn find(&self, id: Sbdf) -> Option<&'m Requester> {
        let number = self.index.find(id, |number| {
            let place = self.ids.get(number as usize)?;
            (place.id.get() == id.raw()).then(|| place.requester.get())
        })?;
        self.places.get(number as usize)
    }

    /// All its ids.
    #[inline]
    pub(crate) fn ids(&self, requester: &Requester) -> impl Iterator<Item = RequesterId> + use<'m, S> {
        let (places, mut next) = (self.ids, requester.first_id.get());
        core::iter::from_fn(move || {
            let place = places.get(next as usize)?;
            next = place.next.get();
            Some(RequesterId {
                id: Sbdf::from_raw(place.id.get()),
                unit_of: Sbdf::from_raw(place.unit_of.get()),
            })
        })
    }

    /// An id that the DMA of both functions may carry: one that is neither's own, if there is such.
    pub(crate) fn shared_id(&self, requester: &Requester, one: Sbdf, other: Sbdf) -> Sbdf {
        let mut ids = self.ids(requester).map(|id| id.id);
        ids.find(|id| *id != one && *id != other).unwrap_or(other)
    }

    /// Who has ids of a function that is about to come.
    pub(crate) fn taken(&self, ids: &RequesterIds) -> Taken<'m> {
        let mut found = Taken::Free;
        for id in ids.iter() {
            let Some(requester) = self.find(id) else { continue };
            match found {
                Taken::Free => found = Taken::By(requester),
                Taken::By(first) if first.number != requester.number => {
                    return Taken::ByTwo(id);
                }
                _ => {}
            }
        }
        found
    }

    /// Makes a requester for a function of which nobody has an id or, `contested`, for those of its ids that
    /// nobody has. `None` without places.
    pub(crate) fn insert(&mut self, function: &Function, contested: bool) -> Option<&'m Requester> {
        let requester = self.places.get(self.free as usize)?;
        if !self.has_room(function) {
            return None;
        }
        self.free = requester.first_id.get();
        requester.first_id.set(NONE);
        requester.first_user.set(NONE);
        requester.users.set(0);
        requester.bridges.set(0);
        requester.set_holder(None);
        requester.set_certain();
        requester.flags.store(if contested { CONTESTED | BLOCKED } else { 0 }, Ordering::Relaxed);
        self.add_ids(requester, function);
        Some(requester)
    }

    /// Whether there are places for those ids of a function that nobody has.
    pub(crate) fn has_room(&self, function: &Function) -> bool {
        let new = function.ids.iter().filter(|id| self.find(*id).is_none()).count();
        new <= self.ids_left as usize
    }

    /// Adds those ids of a function that nobody has.
    pub(crate) fn add_ids(&mut self, requester: &Requester, function: &Function) {
        for id in function.ids.iter() {
            if self.find(id).is_some() {
                continue;
            }
            let Some(place) = self.ids.get(self.free_id as usize) else { return };
            let number = self.free_id;
            self.free_id = place.next.get();
            self.ids_left = self.ids_left.saturating_sub(1);
            let unit_of = match function.role {
                Role::Virtual { physical } => physical,
                _ => function.sbdf,
            };
            place.id.set(id.raw());
            place.unit_of.set(unit_of.raw());
            place.requester.set(requester.number);
            place.next.set(requester.first_id.get());
            requester.first_id.set(number);
            self.index.insert(id, number);
        }
    }

    /// Frees those ids that were added last, so that `len` are left.
    pub(crate) fn truncate_ids(&mut self, requester: &Requester, len: usize) {
        let all = self.ids(requester).count();
        for _ in len..all {
            let number = requester.first_id.get();
            let Some(place) = self.ids.get(number as usize) else { return };
            let id_of =
                |number: u32| self.ids.get(number as usize).map(|place| Sbdf::from_raw(place.id.get()));
            self.index.remove(Sbdf::from_raw(place.id.get()), number, id_of);
            requester.first_id.set(place.next.get());
            place.requester.set(NONE);
            place.next.set(self.free_id);
            self.free_id = number;
            self.ids_left = self.ids_left.saturating_add(1);
        }
    }

    /// Frees its places and hands out its quarantine's space.
    pub(crate) fn remove(&mut self, requester: &'m Requester) -> Option<S> {
        self.truncate_ids(requester, 0);
        requester.first_id.set(self.free);
        self.free = requester.number;
        self.quarantine(requester)?.lock().take()
    }

    pub(crate) fn quarantine(&self, requester: &Requester) -> Option<&'m Quarantine<S>> {
        self.quarantines.get(requester.number as usize)
    }
}
