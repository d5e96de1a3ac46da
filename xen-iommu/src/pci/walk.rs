//! The functions of a machine, and what the policy needs to know of each.

use core::fmt;

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::arena::{Arena, OutOfMemory};
use crate::pci::acs::{self, Enabled};
use crate::pci::alias::RequesterIds;
use crate::pci::buses::{Bridge, Bus, BusRange, Buses, Upstream};
use crate::pci::class::DeviceClass;
use crate::pci::config::Space;
use crate::pci::functions::{FunctionIds, enabled_virtual_functions};
use crate::pci::isolation::{Neighbours, Way};
use crate::pci::role::Role;
use crate::platform::Sbdf;

/// A PCI function as the policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub sbdf: Sbdf,
    /// The part that it plays.
    pub role: Role,
    /// What its reserved regions are for; a virtual function's is its physical function's.
    pub class: DeviceClass,
    /// Every requester id that its DMA may carry.
    pub ids: RequesterIds,
    /// What stands for all that it shares a way with beside the remapping unit. Two functions with the same
    /// value can reach each other, or forge each other's ids; functions with different values cannot. It is
    /// the function itself, or the lowest function on the bus where the ways part.
    pub isolation: Sbdf,
}

impl Function {
    /// A device that is alone: with its own id, and isolated.
    #[must_use]
    pub const fn endpoint(sbdf: Sbdf) -> Self {
        Self {
            sbdf,
            role: Role::Endpoint,
            class: DeviceClass::Other,
            ids: RequesterIds::one(sbdf),
            isolation: sbdf,
        }
    }
}

impl From<Sbdf> for Function {
    fn from(sbdf: Sbdf) -> Self {
        Self::endpoint(sbdf)
    }
}

/// Which bridges lead where on this machine.
///
/// It remembers the bridges, and nothing of devices: those are read when they are asked for, so that hot-plug
/// of a device needs nothing here, and that of a bridge one [`update`](Self::update).
pub struct Topology<'m> {
    ranges: &'m mut [Buses<'m>],
    pch_peers_closed: bool,
}

impl<'m> Topology<'m> {
    /// The bytes of an [`Arena`] that [`read`](Self::read) takes at most.
    #[must_use]
    pub fn memory(ranges: &[BusRange]) -> usize {
        let buses = ranges.iter().map(|range| range.len().saturating_mul(size_of::<Bus>()));
        let tables = ranges.len().saturating_mul(size_of::<Buses<'_>>());
        // Each piece may begin at any address.
        let gaps = ranges.len().saturating_mul(align_of::<Bus>()).saturating_add(align_of::<Buses<'_>>());
        buses.fold(tables.saturating_add(gaps), usize::saturating_add)
    }

    /// Reads the bridges of the buses that can be reached, as MCFG names them: some 32 reads a bus, and a few
    /// dozen a bridge. A bus that is in several ranges is in the first.
    ///
    /// # Errors
    /// [`OutOfMemory`] when `arena` has less than [`memory`](Self::memory) left.
    pub fn read(
        pci: &impl ConfigRegionAccess,
        ranges: &[BusRange],
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let places = arena.slice(ranges.len(), |_| Buses::empty())?;
        for (place, range) in places.iter_mut().zip(ranges) {
            *place = Buses::new(*range, arena)?;
            place.read(pci);
        }
        Ok(Self { ranges: places, pch_peers_closed: false })
    }

    /// Says that the root ports of an Intel PCH cannot reach each other, because the hypervisor has seen to
    /// it: see [`PchPeers`](crate::pci::PchPeers).
    pub const fn set_pch_peers_closed(&mut self, closed: bool) {
        self.pch_peers_closed = closed;
    }

    /// Reads again which buses `bridge` leads to: after it was added, removed or given other buses.
    pub fn update(&mut self, bridge: Sbdf, pci: &impl ConfigRegionAccess) {
        if let Some(buses) = self.ranges.iter_mut().find(|buses| buses.range.contains(bridge)) {
            buses.update(bridge, pci);
        }
    }

    fn buses(&self, function: Sbdf) -> Option<&Buses<'m>> {
        self.ranges.iter().find(|buses| buses.range.contains(function))
    }

    /// The bridges above `function`, whether or not it is present, nearest first.
    pub fn upstream(&self, function: Sbdf) -> impl Iterator<Item = Bridge> + '_ {
        self.buses(function).into_iter().flat_map(move |buses| Upstream::new(buses, function.bus()))
    }

    /// Visits every function that is there, the virtual ones that are enabled included, each once. Those of a
    /// bus come lowest first, a physical function's virtual functions right after it.
    pub fn functions(&self, pci: &impl ConfigRegionAccess, visit: &mut dyn FnMut(Function)) {
        for buses in &*self.ranges {
            for bus in buses.range.first..=buses.range.last {
                self.functions_on(buses, bus, pci, visit);
            }
        }
    }

    fn functions_on(
        &self,
        buses: &Buses<'m>,
        bus: u8,
        pci: &impl ConfigRegionAccess,
        visit: &mut dyn FnMut(Function),
    ) {
        let here = Neighbours::read(buses, bus, self.pch_peers_closed, pci);
        if here.all().lowest().is_none() {
            return;
        }
        let way = Way::read(buses, bus, self.pch_peers_closed, pci);
        let mut earlier = Earlier::default();
        for sbdf in here.all().iter().filter(|one| self.is_first(buses, *one)) {
            let function = describe(sbdf, &way, &here, pci);
            visit(function);
            let virtuals = match function.role {
                Role::Physical => enabled_virtual_functions(sbdf, pci),
                _ => None,
            };
            for id in virtuals.into_iter().flat_map(FunctionIds::iter) {
                if self.may_be_virtual(buses, id, sbdf, pci)
                    && !earlier.have(id, || physical_of(buses, id, pci) != Some(sbdf))
                {
                    visit(describe_virtual(id, &function, &way));
                }
            }
            earlier.add(virtuals);
        }
    }

    /// What `function` is; `None` where none is, or where it cannot be reached.
    pub fn function(&self, function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Function> {
        let buses = self.buses(function)?;
        let read = |bus| {
            let here = Neighbours::read(buses, bus, self.pch_peers_closed, pci);
            (Way::read(buses, bus, self.pch_peers_closed, pci), here)
        };
        if buses.answers(function, pci) {
            let (way, here) = read(function.bus());
            return Some(describe(function, &way, &here, pci));
        }
        let physical = physical_of(buses, function, pci)?;
        if !self.may_be_virtual(buses, function, physical, pci) {
            return None;
        }
        let (way, here) = read(physical.bus());
        Some(describe_virtual(function, &describe(physical, &way, &here, pci), &way))
    }

    /// Whether `id` can be a virtual function of `physical`: its bus is for that, and no function answers
    /// there.
    fn may_be_virtual(
        &self,
        buses: &Buses<'m>,
        id: Sbdf,
        physical: Sbdf,
        pci: &impl ConfigRegionAccess,
    ) -> bool {
        // The second is a quick answer for most of what a greedy device claims.
        buses.range.contains(id)
            && buses.above(id.bus()) == buses.above(physical.bus())
            && buses.home(id.bus()) == physical.bus()
            && self.is_first(buses, id)
            && !Space::new(id, pci).present()
    }

    /// Whether this is the range that answers for `function`.
    fn is_first(&self, buses: &Buses<'m>, function: Sbdf) -> bool {
        self.buses(function).is_some_and(|first| core::ptr::eq(first, buses))
    }

    /// Switches ACS on wherever it is offered, as [`acs::enable`] does for one function, and says what became
    /// of it. To be called before functions are asked for.
    pub fn enable_acs(&self, pci: &impl ConfigRegionAccess, visit: &mut dyn FnMut(Sbdf, Enabled)) {
        for buses in &*self.ranges {
            for bus in buses.range.first..=buses.range.last {
                for function in buses.functions_on(bus, pci).iter() {
                    if let Some(enabled) = acs::enable(function, pci) {
                        visit(function, enabled);
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Topology<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridges = self.ranges.iter().flat_map(Buses::bridges);
        f.debug_list().entries(bridges).finish()
    }
}

fn describe(sbdf: Sbdf, way: &Way, here: &Neighbours, pci: &impl ConfigRegionAccess) -> Function {
    let mut ids = RequesterIds::one(sbdf);
    ids.add_of_function(sbdf, pci);
    way.add_to(&mut ids);
    Function {
        sbdf,
        role: Role::read(&Space::new(sbdf, pci)),
        class: DeviceClass::read(sbdf, pci),
        ids,
        isolation: way.shared.unwrap_or_else(|| here.together(sbdf, pci)),
    }
}

/// A virtual function has its physical function's way, and ACS has nothing to control between those of one:
/// Linux takes them for single functions.
fn describe_virtual(id: Sbdf, physical: &Function, way: &Way) -> Function {
    let mut ids = RequesterIds::one(id);
    way.add_to(&mut ids);
    Function {
        sbdf: id,
        role: Role::Virtual { physical: physical.sbdf },
        class: physical.class,
        ids,
        isolation: way.shared.unwrap_or(id),
    }
}

/// The function whose virtual function `id` is: where several claim it, the lowest.
fn physical_of(buses: &Buses<'_>, id: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Sbdf> {
    let candidates = buses.functions_on(buses.home(id.bus()), pci);
    candidates.iter().find(|physical| {
        Role::read(&Space::new(*physical, pci)) == Role::Physical
            && enabled_virtual_functions(*physical, pci).is_some_and(|ids| ids.contains(id))
    })
}

/// The virtual functions of the functions that were visited before on a bus, as far as there is room.
#[derive(Default)]
struct Earlier {
    claims: [Option<FunctionIds>; 8],
    count: usize,
    more: bool,
}

impl Earlier {
    fn add(&mut self, ids: Option<FunctionIds>) {
        if ids.is_none() {
            return;
        }
        match self.claims.get_mut(self.count) {
            Some(place) => {
                *place = ids;
                self.count = self.count.saturating_add(1);
            }
            None => self.more = true,
        }
    }

    fn have(&self, id: Sbdf, ask: impl FnOnce() -> bool) -> bool {
        self.claims.iter().flatten().any(|ids| ids.contains(id)) || self.more && ask()
    }
}
