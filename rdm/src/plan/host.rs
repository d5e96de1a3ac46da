//! The host's side: which of its regions, and which BARs, come with a guest's devices.

use std::fmt;

use acpi_dmar::pci_types::PciAddress;
use p2m::GfnRange;
use rdm_layout::xen::{HostRegion, regions};
use rdm_layout::{Bar, Policy, Region};

use super::graphics;
use crate::device::Device;
use crate::guest::{Assigned, Guest};
use crate::inspect::Report;
use crate::inspect::sentence::{Sentences, Standing, region_name};
use crate::machine::Machine;
use xen_iommu::DeviceClass;

/// A region that a guest's layout has to do with.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// `R1` for the first of the table.
    pub name: String,
    /// The region.
    pub region: Region,
    /// The guest's devices that have it.
    pub devices: Vec<String>,
    /// How many devices the table names for it.
    pub users: usize,
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, super::addresses(&self.region.frames))?;
        if !self.devices.is_empty() {
            write!(f, " of {}", self.devices.join(", "))?;
        }
        Ok(())
    }
}

/// Addresses of a processor whose width is not known.
const USUAL_WIDTH: u32 = 39;

/// A host: its table, and the machine where that can be read.
#[derive(Debug)]
pub struct Host<'a> {
    report: &'a Report<'a>,
    machine: Option<&'a Machine>,
}

impl<'a> Host<'a> {
    /// The host of a report.
    #[must_use]
    pub const fn new(report: &'a Report<'a>) -> Self {
        Self { report, machine: report.machine }
    }

    fn number(&self, address: PciAddress) -> Option<usize> {
        self.report.devices.binary_search(&Device::at(address)).ok()
    }

    /// Bits of the guest's addresses: what processor and IOMMU both reach, as far as they are known.
    #[must_use]
    pub fn width(&self) -> u32 {
        let table = self.report.dmar.as_ref().map(|dmar| u32::from(dmar.host_address_width()));
        let processor = self.machine.and_then(|machine| machine.address_bits);
        // Below 33 bits there is nothing above 4 GiB, and above 52 no page table goes on.
        table.into_iter().chain(processor).min().unwrap_or(USUAL_WIDTH).clamp(32, 52)
    }

    /// The regions that count for a guest, in the table's order.
    #[must_use]
    pub fn regions(&self, guest: &Guest) -> Vec<Wanted> {
        let mut own: Vec<Vec<Option<Policy>>> = vec![Vec::new(); self.report.regions.len()];
        let mut names: Vec<Vec<String>> = vec![Vec::new(); own.len()];
        for device in &guest.devices {
            let number = self.number(device.address);
            for (index, _) in number.into_iter().flat_map(|number| self.report.regions_of(number)) {
                own[index].push(device.policy);
                names[index].push(device.address.to_string());
            }
        }
        let all = self.report.regions.iter().zip(own.iter().zip(names)).enumerate();
        all.filter_map(|(index, (region, (own, devices)))| {
            // What is rejected is mapped for nobody.
            let frames = region.verdict.pages()?.identity();
            let host = [HostRegion { frames, devices: own }];
            let mut out = [Region { frames, policy: guest.policy }];
            let users = region.devices.len();
            (regions(guest.strategy, guest.policy, &host, &mut out) > 0).then(|| Wanted {
                name: region_name(index),
                region: out[0],
                devices,
                users,
            })
        })
        .collect()
    }

    /// The BARs, each with its name: those of the guest's devices as the machine shows them, then further
    /// ones.
    #[must_use]
    pub fn bars(&self, guest: &Guest) -> Vec<(String, Bar)> {
        let mut bars = Vec::new();
        for device in &guest.devices {
            let own = self.machine.and_then(|machine| machine.bars.get(&device.address));
            for (number, bar) in own.into_iter().flatten() {
                let name = match number {
                    6 => format!("ROM of {}", device.address),
                    _ => format!("{number} of {}", device.address),
                };
                bars.push((name, *bar));
            }
        }
        let further = guest.bars.iter().enumerate();
        bars.extend(further.map(|(index, bar)| (format!("--bar {}", index + 1), *bar)));
        bars
    }

    /// The guest's devices that are Intel graphics; `regions` are the guest's.
    pub(super) fn graphics(&self, guest: &Guest, regions: &[GfnRange]) -> Vec<graphics::Device> {
        let Some(machine) = self.machine else { return Vec::new() };
        let read = |device: &Assigned| graphics::Device::read(machine, device.address, regions);
        guest.devices.iter().filter_map(read).collect()
    }

    /// What is to be known of a guest's devices.
    #[must_use]
    pub fn notes(&self, guest: &Guest) -> Vec<String> {
        let mut notes = Vec::new();
        for device in &guest.devices {
            let address = device.address;
            let Some(number) = self.number(address) else {
                notes.push(match self.machine {
                    Some(_) => format!("{address} is not there."),
                    None => {
                        format!("{address} has no region in the table; whether it is there, nobody can say.")
                    }
                });
                continue;
            };
            let class = self.machine.and(self.report.function(number)).map(|function| function.class);
            let why = match class.filter(|_| guest.policy_of(device) == Policy::Private) {
                None | Some(DeviceClass::Usb) => None,
                Some(DeviceClass::Graphics) => Some(
                    "is graphics: it goes on using what firmware left in its region, and a private one is empty",
                ),
                Some(DeviceClass::Other) => Some(
                    "is no USB controller: nobody can say whether firmware lets go of its region at a reset, as \
                     private needs it",
                ),
            };
            notes.extend(why.map(|why| format!("{address} {why}.")));
            let group = self.report.groups.iter().find(|group| group.devices.contains(&number));
            let Some(group) = group else { continue };
            let (standing, sentence) = Sentences::of(self.report, group).sentence(number);
            let with_all = group.devices.iter().all(|&member| {
                let its = self.report.devices[member].address();
                guest.devices.iter().any(|device| Some(device.address) == its)
            });
            match standing {
                Standing::Alone => {}
                Standing::Together if with_all => {}
                _ => notes.push(format!("{address} {sentence}.")),
            }
        }
        notes
    }
}
