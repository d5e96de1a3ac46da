//! The firmware's DMAR: which of those that there are counts, and where its scopes lead.

use alloc::string::String;

use acpi_dmar::{Dmar, Structure};
use xen_iommu::Arena;
use xen_iommu::region::choice::choose;
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::resolved::ResolvedScopes;

use crate::check::text;
use crate::inventory::Inventory;

/// The DMAR that counts.
#[derive(Clone, Copy)]
pub(super) struct Table {
    pub(super) dmar: Dmar<'static>,
    pub(super) scopes: ResolvedScopes<'static>,
}

/// The DMAR that counts, where there is one; and whether it tells of an IOMMU.
pub(super) fn read(
    inventory: &Inventory,
    arena: &mut Arena<'static>,
) -> Result<(Option<Table>, IommuState), String> {
    let found = &inventory.tables.dmars;
    match found.len() {
        0 => log::warn!(target: "dmar", "the firmware has no DMAR: it tells of no IOMMU"),
        1 => {}
        count => log::warn!(
            target: "dmar",
            "the firmware has {count} DMARs where there should be one, not two or more"
        ),
    }
    let chosen = choose(found.iter().copied(), &mut |number, why| {
        log::warn!(target: "dmar", "DMAR {} of {} is not used: {why}", number + 1, found.len());
    });
    let dmar = match chosen {
        Ok(dmar) => dmar,
        Err(state) => return Ok((None, state)),
    };
    let scopes = ResolvedScopes::read(&dmar, inventory.pci.config(), arena).map_err(text)?;
    let has_unit = dmar.structures().any(|structure| matches!(structure, Ok(Structure::Drhd(_))));
    let state = if has_unit { IommuState::Active } else { IommuState::Unusable(Unusable::NoUnit) };
    Ok((Some(Table { dmar, scopes }), state))
}
