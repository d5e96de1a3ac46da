//! The reserved regions of the firmware's tables and the command line: read, judged, registered, and logged.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use acpi_dmar::Dmar;
use acpi_dmar::verdict::Verdict;
use xen_iommu::Arena;
use xen_iommu::region::intake::Finding;
use xen_iommu::region::registry::{Origin, RegistryBuilder};

use super::memory::HostMemory;
use crate::check::text;
use crate::inventory::Inventory;

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

/// Reads them into `builder`; `facts` gets an entry for each of the findings.
pub(super) fn read(
    inventory: &Inventory,
    dmars: &[Dmar<'static>],
    builder: &mut RegistryBuilder<'static>,
    arena: &mut Arena<'static>,
    facts: &mut Vec<Facts>,
) -> Result<(), String> {
    let width = dmars.iter().map(Dmar::host_address_width).min().unwrap_or(52);
    let mut frames = HostMemory;
    let mut host = xen_iommu::region::intake::Host {
        pci: inventory.pci.config(),
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
    for value in inventory.options.rmrr() {
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
