//! Devices that go.

use p2m::AddressSpace;

use super::hardware::{attach, attach_ids, detach};
use super::presence::Newcomer;
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::note::Note;
use crate::owner::Owner;
use crate::platform::{HardwareError, RemappingHardware, Sbdf};
use crate::present::{Device, Presence};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Forgets a device that has gone, or is about to: blocks its DMA, and unmaps the regions that only it
    /// used. Requester ids that only it could carry go with it. Those that had one requester by it alone stay
    /// together until they go themselves. Virtual functions that guests have of it stay theirs, with a note.
    ///
    /// # Errors
    /// [`AssignError::UnknownDevice`], and [`AssignError::Hardware`] when its DMA could not be blocked; all
    /// is as it was then, but after a time-out it may be suspect ([`Policy::is_suspect`]).
    pub fn remove_device(&self, device: Sbdf, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        let place = presence.devices.find(device).ok_or(AssignError::UnknownDevice(device))?;
        let requester = presence.requesters.of(place).ok_or(AssignError::UnknownDevice(device))?;
        let users = requester.users.get().saturating_sub(u32::from(!place.is_bridge()));
        let bridges = requester.bridges.get().saturating_sub(u32::from(place.is_bridge()));
        self.send_off(&mut control, &presence, place, (users, bridges), notes)?;
        self.tell_functions(&presence, place, notes);
        let (mut left, mut was_alone) = (requester.holder(), place.is_alone());
        if place.is_bridge() {
            // What was mapped for it was so at home; those below it may have its regions and its id
            // elsewhere.
            left = self.domain(self.hardware_domain).map(|domain| domain.number);
            was_alone = false;
        } else if (users > 0 || bridges > 0)
            && let Some(gone) = Newcomer::of(&presence, place)
        {
            self.empty_quarantine(&presence, gone, notes);
        }
        self.grouping(&presence).leave(place);
        if users == 0 {
            let hardware_domain = self.domain(self.hardware_domain).map(|domain| domain.number);
            requester.set_holder(hardware_domain.filter(|_| bridges > 0));
            requester.set_blocked(false);
        }
        if place.is_quiesced() {
            place.set_quiesced(false);
            control.resume(device);
        }
        drop(presence);
        let space = self.presence.write().forget(place, requester);
        drop(space);
        if let Some(left) = left {
            self.release(&self.presence.read(), (device, was_alone), left, notes);
        }
        Ok(())
    }

    /// Blocks the requester ids that go with a device, and sends those that others have too where these are:
    /// with so many devices, or bridges. On failure all is sent back to where it was.
    fn send_off(
        &self,
        control: &mut C,
        presence: &Presence<'m, S>,
        device: &'m Device,
        (users, bridges): (u32, u32),
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let Presence { requesters, .. } = presence;
        let Some(requester) = requesters.of(device) else { return Ok(()) };
        let sbdf = device.sbdf();
        let own = || requesters.ids_of_one(requester, device.number);
        // With the last also those that a device has left behind which failed to come.
        let is_last = users == 0 && bridges == 0;
        // A bridge that has one of the ids goes on with it.
        let to = self.domain(self.hardware_domain).filter(|_| users == 0 && bridges > 0);
        let blocked = match is_last {
            true => detach(&self.hardware, &mut requesters.ids(requester)),
            false => detach(&self.hardware, &mut own()),
        };
        requesters.hide_ids(requester, device.number, true);
        let hardware = |error| AssignError::Hardware { device: sbdf, error };
        let sent = blocked.map_err(hardware).and_then(|()| match to {
            Some(_) => match attach(&self.hardware, requesters, requester, to) {
                Err(error) if !matches!(error, HardwareError::NoUnit { .. }) => Err(hardware(error)),
                _ => Ok(()),
            },
            // Others go on with its ids: those that are with the same domain, or else in quarantine.
            None if users > 0
                && !device.is_bridge()
                && device.owner() != Owner::Quarantine
                && requester.is_translated() =>
            {
                self.transfer(control, presence, Owner::Quarantine, Mode::Relaxed)?.evict(sbdf, notes)
            }
            None => Ok(()),
        });
        if sent.is_ok() {
            if users == 0 {
                requester.set_certain();
            }
            return sent;
        }
        requesters.hide_ids(requester, device.number, false);
        let back = self.domain_at(requester.holder());
        let undone = if users == 0 {
            attach(&self.hardware, requesters, requester, back)
        } else {
            attach_ids(&self.hardware, requesters, (requester, &mut own()), back)
        };
        if let Err(error) = undone {
            requester.set_suspect(to.map(|domain| domain.number));
            notes(Note::Suspect { source_id: sbdf, error });
        }
        sent
    }

    /// Guests keep the virtual functions of a physical one that goes, though nobody looks after those.
    fn tell_functions(&self, presence: &Presence<'m, S>, device: &Device, notes: &mut dyn FnMut(Note)) {
        let physical = device.sbdf();
        let functions = presence.devices.all().filter(|function| function.physical() == Some(physical));
        for function in functions.filter(|_| device.is_physical()) {
            if let Owner::Domain(domain) = function.owner()
                && domain != self.hardware_domain
            {
                notes(Note::WithoutPhysical { device: function.sbdf(), physical, domain });
            }
        }
    }
}
