//! Bridges that appear after boot, and with them the meaning of scopes that lead through them.

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::{Dmar, Structure};
use p2m::AddressSpace;

use super::hardware::attach;
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::AddError;
use crate::note::Note;
use crate::owner::Owner;
use crate::platform::{RemappingHardware, Sbdf};
use crate::present::{Device, Presence};
use crate::region::devices::Devices;
use crate::region::record::{Region, RegionName};
use crate::region::resolved::place;

/// What became of a scope that led nowhere at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScopeOutcome {
    /// It means these devices, and its region is theirs from now on.
    Found {
        /// The region.
        region: RegionName,
        /// The devices.
        devices: Devices,
    },
    /// One of them is present already, and there is no memory to keep the region for it: it does without
    /// until it is removed and added again.
    Unprovided {
        /// The region.
        region: RegionName,
        /// The device.
        device: Sbdf,
        /// Why.
        error: AddError,
    },
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Looks again at the scopes that led nowhere at boot, as a bridge on their way was absent or had no
    /// buses. To be called when a bridge has appeared and has its bus numbers. `dmar` is the table of boot,
    /// and the only one.
    ///
    /// A device that is present already gets its region as a newcomer would: mapped where the hardware domain
    /// has it; taken to quarantine, cut off, where the region makes it belong together with what a guest has;
    /// and a guest that has the device keeps it without the region, which is said. `new_space` makes an empty
    /// address space for its quarantine.
    pub fn resolve_scopes(
        &self,
        dmar: &Dmar<'_>,
        pci: &impl ConfigRegionAccess,
        mut new_space: impl FnMut() -> Option<S>,
        report: &mut dyn FnMut(ScopeOutcome),
        notes: &mut dyn FnMut(Note),
    ) {
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        for structure in dmar.structures().filter_map(Result::ok) {
            let Structure::Rmrr(rmrr) = structure else { continue };
            for scope in rmrr.scopes().filter_map(Result::ok) {
                let Some(late) = self.registry.open(rmrr.offset(), scope.offset()) else { continue };
                let Ok(place) = place(rmrr.segment(), &scope, dmar, pci) else { continue };
                let (region, devices) = (late.region, place.devices);
                late.settle(devices);
                report(ScopeOutcome::Found { region: region.name(), devices });
                let mut from = Some(Sbdf::from_raw(0));
                while let Some(first) = from {
                    let last = Sbdf::from_raw(u32::MAX);
                    let mut all = presence.devices.between(first, last);
                    let Some(device) = all.find(|device| devices.covers(device.sbdf())) else { break };
                    from = device.sbdf().raw().checked_add(1).map(Sbdf::from_raw);
                    let given =
                        self.give_late(&mut control, &presence, (device, region), &mut new_space, notes);
                    if let Err(error) = given {
                        let (region, device) = (region.name(), device.sbdf());
                        report(ScopeOutcome::Unprovided { region, device, error });
                    }
                }
            }
        }
    }

    fn give_late(
        &self,
        control: &mut C,
        presence: &Presence<'m, S>,
        (device, region): (&'m Device, &'m Region<'m>),
        new_space: &mut impl FnMut() -> Option<S>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AddError> {
        let sbdf = device.sbdf();
        self.grouping(presence).join(device);
        if device.owner() == Owner::Quarantine
            && let (_, Some((other, holder))) = self.owner_for(presence, device)
        {
            notes(Note::Newcomer { device: sbdf, other, holder });
            self.cut_off(control, presence, device, notes);
            self.keep_cut_off(presence, device);
        }
        let filled = self.fill_quarantine(presence, device, new_space);
        match device.owner() {
            Owner::Quarantine => filled.and_then(|()| self.attach_again(presence, device)),
            Owner::Domain(domain) if domain != self.hardware_domain => {
                if region.owner() != Some(domain) {
                    notes(Note::Unprovided { device: sbdf, region: region.name(), domain });
                }
                filled
            }
            Owner::Domain(domain) => match self.owner_for(presence, device) {
                (_, Some((other, holder))) => {
                    notes(Note::Newcomer { device: sbdf, other, holder });
                    self.cut_off(control, presence, device, notes);
                    let moved = self
                        .transfer(control, presence, Owner::Quarantine, Mode::Relaxed)
                        .and_then(|transfer| transfer.evict(sbdf, notes));
                    if let Err(error) = moved {
                        notes(Note::NotMoved { device: sbdf, error });
                        if device.is_quiesced() {
                            device.set_quiesced(false);
                            control.resume(sbdf);
                        }
                    }
                    self.keep_cut_off(presence, device);
                    filled
                }
                _ => filled.and_then(|()| self.map_where_owned(presence, device, self.domain(domain), notes)),
            },
        }
    }

    /// A device in quarantine may have had no tables until now.
    fn attach_again(&self, presence: &Presence<'m, S>, device: &'m Device) -> Result<(), AddError> {
        let requester = presence.requesters.of(device).filter(|requester| requester.is_translated());
        let Some(requester) = requester else { return Ok(()) };
        let domain = self.domain_at(requester.holder());
        attach(&self.hardware, &presence.requesters, requester, domain).map_err(AddError::Hardware)
    }
}
