//! Who can reach whom beside the remapping unit, as VFIO makes its groups (Linux `pci_device_group`).
//!
//! From a function one goes up to the topmost bridge that does not isolate, because it puts its own ids in place of those below it or has no ACS. All
//! that is below that bridge shares its fate. On the bus where that leads to, functions are together that are of one device and have no ACS, or that
//! carry one requester id. The lowest of them stands for them all.

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
        way.shared = topmost.map(|bridge| together(buses, bridge, peers_closed, pci));
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

/// The lowest of the functions on `start`'s bus that are together with it, however many others lie between.
pub(crate) fn together(
    buses: &Buses<'_>,
    start: Sbdf,
    peers_closed: bool,
    pci: &impl ConfigRegionAccess,
) -> Sbdf {
    let (segment, bus) = (start.segment(), start.bus());
    let ari = buses.alternative_ids(bus, pci);
    let mut found = Functions::on(segment, bus);
    // What those found carry, and the devices that they are of without ACS.
    let mut carried = Functions::on(segment, bus);
    let mut open_devices = 0_u32;
    let device_bit = |function| {
        let (device, multifunction) = buses.device(function, ari, pci);
        (1_u32.checked_shl(device.into()).unwrap_or(0), multifunction)
    };
    let is_open = |function, multifunction: bool| {
        multifunction && !acs::isolates(function, multifunction, peers_closed, pci)
    };
    let ids_of = |function| {
        let mut ids = RequesterIds::one(function);
        ids.add_of_function(function, pci);
        ids
    };
    let mut absorb = |function, carried: &mut Functions, open_devices: &mut u32| {
        found.insert(function);
        let ids = ids_of(function);
        ids.iter().for_each(|id| {
            carried.insert(id);
        });
        if !ids.is_complete() {
            carried.insert_all();
        }
        let (bit, multifunction) = device_bit(function);
        if is_open(function, multifunction) {
            *open_devices |= bit;
        }
        found
    };
    let mut members = absorb(start, &mut carried, &mut open_devices);
    let all = buses.functions_on(bus, pci);
    loop {
        let joins = |function: &Sbdf| {
            if members.contains(*function) {
                return false;
            }
            let ids = ids_of(*function);
            if !ids.is_complete() || ids.iter().any(|id| carried.contains(id)) {
                return true;
            }
            let (bit, multifunction) = device_bit(*function);
            open_devices & bit != 0 && is_open(*function, multifunction)
        };
        let Some(next) = all.iter().find(joins) else { break };
        members = absorb(next, &mut carried, &mut open_devices);
    }
    members.lowest().unwrap_or(start)
}
