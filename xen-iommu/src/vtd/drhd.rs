//! What a DRHD structure's unit translates, on this machine's buses.

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::{Drhd, DrhdFlags, ScopeKind};

use crate::pci::functions::{phantom_functions, virtual_functions};
use crate::region::record::Devices;
use crate::region::resolved::{ResolvedScope, ResolvedScopes};
use crate::vtd::Coverage;

/// Visits what the unit of `drhd` translates: each of its scopes that leads to PCI functions, and the rest of the segment where it includes all
/// (VT-d 8.3). The phantom and virtual functions of an endpoint are its unit's too: `pci` is read up to offset 0xfff of each, and answers all ones or
/// zeros for what it cannot reach. An absent endpoint is this unit's all the same once it comes. Scopes that lead nowhere are reported and cover nothing;
/// I/O APICs and HPETs do no DMA.
pub fn coverage(
    drhd: &Drhd<'_>,
    scopes: &ResolvedScopes<'_>,
    pci: &impl ConfigRegionAccess,
    visit: &mut dyn FnMut(Coverage),
    unresolved: &mut dyn FnMut(&ResolvedScope),
) {
    let segment = drhd.segment();
    for scope in scopes.of(drhd.offset()) {
        let Ok(place) = scope.place else {
            unresolved(scope);
            continue;
        };
        if matches!(scope.kind, ScopeKind::IoApic | ScopeKind::Hpet) {
            continue;
        }
        match place.devices {
            Devices::Below { bridge, first_bus, last_bus } => {
                // Some bridges request with their own id for what is behind them, others with their secondary bus's.
                visit(Coverage::Endpoint(bridge));
                visit(Coverage::Buses { segment, first: first_bus, last: last_bus });
            }
            Devices::Function(function) => {
                visit(Coverage::Endpoint(function));
                if place.present {
                    let further = [phantom_functions(function, pci), virtual_functions(function, pci)];
                    further.into_iter().flatten().for_each(|ids| visit(Coverage::Further(ids)));
                }
            }
            // No device scope means one.
            Devices::Requesters { .. } => {}
        }
    }
    if drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL) {
        visit(Coverage::All { segment });
    }
}
