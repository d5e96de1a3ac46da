//! Which bridge leads to which bus.
//!
//! Bus numbers are what bridges say, and bridges may say anything. A bridge is believed where it leads to a
//! higher bus than its own, inside the range of the bridge above it, that no other leads to; what it claims
//! beyond that range is cut off. So the way up from any bus ends.

use acpi_dmar::pci_types::ConfigRegionAccess;

use bitvec::BitArr;
use bitvec::array::BitArray;

use crate::arena::{Arena, OutOfMemory};
use crate::pci::config::{EXTENDED_ARI, Space};
use crate::pci::port::PortType;
use crate::platform::Sbdf;

/// Buses whose configuration space can be reached, as an entry of MCFG names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusRange {
    /// The PCI segment group.
    pub segment: u16,
    /// The first bus.
    pub first: u8,
    /// The last bus, inclusive.
    pub last: u8,
}

impl BusRange {
    pub(crate) const fn contains(self, function: Sbdf) -> bool {
        self.segment == function.segment() && self.first <= function.bus() && function.bus() <= self.last
    }

    pub(crate) fn len(self) -> usize {
        (self.first..=self.last).count()
    }
}

/// A bridge, and the buses below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bridge itself.
    pub sbdf: Sbdf,
    /// The bus right below it.
    pub secondary: u8,
    /// The last bus below it, inclusive.
    pub subordinate: u8,
}

/// How a bus is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bus {
    /// No bridge leads here: it is a root bus, if a function ever answered.
    Root { occupied: bool },
    /// The bridge with this bus, device and function leads here, and up to the last bus named.
    Below { bridge: u16, last: u8 },
    /// Of the buses below a bridge, but no bridge leads here: the virtual functions of what is on that
    /// bridge's secondary bus may be here.
    Within { secondary: u8 },
}

/// The buses of one range.
pub(crate) struct Buses<'m> {
    pub(crate) range: BusRange,
    buses: &'m mut [Bus],
}

impl<'m> Buses<'m> {
    /// Of no range.
    pub(crate) fn empty() -> Self {
        Self { range: BusRange { segment: 0, first: 1, last: 0 }, buses: &mut [] }
    }

    /// The bridges that lead somewhere.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = Bridge> + '_ {
        let buses = self.range.first..=self.range.last;
        buses.filter_map(|bus| self.above(bus).filter(|bridge| bridge.secondary == bus))
    }

    /// A place for a range's buses.
    pub(crate) fn new(range: BusRange, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let buses = arena.slice(range.len(), |_| Bus::Root { occupied: false })?;
        Ok(Self { range, buses })
    }

    fn index(&self, bus: u8) -> Option<usize> {
        bus.checked_sub(self.range.first).map(usize::from)
    }

    fn at(&self, bus: u8) -> Option<Bus> {
        self.buses.get(self.index(bus)?).copied()
    }

    fn put(&mut self, bus: u8, is: Bus) {
        if let Some(place) = self.index(bus).and_then(|index| self.buses.get_mut(index)) {
            *place = is;
        }
    }

    fn function(&self, source_id: u16) -> Sbdf {
        Sbdf::from_source_id(self.range.segment, source_id)
    }

    /// The bridge that leads to `bus`, or below which it is.
    pub(crate) fn above(&self, bus: u8) -> Option<Bridge> {
        let secondary = match self.at(bus)? {
            Bus::Root { .. } => return None,
            Bus::Below { .. } => bus,
            Bus::Within { secondary } => secondary,
        };
        match self.at(secondary)? {
            Bus::Below { bridge, last } => {
                Some(Bridge { sbdf: self.function(bridge), secondary, subordinate: last })
            }
            _ => None,
        }
    }

    /// The bus with the function whose virtual functions may be on `bus`.
    pub(crate) fn home(&self, bus: u8) -> u8 {
        match self.at(bus) {
            Some(Bus::Within { secondary }) => secondary,
            // An integrated function's: on the root bus before, as long as nothing else is here.
            Some(Bus::Root { occupied: false }) => (self.range.first..bus)
                .rev()
                .find(|&lower| self.at(lower) == Some(Bus::Root { occupied: true }))
                .unwrap_or(bus),
            _ => bus,
        }
    }

    /// Whether functions that answer can be on `bus`.
    pub(crate) fn can_hold(&self, bus: u8) -> bool {
        matches!(self.at(bus), Some(Bus::Root { .. } | Bus::Below { .. }))
    }

    /// Whether the functions on `bus` have 8-bit numbers and no device number (ARI): the port above it says
    /// so (PCI Express base specification 5.0, 6.13 and 7.5.3.16).
    pub(crate) fn alternative_ids(&self, bus: u8, pci: &impl ConfigRegionAccess) -> bool {
        let Some(bridge) = self.above(bus).filter(|bridge| bridge.secondary == bus) else { return false };
        let port = Space::new(bridge.sbdf, pci);
        let Some(express) = port.express() else { return false };
        matches!(express.port, PortType::RootPort | PortType::Downstream)
            && express.version >= 2
            && express.offset.checked_add(0x28).is_some_and(|control| port.read(control) & 1 << 5 != 0)
    }

    /// Whether the device that `function` is part of has several, and the device's number.
    pub(crate) fn device(&self, function: Sbdf, ari: bool, pci: &impl ConfigRegionAccess) -> (u8, bool) {
        let device = if ari { 0 } else { function.device() };
        let first = Sbdf::new(function.segment(), function.bus(), device, 0);
        let space = Space::new(first, pci);
        let next_function = || {
            let ari = space.extended_capability(EXTENDED_ARI).and_then(|offset| offset.checked_add(4));
            ari.map_or(0, |offset| (space.read(offset) >> 8) as u8)
        };
        (device, space.multifunction() || ari && (function != first || next_function() != 0))
    }

    /// Whether a function answers where one can be. Some devices answer for numbers that they do not have.
    pub(crate) fn answers(&self, function: Sbdf, pci: &impl ConfigRegionAccess) -> bool {
        let at = |device, number| Sbdf::new(function.segment(), function.bus(), device, number);
        self.can_hold(function.bus())
            && Space::new(function, pci).present()
            && if self.alternative_ids(function.bus(), pci) {
                Space::new(at(0, 0), pci).present()
            } else {
                let first = Space::new(at(function.device(), 0), pci);
                function.function() == 0 || first.present() && first.multifunction()
            }
    }

    /// The functions that answer on `bus`, as they are now.
    pub(crate) fn functions_on(&self, bus: u8, pci: &impl ConfigRegionAccess) -> Functions {
        let mut found = Functions::on(self.range.segment, bus);
        if !self.can_hold(bus) {
            return found;
        }
        let at = |device, number| Sbdf::new(self.range.segment, bus, device, number);
        let present = |function| Space::new(function, pci).present();
        let ari = self.alternative_ids(bus, pci);
        if ari && !present(at(0, 0)) {
            return found;
        }
        // Ports lead to device 0 alone, but some hypervisors put more below one.
        for device in 0..32 {
            let first = at(device, 0);
            if !ari && !present(first) {
                continue;
            }
            let numbers = if ari || Space::new(first, pci).multifunction() { 8 } else { 1 };
            let numbers = (0..numbers).map(|number| at(device, number));
            numbers.filter(|one| present(*one)).for_each(|one| found.insert(one));
        }
        found
    }

    /// Reads all of it.
    pub(crate) fn read(&mut self, pci: &impl ConfigRegionAccess) {
        // Lower buses first: a bridge leads to a higher bus only, so that each bus's way up is known when its
        // turn comes.
        for bus in self.range.first..=self.range.last {
            self.read_bus(bus, pci);
        }
    }

    /// Looks for bridges on `bus`.
    fn read_bus(&mut self, bus: u8, pci: &impl ConfigRegionAccess) {
        let found = self.functions_on(bus, pci);
        if let Some(Bus::Root { .. }) = self.at(bus) {
            self.put(bus, Bus::Root { occupied: found.lowest().is_some() });
        }
        for function in found.iter() {
            self.claim(function, pci);
        }
    }

    /// Gives a bridge that answers the buses it claims, as far as they are its own.
    fn claim(&mut self, bridge: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Bridge> {
        let space = Space::new(bridge, pci);
        if !matches!(space.header(), 1 | 2) {
            return None;
        }
        let [_, secondary, subordinate, _] = space.read(0x18).to_le_bytes();
        let own = self.at(bridge.bus())?;
        let limit = match own {
            Bus::Below { last, .. } => last,
            _ => self.range.last,
        };
        let last = subordinate.min(limit);
        if secondary <= bridge.bus()
            || last < secondary
            || matches!(self.at(secondary), Some(Bus::Below { .. }))
        {
            return None;
        }
        self.put(secondary, Bus::Below { bridge: bridge.source_id(), last });
        for bus in secondary.saturating_add(1)..=last {
            // What another bridge has stays with it.
            let free = match self.at(bus) {
                Some(Bus::Root { .. }) => true,
                Some(Bus::Within { secondary }) => secondary == bridge.bus(),
                _ => false,
            };
            if free {
                self.put(bus, Bus::Within { secondary });
            }
        }
        self.above(secondary)
    }

    /// Reads again what `bridge` leads to: after it was added, removed or given other buses.
    pub(crate) fn update(&mut self, bridge: Sbdf, pci: &impl ConfigRegionAccess) {
        let freed = match self.at(bridge.bus()) {
            Some(Bus::Below { .. }) => Bus::Within { secondary: bridge.bus() },
            _ => Bus::Root { occupied: false },
        };
        let below = |buses: &Self, bus| Upstream::new(buses, bus).any(|above| above.sbdf == bridge);
        // Higher buses first, so that the way up from each is still whole.
        for bus in (self.range.first..=self.range.last).rev() {
            if below(self, bus) {
                self.put(bus, freed);
            }
        }
        if !self.answers(bridge, pci) {
            return;
        }
        let Some(claimed) = self.claim(bridge, pci) else { return };
        for bus in claimed.secondary..=claimed.subordinate {
            if below(self, bus) {
                self.read_bus(bus, pci);
            }
        }
    }
}

/// Functions of one bus.
#[derive(Clone, Copy)]
pub(crate) struct Functions {
    segment: u16,
    bus: u8,
    numbers: BitArr!(for 256, in u64),
}

impl Functions {
    /// None of `bus`.
    pub(crate) const fn on(segment: u16, bus: u8) -> Self {
        Self { segment, bus, numbers: BitArray::ZERO }
    }

    pub(crate) fn insert(&mut self, function: Sbdf) {
        self.numbers.set(function.devfn().into(), true);
    }

    pub(crate) fn insert_all(&mut self) {
        self.numbers.fill(true);
    }

    pub(crate) fn contains(&self, function: Sbdf) -> bool {
        (function.segment(), function.bus()) == (self.segment, self.bus)
            && self.numbers.get(usize::from(function.devfn())).is_some_and(|is| *is)
    }

    /// Lowest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Sbdf> + '_ {
        self.numbers.iter_ones().map(|number| self.at(number))
    }

    pub(crate) fn lowest(&self) -> Option<Sbdf> {
        self.numbers.first_one().map(|number| self.at(number))
    }

    fn at(&self, number: usize) -> Sbdf {
        Sbdf::new(self.segment, self.bus, (number >> 3) as u8, number as u8)
    }
}

/// The bridges above a bus, nearest first.
#[derive(Clone)]
pub(crate) struct Upstream<'a, 'm> {
    buses: &'a Buses<'m>,
    bus: Option<u8>,
}

impl<'a, 'm> Upstream<'a, 'm> {
    pub(crate) fn new(buses: &'a Buses<'m>, bus: u8) -> Self {
        Self { buses, bus: Some(bus) }
    }
}

impl Iterator for Upstream<'_, '_> {
    type Item = Bridge;

    fn next(&mut self) -> Option<Bridge> {
        let bridge = self.buses.above(self.bus?);
        // Always a lower bus: that is what makes a claim good.
        self.bus = bridge.map(|bridge| bridge.sbdf.bus());
        bridge
    }
}
