//! The functions that are present, and who owns each.

use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use intrusive_collections::{Bound, KeyAdapter, RBTree, RBTreeAtomicLink, intrusive_adapter};

use super::ring::Ring;
use super::{Number, numbered};
use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;
use crate::owner::{Owner, QUARANTINE};
use crate::pci::{Function, Role};
use crate::platform::{DomId, Sbdf};
use crate::region::record::NONE;

/// What part a device has in the move under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// None.
    Idle,
    /// It gets another owner.
    Moves,
    /// It stays in quarantine, but is translated as one that moves, since nothing can tell their DMA apart.
    Accompanies,
}

/// A present device.
pub(crate) struct Device {
    by_sbdf: RBTreeAtomicLink,
    pub(crate) number: u32,
    sbdf: Number,
    owner: Number,
    /// The number of its requester.
    pub(crate) requester: Number,
    pub(crate) group: Ring,
    /// The same for all that are bound to each other.
    pub(crate) bound: Number,
    /// Where PCI's isolation ends, and the next device with the same.
    isolation: Number,
    next_not_isolated: Number,
    /// Its physical function, if it is a virtual one.
    physical: Number,
    /// The next in the selection of a move, in a group that is made anew, or among free places.
    pub(crate) next_in_list: Number,
    part: AtomicU8,
    flags: AtomicU16,
}

/// A bridge of any kind: no member of a group, and never assigned.
const BRIDGE: u16 = 1 << 0;
/// A physical function that can have virtual ones.
const PHYSICAL: u16 = 1 << 1;
const VIRTUAL: u16 = 1 << 2;
/// Its DMA may carry more requester ids than are known.
const INCOMPLETE: u16 = 1 << 6;
/// See [`Device::is_without_unit`].
const WITHOUT_UNIT: u16 = 1 << 8;
/// Its regions may be left out where they are in the way.
const RELAXABLE: u16 = 1 << 3;
/// Its owner has it by a relaxed move.
const RELAXED: u16 = 1 << 9;
/// Its DMA is off until it moves.
const QUIESCED: u16 = 1 << 4;
/// The move under way has it blocked, as it could not be switched off.
const BLOCKED_NOW: u16 = 1 << 7;
/// The move under way switched it off.
const QUIESCED_NOW: u16 = 1 << 5;

impl Device {
    pub(crate) fn sbdf(&self) -> Sbdf {
        Sbdf::from_raw(self.sbdf.get())
    }

    pub(crate) fn owner(&self) -> Owner {
        Owner::decode(self.owner.get())
    }

    /// Whether it has its group to itself.
    pub(crate) fn is_alone(&self) -> bool {
        self.group.is_alone(self.number)
    }

    pub(crate) fn is_bridge(&self) -> bool {
        self.has(BRIDGE)
    }

    pub(crate) fn is_physical(&self) -> bool {
        self.has(PHYSICAL)
    }

    /// Whether no unit translates ids that came with it, while its requester goes on with those that it had
    /// before.
    pub(crate) fn is_without_unit(&self) -> bool {
        self.has(WITHOUT_UNIT)
    }

    pub(crate) fn set_without_unit(&self) {
        self.set(WITHOUT_UNIT, true);
    }

    /// Whether all requester ids are known that its DMA may carry.
    pub(crate) fn has_all_ids(&self) -> bool {
        !self.has(INCOMPLETE)
    }

    /// The physical function of a virtual one.
    pub(crate) fn physical(&self) -> Option<Sbdf> {
        self.has(VIRTUAL).then(|| Sbdf::from_raw(self.physical.get()))
    }

    /// The lowest function or bridge above which everything isolates.
    pub(crate) fn isolation(&self) -> Sbdf {
        Sbdf::from_raw(self.isolation.get())
    }

    pub(crate) fn is_relaxable(&self) -> bool {
        self.has(RELAXABLE)
    }

    pub(crate) fn set_relaxable(&self) {
        self.set(RELAXABLE, true);
    }

    /// Whether its owner has it by a relaxed move, or may do without its regions.
    pub(crate) fn is_relaxed(&self) -> bool {
        self.has(RELAXED | RELAXABLE)
    }

    pub(crate) fn set_relaxed(&self, relaxed: bool) {
        self.set(RELAXED, relaxed);
    }

    pub(crate) fn is_quiesced(&self) -> bool {
        self.has(QUIESCED)
    }

    /// Whether the move under way switched its DMA off.
    pub(crate) fn is_quiesced_now(&self) -> bool {
        self.has(QUIESCED_NOW)
    }

    pub(crate) fn set_quiesced(&self, quiesced: bool) {
        self.set(QUIESCED, quiesced);
        self.set(QUIESCED_NOW, quiesced);
    }

    /// Whether the move under way has its DMA blocked.
    pub(crate) fn is_blocked_now(&self) -> bool {
        self.has(BLOCKED_NOW)
    }

    pub(crate) fn set_blocked_now(&self) {
        self.set(BLOCKED_NOW, true);
    }

    /// What the move did about its DMA stays beyond the move.
    pub(crate) fn keep_quiesced(&self) {
        self.set(QUIESCED_NOW | BLOCKED_NOW, false);
    }

    pub(crate) fn part(&self) -> Part {
        const MOVES: u8 = Part::Moves as u8;
        const ACCOMPANIES: u8 = Part::Accompanies as u8;
        match self.part.load(Ordering::Relaxed) {
            MOVES => Part::Moves,
            ACCOMPANIES => Part::Accompanies,
            _ => Part::Idle,
        }
    }

    pub(crate) fn set_part(&self, part: Part) {
        self.part.store(part as u8, Ordering::Relaxed);
    }

    fn has(&self, flag: u16) -> bool {
        self.flags.load(Ordering::Relaxed) & flag != 0
    }

    fn set(&self, flag: u16, to: bool) {
        let flags = self.flags.load(Ordering::Relaxed);
        self.flags.store(if to { flags | flag } else { flags & !flag }, Ordering::Relaxed);
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
    /// The first of those that are not isolated from each other, by where isolation ends.
    by_isolation: Index<'m>,
    free: u32,
    hardware_domain: Owner,
    /// How many the hardware domain does not have.
    away: Number,
}

impl<'m> Devices<'m> {
    pub(super) fn new(
        capacity: usize,
        hardware_domain: DomId,
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let places: &'m [Device] = arena.slice(capacity, |index| {
            let (number, next) = numbered(index, capacity);
            Device {
                by_sbdf: RBTreeAtomicLink::new(),
                number,
                sbdf: Number::new(0),
                owner: Number::new(QUARANTINE),
                requester: Number::new(NONE),
                group: Ring::alone(number),
                bound: Number::new(number),
                isolation: Number::new(0),
                next_not_isolated: Number::new(NONE),
                physical: Number::new(0),
                next_in_list: Number::new(next),
                part: AtomicU8::new(Part::Idle as u8),
                flags: AtomicU16::new(0),
            }
        })?;
        let free = if capacity == 0 { NONE } else { 0 };
        let (index, by_isolation) = (Index::new(capacity, arena)?, Index::new(capacity, arena)?);
        let by_sbdf = RBTree::new(BySbdf::new());
        let (hardware_domain, away) = (Owner::Domain(hardware_domain), Number::new(0));
        Ok(Self { places, by_sbdf, index, by_isolation, free, hardware_domain, away })
    }

    /// Makes somebody a present device's owner.
    pub(crate) fn set_owner(&self, device: &Device, owner: Owner) {
        self.count_away(device.owner(), false);
        device.owner.set(owner.encode());
        self.count_away(owner, true);
    }

    /// Whether the hardware domain has all of them.
    pub(crate) fn are_all_home(&self) -> bool {
        self.away.get() == 0
    }

    fn count_away(&self, owner: Owner, comes: bool) {
        if owner != self.hardware_domain {
            let away = self.away.get();
            self.away.set(if comes { away.saturating_add(1) } else { away.saturating_sub(1) });
        }
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

    /// The devices of a list, from the one of this number on.
    pub(crate) fn list(&self, first: u32) -> impl Iterator<Item = &'m Device> + use<'m> {
        let (places, mut next) = (self.places, first);
        core::iter::from_fn(move || {
            let device = places.get(next as usize)?;
            next = device.next_in_list.get();
            Some(device)
        })
    }

    /// The devices that nothing keeps apart from `device`, itself among them once it is in.
    pub(crate) fn not_isolated_from(&self, device: &Device) -> impl Iterator<Item = &'m Device> + use<'m> {
        let key = device.isolation();
        let first = self.first_not_isolated(key).map_or(NONE, |first| first.number);
        let (places, mut next) = (self.places, first);
        core::iter::from_fn(move || {
            let device = places.get(next as usize)?;
            next = device.next_not_isolated.get();
            Some(device)
        })
    }

    fn first_not_isolated(&self, key: Sbdf) -> Option<&'m Device> {
        self.by_isolation.find(key, |number| self.at(number).filter(|device| device.isolation() == key))
    }

    /// Takes a free place for a function, which must not be present, and gives it to the hardware domain.
    /// `None` when all places are taken.
    pub(crate) fn insert(&mut self, function: &Function, requester: u32) -> Option<&'m Device> {
        let device = self.at(self.free)?;
        self.free = device.next_in_list.get();
        device.next_in_list.set(NONE);
        device.sbdf.set(function.sbdf.raw());
        device.owner.set(self.hardware_domain.encode());
        device.requester.set(requester);
        device.isolation.set(function.isolation.raw());
        let flags = match function.role {
            Role::Bridge | Role::HostBridge => BRIDGE,
            Role::Physical => PHYSICAL,
            Role::Virtual { physical } => {
                device.physical.set(physical.raw());
                VIRTUAL
            }
            _ => 0,
        };
        let flags = if function.ids.is_complete() { flags } else { flags | INCOMPLETE };
        device.flags.store(flags, Ordering::Relaxed);
        self.by_sbdf.insert(device);
        self.index.insert(function.sbdf, device.number);
        if !device.is_bridge() {
            self.link_isolation(device);
        }
        Some(device)
    }

    /// How many places there are.
    pub(crate) fn capacity(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.free == NONE
    }

    pub(crate) fn remove(&mut self, device: &'m Device) {
        if self.by_sbdf.find_mut(&device.sbdf()).remove().is_some() {
            self.set_owner(device, self.hardware_domain);
            let sbdf_of = |number| self.places.get(number as usize).map(Device::sbdf);
            self.index.remove(device.sbdf(), device.number, sbdf_of);
            if !device.is_bridge() {
                self.unlink_isolation(device);
            }
            device.next_in_list.set(self.free);
            self.free = device.number;
        }
    }

    /// Behind the first of its list, or as the first.
    fn link_isolation(&mut self, device: &'m Device) {
        device.next_not_isolated.set(NONE);
        match self.first_not_isolated(device.isolation()) {
            Some(first) => {
                device.next_not_isolated.set(first.next_not_isolated.get());
                first.next_not_isolated.set(device.number);
            }
            None => self.by_isolation.insert(device.isolation(), device.number),
        }
    }

    fn unlink_isolation(&mut self, device: &'m Device) {
        let next = device.next_not_isolated.get();
        let before = self.not_isolated_from(device).find(|one| one.next_not_isolated.get() == device.number);
        if let Some(before) = before {
            before.next_not_isolated.set(next);
            return;
        }
        let key_of = |number| self.places.get(number as usize).map(Device::isolation);
        self.by_isolation.remove(device.isolation(), device.number, key_of);
        if next != NONE {
            self.by_isolation.insert(device.isolation(), next);
        }
    }
}
