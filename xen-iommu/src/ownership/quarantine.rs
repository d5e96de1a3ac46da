//! What a requester's quarantine holds: the regions of its present devices.

use p2m::{AddressSpace, OnConflict};

use super::Policy;
use super::presence::Newcomer;
use super::release::unmap_but;
use crate::control::DeviceControl;
use crate::error::AddError;
use crate::note::Note;
use crate::platform::{RemappingHardware, Sbdf};
use crate::present::{Device, Presence};
use crate::region::record::Region;

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Maps the regions of the devices that come in their requester's quarantine.
    pub(super) fn fill_quarantine(
        &self,
        presence: &Presence<'m, S>,
        newcomer: Newcomer<'m>,
        new_space: impl FnOnce() -> Option<S>,
    ) -> Result<(), AddError> {
        let coming = || self.company(presence, newcomer).filter(|mate| newcomer.comes(mate));
        let regions = || coming().flat_map(|device| self.accepted_regions_of(device.sbdf()));
        if newcomer.device().is_bridge() || regions().next().is_none() {
            return Ok(());
        }
        let requester = newcomer.requester();
        let mut quarantine = presence.requesters.quarantine(requester).ok_or(AddError::NoPlace)?.lock();
        let space = match &mut *quarantine {
            Some(space) => space,
            none => none.insert(new_space().ok_or(AddError::NoSpace)?),
        };
        for region in regions() {
            // What else this quarantine holds is for other devices of the requester.
            space
                .map_identity(region.range(), region.access(), OnConflict::Refuse, &mut |_| {})
                .map_err(|error| AddError::Map { region: region.name(), error })?;
        }
        if let Some(owed) = space.take_flush() {
            self.hardware.flush(requester.space_id(), &owed).map_err(AddError::Hardware)?;
            space.confirm_flush(owed);
        }
        Ok(())
    }

    fn accepted_regions_of(&self, device: Sbdf) -> impl Iterator<Item = &'m Region<'m>> + '_ {
        self.registry.regions_of(device).filter(|region| region.rejection().is_none())
    }

    /// Unmaps what devices that come, or one that goes, have in a requester's quarantine: who stays and
    /// cannot be told from them would reach it there, while a guest may have it. What those that stay have
    /// there is left.
    pub(super) fn empty_quarantine(
        &self,
        presence: &Presence<'m, S>,
        newcomer: Newcomer<'m>,
        notes: &mut dyn FnMut(Note),
    ) {
        let (device, requester) = (newcomer.device(), newcomer.requester());
        if device.is_bridge() {
            return;
        }
        let Some(quarantine) = presence.requesters.quarantine(requester) else { return };
        let mut quarantine = quarantine.lock();
        let Some(space) = quarantine.as_mut() else { return };
        let stays = |user: &'m Device| user.requester.get() == requester.number && !newcomer.comes(user);
        let is_kept = |region: &&'m Region<'m>| self.devices_of(presence, region).any(stays);
        for gone in self.company(presence, newcomer).filter(|mate| newcomer.comes(mate)) {
            for region in self.accepted_regions_of(gone.sbdf()).filter(|region| !is_kept(region)) {
                // In pieces that end where regions do that were mapped there, so that it takes no frame.
                let _ = unmap_but(&self.registry, region, space, is_kept);
            }
        }
        let Some(owed) = space.take_flush() else { return };
        match self.hardware.flush(requester.space_id(), &owed) {
            Ok(()) => space.confirm_flush(owed),
            Err(error) => {
                // Those that stay may reach what they should not, until they are attached anew.
                requester.set_suspect(None);
                notes(Note::Suspect { source_id: device.sbdf(), error });
            }
        }
    }
}
