//! The reserved regions of the firmware's tables and the command line: read, judged, registered, and logged.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use xen_iommu::Arena;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::Finding;
use xen_iommu::region::record::Origin;
use xen_iommu::region::registry::RegistryBuilder;

use super::memory::HostMemory;
use super::tables::Table;
use super::units::{self, Place, Remapping};
use crate::check::text;
use crate::inventory::Inventory;

/// Bits of a physical address where no table says how many, as many as there can be.
const WIDEST: u8 = 52;

/// One entry of what was read, for the steps to check.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Where it stands.
    pub origin: String,
    /// The first and the last byte, of a region that was accepted.
    pub bytes: Option<(u64, u64)>,
    /// What was made of it.
    pub verdict: String,
    /// Whether something is wrong with it.
    pub is_bad: bool,
}

/// What regions are judged by, besides the memory map.
pub(super) struct Judged<'a> {
    pub(super) inventory: &'a Inventory,
    pub(super) table: Option<&'a Table>,
    /// The units' places, and the units.
    pub(super) places: &'a [Place],
    pub(super) vtd: &'a Remapping,
}

impl Judged<'_> {
    /// What decodes as something else than memory: the units' registers, configuration space, and BARs.
    fn windows(&self) -> Vec<Window> {
        let pci = &self.inventory.pci;
        let units = self.places.iter().map(Place::registers);
        let spaces = pci.config().memory().map(|(base, limit)| Window::ConfigSpace { base, limit });
        let bars = pci.bars().iter().filter_map(|bar| bar.decoded(pci.config())).map(Window::Bar);
        units.chain(spaces).chain(bars).collect()
    }
}

/// Reads them into `builder`; `facts` gets an entry for each of the findings.
pub(super) fn read(
    judged: &Judged<'_>,
    builder: &mut RegistryBuilder<'static>,
    arena: &mut Arena<'static>,
    facts: &mut Vec<Facts>,
) -> Result<(), String> {
    let &Judged { inventory, table, vtd, .. } = judged;
    let windows = judged.windows();
    let mut frames = HostMemory;
    let mut host = xen_iommu::region::intake::Host {
        pci: inventory.pci.config(),
        memory: &HostMemory,
        frames: &mut frames,
        address_width: table.map_or(WIDEST, |table| table.dmar.host_address_width()),
        windows: &|visit: &mut dyn FnMut(Window)| windows.iter().copied().for_each(visit),
        unit_width: &|devices| units::width(inventory, vtd, devices),
    };
    let mut take = |finding: Finding<'static>| {
        let fact = fact(&finding);
        let level = if fact.is_bad { log::Level::Warn } else { log::Level::Info };
        log::log!(target: "dmar", level, "{}: {}", fact.origin, fact.verdict);
        facts.push(fact);
    };
    // Xen reads its option after the table, and so it is here: findings come in that order.
    if let Some(table) = table {
        host.read_dmar(&table.dmar, &table.scopes, builder, arena, &mut take).map_err(text)?;
    }
    for value in inventory.options.rmrr() {
        host.read_option(value, builder, arena, &mut take).map_err(text)?;
    }
    Ok(())
}

fn fact(finding: &Finding<'_>) -> Facts {
    let of = |origin: String, verdict: String, is_bad| Facts { origin, bytes: None, verdict, is_bad };
    match finding {
        Finding::Structure { offset, kind } => {
            of(format!("DMAR offset {offset:#x}"), format!("{kind} accepted"), false)
        }
        Finding::BadStructure(error) => of(String::from("DMAR"), format!("rejected: {error}"), true),
        Finding::BadScope { structure, error } => {
            of(format!("DMAR offset {structure:#x}"), error.to_string(), true)
        }
        Finding::Unresolved { structure, scope, kind, error } => {
            let verdict = format!("scope at {scope:#x}, of kind {kind:?}: {error}");
            of(format!("DMAR offset {structure:#x}"), verdict, true)
        }
        Finding::Region(region) => {
            let devices: Vec<String> = region.devices().iter().map(ToString::to_string).collect();
            let accepted = region.rejection().is_none();
            Facts {
                origin: region.origin().to_string(),
                bytes: accepted.then(|| {
                    let range = region.range();
                    let end = range.end().address().unwrap_or(u64::MAX);
                    (range.start().address().unwrap_or(u64::MAX), end.wrapping_sub(1))
                }),
                verdict: format!("region {region} of {}: {}", devices.join(" and "), region.verdict()),
                is_bad: !accepted,
            }
        }
        Finding::BadOption(error) => {
            let origin = Origin::Option { position: error.position };
            of(origin.to_string(), format!("rmrr= {error}"), true)
        }
    }
}
