//! The remapping units: one for each DRHD of the firmware's tables, and how their registers are reached.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::sync::atomic::AtomicU64;

use acpi_dmar::Structure;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::Window;
use xen_iommu::vtd::{Coverage, DomainSlot, Registers, Replacement, Setup, Unit, Vtd, coverage};
use xen_iommu::{Arena, RemappingHardware, RequesterId, Sbdf};

use super::memory::TableFrames;
use super::tables::{self, Table};
use crate::inventory::Inventory;
use crate::memory::Mmio;

/// The remapping hardware.
pub type Remapping = Vtd<'static, UnitRegisters, TableFrames>;

/// Domains at one time that a unit knows, quarantines included.
const DOMAINS: usize = 256;
/// How often a unit is looked at before it counts as stuck.
const POLLS: u32 = 100_000;

/// A unit's register window.
#[derive(Debug)]
pub struct UnitRegisters(Mmio);

impl Registers for UnitRegisters {
    fn read32(&self, offset: u32) -> u32 {
        self.0.read32(offset.into())
    }

    fn read64(&self, offset: u32) -> u64 {
        self.0.read64(offset.into())
    }

    fn write32(&self, offset: u32, value: u32) {
        self.0.write32(offset.into(), value);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.0.write64(offset.into(), value);
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn write_back(&self, _: &[AtomicU64]) {
        // QEMU's unit says that it does not snoop caches, but there are none between it and memory.
    }
}

/// Bytes for the scopes of a table of which nothing else is asked.
const SCOPES: usize = 64 << 10;

/// The remapping units that the firmware names, those started that can be. They translate nothing yet.
///
/// # Errors
/// There is no memory for the table's scopes.
pub fn remapping(inventory: &Inventory) -> Result<Remapping, String> {
    let memory = vec![MaybeUninit::uninit(); SCOPES].into_boxed_slice();
    let (table, _) = tables::read(inventory, &mut Arena::new(Box::leak(memory)))?;
    Ok(started(&places(inventory, table.as_ref())))
}

/// Where a unit's registers are, and what it translates.
pub(super) struct Place {
    base: u64,
    /// Bytes of registers.
    window: u64,
    segment: u16,
    coverage: Vec<Coverage>,
}

impl Place {
    /// Its registers as what no guest may reach.
    pub(super) fn registers(&self) -> Window {
        Window::UnitRegisters { base: self.base, limit: self.base.saturating_add(self.window - 1) }
    }
}

/// The units of the table, one for each DRHD, or the one that stands in for all of them.
pub(super) fn places(inventory: &Inventory, table: Option<&Table>) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    let Some(table) = table else { return places };
    for structure in table.dmar.structures().filter_map(Result::ok) {
        let Structure::Drhd(drhd) = structure else { continue };
        let place = match inventory.options.stand_in_unit() {
            Some(base) => {
                Place { base, window: 4096, segment: 0, coverage: vec![Coverage::All { segment: 0 }] }
            }
            None => {
                let mut covered = Vec::new();
                coverage(&drhd, &table.scopes, &mut |coverage| covered.push(coverage), &mut |scope| {
                    if let Err(error) = scope.place {
                        log::warn!(
                            target: "dmar",
                            "DMAR offset {:#x}: scope at {:#x}: {error}",
                            scope.structure,
                            scope.offset
                        );
                    }
                });
                let (base, window) = (drhd.register_base(), drhd.register_bytes());
                Place { base, window, segment: drhd.segment(), coverage: covered }
            }
        };
        if places.iter().all(|other| other.base != place.base) {
            places.push(place);
        }
    }
    places
}

/// The units there, those started that can be.
pub(super) fn started(places: &[Place]) -> Remapping {
    let units: Vec<Unit<'static, UnitRegisters>> = places.iter().filter_map(unit).collect();
    let vtd = Vtd::new(Vec::leak(units), TableFrames);
    vtd.start(&mut |_, error| log::warn!(target: "vtd", "{error}"));
    vtd
}

fn unit(place: &Place) -> Option<Unit<'static, UnitRegisters>> {
    let &Place { base, window, segment, .. } = place;
    let registers = match Mmio::map(base..base.saturating_add(window)) {
        Ok(registers) => UnitRegisters(registers),
        Err(error) => {
            log::warn!(target: "vtd", "the registers at {base:#x} cannot be mapped: {error}");
            return None;
        }
    };
    Some(Unit::new(Setup {
        base,
        window: u32::try_from(window).unwrap_or(u32::MAX),
        registers,
        segment,
        coverage: Vec::leak(place.coverage.clone()),
        domains: Vec::leak((0..DOMAINS).map(|_| DomainSlot::new()).collect()),
        device_tlbs: &mut [],
        polls: POLLS,
        queue: true,
        replacement: Replacement::AtOnce,
    }))
}

/// The bits of address that the units of some devices translate: the least. Below a bridge those that are
/// present count, and the bridge, whose unit is that of what may come.
pub(super) fn width(inventory: &Inventory, vtd: &Remapping, devices: Devices) -> Option<u8> {
    let present = inventory.pci.functions().iter().map(|function| Sbdf::from(function.address));
    let meant = present.filter(|function| devices.covers(*function)).chain(devices.function());
    meant.filter_map(|function| vtd.address_width(RequesterId::from(function))).min()
}
