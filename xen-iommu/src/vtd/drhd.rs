//! What a DRHD structure's unit translates, on this machine's buses.

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::resolve::{self, ResolveError, Resolved};
use acpi_dmar::{DeviceScope, Dmar, Drhd, DrhdFlags};

use crate::platform::Sbdf;
use crate::vtd::Coverage;

/// Visits what the unit of `drhd` translates: each of its scopes that leads to PCI functions, and the rest of the segment where it includes all
/// (VT-d 8.3). Phantom and virtual functions, which no scope names, are found by their function ([`RequesterId`](crate::RequesterId)). Scopes that lead
/// nowhere are reported and cover nothing; I/O APICs and HPETs do no DMA.
pub fn coverage<'a>(
    drhd: &Drhd<'a>,
    dmar: &Dmar<'a>,
    pci: &impl ConfigRegionAccess,
    visit: &mut dyn FnMut(Coverage),
    unresolved: &mut dyn FnMut(DeviceScope<'a>, ResolveError),
) {
    let segment = drhd.segment();
    for scope in drhd.scopes().filter_map(Result::ok) {
        match resolve::resolve(segment, &scope, dmar, pci) {
            Ok(Resolved::Bridge { address, buses }) => {
                // Some bridges request with their own id for what is behind them, others with their secondary bus's.
                visit(Coverage::Endpoint(address.into()));
                visit(Coverage::Buses { segment, first: buses.secondary, last: buses.subordinate });
            }
            Ok(Resolved::IoApic { .. } | Resolved::Hpet { .. }) => {}
            Ok(resolved) => {
                if let Some(address) = resolved.address() {
                    visit(Coverage::Endpoint(Sbdf::from(address)));
                }
            }
            // An absent endpoint is this unit's all the same once it comes.
            Err(ResolveError::NotPresent(address))
                if resolve::address(segment, &scope, pci) == Ok(address) =>
            {
                visit(Coverage::Endpoint(address.into()));
            }
            Err(error) => unresolved(scope, error),
        }
    }
    if drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL) {
        visit(Coverage::All { segment });
    }
}
