//! Bridges that appear after boot, and with them the meaning of scopes that lead through them.

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::{Dmar, Structure};
use p2m::AddressSpace;

use super::Policy;
use crate::platform::{RemappingHardware, Sbdf};
use crate::region::record::{Devices, RegionName};
use crate::region::resolved::place;

/// What became of a scope that led nowhere at boot.
#[derive(Clone, Copy, Debug)]
pub enum LateScope {
    /// It means these devices, and its region is theirs from now on.
    Found {
        /// The region.
        region: RegionName,
        /// The devices.
        devices: Devices,
    },
    /// It means a device that has been added already, without the region. The scope stays open: remove the device, call again, and add it.
    TooLate {
        /// The region.
        region: RegionName,
        /// The device.
        device: Sbdf,
    },
}

impl<'m, S: AddressSpace, H: RemappingHardware> Policy<'m, S, H> {
    /// Looks again at the scopes that led nowhere at boot, as a bridge on their way was absent or had no buses. To be called when a bridge has appeared
    /// and has its bus numbers, before the devices below it are [added](Self::add_device). `dmar` is the table of boot, and the only one.
    pub fn resolve_scopes(
        &self,
        dmar: &Dmar<'_>,
        pci: &impl ConfigRegionAccess,
        report: &mut dyn FnMut(LateScope),
    ) {
        let state = self.state.lock();
        for structure in dmar.structures().filter_map(Result::ok) {
            let Structure::Rmrr(rmrr) = structure else { continue };
            for scope in rmrr.scopes().filter_map(Result::ok) {
                let Some(late) = self.registry.open(rmrr.offset(), scope.offset()) else { continue };
                let Ok(place) = place(rmrr.segment(), &scope, dmar, pci) else { continue };
                let (region, devices) = (late.region.name(), place.devices);
                let mut covered = state.devices.all().filter(|device| devices.covers(device.sbdf()));
                match covered.next() {
                    Some(device) => report(LateScope::TooLate { region, device: device.sbdf() }),
                    None => {
                        late.settle(devices);
                        report(LateScope::Found { region, devices });
                    }
                }
            }
        }
    }
}
