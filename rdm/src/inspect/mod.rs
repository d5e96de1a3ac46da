//! What a DMAR table says, and what follows from it: units, regions with verdicts, devices, groups.
//!
//! [`Report::new`] reads a table, damaged or not; [`text`], [`json`] and [`picture`] show it.

pub mod groups;
mod hardware;
pub mod json;
pub mod picture;
mod policy;
mod read;
pub mod reason;
pub mod sentence;
pub mod text;

use std::collections::BTreeSet;

use acpi_dmar::{Dmar, Drhd, DrhdFlags, Rmrr, Structure};
use xen_iommu::pci::Function;
use xen_iommu::region::choice::choose;
use xen_iommu::region::iommu_state::IommuState;
use xen_iommu::region::record::Origin;
use xen_iommu::region::verdict::Verdict;
use xen_iommu::{Isolation, RegionName, Sbdf};

use crate::device::Device;
use crate::machine::Machine;
use groups::Group;
pub use policy::Answers;
use policy::View;
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
    /// Where its structure is, in bytes from the table's start.
    pub offset: u32,
    /// What becomes of it on the machine or, without one, by the table alone.
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
    /// Whether there is an IOMMU that devices can be given away with.
    pub iommu: IommuState,
    /// Those that must stay together, where isolation is reported and not required (Xen's way); a device
    /// alone is a group of one.
    pub groups: Vec<Group>,
    /// The groups of several devices that come to be where it is required (VFIO's way), as far as they are
    /// others; `None` where what access control there is cannot be seen.
    pub required: Option<Vec<Group>>,
    /// The machine that it was read for.
    pub machine: Option<&'a Machine>,
    places: Vec<Place>,
}

/// What is known of a device.
#[derive(Debug)]
struct Place {
    /// The regions that it uses, by number.
    regions: Vec<usize>,
    /// What it is, and what the policy says of it, where it is there.
    function: Option<(Function, Answers)>,
}

impl<'a> Report<'a> {
    /// Reads the table at the start of `bytes`, for `machine` or by itself. Never fails: what is wrong is in
    /// [`Report::errors`].
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
            iommu: choose([bytes], &mut |_, _| {}).err().unwrap_or(IommuState::Active),
            groups: Vec::new(),
            required: None,
            machine,
            places: Vec::new(),
        };
        if let Some(dmar) = dmar {
            report.read(bytes, &dmar);
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

    fn read(&mut self, bytes: &[u8], dmar: &Dmar<'_>) {
        let functions = self.machine.map(|machine| machine.pci.functions()).unwrap_or_default();
        let view = |isolation| View::of(bytes, dmar, self.machine, &functions, isolation);
        let required =
            self.machine.filter(|machine| machine.pci.has_capabilities()).map(|_| view(Isolation::Require));
        let view = view(Isolation::Report);
        let mut verdicts = view.verdicts.iter();
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
            let scopes = view.scopes.get(&structure.offset()).map_or(&[][..], Vec::as_slice);
            let named = || Named::of(&structure, dmar, scopes, &view.functions);
            match structure {
                Structure::Drhd(drhd) => self.units.push(Unit::of(&drhd, named())),
                Structure::Rmrr(rmrr) => {
                    if let Some(verdict) = verdicts.next() {
                        self.regions.push(self.region(&rmrr, *verdict, named()));
                    }
                }
                _ => {}
            }
        }
        let mut devices: BTreeSet<_> =
            self.regions.iter().flat_map(|region| region.devices.iter().cloned()).collect();
        devices.extend(view.functions.keys().map(|function| Device::at((*function).into())));
        // Virtual functions whose physical one cannot be asked are there too.
        devices.extend(self.machine.iter().flat_map(|machine| machine.pci.addresses()).map(Device::at));
        self.devices = devices.into_iter().collect();
        self.iommu = view.iommu;
        self.places = self.devices.iter().map(|device| self.place(device, &view)).collect();
        self.groups = self.groups_of(&view);
        let required = required.map(|required| self.groups_of(&required));
        self.required = required.map(|required| groups::further(required, &self.groups));
    }

    fn region(&self, rmrr: &Rmrr<'_>, verdict: Verdict, named: Named) -> Region {
        Region {
            base: rmrr.base(),
            limit: rmrr.limit(),
            offset: rmrr.offset(),
            // By the table alone nobody is known to be absent.
            verdict: if self.machine.is_some() { verdict } else { verdict.awake() },
            devices: named.devices,
            bridges: named.bridges,
            remarks: named.remarks,
        }
    }

    fn place(&self, device: &Device, view: &View) -> Place {
        let sbdf = device.address().map(Sbdf::from);
        let regions = sbdf.and_then(|sbdf| view.regions_of.get(&sbdf)).cloned().unwrap_or_else(|| {
            let regions = self.regions.iter().enumerate();
            regions.filter(|(_, region)| region.devices.contains(device)).map(|(number, _)| number).collect()
        });
        let function = sbdf.and_then(|sbdf| Some((*view.functions.get(&sbdf)?, *view.answers.get(&sbdf)?)));
        Place { regions, function }
    }

    fn groups_of(&self, view: &View) -> Vec<Group> {
        let number_of = |sbdf: Sbdf| self.devices.binary_search(&Device::at(sbdf.into())).ok();
        groups::groups(self.devices.len(), &view.groups, number_of)
    }

    /// The function that the device of a number is, where it is there; without a machine, where the table
    /// tells its address.
    #[must_use]
    pub fn function(&self, device: usize) -> Option<&Function> {
        self.places.get(device)?.function.as_ref().map(|(function, _)| function)
    }

    /// What the policy says of giving the device of a number away, where it is there.
    #[must_use]
    pub fn answers(&self, device: usize) -> Option<&Answers> {
        self.places.get(device)?.function.as_ref().map(|(_, answers)| answers)
    }

    /// The number of the region that a name means.
    #[must_use]
    pub fn region_of_name(&self, name: RegionName) -> Option<usize> {
        let Origin::Dmar { offset } = name.origin else { return None };
        self.regions.binary_search_by_key(&offset, |region| region.offset).ok()
    }

    /// The regions of the device of a number, by number; also those of a bridge above it.
    pub fn regions_of(&self, device: usize) -> impl Iterator<Item = (usize, &Region)> {
        let numbers = self.places.get(device).map_or(&[][..], |place| &place.regions);
        numbers.iter().map(|&number| (number, &self.regions[number]))
    }

    /// Whether the machine has `device`; `None` where there is no machine to look at.
    #[must_use]
    pub fn is_present(&self, device: &Device) -> Option<bool> {
        let number = self.machine.and(self.devices.binary_search(device).ok())?;
        Some(self.function(number).is_some())
    }
}

impl Unit {
    fn of(drhd: &Drhd<'_>, named: Named) -> Self {
        Self {
            base: drhd.register_base(),
            bytes: drhd.register_bytes(),
            segment: drhd.segment(),
            includes_all: drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL),
            devices: named.devices.into_iter().collect(),
            bridges: named.bridges,
            others: named.remarks,
        }
    }
}
