//! From the firmware's tables to a policy at work: regions read and judged, units started, devices under the
//! hardware domain, translation on.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

use acpi_dmar::Dmar;
use p2m::{Access, AddressSpace, OnConflict};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::vtd::Unit;
use xen_iommu::{Arena, Capacity, DomId, Isolation, Sbdf};

use super::control::Control;
use super::regions::{self, Facts, Judged};
use super::space::{Space, map_ram, new_space};
use super::tables;
use super::units::{Remapping, places, started};
use crate::check::text;
use crate::inventory::Inventory;
use crate::memory::{self, FrameCounts, Shared};

/// The policy over the domains' spaces, the units and the devices.
pub type Policy = xen_iommu::Policy<'static, Space, Remapping, Control>;

/// The hardware domain, which has every device until it is given away.
pub const HARDWARE_DOMAIN: DomId = DomId(0);
/// The controller that the firmware leaves running.
pub const UHCI: Sbdf = Sbdf::new(0, 0, 0x1d, 0);
/// Frames of RAM that the hardware domain has for its devices to work with.
const HARDWARE_DOMAIN_FRAMES: u64 = 64;
/// Domains at one time.
const DOMAINS: usize = 16;
/// Functions that may come while the machine runs, and their requester ids.
const HOT_PLUGGED: usize = 16;
/// Bytes for the policy's objects.
const ARENA: usize = 1 << 20;

/// The policy and what belongs to it.
pub struct Host {
    /// Regions, groups, owners.
    pub policy: Policy,
    /// What was read of the tables and options.
    pub facts: Vec<Facts>,
    /// The DMAR that counts.
    pub dmar: Option<Dmar<'static>>,
    /// RAM of the hardware domain, mapped 1:1.
    pub ram: Shared,
    /// Whether a unit translates.
    pub translates: bool,
    /// The frames when everything was mapped.
    pub frames: FrameCounts,
}

impl Host {
    /// Reads the tables and options, and puts every device under the hardware domain.
    ///
    /// # Errors
    /// Only what leaves nothing to go on with: memory for the policy itself. Whatever is wrong with the
    /// tables is logged and survived.
    pub fn new(inventory: &Inventory) -> Result<Self, String> {
        let memory: &'static mut [MaybeUninit<u8>] =
            Box::leak(vec![MaybeUninit::uninit(); ARENA].into_boxed_slice());
        let mut arena = Arena::new(memory);
        let mut builder = RegistryBuilder::default();
        let mut facts = Vec::new();
        let (table, mut iommu) = tables::read(inventory, &mut arena)?;
        let places = places(inventory, table.as_ref());
        if iommu == IommuState::Active && inventory.options.has_iommu_off() {
            iommu = IommuState::Off;
        }
        let vtd = started(if iommu == IommuState::Active { &places } else { &[] });
        if iommu == IommuState::Active && !vtd.units().iter().any(Unit::is_started) {
            iommu = IommuState::Unusable(Unusable::Other("no remapping unit can be started"));
        }
        builder.set_iommu(iommu);
        let judged = Judged { inventory, table: table.as_ref(), places: &places, vtd: &vtd };
        regions::read(&judged, &mut builder, &mut arena, &mut facts)?;
        let registry = builder.freeze(&mut arena).map_err(text)?;

        let ram = Shared::alloc(HARDWARE_DOMAIN_FRAMES).ok_or("no RAM for the hardware domain")?;
        let mut space = new_space().ok_or("no frames for the hardware domain's tables")?;
        map_ram(&mut space, ram.start(), &ram)?;

        let functions = inventory.pci.functions();
        let ids: usize = functions.iter().map(|function| function.policy.ids.len()).sum();
        let required = inventory.options.requires_isolation();
        let setup = xen_iommu::Setup {
            registry,
            hardware: vtd,
            control: Control::new(&inventory.pci),
            hardware_domain: (HARDWARE_DOMAIN, space),
            isolation: if required { Isolation::Require } else { Isolation::Report },
            capacity: Capacity {
                devices: functions.len() + HOT_PLUGGED,
                requester_ids: ids + HOT_PLUGGED,
                domains: DOMAINS,
            },
        };
        if required {
            log::info!(target: "policy", "devices that PCI does not keep apart must stay together");
        }
        let policy = Policy::new(setup, &mut arena).map_err(text)?;
        let left = arena.left();
        log::info!(target: "policy", "{left} of {ARENA} bytes are left of the memory given at boot");
        let frames = memory::frames().counts();
        let dmar = table.map(|table| table.dmar);
        let mut host = Self { policy, facts, dmar, ram, translates: false, frames };
        host.add_devices(inventory);
        host.frames = memory::frames().counts();
        if inventory.options.omits_uhci() {
            log::warn!(
                target: "policy",
                "the regions of {UHCI} are left out of what is mapped, as the command line says"
            );
            host.leave_out(UHCI)?;
        }
        host.enable();
        Ok(host)
    }

    /// Unmaps a device's regions in the hardware domain without the policy's knowledge.
    ///
    /// # Errors
    /// The hardware's.
    pub fn leave_out(&self, device: Sbdf) -> Result<(), String> {
        for region in self.policy.registry().regions_of(device) {
            self.policy
                .with_space(HARDWARE_DOMAIN, |space| space.unmap_identity(region.range()))
                .ok_or("no hardware domain")?
                .map_err(text)?;
        }
        self.policy.flush_domain(HARDWARE_DOMAIN).map_err(text)
    }

    /// Undoes [`leave_out`](Self::leave_out).
    ///
    /// # Errors
    /// The hardware's.
    pub fn map_again(&self, device: Sbdf) -> Result<(), String> {
        for region in self.policy.registry().regions_of(device) {
            self.policy
                .with_space(HARDWARE_DOMAIN, |space| {
                    space.map_identity(region.range(), Access::READ_WRITE, OnConflict::Refuse, &mut |_| {})
                })
                .ok_or("no hardware domain")?
                .map_err(text)?;
        }
        self.policy.flush_domain(HARDWARE_DOMAIN).map_err(text)
    }

    fn add_devices(&mut self, inventory: &Inventory) {
        for function in inventory.pci.functions() {
            let mut notes = |note| log::debug!(target: "policy", "{note}");
            if let Err(error) = self.policy.add_device(&function.policy, new_space, &mut notes) {
                log::warn!(target: "policy", "{}: {error}", function.address);
            }
        }
    }

    /// Has the units translate.
    ///
    /// # Errors
    /// The hardware's.
    pub fn switch_on(&self) -> Result<(), String> {
        self.policy.hardware().enable().map_err(text)
    }

    /// Lets all DMA through, as before the units were set up.
    ///
    /// # Errors
    /// The hardware's.
    pub fn switch_off(&self) -> Result<(), String> {
        self.policy.hardware().disable().map_err(text)
    }

    fn enable(&mut self) {
        let state = self.policy.registry().iommu();
        if state != IommuState::Active {
            log::warn!(target: "policy", "{state}: no assignment of devices");
            return;
        }
        match self.switch_on() {
            Ok(()) => self.translates = true,
            Err(error) => {
                log::error!(target: "vtd", "translation cannot be switched on: {error}; no assignment")
            }
        }
    }
}
