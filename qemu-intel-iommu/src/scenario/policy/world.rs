//! What the policy's steps work on, and how they leave it for the next.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use pci_types::PciAddress;
use xen_iommu::vtd::{Fault, Vtd};
use xen_iommu::{AssignError, DomId, Mode, Note, Owner, Sbdf};

use super::super::{Context, text};
use crate::cmdline::Options;
use crate::devices::edu::Edu;
use crate::host::{HARDWARE_DOMAIN, Host, Space, map_ram, new_space};
use crate::machine::Machine;
use crate::memory::Shared;

/// The domain that steps give devices to.
pub const GUEST: DomId = DomId(1);

/// Where a guest's RAM begins in its address space, when a step does not want it elsewhere.
pub const GUEST_RAM: u64 = 0x10_0000;

/// The machine, the policy on it, and the devices that steps use.
pub struct World {
    /// The machine.
    pub machine: &'static mut Machine,
    /// The policy.
    pub host: Host,
    edus: Vec<(PciAddress, Edu)>,
}

impl Context for World {
    fn options(&self) -> Options<'static> {
        self.machine.options
    }
}

impl World {
    /// Sets the policy up on the machine.
    pub fn new(machine: &'static mut Machine) -> Result<Self, String> {
        let host = Host::new(machine)?;
        Ok(Self { machine, host, edus: Vec::new() })
    }

    /// The edu device at an address; opened once, as each takes an interrupt vector.
    pub fn edu(&mut self, device: Sbdf) -> Result<&mut Edu, String> {
        let place = PciAddress::from(device);
        if let Some(index) = self.edus.iter().position(|(address, _)| *address == place) {
            return self.edus.get_mut(index).map(|(_, edu)| edu).ok_or_else(String::new);
        }
        let edu = Edu::open(&self.machine.pci, place).map_err(text)?;
        self.edus.push((place, edu));
        self.edus.last_mut().map(|(_, edu)| edu).ok_or_else(String::new)
    }

    /// A guest with `pages` of RAM at guest address `at`.
    pub fn guest(&self, at: u64, pages: u64) -> Result<Shared, String> {
        let ram = Shared::alloc(pages).ok_or("no RAM for the guest")?;
        let mut space = new_space().ok_or("no frames for the guest's tables")?;
        map_ram(&mut space, at, &ram)?;
        self.host.policy.create_domain(GUEST, space).map_err(text)?;
        Ok(ram)
    }

    /// Gives devices to the guest.
    pub fn assign(&self, devices: &[Sbdf], mode: Mode) -> Result<Vec<String>, AssignError<'static>> {
        let mut notes = Vec::new();
        let mut take = |note: Note<'_>| notes.push(note.to_string());
        self.host.policy.assign(devices, GUEST, mode, &mut take).map(|()| notes)
    }

    /// Works on a domain's tables.
    pub fn with_space<T>(&self, domain: DomId, work: impl FnOnce(&mut Space) -> T) -> Result<T, String> {
        self.host.policy.with_space(domain, work).ok_or_else(|| format!("there is no domain {domain}"))
    }

    /// The faults recorded since the last call.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.host
            .policy
            .with_hardware(|vtd: &Vtd<'_, _, _>| vtd.read_faults(&mut |fault| faults.push(*fault)));
        faults
    }

    /// Puts everything back: no guest, every device with the hardware domain, no fault recorded. Ends every step that gave something away.
    pub fn restore(&self, outcome: super::Outcome) -> super::Outcome {
        let restored = self.put_back();
        self.faults();
        match (outcome, restored) {
            (Ok(_), Err(error)) => Err(format!("not as it was before: {error}")),
            (outcome, _) => outcome,
        }
    }

    fn put_back(&self) -> Result<(), String> {
        let mut log = |note: Note<'_>| log::debug!(target: "policy", "{note}");
        match self.host.policy.destroy_domain(GUEST, &mut log) {
            Ok(_) | Err(xen_iommu::DomainError::Unknown(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
        let mut quarantined = Vec::new();
        self.host.policy.for_each_device(|device, _, owner| {
            if owner == Owner::Quarantine {
                quarantined.push(device);
            }
        });
        self.host.policy.assign(&quarantined, HARDWARE_DOMAIN, Mode::Strict, &mut log).map_err(text)
    }
}
