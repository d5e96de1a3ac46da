//! What a DMAR table says, and what follows from it: units, regions with verdicts, devices, groups.
//!
//! [`Report::new`] reads a table, damaged or not; [`text`], [`json`] and [`picture`] show it.

pub mod groups;
pub mod json;
pub mod picture;
mod read;
pub mod sentence;
pub mod text;

use std::collections::{BTreeSet, HashMap};

use acpi_dmar::{Dmar, DrhdFlags, Rmrr, Structure};
use p2m::MfnRange;
use xen_iommu::Sbdf;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::Host;
use xen_iommu::region::memory::{FramesInUse, MemoryKind, MemoryRegion, ReserveFrames};
use xen_iommu::region::record::{Devices, Origin, Record};
use xen_iommu::region::verdict::Verdict;

use crate::device::Device;
use crate::machine::Machine;
use groups::Group;
use read::Named;

/// A remapping unit and what it translates.
#[derive(Debug)]
pub struct Unit {
    /// Physical address of its registers.
    pub base: u64,
    /// Bytes of its registers.
    pub bytes: u64,
    /// PCI segment group of its devices.
    pub segment: u16,
    /// Whether it also translates every device of the segment that no other unit names (`INCLUDE_PCI_ALL`).
    pub includes_all: bool,
    /// The devices it names; a bridge stands for what is below it.
    pub devices: BTreeSet<Device>,
    /// Of these, the bridges.
    pub bridges: BTreeSet<Device>,
    /// What else it names, or names wrongly, each in a few words.
    pub others: Vec<String>,
}

/// A reserved region.
#[derive(Debug)]
pub struct Region {
    /// Physical address of the first byte.
    pub base: u64,
    /// Physical address of the last byte, inclusive.
    pub limit: u64,
    /// What becomes of it on the machine or, without one, by its bounds alone.
    pub verdict: Verdict,
    /// The devices that use it, in the table's order, each once.
    pub devices: Vec<Device>,
    /// Of the devices, the bridges whose scope means all that is below them.
    pub bridges: BTreeSet<Device>,
    /// What its scopes name that is no PCI device, or name wrongly, each in a few words.
    pub remarks: Vec<String>,
}

impl Region {
    /// How many bytes it has; `None` if its base is above its limit.
    #[must_use]
    pub fn bytes(&self) -> Option<u128> {
        self.limit.checked_sub(self.base).map(|less_one| u128::from(less_one) + 1)
    }
}

/// Everything that can be said of a table.
#[derive(Debug)]
pub struct Report<'a> {
    /// The table, as far as it can be read.
    pub dmar: Option<Dmar<'a>>,
    /// What is wrong with it, each with its place, value and rule.
    pub errors: Vec<String>,
    /// The remapping units in the table's order.
    pub units: Vec<Unit>,
    /// The reserved regions in the table's order.
    pub regions: Vec<Region>,
    /// Every device that has a region and, on a machine, every function that is there.
    pub devices: Vec<Device>,
    /// Those that must stay together; a device alone is a group of one.
    pub groups: Vec<Group>,
    /// The machine that it was read for.
    pub machine: Option<&'a Machine>,
    /// For each device, the regions that it uses and the unit that translates it, by number.
    places: Vec<Place>,
}

#[derive(Debug, Default)]
struct Place {
    regions: Vec<usize>,
    unit: Option<usize>,
}

impl<'a> Report<'a> {
    /// Reads the table at the start of `bytes`, for `machine` or by itself. Never fails: what is wrong is in [`Report::errors`].
    #[must_use]
    pub fn new(bytes: &'a [u8], machine: Option<&'a Machine>) -> Self {
        let mut errors = Vec::new();
        let dmar = Dmar::parse_lenient(bytes, |error| errors.push(error.to_string()));
        let mut report = Self {
            dmar,
            errors,
            units: Vec::new(),
            regions: Vec::new(),
            devices: Vec::new(),
            groups: Vec::new(),
            machine,
            places: Vec::new(),
        };
        if let Some(dmar) = dmar {
            report.read(&dmar);
        }
        report
    }

    /// A report of a file that could not be read at all.
    #[must_use]
    pub fn unreadable(error: String) -> Self {
        let mut report = Self::new(&[], None);
        report.errors = vec![error];
        report
    }

    fn read(&mut self, dmar: &Dmar<'_>) {
        for structure in dmar.structures() {
            let structure = match structure {
                Ok(structure) => structure,
                Err(error) => {
                    self.errors.push(error.to_string());
                    continue;
                }
            };
            let wrong = structure.scopes().filter_map(Result::err);
            self.errors.extend(wrong.map(|error| error.to_string()));
            match structure {
                Structure::Drhd(drhd) => self.units.push(
                    Unit {
                        base: drhd.register_base(),
                        bytes: drhd.register_bytes(),
                        segment: drhd.segment(),
                        includes_all: drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL),
                        devices: BTreeSet::new(),
                        bridges: BTreeSet::new(),
                        others: Vec::new(),
                    }
                    .with(&Named::of(&structure, dmar, self.machine)),
                ),
                Structure::Rmrr(rmrr) => {
                    let named = Named::of(&structure, dmar, self.machine);
                    let region = self.region(&rmrr, dmar.host_address_width(), named);
                    self.regions.push(region);
                }
                _ => {}
            }
        }
        let mut devices: BTreeSet<_> =
            self.regions.iter().flat_map(|region| region.devices.iter().cloned()).collect();
        if let Some(machine) = self.machine {
            devices.extend(machine.pci.addresses().map(Device::at));
        }
        self.devices = devices.into_iter().collect();
        self.places = self.find_places();
        self.groups = groups::groups(&self.devices, &self.regions, self.machine);
    }

    fn region(&self, rmrr: &Rmrr<'_>, width: u8, named: Named) -> Region {
        // Without a map only the bounds can be judged: all memory counts as reserved then.
        let everything = [MemoryRegion { start: 0, end: u64::MAX, kind: MemoryKind::Reserved }];
        let map = self.machine.and_then(|machine| machine.memory.as_deref()).unwrap_or(&everything);
        let mut host = Host {
            pci: &(),
            memory: map,
            frames: &mut GivesRam,
            address_width: width,
            windows: &[] as &[Window; 0],
            unit_width: &|_| None,
        };
        // Whoever it is that a scope names.
        let any = [Devices::Requesters { first: Sbdf::from_raw(0), last: Sbdf::from_raw(u32::MAX) }];
        let devices = if rmrr.scopes().any(|scope| scope.is_ok()) { &any[..] } else { &[] };
        let origin = Origin::Dmar { offset: rmrr.offset() };
        let verdict = host.judge(&Record::identity(rmrr.base(), rmrr.limit(), origin, devices));
        let all_absent = self.machine.is_some() && named.present.is_empty() && !named.devices.is_empty();
        Region {
            base: rmrr.base(),
            limit: rmrr.limit(),
            verdict: if all_absent { verdict.dormant() } else { verdict },
            devices: named.devices,
            bridges: named.bridges,
            remarks: named.remarks,
        }
    }

    fn find_places(&self) -> Vec<Place> {
        let mut users: HashMap<&Device, Vec<usize>> = HashMap::new();
        let mut bridge_regions: HashMap<&Device, Vec<usize>> = HashMap::new();
        for (number, region) in self.regions.iter().enumerate() {
            region.devices.iter().for_each(|device| users.entry(device).or_default().push(number));
            region.bridges.iter().for_each(|bridge| bridge_regions.entry(bridge).or_default().push(number));
        }
        let (mut named, mut bridges, mut all) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (number, unit) in self.units.iter().enumerate() {
            for device in &unit.devices {
                named.entry(device).or_insert(number);
            }
            for bridge in &unit.bridges {
                bridges.entry(bridge).or_insert(number);
            }
            if unit.includes_all {
                all.entry(unit.segment).or_insert(number);
            }
        }
        let place = |device: &Device| {
            let mut regions = users.get(device).cloned().unwrap_or_default();
            let mut unit = named.get(device).copied();
            // The nearest bridge is the most specific.
            let above: Vec<_> = device.bridges().collect();
            for bridge in above.iter().rev() {
                regions.extend(bridge_regions.get(bridge).into_iter().flatten());
                unit = unit.or_else(|| bridges.get(bridge).copied());
            }
            regions.sort_unstable();
            regions.dedup();
            Place { regions, unit: unit.or_else(|| all.get(&device.segment).copied()) }
        };
        self.devices.iter().map(place).collect()
    }

    /// The unit that translates the device of a number: one that names it, else one that includes all of its segment.
    #[must_use]
    pub fn unit_of(&self, device: usize) -> Option<&Unit> {
        self.units.get(self.places.get(device)?.unit?)
    }

    /// The regions of the device of a number, by number; also those of a bridge above it.
    pub fn regions_of(&self, device: usize) -> impl Iterator<Item = (usize, &Region)> {
        let numbers = self.places.get(device).map_or(&[][..], |place| &place.regions);
        numbers.iter().map(|&number| (number, &self.regions[number]))
    }

    /// Whether the machine has `device`; `None` where there is no machine to look at.
    #[must_use]
    pub fn is_present(&self, device: &Device) -> Option<bool> {
        let machine = self.machine?;
        Some(device.address().is_some_and(|address| machine.pci.has(address)))
    }
}

impl Unit {
    fn with(mut self, named: &Named) -> Self {
        self.devices.extend(named.devices.iter().cloned());
        self.bridges.extend(named.bridges.iter().cloned());
        self.others.extend(named.remarks.iter().cloned());
        self
    }
}

/// A hypervisor that can take any frames out of its RAM: what a tool can only suppose.
struct GivesRam;

impl ReserveFrames for GivesRam {
    fn take_out_of_ram(&mut self, _: MfnRange) -> Result<(), FramesInUse> {
        Ok(())
    }
}
