//! Who can reach whom beside the remapping unit, as VFIO makes its groups (Linux `pci_device_group`).
//!
//! From a function one goes up to the topmost bridge that does not isolate, because it puts its own ids in
//! place of those below it or has no ACS. All that is below that bridge shares its fate. On the bus where
//! that leads to, functions are together that are of one device and have no ACS, or that carry one requester
//! id. The lowest of them stands for them all.

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::acs;
use crate::pci::alias::{MAX_IDS, RequesterIds, ids_of_bridge};
use crate::pci::buses::{Buses, Functions, Upstream};
use crate::platform::Sbdf;

/// What the way from a bus up to the root complex does to the functions on it.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    ids: [Option<Sbdf>; MAX_IDS],
    complete: bool,
    /// What stands for all below the topmost bridge that does not isolate, where there is one.
    pub(crate) shared: Option<Sbdf>,
}

impl Way {
    pub(crate) fn read(
        buses: &Buses<'_>,
        bus: u8,
        peers_closed: bool,
        pci: &impl ConfigRegionAccess,
    ) -> Self {
        let mut way = Self { ids: [None; MAX_IDS], complete: true, shared: None };
        let mut places = way.ids.iter_mut();
        let mut topmost = None;
        let mut bridges = Upstream::new(buses, bus);
        while let Some(bridge) = bridges.next() {
            let parent = bridges.clone().next().map(|parent| parent.sbdf);
            let ids = ids_of_bridge(bridge, parent, pci);
            for id in ids.into_iter().flatten() {
                match places.next() {
                    Some(place) => *place = Some(id),
                    None => way.complete = false,
                }
            }
            if ids != [None, None] || !isolates(buses, bridge.sbdf, peers_closed, pci) {
                topmost = Some(bridge.sbdf);
            }
        }
        way.shared = topmost
            .map(|bridge| Neighbours::read(buses, bridge.bus(), peers_closed, pci).together(bridge, pci));
        way
    }

    /// Adds the ids that the bridges put in place of a function's.
    pub(crate) fn add_to(&self, ids: &mut RequesterIds) {
        for id in self.ids.into_iter().flatten() {
            ids.add(id);
        }
        if !self.complete {
            ids.leave_incomplete();
        }
    }
}

fn isolates(buses: &Buses<'_>, function: Sbdf, peers_closed: bool, pci: &impl ConfigRegionAccess) -> bool {
    let ari = buses.alternative_ids(function.bus(), pci);
    let (_, multifunction) = buses.device(function, ari, pci);
    acs::isolates(function, multifunction, peers_closed, pci)
}

/// The functions of one bus, as far as they may be together.
pub(crate) struct Neighbours {
    all: Functions,
    /// Those that are one of several of their device, and do not isolate.
    open: Functions,
    /// Those that may carry another id than their own.
    aliased: Functions,
    ari: bool,
}

impl Neighbours {
    pub(crate) fn read(
        buses: &Buses<'_>,
        bus: u8,
        peers_closed: bool,
        pci: &impl ConfigRegionAccess,
    ) -> Self {
        let all = buses.functions_on(bus, pci);
        let none = Functions::on(buses.range.segment, bus);
        let ari = buses.alternative_ids(bus, pci);
        let mut found = Self { all, open: none, aliased: none, ari };
        for function in all.iter() {
            let (_, multifunction) = buses.device(function, ari, pci);
            if multifunction && !acs::isolates(function, multifunction, peers_closed, pci) {
                found.open.insert(function);
            }
            if ids_of(function, pci) != RequesterIds::one(function) {
                found.aliased.insert(function);
            }
        }
        found
    }

    /// All that answer.
    pub(crate) const fn all(&self) -> &Functions {
        &self.all
    }

    const fn device(&self, function: Sbdf) -> u8 {
        if self.ari { 0 } else { function.device() }
    }

    /// The lowest of the functions that are together with `start`, however many others lie between.
    pub(crate) fn together(&self, start: Sbdf, pci: &impl ConfigRegionAccess) -> Sbdf {
        let mut members = Functions::on(start.segment(), start.bus());
        // What the members may carry, and the devices that open ones are of.
        let mut carried = members;
        let mut devices = 0_u32;
        let mut next = Some(start);
        while let Some(function) = next {
            members.insert(function);
            if self.open.contains(function) {
                devices |= 1_u32.checked_shl(self.device(function).into()).unwrap_or(0);
            }
            let ids = ids_of(function, pci);
            ids.iter().for_each(|id| carried.insert(id));
            if !ids.is_complete() {
                carried.insert_all();
            }
            next = self.all.iter().find(|one| {
                let is_open = || self.open.contains(*one) && devices >> self.device(*one) & 1 != 0;
                let meets = || {
                    let ids = ids_of(*one, pci);
                    !ids.is_complete() || ids.iter().any(|id| carried.contains(id))
                };
                !members.contains(*one)
                    && (is_open() || carried.contains(*one) || self.aliased.contains(*one) && meets())
            });
        }
        members.lowest().unwrap_or(start)
    }
}

/// The ids that a function may carry as it leaves its bus.
fn ids_of(function: Sbdf, pci: &impl ConfigRegionAccess) -> RequesterIds {
    let mut ids = RequesterIds::one(function);
    ids.add_of_function(function, pci);
    ids
}
