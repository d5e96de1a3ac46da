//! From the firmware's tables to a policy at work: regions read and judged, units started, devices under the
//! hardware domain, translation on.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;

<<<<<<< HEAD
use acpi_dmar::verdict::{FramesInUse, MemoryMap, MemoryRegion, PageRange, ReserveFrames, Verdict};
use acpi_dmar::{Dmar, Structure};
use p2m::{Access, AddressSpace, Entry, Gfn, GfnRange, LongMode, Mfn, P2m, P2mType, SecondLevel, Table};
use pci_types::PciAddress;
use xen_iommu::region::intake::Finding;
use xen_iommu::region::registry::{Origin, RegistryBuilder};
use xen_iommu::vtd::{Coverage, DomainSlot, Replacement, Setup, Unit, Vtd};
use xen_iommu::{Arena, Capacity, DomId, GroupPolicy, Sbdf, Source, phantom_functions};
=======
use acpi_dmar::Dmar;
use p2m::{Access, AddressSpace, OnConflict};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::vtd::{Unit, Vtd};
use xen_iommu::{Arena, Capacity, DomId, GroupPolicy, Sbdf};
>>>>>>> image

use super::regions::{self, Facts};
use super::space::{Space, map_ram, new_space};
use super::tables::readable;
use super::units::{Remapping, started};
use crate::check::text;
use crate::inventory::Inventory;
use crate::memory::{self, FrameCounts, Shared};

/// The policy over the domains' spaces and the units.
pub type Policy = xen_iommu::Policy<'static, Space, Remapping>;

/// The hardware domain, which has every device until it is given away.
pub const HARDWARE_DOMAIN: DomId = DomId(0);
/// The controller that the firmware leaves running.
pub const UHCI: Sbdf = Sbdf::new(0, 0, 0x1d, 0);
/// Frames of RAM that the hardware domain has for its devices to work with.
const HARDWARE_DOMAIN_FRAMES: u64 = 64;
/// Bytes for the policy's objects.
const ARENA: usize = 1 << 20;

/// The policy and what belongs to it.
pub struct Host {
    /// Regions, groups, owners.
    pub policy: Policy,
    /// What was read of the tables and options.
    pub facts: Vec<Facts>,
    /// The DMARs that could be read.
    pub dmars: Vec<Dmar<'static>>,
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
        let dmars = readable(inventory);
        regions::read(inventory, &dmars, &mut builder, &mut arena, &mut facts)?;
        let registry = builder.freeze(&mut arena).map_err(text)?;

        let vtd = started(inventory, &dmars);
        let ram = Shared::alloc(HARDWARE_DOMAIN_FRAMES).ok_or("no RAM for the hardware domain")?;
        let mut space = new_space().ok_or("no frames for the hardware domain's tables")?;
        map_ram(&mut space, ram.start(), &ram)?;

        let count = inventory.pci.functions().len() + 16;
        let capacity = Capacity { devices: count, requesters: count, domains: 16 };
        let policy =
            Policy::new(registry, GroupPolicy::Refuse, vtd, (HARDWARE_DOMAIN, space), capacity, &mut arena)
                .map_err(text)?;
        let left = arena.left();
        log::info!(target: "policy", "{left} of {ARENA} bytes are left of the memory given at boot");
        let frames = memory::frames().counts();
        let mut host = Self { policy, facts, dmars, ram, translates: false, frames };
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
            let source = inventory.pci.source(function.address);
            let mut notes = |note| log::debug!(target: "policy", "{note}");
            if let Err(error) = self.policy.add_device(function.address.into(), source, new_space, &mut notes)
            {
                log::warn!(target: "policy", "{}: {error}", function.address);
            }
        }
    }

    fn enable(&mut self) {
        if !self.policy.with_hardware(|vtd| vtd.units().iter().any(Unit::is_started)) {
            log::warn!(target: "policy", "no IOMMU is usable: no assignment of devices");
            return;
        }
        match self.policy.with_hardware(Vtd::enable) {
            Ok(()) => self.translates = true,
            Err(error) => {
                log::error!(target: "vtd", "translation cannot be switched on: {error}; no assignment")
            }
        }
    }
}
<<<<<<< HEAD

/// Under which requester ids a function's DMA comes. A bridge that puts its own id in place of the function's knows no phantom functions.
pub fn source(machine: &Machine, function: PciAddress) -> Source {
    let id = machine.pci.requester(function).unwrap_or(function);
    let phantoms = phantom_functions(function.into(), machine.pci.config()).filter(|_| id == function);
    let phantom_stride = phantoms.and_then(|ids| u8::try_from(ids.stride).ok()).unwrap_or(0);
    Source { id: id.into(), phantom_stride }
}

/// Maps a piece of RAM at guest address `at` of a space.
pub fn map_ram(space: &mut Space, at: u64, ram: &Shared) -> Result<(), String> {
    let gfns =
        GfnRange::with_len(Gfn::containing(at), ram.size() >> p2m::PAGE_SHIFT).ok_or("beyond all memory")?;
    let mfn = Some(Mfn::containing(ram.start()));
    space.map(gfns, Entry { p2m_type: P2mType::RamRw, mfn, access: Access::READ_WRITE }).map_err(text)
}

/// The DMARs that may be trusted to be what they say.
fn readable(machine: &Machine) -> Vec<Dmar<'static>> {
    let found = &machine.tables.dmars;
    match found.len() {
        0 => log::warn!(target: "dmar", "the firmware has no DMAR: it tells of no IOMMU"),
        1 => {}
        count => log::warn!(
            target: "dmar",
            "the firmware has {count} DMARs where there should be one, not two or more: the regions of all are kept"
        ),
    }
    let mut dmars = Vec::new();
    for bytes in found {
        match Dmar::parse(bytes) {
            Ok(dmar) => dmars.push(dmar),
            Err(error) => log::warn!(target: "dmar", "a DMAR of {} bytes is not used: {error}", bytes.len()),
        }
    }
    dmars
}

fn read_regions(
    machine: &Machine,
    dmars: &[Dmar<'static>],
    builder: &mut RegistryBuilder<'static>,
    arena: &mut Arena<'static>,
    facts: &mut Vec<Facts>,
) -> Result<(), String> {
    let width = dmars.iter().map(Dmar::host_address_width).min().unwrap_or(52);
    let mut frames = HostMemory;
    let mut host = xen_iommu::region::intake::Host {
        pci: machine.pci.config(),
        memory: &HostMemory,
        frames: &mut frames,
        address_width: width,
    };
    let mut take = |finding: Finding<'_, 'static>| {
        let fact = fact(&finding);
        let level = if fact.is_bad { log::Level::Warn } else { log::Level::Info };
        log::log!(target: "dmar", level, "{}: {}", fact.origin, fact.verdict);
        facts.push(fact);
    };
    // Xen reads its option after the table, and so it is here: findings come in that order.
    for dmar in dmars {
        host.read_dmar(dmar, builder, arena, &mut take).map_err(text)?;
    }
    for value in machine.options.rmrr() {
        host.read_option(value, builder, arena, &mut take).map_err(text)?;
    }
    Ok(())
}

fn fact(finding: &Finding<'_, '_>) -> Facts {
    let of = |origin: String, verdict: String, is_bad| Facts { origin, bytes: None, verdict, is_bad };
    match finding {
        Finding::Structure { offset, kind } => {
            of(format!("DMAR offset {offset:#x}"), format!("{kind} accepted"), false)
        }
        Finding::BadStructure(error) => of(String::from("DMAR"), format!("rejected: {error}"), true),
        Finding::BadScope { structure, error } => {
            of(format!("DMAR offset {structure:#x}"), error.to_string(), true)
        }
        Finding::Unresolved { structure, scope, error } => {
            of(format!("DMAR offset {structure:#x}"), format!("scope {scope}: {error}"), true)
        }
        Finding::Region(region) => {
            let devices: Vec<String> = region.scopes().iter().map(ToString::to_string).collect();
            let accepted = region.rejection().is_none();
            Facts {
                origin: region.origin().to_string(),
                bytes: accepted.then(|| {
                    let range = region.range();
                    let end = range.end().address().unwrap_or(u64::MAX);
                    (range.start().address().unwrap_or(u64::MAX), end.wrapping_sub(1))
                }),
                verdict: format!("region {region} of {}: {}", devices.join(" and "), region.verdict()),
                is_bad: matches!(region.verdict(), Verdict::Rejected(_)),
            }
        }
        Finding::BadOption(error) => {
            let origin = Origin::Option { position: error.position };
            of(origin.to_string(), format!("rmrr= {error}"), true)
        }
    }
}

/// The remapping units of which the firmware tells, those started that can be. They translate nothing yet.
pub fn remapping(machine: &Machine) -> Remapping {
    started(machine, &readable(machine))
}

fn started(machine: &Machine, dmars: &[Dmar<'static>]) -> Remapping {
    let vtd = Vtd::new(Box::leak(units(machine, dmars).into_boxed_slice()), TableFrames);
    vtd.start(&mut |_, error| log::warn!(target: "vtd", "{error}"));
    vtd
}

/// A unit for each DRHD, or the one that stands in for all of them.
fn units(machine: &Machine, dmars: &[Dmar<'static>]) -> Vec<Unit<'static, UnitRegisters>> {
    let mut units = Vec::new();
    let mut bases = Vec::new();
    for dmar in dmars {
        for structure in dmar.structures().filter_map(Result::ok) {
            let Structure::Drhd(drhd) = structure else { continue };
            let (base, segment, covered, window) = match machine.options.stand_in_unit() {
                Some(base) => (base, 0, vec![Coverage::All { segment: 0 }], 4096),
                None => {
                    let mut covered = Vec::new();
                    xen_iommu::coverage(
                        &drhd,
                        dmar,
                        machine.pci.config(),
                        &mut |coverage| covered.push(coverage),
                        &mut |scope, error| log::warn!(target: "dmar", "DRHD {:#x}: scope {scope}: {error}", drhd.offset()),
                    );
                    (drhd.register_base(), drhd.segment(), covered, drhd.register_bytes())
                }
            };
            if bases.contains(&base) {
                continue;
            }
            bases.push(base);
            match Mmio::map(base..base.saturating_add(window)) {
                Ok(registers) => units.push(Unit::new(Setup {
                    base,
                    window: u32::try_from(window).unwrap_or(u32::MAX),
                    registers: UnitRegisters(registers),
                    segment,
                    coverage: Box::leak(covered.into_boxed_slice()),
                    domains: Vec::leak((0..SPACES).map(|_| DomainSlot::new()).collect()),
                    device_tlbs: &mut [],
                    polls: POLLS,
                    queue: true,
                    replacement: Replacement::AtOnce,
                })),
                Err(error) => {
                    log::warn!(target: "vtd", "the registers at {base:#x} cannot be mapped: {error}")
                }
            }
        }
    }
    units
}

fn text(error: impl core::fmt::Display) -> String {
    error.to_string()
}
=======
>>>>>>> image
