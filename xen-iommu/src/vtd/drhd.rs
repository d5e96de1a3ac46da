//! What a DRHD structure's unit translates, on this machine's buses.

use acpi_dmar::{Drhd, DrhdFlags, ScopeKind};

use crate::region::devices::Devices;
use crate::region::resolved::{ResolvedScope, ResolvedScopes};
use crate::vtd::Coverage;

/// Visits what the unit of `drhd` translates: each of its scopes that leads to PCI functions, and the rest of
/// the segment where it includes all (VT-d 8.3). Phantom and virtual functions, which no scope names, are
/// found by their function ([`RequesterId`](crate::RequesterId)). An absent endpoint is this unit's all the
/// same once it comes. Scopes that lead nowhere are reported and cover nothing; I/O APICs and HPETs do no
/// DMA.
pub fn coverage(
    drhd: &Drhd<'_>,
    scopes: &ResolvedScopes<'_>,
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
                // Some bridges request with their own id for what is behind them, others with their secondary
                // bus's.
                visit(Coverage::Endpoint(bridge));
                visit(Coverage::Buses { segment, first: first_bus, last: last_bus });
            }
            Devices::Function(function) => visit(Coverage::Endpoint(function)),
            // No device scope means one.
            Devices::Requesters { .. } => {}
        }
    }
    if drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL) {
        visit(Coverage::All { segment });
    }
}
