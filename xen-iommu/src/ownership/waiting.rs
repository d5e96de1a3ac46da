//! Members that wait in quarantine do no DMA into what a guest holds.

use p2m::AddressSpace;

use super::assign::Transfer;
use super::{Mode, Policy, hardware};
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::note::Note;
use crate::owner::Owner;
use crate::platform::RemappingHardware;
use crate::present::{Device, Part, Presence};
use crate::region::record::{NONE, Region};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Transfer<'_, 'm, S, H, C> {
    /// Switches off the DMA of devices in quarantine that reach what a guest is to get, or that arrive in
    /// quarantine and reach what a guest keeps.
    pub(super) fn quiesce_waiting(&mut self, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        match (self.target, self.guest()) {
            (Owner::Quarantine, _) => self.quiesce_arriving(notes),
            (_, Some(_)) => self.quiesce_others(notes),
            _ => Ok(()),
        }
    }

    /// A guest gets regions and requester ids.
    fn quiesce_others(&mut self, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        // Who shares memory or ids with a device is in its group.
        for device in self.selected().filter(|device| !device.is_alone()) {
            if device.part() == Part::Accompanies {
                self.quiesce(device, false, notes)?;
            }
            // Who is bound to it for want of isolation reaches it beside the unit, which cannot block that.
            let bound = self.policy.grouping(self.presence);
            for other in bound.bound(device) {
                if other.part() == Part::Idle && other.owner() == Owner::Quarantine {
                    self.quiesce(other, false, notes)?;
                }
            }
            let limit = self.limit(device);
            for region in self.policy.registry.regions_of(device.sbdf()) {
                if self.unfit(device, region, limit).is_none() {
                    self.quiesce_users(region, notes)?;
                }
            }
        }
        Ok(())
    }

    /// The guest is to get this region, unless another domain keeps it: switches off who reaches it from
    /// quarantine.
    pub(super) fn quiesce_users(
        &mut self,
        region: &'m Region<'m>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        if self.guest().is_none_or(|guest| self.held_elsewhere(region, guest).is_some()) {
            return Ok(());
        }
        let presence = self.presence;
        let grouping = self.policy.grouping(presence);
        for other in self.policy.registry.overlapping_with(region) {
            for user in self.policy.devices_of(presence, other) {
                // Who cannot be told from it reaches what it reaches.
                for waiting in grouping.of_requester(user) {
                    if waiting.part() == Part::Idle && waiting.owner() == Owner::Quarantine {
                        self.quiesce(waiting, true, notes)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Devices come back while others keep what they reach. That is never refused: where their DMA cannot be
    /// switched off it is blocked.
    fn quiesce_arriving(&mut self, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        let grouping = self.policy.grouping(self.presence);
        // Those that go along to quarantine reach there what the one that moves reaches.
        for device in self.selected().filter(|device| !device.is_alone()) {
            let mate = self.stays_with(device);
            let guest_has = |other: &Device| match other.owner() {
                Owner::Domain(id) => id != self.policy.hardware_domain && other.part() != Part::Moves,
                Owner::Quarantine => false,
            };
            let with_guest = grouping.bound(device).any(guest_has);
            if with_guest || grouping.of_requester(device).any(|mate| self.reaches_kept(mate)) {
                self.quiesce(device, mate.is_none(), notes)?;
            }
        }
        Ok(())
    }

    /// Whether a guest keeps memory that the device reaches from quarantine.
    fn reaches_kept(&self, device: &'m Device) -> bool {
        let regions = self.policy.registry.regions_of(device.sbdf());
        regions.filter(|region| region.rejection().is_none()).any(|region| {
            self.policy.registry.overlapping_with(region).any(|other| {
                let guest = other.owner().filter(|owner| *owner != self.policy.hardware_domain);
                guest.is_some_and(|guest| self.is_kept(other, guest))
            })
        })
    }

    /// Switches the DMA of a device off. Where that fails, and `blockable`, its unit blocks it.
    fn quiesce(
        &mut self,
        device: &'m Device,
        blockable: bool,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let requester = self.presence.requesters.of(device);
        // Blocked already, and not about to go where one of its requester goes.
        let is_blocked = requester
            .is_some_and(|requester| requester.is_blocked() && requester.holder().is_none() && blockable);
        if device.is_quiesced() || is_blocked {
            return Ok(());
        }
        let sbdf = device.sbdf();
        match self.control.quiesce(sbdf) {
            Ok(()) => {
                device.set_quiesced(true);
                notes(Note::Quiesced(sbdf));
            }
            Err(why) => {
                if let (Some(domain), Mode::Strict) = (self.guest(), self.mode) {
                    return Err(AssignError::NotQuiesced { waiting: sbdf, domain, why });
                }
                // One that waits and is translated as a domain's goes on as that does.
                let goes_on =
                    device.part() == Part::Idle && requester.is_some_and(|one| one.holder().is_some());
                let blocked = blockable && !goes_on && self.policy.block(self.presence, device, notes);
                notes(Note::NotQuiesced { device: sbdf, why, blocked });
                if !blocked {
                    return Ok(());
                }
                device.set_blocked_now();
            }
        }
        if device.part() == Part::Idle {
            device.next_in_list.set(self.first_quiesced);
            self.first_quiesced = device.number;
        }
        Ok(())
    }

    /// The move is done: what it switched off stays so.
    pub(super) fn keep_quiesced(&mut self) {
        let others = self.presence.devices.list(self.first_quiesced);
        self.selected().chain(others).for_each(Device::keep_quiesced);
        self.first_quiesced = NONE;
    }

    /// The move has failed: what it switched off or had blocked is as it was.
    pub(super) fn resume_quiesced(&mut self, notes: &mut dyn FnMut(Note)) {
        let others = self.presence.devices.list(self.first_quiesced);
        for device in self.selected().chain(others) {
            if device.is_quiesced_now() {
                device.set_quiesced(false);
                self.control.resume(device.sbdf());
            }
            if device.is_blocked_now() {
                device.keep_quiesced();
                self.policy.unblock(self.presence, device, notes);
            }
        }
        self.first_quiesced = NONE;
    }
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Has a device's unit block all of its DMA for as long as it is in quarantine; whether it does. One that
    /// is still elsewhere is blocked when it arrives.
    pub(super) fn block(
        &self,
        presence: &Presence<'m, S>,
        device: &'m Device,
        notes: &mut dyn FnMut(Note),
    ) -> bool {
        let Some(requester) = presence.requesters.of(device) else { return false };
        requester.set_blocked(true);
        if requester.holder().is_some() {
            return true;
        }
        match hardware::detach(&self.hardware, &mut presence.requesters.ids(requester)) {
            Ok(()) => true,
            Err(error) => {
                requester.set_suspect(None);
                notes(Note::Suspect { source_id: device.sbdf(), error });
                false
            }
        }
    }
    /// Takes that back.
    fn unblock(&self, presence: &Presence<'m, S>, device: &'m Device, notes: &mut dyn FnMut(Note)) {
        let Some(requester) = presence.requesters.of(device) else { return };
        requester.set_blocked(false);
        if requester.holder().is_some() || requester.is_suspect() {
            return;
        }
        if let Err(error) = hardware::attach(&self.hardware, &presence.requesters, requester, None) {
            requester.set_suspect(None);
            notes(Note::Suspect { source_id: device.sbdf(), error });
        }
    }
}
