//! What the policy's steps work on, and how they leave it for the next.

use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use p2m::{Access, AddressSpace, Gfn, Mfn, MfnRange, P2mType};
use pci_types::PciAddress;
use xen_iommu::vtd::Fault;
use xen_iommu::{AssignError, DomId, Mode, Note, Owner, Sbdf};

use crate::boot::command_line::Options;
use crate::check::text;
use crate::devices::edu::Edu;
use crate::host::{DomainMemory, HARDWARE_DOMAIN, Host, Space, UHCI, map_ram, new_space};
use crate::inventory::Inventory;
use crate::memory::Shared;
use crate::scenario::step::Context;

/// The domain that steps give devices to.
pub const GUEST: DomId = DomId(1);

/// Where a guest's RAM begins in its address space, when a step does not want it elsewhere.
pub const GUEST_RAM: u64 = 0x10_0000;

/// The policy on the machine, and the devices and the guest's RAM that steps use.
pub struct World {
    /// The machine.
    pub inventory: &'static mut Inventory,
    /// The policy.
    pub host: Host,
    /// The regions of the UHCI are not mapped, and are to be after this step.
    pub maps_uhci_again: bool,
    /// Translation is off, and is to be on after this step.
    pub switches_on_again: bool,
    edus: Vec<(PciAddress, Edu)>,
    /// Kept until no device reaches it any more.
    guest_ram: Option<Rc<Shared>>,
    /// Where it lies.
    guest_memory: Option<DomainMemory>,
}

impl Context for World {
    fn options(&self) -> Options<'static> {
        self.inventory.options
    }

    /// Translation on, no guest, every device with the hardware domain and its regions mapped there, no fault
    /// recorded.
    fn restore(&mut self) -> Result<(), String> {
        if core::mem::take(&mut self.switches_on_again) {
            self.host.switch_on()?;
        }
        let restored = self.take_back();
        if restored.is_ok() {
            self.guest_ram = None;
            self.guest_memory = None;
        }
        let mapped =
            if core::mem::take(&mut self.maps_uhci_again) { self.host.map_again(UHCI) } else { Ok(()) };
        self.faults();
        restored.and(mapped)
    }
}

impl World {
    /// Sets the policy up on the machine.
    pub fn new(inventory: &'static mut Inventory) -> Result<Self, String> {
        let host = Host::new(inventory)?;
        Ok(Self {
            inventory,
            host,
            maps_uhci_again: false,
            switches_on_again: false,
            edus: Vec::new(),
            guest_ram: None,
            guest_memory: None,
        })
    }

    /// The edu device at an address; opened once, as each takes an interrupt vector.
    pub fn edu(&mut self, device: Sbdf) -> Result<&mut Edu, String> {
        let place = PciAddress::from(device);
        if let Some(index) = self.edus.iter().position(|(address, _)| *address == place) {
            return self.edus.get_mut(index).map(|(_, edu)| edu).ok_or_else(String::new);
        }
        let edu = Edu::open(&self.inventory.pci, place).map_err(text)?;
        self.edus.push((place, edu));
        self.edus.last_mut().map(|(_, edu)| edu).ok_or_else(String::new)
    }

    /// Another device may come where this one was.
    pub fn forget_edu(&mut self, device: Sbdf) {
        let place = PciAddress::from(device);
        self.edus.retain(|(address, _)| *address != place);
    }

    /// A guest with `pages` of RAM from guest address `at` on, around all of the machine's regions.
    pub fn guest(&mut self, at: u64, pages: u64) -> Result<Rc<Shared>, String> {
        let told = self.host.policy.registry().told_all();
        let memory = DomainMemory::new(told.map(|region| region.identity()), at, pages)?;
        let ram = self.new_guest(pages, |space, ram| memory.fill(space, ram))?;
        self.guest_memory = Some(memory);
        Ok(ram)
    }

    /// A guest with `pages` of RAM at guest address `at`, as one lays it out who knows nothing of regions.
    pub fn unplanned_guest(&mut self, at: u64, pages: u64) -> Result<Rc<Shared>, String> {
        self.new_guest(pages, |space, ram| map_ram(space, at, ram))
    }

    fn new_guest(
        &mut self,
        pages: u64,
        fill: impl FnOnce(&mut Space, &Shared) -> Result<(), String>,
    ) -> Result<Rc<Shared>, String> {
        let ram = Rc::new(Shared::alloc(pages).ok_or("no RAM for the guest")?);
        self.guest_ram = Some(Rc::clone(&ram));
        let mut space = new_space().ok_or("no frames for the guest's tables")?;
        fill(&mut space, &ram)?;
        self.host.policy.create_domain(GUEST, space).map_err(text)?;
        Ok(ram)
    }

    /// The guest's memory, where it was planned.
    pub fn guest_memory(&self) -> Result<&DomainMemory, String> {
        self.guest_memory.as_ref().ok_or_else(|| String::from("the guest's memory was not planned"))
    }

    /// Gives devices to the guest.
    pub fn assign(&self, devices: &[Sbdf], mode: Mode) -> Result<Vec<Note>, AssignError> {
        self.assign_to(devices, GUEST, mode)
    }

    /// Gives devices to a domain; to [`DomId::IO`] for quarantine.
    pub fn assign_to(&self, devices: &[Sbdf], domain: DomId, mode: Mode) -> Result<Vec<Note>, AssignError> {
        let mut notes = Vec::new();
        let mut take = |note: Note| {
            log::debug!(target: "policy", "{note}");
            notes.push(note);
        };
        self.host.policy.assign(devices, domain, mode, &mut take).map(|()| notes)
    }

    /// Whether the policy says that a device's DMA is off, and the device that it may not master the bus.
    pub fn is_off(&self, device: Sbdf) -> bool {
        self.host.policy.is_quiesced(device) && !self.inventory.pci.config().is_bus_master(device.into())
    }

    /// Works on a domain's tables.
    pub fn with_space<T>(&self, domain: DomId, work: impl FnOnce(&mut Space) -> T) -> Result<T, String> {
        self.host.policy.with_space(domain, work).ok_or_else(|| format!("there is no domain {domain}"))
    }

    /// Whether a region's first frame is mapped 1:1 as p2m_mmio_direct in a domain.
    pub fn is_mapped(&self, domain: DomId, region: u64) -> Result<bool, String> {
        let entry = self.with_space(domain, |space| space.look_up(Gfn::containing(region)).entry)?;
        let same = entry.mfn.and_then(Mfn::address) == Some(region);
        Ok(same && entry.p2m_type == P2mType::MmioDirect && entry.access == Access::READ_WRITE)
    }

    /// Takes a region's mapping away from the guest without the policy, so that a step must fail.
    pub fn spoil(&self, region: u64) -> Result<(), String> {
        let range = MfnRange::with_len(Mfn::containing(region), 1).ok_or("no range")?;
        self.with_space(GUEST, |space| space.unmap_identity(range))?.map_err(text)?;
        self.host.policy.flush_domain(GUEST).map_err(text)
    }

    /// Every function that the policy knows, bridges too.
    pub fn devices(&self) -> Vec<Sbdf> {
        let mut devices = Vec::new();
        self.host.policy.for_each_device(|device, _| devices.push(device));
        devices
    }

    /// The faults recorded since the last call.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        self.host.policy.hardware().read_faults(&mut |fault| faults.push(*fault));
        faults
    }

    /// Ends the guest, and gives the hardware domain what waits in quarantine.
    fn take_back(&self) -> Result<(), String> {
        let mut log = |note: Note| log::debug!(target: "policy", "{note}");
        match self.host.policy.destroy_domain(GUEST, &mut log) {
            Ok(_) | Err(xen_iommu::DomainError::Unknown(_)) => {}
            Err(error) => return Err(error.to_string()),
        }
        let mut quarantined = Vec::new();
        self.host.policy.for_each_device(|device, owner| {
            if owner == Owner::Quarantine {
                quarantined.push(device);
            }
        });
        self.host.policy.assign(&quarantined, HARDWARE_DOMAIN, Mode::Strict, &mut log).map_err(text)
    }
}
