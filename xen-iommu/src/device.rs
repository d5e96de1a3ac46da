//! The devices that are present, the requester ids their DMA carries, and the domains that own them: places in memory given at boot, found by key.
//!
//! All fields that change are atomics, so that the places can be shared; they change under the ownership lock alone. Owners may be read without it.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeAtomicLink, intrusive_adapter};

use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;
use crate::lock::{Lock, Rank};
use crate::pci::functions::FurtherIds;
use crate::pci::source::Source;
use crate::platform::{DomId, Sbdf, SpaceId};
use crate::region::registry::NONE;

/// Who owns a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A domain; the hardware domain too.
    Domain(DomId),
    /// Nobody: its DMA reaches its own reserved regions and nothing else.
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

const QUARANTINE: u32 = 1 << 16;

impl Owner {
    fn encode(self) -> u32 {
        match self {
            Self::Domain(id) => id.0.into(),
            Self::Quarantine => QUARANTINE,
        }
    }

    fn decode(raw: u32) -> Self {
        u16::try_from(raw).map_or(Self::Quarantine, |id| Self::Domain(DomId(id)))
    }
}

/// Number of a place, and what links places of one kind; [`NONE`] ends a chain.
#[derive(Debug)]
pub(crate) struct Number(AtomicU32);

impl Number {
    pub(crate) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A present device.
pub(crate) struct Device {
    by_sbdf: RBTreeAtomicLink,
    pub(crate) number: u32,
    sbdf: Number,
    owner: Number,
    /// Its requester's number.
    pub(crate) requester: Number,
    /// The number of the device that stands for its group, and the next of the group in a ring.
    pub(crate) group: Number,
    pub(crate) next_in_group: Number,
    /// Devices in the group, where this one stands for it.
    pub(crate) group_len: Number,
    /// The next in the chain of a transfer, of a regrouping, or of free places.
    pub(crate) chain: Number,
    /// Part of the transfer under way.
    pub(crate) selected: AtomicBool,
    /// Its regions may be left out where they are in the way.
    relaxable: AtomicBool,
}

impl Device {
    pub(crate) fn sbdf(&self) -> Sbdf {
        Sbdf::from_raw(self.sbdf.get())
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner::decode(self.owner.get())
    }

    pub(crate) fn set_owner(&self, owner: Owner) {
        self.owner.set(owner.encode());
    }

    pub(crate) fn is_relaxable(&self) -> bool {
        self.relaxable.load(Ordering::Relaxed)
    }

    pub(crate) fn set_relaxable(&self, relaxable: bool) {
        self.relaxable.store(relaxable, Ordering::Relaxed);
    }

    pub(crate) fn is_selected(&self) -> bool {
        self.selected.load(Ordering::Relaxed)
    }
}

intrusive_adapter!(BySbdf<'m> = &'m Device: Device { by_sbdf => RBTreeAtomicLink });

impl<'k> KeyAdapter<'k> for BySbdf<'_> {
    type Key = Sbdf;

    fn get_key(&self, device: &'k Device) -> Sbdf {
        device.sbdf()
    }
}

/// The devices that are present.
pub(crate) struct Devices<'m> {
    places: &'m [Device],
    /// In order; single ones are found through the index.
    by_sbdf: RBTree<BySbdf<'m>>,
    index: Index<'m>,
    free: u32,
}

impl<'m> Devices<'m> {
    pub(crate) fn new(capacity: usize, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let places: &'m [Device] = arena.slice(capacity, |index| {
            let number = u32::try_from(index).unwrap_or(NONE);
            let next = number.saturating_add(1);
            Device {
                by_sbdf: RBTreeAtomicLink::new(),
                number,
                sbdf: Number::new(0),
                owner: Number::new(QUARANTINE),
                requester: Number::new(NONE),
                group: Number::new(number),
                next_in_group: Number::new(number),
                group_len: Number::new(1),
                chain: Number::new(if next as usize >= capacity { NONE } else { next }),
                selected: AtomicBool::new(false),
                relaxable: AtomicBool::new(false),
            }
        })?;
        let free = if capacity == 0 { NONE } else { 0 };
        Ok(Self { places, by_sbdf: RBTree::new(BySbdf::new()), index: Index::new(capacity, arena)?, free })
    }

    pub(crate) fn at(&self, number: u32) -> Option<&'m Device> {
        self.places.get(number as usize)
    }

    pub(crate) fn find(&self, sbdf: Sbdf) -> Option<&'m Device> {
        self.index.find(sbdf, |number| self.at(number).filter(|device| device.sbdf() == sbdf))
    }

    /// The devices from `first` to `last`, both inclusive.
    pub(crate) fn between(&self, first: Sbdf, last: Sbdf) -> impl Iterator<Item = &'m Device> + '_ {
        let mut cursor = self.by_sbdf.lower_bound(Bound::Included(&first));
        core::iter::from_fn(move || {
            let device = cursor.clone_pointer().filter(|device| device.sbdf() <= last)?;
            cursor.move_next();
            Some(device)
        })
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &'m Device> + '_ {
        self.between(Sbdf::from_raw(0), Sbdf::from_raw(u32::MAX))
    }

    /// Takes a free place for `sbdf`, which must not be present. `None` when all places are taken.
    pub(crate) fn insert(&mut self, sbdf: Sbdf, owner: Owner, requester: u32) -> Option<&'m Device> {
        let device = self.at(self.free)?;
        self.free = device.chain.get();
        device.sbdf.set(sbdf.raw());
        device.set_owner(owner);
        device.set_relaxable(false);
        device.requester.set(requester);
        self.by_sbdf.insert(device);
        self.index.insert(sbdf, device.number);
        Some(device)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    pub(crate) fn remove(&mut self, device: &'m Device) {
        if self.by_sbdf.find_mut(&device.sbdf()).remove().is_some() {
            let sbdf_of = |number| self.places.get(number as usize).map(Device::sbdf);
            self.index.remove(device.sbdf(), device.number, sbdf_of);
            device.chain.set(self.free);
            self.free = device.number;
        }
    }
}

/// A requester id: what remapping hardware knows devices by. Devices behind a bridge to conventional PCI share one.
pub(crate) struct Requester {
    pub(crate) number: u32,
    source: Number,
    /// A present device that uses it; [`NONE`] in a free place.
    pub(crate) first_user: Number,
    /// Present devices that use it.
    pub(crate) users: Number,
    chain: Number,
    /// Switched by the transfer under way, to be switched back if that fails.
    pub(crate) switched: AtomicBool,
    /// Whether a unit translates its DMA.
    pub(crate) translated: AtomicBool,
    /// The distance of its phantom functions' ids, which go where it goes; 0 for none.
    phantom_stride: Number,
    /// The number of a domain that its DMA may reach beside where its devices are; [`NONE`] where all is certain, [`NO_DOMAIN`] where it may reach
    /// another place that is no domain's.
    stray: Number,
}

/// See [`Requester::set_uncertain`].
const NO_DOMAIN: u32 = NONE - 1;

impl Requester {
    pub(crate) fn source(&self) -> Sbdf {
        Sbdf::from_raw(self.source.get())
    }

    /// Does something with its id and with those of its phantom functions, up to the first failure.
    #[inline]
    pub(crate) fn try_for_each_id<E>(&self, mut each: impl FnMut(Sbdf) -> Result<(), E>) -> Result<(), E> {
        each(self.source())?;
        match self.phantoms() {
            Some(phantoms) => phantoms.iter().try_for_each(each),
            None => Ok(()),
        }
    }

    fn phantoms(&self) -> Option<FurtherIds> {
        if self.phantom_stride.get() == 0 {
            return None;
        }
        FurtherIds::phantom(self.source(), self.phantom_stride.get() as u8)
    }

    /// Whether nobody knows where its DMA goes.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.stray.get() != NONE
    }

    /// Whether it may reach the domain of this number by a move that failed.
    pub(crate) fn may_reach(&self, domain: u32) -> bool {
        self.stray.get() == domain
    }

    /// From now on it may reach the domain of this number, or its quarantine, beside where its devices are.
    pub(crate) fn set_uncertain(&self, domain: Option<u32>) {
        self.stray.set(domain.unwrap_or(NO_DOMAIN));
    }

    pub(crate) fn set_certain(&self) {
        self.stray.set(NONE);
    }

    /// Its quarantine's id; domains have the ids below.
    pub(crate) fn space_id(&self) -> SpaceId {
        SpaceId(self.number | 1 << 31)
    }
}

/// What the DMA of a requester goes through in quarantine: its devices' regions and nothing else. `None` when they have none: its DMA is blocked then.
pub(crate) type Quarantine<S> = Lock<Option<S>>;

/// The requester ids in use.
pub(crate) struct Requesters<'m, S> {
    places: &'m [Requester],
    /// By the requesters' numbers.
    quarantines: &'m [Quarantine<S>],
    index: Index<'m>,
    free: u32,
    /// Whether any requester ever had phantom functions, which few devices have.
    has_phantoms: bool,
}

impl<'m, S> Requesters<'m, S> {
    pub(crate) fn new(capacity: usize, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let places: &'m [Requester] = arena.slice(capacity, |index| {
            let number = u32::try_from(index).unwrap_or(NONE);
            let next = number.saturating_add(1);
            Requester {
                number,
                source: Number::new(0),
                first_user: Number::new(NONE),
                users: Number::new(0),
                chain: Number::new(if next as usize >= capacity { NONE } else { next }),
                switched: AtomicBool::new(false),
                translated: AtomicBool::new(false),
                phantom_stride: Number::new(0),
                stray: Number::new(NONE),
            }
        })?;
        let quarantines: &'m [Quarantine<S>] = arena.slice(capacity, |_| Lock::new(Rank::Tables, None))?;
        let free = if capacity == 0 { NONE } else { 0 };
        Ok(Self { places, quarantines, index: Index::new(capacity, arena)?, free, has_phantoms: false })
    }

    pub(crate) fn of(&self, device: &Device) -> Option<&'m Requester> {
        self.places.get(device.requester.get() as usize)
    }

    pub(crate) fn find(&self, source: Sbdf) -> Option<&'m Requester> {
        self.index.find(source, |number| {
            self.places.get(number as usize).filter(|requester| requester.source() == source)
        })
    }

    /// The requester that `source` belongs to, as its phantom function too.
    pub(crate) fn find_with_phantoms(&self, source: Sbdf) -> Option<&'m Requester> {
        self.find(source).or_else(|| {
            if !self.has_phantoms {
                return None;
            }
            let function = source.function();
            let bases = [4, 2, 1].map(|stride: u8| {
                Sbdf::from_raw(source.raw() & !7 | u32::from(function & stride.wrapping_sub(1)))
            });
            let mut owners = bases.into_iter().filter_map(|base| self.find(base));
            owners.find(|owner| owner.phantoms().is_some_and(|ids| ids.contains(source)))
        })
    }

    pub(crate) fn insert(&mut self, source: Source) -> Option<&'m Requester> {
        let requester = self.places.get(self.free as usize)?;
        self.free = requester.chain.get();
        requester.source.set(source.id.raw());
        requester.phantom_stride.set(source.phantom_stride.into());
        self.has_phantoms |= source.phantom_stride != 0;
        requester.first_user.set(NONE);
        requester.users.set(0);
        requester.set_certain();
        self.index.insert(source.id, requester.number);
        Some(requester)
    }

    /// Frees the place and returns its quarantine space.
    pub(crate) fn remove(&mut self, requester: &'m Requester) -> Option<S> {
        let source_of = |number| self.places.get(number as usize).map(Requester::source);
        self.index.remove(requester.source(), requester.number, source_of);
        requester.chain.set(self.free);
        self.free = requester.number;
        self.quarantine(requester)?.lock().take()
    }

    pub(crate) fn quarantine(&self, requester: &Requester) -> Option<&'m Quarantine<S>> {
        self.quarantines.get(requester.number as usize)
    }
}

/// A domain's place.
pub(crate) struct Domain<S> {
    pub(crate) number: u32,
    /// Its id, or [`NONE`] in a free place.
    id: Number,
    /// Its address space. The lock is the domain's table lock; it comes after the ownership lock, and no other table lock is taken under it.
    pub(crate) space: Lock<Option<S>>,
}

impl<S> Domain<S> {
    pub(crate) fn id(&self) -> Option<DomId> {
        u16::try_from(self.id.get()).ok().map(DomId)
    }

    pub(crate) fn space_id(&self) -> SpaceId {
        SpaceId(self.number)
    }

    pub(crate) fn occupy(&self, id: DomId, space: S) {
        *self.space.lock() = Some(space);
        self.id.set(id.0.into());
    }

    pub(crate) fn vacate(&self) -> Option<S> {
        self.id.set(NONE);
        self.space.lock().take()
    }
}

/// Places for `capacity` domains.
pub(crate) fn domains<'m, S>(capacity: usize, arena: &mut Arena<'m>) -> Result<&'m [Domain<S>], OutOfMemory> {
    let places = arena.slice(capacity, |index| Domain {
        number: u32::try_from(index).unwrap_or(NONE),
        id: Number::new(NONE),
        space: Lock::new(Rank::Tables, None),
    })?;
    Ok(places)
}
