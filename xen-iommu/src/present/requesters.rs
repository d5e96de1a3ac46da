//! Requesters: all the requester ids that the DMA of a device may carry, and the devices whose DMA may carry
//! any of them. No hardware can tell these apart, so a requester is translated as one.

use core::sync::atomic::{AtomicU8, Ordering};

use super::{Device, Devices, Number, numbered};
use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;
use crate::lock::{Lock, Rank};
use crate::pci::{Function, MAX_IDS, RequesterIds, Role};
use crate::platform::{RequesterId, Sbdf, SpaceId};
use crate::region::record::NONE;

/// A requester id as one function's. The requester's chain has one for each function that shows the id.
struct Id {
    id: Number,
    /// The function by which its unit is found.
    unit_of: Number,
    /// The number of the device that shows it, with [`HIDDEN`] where this one does not stand for the id, and
    /// with [`LEFT`] where it is kept for one that failed to appear, since hardware may still use the id;
    /// [`NONE`] where nobody is there to keep it.
    device: Number,
    /// The next of that requester, or of free places.
    next: Number,
}

/// Another device's stands for the id, or it is on its way out.
const HIDDEN: u32 = 1 << 31;
/// Who has it does not show it.
const LEFT: u32 = 1 << 30;

impl Id {
    fn sbdf(&self) -> Sbdf {
        Sbdf::from_raw(self.id.get())
    }

    fn is_orphan(&self) -> bool {
        self.device.get() == NONE
    }

    fn is_hidden(&self) -> bool {
        !self.is_orphan() && self.device.get() & HIDDEN != 0
    }

    fn is_of(&self, device: u32) -> bool {
        !self.is_orphan() && self.device() == device
    }

    /// The number of the device that has it, if it is no orphan.
    fn device(&self) -> u32 {
        self.device.get() & !(HIDDEN | LEFT)
    }

    /// Whether it was left behind by one that failed to appear, and is there for it when it comes again.
    fn is_left(&self) -> bool {
        self.is_orphan() || self.device.get() & LEFT != 0
    }
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

    /// Whether the DMA of both goes one way for certain, so that they can become one: through one domain's
    /// tables, or each through its quarantine's.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        let uncertain = |one: &Self| one.is_suspect() || one.is_contested();
        let flags = |one: &Self| one.flags.load(Ordering::Relaxed) & (TRANSLATED | BLOCKED);
        !uncertain(self)
            && !uncertain(other)
            && self.holder() == other.holder()
            && flags(self) == flags(other)
    }

    /// How many devices use it, bridges too.
    pub(crate) fn count(&self) -> u32 {
        self.users.get().saturating_add(self.bridges.get())
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
    /// All that are taken belong to this requester, or to it and to these, which are beside it.
    By(&'m Requester, Joining<'m>),
    /// These belong to requesters in different places; here is an id of the second.
    ByTwo(Sbdf),
}

/// Requesters that are to become one with another.
#[derive(Clone, Copy, Default)]
pub(crate) struct Joining<'m> {
    all: [Option<&'m Requester>; MAX_IDS],
}

impl<'m> Joining<'m> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'m Requester> + use<'m> {
        self.all.into_iter().flatten()
    }

    pub(crate) fn has(&self, requester: u32) -> bool {
        self.iter().any(|one| one.number == requester)
    }

    fn add(&mut self, requester: &'m Requester) {
        if !self.has(requester.number)
            && let Some(place) = self.all.iter_mut().find(|place| place.is_none())
        {
            *place = Some(requester);
        }
    }
}

/// The ids of a function that is about to come, and by what their unit is found.
pub(crate) fn requester_ids(function: &Function) -> impl Iterator<Item = RequesterId> + '_ {
    let unit_of = match function.role {
        Role::Virtual { physical } => physical,
        _ => function.sbdf,
    };
    function.ids.iter().map(move |id| RequesterId { id, unit_of })
}

/// The requesters of present functions.
pub(crate) struct Requesters<'m, S> {
    places: &'m [Requester],
    ids: &'m [Id],
    /// By the requesters' numbers.
    quarantines: &'m [Quarantine<S>],
    index: Index<'m>,
    free: u32,
    first_free_id: u32,
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
            device: Number::new(NONE),
            next: Number::new(numbered(index, ids).1),
        })?;
        let quarantines: &'m [Quarantine<S>] = arena.slice(capacity, |_| Lock::new(Rank::Tables, None))?;
        let first = |len: usize| if len == 0 { NONE } else { 0 };
        let ids_left = u32::try_from(ids).unwrap_or(NONE);
        let index = Index::new(ids, arena)?;
        let (free, first_free_id) = (first(capacity), first(ids));
        Ok(Self { places, ids: id_places, quarantines, index, free, first_free_id, ids_left })
    }

    pub(crate) fn of(&self, device: &Device) -> Option<&'m Requester> {
        self.places.get(device.requester.get() as usize)
    }

    /// The place that stands for an id, and its number.
    fn place_of(&self, id: Sbdf) -> Option<(u32, &'m Id)> {
        self.index.find(id, |number| {
            let place = self.ids.get(number as usize).filter(|place| place.sbdf() == id)?;
            Some((number, place))
        })
    }

    /// The requester that `id` belongs to.
    pub(crate) fn find(&self, id: Sbdf, devices: &Devices<'m>) -> Option<&'m Requester> {
        let (number, place) = self.place_of(id)?;
        if !place.is_orphan() {
            return self.of(devices.at(place.device())?);
        }
        let mut used = self.places.iter().filter(|one| one.is_suspect() || one.count() > 0);
        used.find(|one| self.chain(one).any(|(one, _)| one == number))
    }

    /// The ids of a requester as each function's, with their places' numbers.
    #[inline]
    fn chain(&self, requester: &Requester) -> impl Iterator<Item = (u32, &'m Id)> + use<'m, S> {
        let (places, mut next) = (self.ids, requester.first_id.get());
        core::iter::from_fn(move || {
            let number = next;
            let place = places.get(number as usize)?;
            next = place.next.get();
            Some((number, place))
        })
    }

    /// All its ids, each once, but for those on their way out.
    #[inline]
    pub(crate) fn ids(&self, requester: &Requester) -> impl Iterator<Item = RequesterId> + use<'m, S> {
        self.chain(requester)
            .filter(|(_, place)| !place.is_hidden())
            .map(|(_, place)| RequesterId { id: place.sbdf(), unit_of: Sbdf::from_raw(place.unit_of.get()) })
    }

    /// The ids of a device that no other shows.
    pub(crate) fn ids_of_one<'r>(
        &'r self,
        requester: &'r Requester,
        device: u32,
    ) -> impl Iterator<Item = RequesterId> + 'r {
        let own = self.chain(requester).filter(move |(_, place)| place.is_of(device));
        own.filter(move |(_, place)| !self.is_shared(requester, place))
            .map(|(_, place)| RequesterId { id: place.sbdf(), unit_of: Sbdf::from_raw(place.unit_of.get()) })
    }

    /// Its ids but for those that no other than the device shows.
    pub(crate) fn ids_without<'r>(
        &'r self,
        requester: &'r Requester,
        device: u32,
    ) -> impl Iterator<Item = RequesterId> + 'r {
        let all = self.chain(requester).filter(|(_, place)| !place.is_hidden());
        let stays = move |(_, place): &(u32, &Id)| !place.is_of(device) || self.is_shared(requester, place);
        all.filter(stays)
            .map(|(_, place)| RequesterId { id: place.sbdf(), unit_of: Sbdf::from_raw(place.unit_of.get()) })
    }

    /// Whether another device shows the id, too.
    fn is_shared(&self, requester: &Requester, one: &Id) -> bool {
        self.chain(requester).any(|(_, place)| place.sbdf() == one.sbdf() && !core::ptr::eq(place, one))
    }

    /// An id that the DMA of both may carry; `None` where only a third links them.
    pub(crate) fn shared_id(&self, requester: &Requester, one: &Device, other: &Device) -> Option<Sbdf> {
        let shows = |device: u32, id: Sbdf| {
            self.chain(requester).any(|(_, place)| place.is_of(device) && place.sbdf() == id)
        };
        let mut ids = self.ids(requester).map(|id| id.id);
        ids.find(|id| shows(one.number, *id) && shows(other.number, *id))
    }

    /// Who has the ids of a function that is about to come. `joins`: whether it may make several one.
    pub(crate) fn taken(
        &self,
        ids: &RequesterIds,
        devices: &Devices<'m>,
        joins: impl Fn() -> bool,
    ) -> Taken<'m> {
        let mut found: Option<&'m Requester> = None;
        let mut joining = Joining::default();
        for id in ids.iter() {
            let Some(requester) = self.find(id, devices) else { continue };
            match found {
                None => found = Some(requester),
                Some(first) if first.number == requester.number => {}
                Some(first) if first.is_beside(requester) && joins() => joining.add(requester),
                Some(_) => return Taken::ByTwo(id),
            }
        }
        found.map_or(Taken::Free, |first| Taken::By(first, joining))
    }

    /// Makes a requester. `contested`: for those ids of a function that nobody else has. `None` without
    /// places.
    pub(crate) fn insert(&mut self, contested: bool) -> Option<&'m Requester> {
        let requester = self.places.get(self.free as usize)?;
        self.free = requester.first_id.get();
        requester.first_id.set(NONE);
        requester.first_user.set(NONE);
        requester.users.set(0);
        requester.bridges.set(0);
        requester.set_holder(None);
        requester.set_certain();
        requester.flags.store(if contested { CONTESTED | BLOCKED } else { 0 }, Ordering::Relaxed);
        Some(requester)
    }

    /// Whether there are places for all ids of a function, but for those that it has left behind when it
    /// failed to come.
    pub(crate) fn has_room(&self, ids: &RequesterIds) -> bool {
        let is_new = |id: &Sbdf| !self.place_of(*id).is_some_and(|(_, place)| place.is_left());
        ids.iter().filter(is_new).count() <= self.ids_left as usize
    }

    /// Adds the ids of a function as those of a device, but for those that another requester has.
    pub(crate) fn add_ids(
        &mut self,
        requester: &Requester,
        function: &Function,
        device: u32,
        devices: &Devices<'m>,
    ) {
        for (_, orphan) in self.chain(requester).filter(|(_, place)| place.is_orphan()) {
            orphan.device.set(device | LEFT);
        }
        for RequesterId { id, unit_of } in requester_ids(function) {
            let is_known = match self.find(id, devices) {
                Some(other) if other.number != requester.number => continue,
                Some(_) => true,
                None => false,
            };
            let mut known = self.chain(requester).map(|(_, place)| place).filter(|place| place.sbdf() == id);
            if let Some(place) = known.find(|place| place.is_of(device) || place.is_left()) {
                place.device.set(device | place.device.get() & HIDDEN);
                continue;
            }
            let Some(place) = self.ids.get(self.first_free_id as usize) else { return };
            let number = self.first_free_id;
            self.first_free_id = place.next.get();
            self.ids_left = self.ids_left.saturating_sub(1);
            place.id.set(id.raw());
            place.unit_of.set(unit_of.raw());
            place.device.set(if is_known { device | HIDDEN } else { device });
            place.next.set(requester.first_id.get());
            requester.first_id.set(number);
            if !is_known {
                self.index.insert(id, number);
            }
        }
    }

    /// Hides those ids of a device that no other shows, or shows them again.
    pub(crate) fn hide_ids(&self, requester: &Requester, device: u32, hide: bool) {
        for (_, place) in self.chain(requester).filter(|(_, place)| place.is_of(device)) {
            if !self.is_shared(requester, place) {
                let shown = place.device.get() & !HIDDEN;
                place.device.set(if hide { shown | HIDDEN } else { shown });
            }
        }
    }

    /// What only a device shows is nobody's that is present, but stays.
    pub(crate) fn orphan_ids(&mut self, requester: &Requester, device: u32) {
        let heir = Some(requester.first_user.get()).filter(|heir| ![device, NONE].contains(heir));
        for (_, place) in self.chain(requester).filter(|(_, place)| place.is_of(device)) {
            if !self.is_shared(requester, place) {
                place.device.set(heir.map_or(NONE, |heir| heir | LEFT));
            }
        }
        self.remove_ids(requester, device);
    }

    /// Frees the ids of a device; those that others show stay theirs.
    pub(crate) fn remove_ids(&mut self, requester: &Requester, device: u32) {
        for (_, place) in self.chain(requester).filter(|(_, place)| place.is_of(device)) {
            // The place that stands for an id stays, as the other's.
            let mut others = self.chain(requester).map(|(_, other)| other);
            let heir = others.find(|other| other.sbdf() == place.sbdf() && !other.is_of(device));
            if let Some(heir) = heir.filter(|_| !place.is_hidden()) {
                place.device.set(heir.device.get() & !HIDDEN);
                heir.device.set(device | HIDDEN);
            }
        }
        let mut before: Option<&'m Id> = None;
        for (number, place) in self.chain(requester) {
            if !place.is_of(device) {
                before = Some(place);
                continue;
            }
            before.map_or(&requester.first_id, |before| &before.next).set(place.next.get());
            self.free_id(number, place);
        }
    }

    /// Frees a place that is in no chain any more.
    fn free_id(&mut self, number: u32, place: &Id) {
        if self.index.find(place.sbdf(), |found| (found == number).then_some(())).is_some() {
            let id_of = |number: u32| self.ids.get(number as usize).map(Id::sbdf);
            self.index.remove(place.sbdf(), number, id_of);
        }
        place.device.set(NONE);
        place.next.set(self.first_free_id);
        self.first_free_id = number;
        self.ids_left = self.ids_left.saturating_add(1);
    }

    /// Makes two requesters one. Hands out the quarantine's space of the one that goes.
    pub(crate) fn join(
        &mut self,
        requester: &'m Requester,
        from: &'m Requester,
        devices: &Devices<'m>,
    ) -> Option<S> {
        for device in devices.all().filter(|device| device.requester.get() == from.number) {
            device.requester.set(requester.number);
        }
        if let Some((_, last)) = self.chain(from).last() {
            last.next.set(requester.first_id.get());
            requester.first_id.set(from.first_id.get());
        }
        requester.users.set(requester.users.get().saturating_add(from.users.get()));
        requester.bridges.set(requester.bridges.get().saturating_add(from.bridges.get()));
        from.first_id.set(NONE);
        self.remove(from)
    }

    /// Frees its places and hands out its quarantine's space.
    pub(crate) fn remove(&mut self, requester: &'m Requester) -> Option<S> {
        for (number, place) in self.chain(requester) {
            self.free_id(number, place);
        }
        requester.users.set(0);
        requester.bridges.set(0);
        requester.set_certain();
        requester.first_id.set(self.free);
        self.free = requester.number;
        self.quarantine(requester)?.lock().take()
    }

    pub(crate) fn quarantine(&self, requester: &Requester) -> Option<&'m Quarantine<S>> {
        self.quarantines.get(requester.number as usize)
    }
}
