//! The firmware's DMARs, those that can be read.

use alloc::vec::Vec;

use acpi_dmar::Dmar;

use crate::inventory::Inventory;

/// The DMARs that may be trusted to be what they say.
pub(super) fn readable(inventory: &Inventory) -> Vec<Dmar<'static>> {
    let found = &inventory.tables.dmars;
    match found.len() {
        0 => log::warn!(target: "dmar", "the firmware has no DMAR: it tells of no IOMMU"),
        1 => {}
        count => log::warn!(
            target: "dmar",
            "the firmware has {count} DMARs where there should be one, not two or more: \
             the regions of all are kept"
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
