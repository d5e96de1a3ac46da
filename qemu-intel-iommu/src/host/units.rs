//! The remapping units: one for each DRHD of the firmware's tables, and how their registers are reached.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU64;

use acpi_dmar::{Dmar, Structure};
use xen_iommu::vtd::{Coverage, DomainSlot, Registers, Setup, Unit, Vtd};

use super::memory::TableFrames;
use super::tables::readable;
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

/// The remapping units that the firmware names, those started that can be. They translate nothing yet.
pub fn remapping(inventory: &Inventory) -> Remapping {
    started(inventory, &readable(inventory))
}

/// See [`remapping`].
pub(super) fn started(inventory: &Inventory, dmars: &[Dmar<'static>]) -> Remapping {
    let mut vtd = Vtd::new(Box::leak(units(inventory, dmars).into_boxed_slice()), TableFrames);
    vtd.start(&mut |_, error| log::warn!(target: "vtd", "{error}"));
    vtd
}

/// A unit for each DRHD, or the one that stands in for all of them.
fn units(inventory: &Inventory, dmars: &[Dmar<'static>]) -> Vec<Unit<'static, UnitRegisters>> {
    let mut units = Vec::new();
    let mut bases = Vec::new();
    for dmar in dmars {
        for structure in dmar.structures().filter_map(Result::ok) {
            let Structure::Drhd(drhd) = structure else { continue };
            let (base, segment, covered, window) = match inventory.options.stand_in_unit() {
                Some(base) => (base, 0, vec![Coverage::All { segment: 0 }], 4096),
                None => {
                    let mut covered = Vec::new();
                    xen_iommu::coverage(
                        &drhd,
                        dmar,
                        inventory.pci.config(),
                        &mut |coverage| covered.push(coverage),
                        &mut |scope, error| {
                            let drhd = drhd.offset();
                            log::warn!(target: "dmar", "DRHD {drhd:#x}: scope {scope}: {error}");
                        },
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
                    domains: Box::leak(vec![DomainSlot::EMPTY; DOMAINS].into_boxed_slice()),
                    domain_ids: Box::leak(vec![0; DOMAINS / 64].into_boxed_slice()),
                    device_tlbs: &mut [],
                    polls: POLLS,
                    queue: true,
                })),
                Err(error) => {
                    log::warn!(target: "vtd", "the registers at {base:#x} cannot be mapped: {error}")
                }
            }
        }
    }
    units
}
