//! Devices that come and go.

use p2m::{AddressSpace, OnConflict, Seen};

use super::domains::Domain;
use super::hardware::{attach, attach_older, detach, flush};
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::{AddError, AssignError, Holder};
use crate::note::Note;
use crate::owner::Owner;
use crate::pci::Function;
use crate::platform::{HardwareError, RemappingHardware, Sbdf};
use crate::present::{Device, Presence, Requester, Taken};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Makes a function known that has appeared, a bridge or host bridge too ([`pci::walk`](crate::pci)
    /// describes it). It belongs to the hardware domain from now on, with its regions mapped there. Where the
    /// rest of its group waits in quarantine it does so too; and where a guest has one of the group, or its
    /// requester ids are those of devices in two places, it waits cut off: who has something keeps it, and
    /// the newcomer can be assigned when the rules permit. `new_space` makes an empty address space for its
    /// quarantine; it is called for the first of its requester that has a region.
    ///
    /// # Errors
    /// [`AddError`]; nothing has changed then, but for [`AddError::Hardware`] after a time-out.
    pub fn add_device(
        &self,
        function: &Function,
        new_space: impl FnOnce() -> Option<S>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<Owner, AddError> {
        let mut control = self.ownership.lock();
        let (device, known) = self.record(function, notes)?;
        let presence = self.presence.read();
        self.grouping(&presence).join(device);
        let (owner, newcomer) = self.owner_for(&presence, device);
        presence.devices.set_owner(device, owner);
        // Before anything is mapped where its DMA may go already, by an id that others have too.
        if let Some((other, holder)) = newcomer {
            notes(Note::Newcomer { device: function.sbdf, other, holder });
        }
        let requester = presence.requesters.of(device).ok_or(AddError::NoPlace)?;
        let was_blocked = requester.is_blocked();
        if newcomer.is_some() || requester.is_contested() {
            self.cut_off(&mut control, &presence, device, notes);
        }
        let added = self
            .fill_quarantine(&presence, device, new_space)
            .and_then(|()| self.settle(&presence, (device, known, was_blocked), notes));
        let Err(error) = added else {
            self.keep_cut_off(&presence, device);
            self.tell_company(&presence, device, notes);
            let is_without_unit = device.is_without_unit();
            drop(presence);
            if is_without_unit {
                self.presence.write().requesters.truncate_ids(requester, known);
            }
            return Ok(owner);
        };
        for mate in self.grouping(&presence).of_requester(device).filter(|mate| mate.is_quiesced_now()) {
            mate.set_quiesced(false);
            control.resume(mate.sbdf());
        }
        self.empty_quarantine(&presence, device, notes);
        self.grouping(&presence).leave(device);
        drop(presence);
        self.forget(device, Some(known));
        // What was mapped for it alone has no user any more.
        if let Owner::Domain(id) = owner
            && let Some(domain) = self.domain(id)
        {
            let presence = self.presence.read();
            let mates = presence.devices.all().filter(|mate| mate.requester.get() == device.requester.get());
            for mate in mates.map(Device::sbdf).chain([function.sbdf]) {
                self.release(&presence, (mate, false), domain.number, notes);
            }
        }
        Err(error)
    }

    /// Puts a function into the tables. With it: how many ids its requester had before.
    fn record(
        &self,
        function: &Function,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(&'m Device, usize), AddError> {
        let mut presence = self.presence.write();
        if presence.devices.find(function.sbdf).is_some() {
            return Err(AddError::Present(function.sbdf));
        }
        if presence.devices.is_full() || !presence.requesters.has_room(function) {
            return Err(AddError::NoPlace);
        }
        let taken = presence.requesters.taken(&function.ids);
        let (requester, known) = match taken {
            Taken::By(requester) => {
                let known = presence.requesters.ids(requester).count();
                presence.requesters.add_ids(requester, function);
                (Some(requester), known)
            }
            Taken::Free => (presence.requesters.insert(function, false), 0),
            Taken::ByTwo(id) => {
                notes(Note::Contested { device: function.sbdf, id });
                (presence.requesters.insert(function, true), 0)
            }
        };
        let requester = requester.ok_or(AddError::NoPlace)?;
        let device = presence.devices.insert(function, requester.number);
        let device = device.ok_or(AddError::NoPlace)?;
        let count = if device.is_bridge() { &requester.bridges } else { &requester.users };
        count.set(count.get().saturating_add(1));
        Ok((device, known))
    }

    /// Takes a device out of the tables, and its requester where that has no other. With `known`: its
    /// requester is left with so many ids, as it was.
    fn forget(&self, device: &'m Device, known: Option<usize>) {
        let mut presence = self.presence.write();
        presence.devices.remove(device);
        let Some(requester) = presence.requesters.of(device) else { return };
        let count = if device.is_bridge() { &requester.bridges } else { &requester.users };
        count.set(count.get().saturating_sub(1));
        let is_unused = requester.users.get() == 0 && requester.bridges.get() == 0;
        // What the hardware may still use stays, and with it the ids by which it is found again.
        if requester.is_suspect() {
            return;
        }
        if is_unused {
            drop(presence.requesters.remove(requester));
        } else if let Some(known) = known {
            presence.requesters.truncate_ids(requester, known);
        }
    }

    /// Whom a new device belongs to, by the rest of its group; and the member with a guest that keeps it from
    /// the hardware domain.
    pub(super) fn owner_for(
        &self,
        presence: &Presence<'m, S>,
        device: &'m Device,
    ) -> (Owner, Option<(Sbdf, Holder)>) {
        let hardware_domain = Owner::Domain(self.hardware_domain);
        let contested = presence.requesters.of(device).is_some_and(Requester::is_contested);
        // At boot nobody else has anything, and groups may be large.
        if device.is_bridge() || (presence.devices.are_all_home() && !contested) {
            return (hardware_domain, None);
        }
        let grouping = self.grouping(presence);
        let (mut waits, mut any_there) = (false, false);
        for other in grouping.members(device).filter(|other| other.number != device.number) {
            match other.owner() {
                Owner::Quarantine => waits = true,
                owner if owner == hardware_domain => any_there = true,
                Owner::Domain(id) => {
                    return (Owner::Quarantine, Some((other.sbdf(), Holder::Guest(id))));
                }
            }
        }
        let owner = if contested || (waits && !any_there) { Owner::Quarantine } else { hardware_domain };
        (owner, None)
    }

    /// Switches the DMA of a newcomer off or, where that fails, has it blocked; and that of those that wait
    /// and cannot be told from it, as they reach what it reaches. They are marked as switched off just now.
    pub(super) fn cut_off(
        &self,
        control: &mut C,
        presence: &Presence<'m, S>,
        device: &'m Device,
        notes: &mut dyn FnMut(Note),
    ) {
        let grouping = self.grouping(presence);
        let waits = |mate: &&'m Device| {
            let is_newcomer = mate.number == device.number;
            (is_newcomer || mate.owner() == Owner::Quarantine) && !mate.is_quiesced()
        };
        let stays = |mate: &Device| mate.number != device.number && mate.owner() != Owner::Quarantine;
        let all_wait = !grouping.of_requester(device).any(stays);
        for mate in grouping.of_requester(device).filter(waits) {
            match control.quiesce(mate.sbdf()) {
                Ok(()) => mate.set_quiesced(true),
                Err(why) => {
                    // A contested one's other ids are not its to block.
                    let requester = presence.requesters.of(device).filter(|_| all_wait);
                    let blocked = requester.is_some_and(|requester| !requester.is_contested());
                    if let Some(requester) = requester {
                        requester.set_blocked(true);
                    }
                    notes(Note::NotQuiesced { device: mate.sbdf(), why, blocked });
                }
            }
        }
    }

    /// A newcomer that waits is translated as a guest's device, where nothing can tell them apart.
    fn tell_company(&self, presence: &Presence<'m, S>, device: &'m Device, notes: &mut dyn FnMut(Note)) {
        let grouping = self.grouping(presence);
        let with = grouping.of_requester(device).find_map(|mate| match mate.owner() {
            Owner::Domain(id) if id != self.hardware_domain => Some((mate.sbdf(), id)),
            _ => None,
        });
        if let Some((with, domain)) = with.filter(|_| device.owner() == Owner::Quarantine) {
            notes(Note::TranslatedWith { device: device.sbdf(), with, domain });
        }
    }

    /// What [`cut_off`](Self::cut_off) has switched off stays so.
    pub(super) fn keep_cut_off(&self, presence: &Presence<'m, S>, device: &'m Device) {
        let mates = self.grouping(presence);
        mates.of_requester(device).filter(|mate| mate.is_quiesced_now()).for_each(Device::keep_quiesced);
    }

    /// Maps the device's regions in its requester's quarantine.
    pub(super) fn fill_quarantine(
        &self,
        presence: &Presence<'m, S>,
        device: &Device,
        new_space: impl FnOnce() -> Option<S>,
    ) -> Result<(), AddError> {
        let regions =
            || self.registry.regions_of(device.sbdf()).filter(|region| region.rejection().is_none());
        if device.is_bridge() || regions().next().is_none() {
            return Ok(());
        }
        let requester = presence.requesters.of(device).ok_or(AddError::NoPlace)?;
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

    /// Unmaps the regions of a device that goes from its requester's quarantine: who stays and cannot be told
    /// from it would reach them there, while a guest may have them. What shares memory with regions of those
    /// stays for them.
    fn empty_quarantine(&self, presence: &Presence<'m, S>, device: &'m Device, notes: &mut dyn FnMut(Note)) {
        if device.is_bridge() {
            return;
        }
        let grouping = self.grouping(presence);
        let others = || grouping.of_requester(device).filter(|other| other.number != device.number);
        let Some(requester) = presence.requesters.of(device) else { return };
        let Some(quarantine) = presence.requesters.quarantine(requester) else { return };
        let mut quarantine = quarantine.lock();
        let Some(space) = quarantine.as_mut() else { return };
        for region in self.registry.regions_of(device.sbdf()).filter(|region| region.rejection().is_none()) {
            let mut theirs = others().flat_map(|other| self.registry.regions_of(other.sbdf()));
            if theirs.all(|other| other.rejection().is_some() || !other.range().overlaps(&region.range())) {
                // Installed as it stands, so that taking it needs no frame.
                let _ = space.unmap_identity(region.range());
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

    /// Maps the device's regions at its owner and sends its requester where that belongs.
    fn settle(
        &self,
        presence: &Presence<'m, S>,
        (device, known, was_blocked): (&'m Device, usize, bool),
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AddError> {
        let requester = presence.requesters.of(device).ok_or(AddError::NoPlace)?;
        let before = requester.holder();
        let holder = self.holder_of(presence, device);
        let domain = self.domain_at(holder);
        let owned = match device.owner() {
            Owner::Domain(id) => self.domain(id),
            Owner::Quarantine => None,
        };
        // Those that wait, and cannot be told from it, are translated as it is from now on.
        let grouping = self.grouping(presence);
        let mut come =
            grouping.of_requester(device).filter(|mate| mate.number == device.number || holder != before);
        let settled =
            come.try_for_each(|mate| self.map_where_owned(presence, mate, owned, notes)).and_then(|()| {
                attach(&self.hardware, &presence.requesters, requester, domain).map_err(AddError::Hardware)
            });
        match settled {
            Ok(()) => {
                requester.set_certain();
                requester.set_translated(true);
            }
            Err(AddError::Hardware(HardwareError::NoUnit { .. })) => {
                notes(Note::NotTranslated(device.sbdf()));
                if known == 0 {
                    requester.set_translated(false);
                } else {
                    // Those that were there before it go on with the ids that they had.
                    device.set_without_unit();
                    let new = presence.requesters.ids(requester).count().saturating_sub(known);
                    for id in presence.requesters.ids(requester).take(new) {
                        match self.hardware.detach(id) {
                            Ok(()) | Err(HardwareError::NoUnit { .. }) => {}
                            Err(error) => {
                                requester.set_suspect(holder);
                                notes(Note::Suspect { source_id: device.sbdf(), error });
                            }
                        }
                    }
                }
            }
            Err(error) => {
                requester.set_blocked(was_blocked);
                // The ids that came with it go again; all of them where nobody else has them, and hardware
                // only had not let them go.
                let is_alone = requester.users.get().saturating_add(requester.bridges.get()) == 1;
                let known = if is_alone { 0 } else { known };
                let new = presence.requesters.ids(requester).count().saturating_sub(known);
                let mut ids = presence.requesters.ids(requester).take(new);
                let undone = ids.try_for_each(|id| self.hardware.detach(id)).and_then(|()| {
                    let before = self.domain_at(before);
                    attach_older(&self.hardware, &presence.requesters, (requester, new), before)
                });
                match undone {
                    Ok(()) if is_alone => requester.set_certain(),
                    Ok(()) => {}
                    Err(error) => {
                        requester.set_suspect(holder);
                        notes(Note::Suspect { source_id: device.sbdf(), error });
                    }
                }
                return Err(error);
            }
        }
        requester.set_holder(holder);
        if holder.is_some() && !requester.is_contested() {
            requester.set_blocked(false);
        }
        Ok(())
    }

    /// Maps the device's regions in the domain that is to own it, where they are not mapped yet. Only the
    /// hardware domain gets new devices, and what it has mapped there by itself stays.
    pub(super) fn map_where_owned(
        &self,
        presence: &Presence<'m, S>,
        device: &'m Device,
        domain: Option<&'m Domain<S>>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AddError> {
        let Some((domain, id)) = domain.and_then(|domain| Some((domain, domain.id()?))) else {
            return Ok(());
        };
        let regions = self.registry.regions_of(device.sbdf()).filter(|region| region.rejection().is_none());
        for region in regions.filter(|region| region.owner() != Some(id)) {
            let name = region.name();
            // A bridge takes nothing that devices elsewhere have.
            let mut users = self.registry.overlapping_with(region).flat_map(|other| {
                self.devices_of(presence, other).filter(|user| user.number != device.number)
            });
            if device.is_bridge() && users.any(|user| user.owner() != Owner::Domain(id)) {
                continue;
            }
            let holder = self.registry.overlapping_with(region).find_map(|other| other.owner());
            if let Some(holder) = holder.filter(|holder| *holder != id) {
                notes(Note::LeftWith { region: name, domain: holder });
                continue;
            }
            if let Some((domain, run)) = self.reached_elsewhere(region, domain) {
                notes(Note::ReachedBy { region: name, domain, run });
                continue;
            }
            let mut report = |seen| {
                if let Seen::Skipped(run) = seen {
                    notes(Note::Skipped { region: name, domain: id, run });
                }
            };
            if let Some(space) = domain.space.lock().as_mut() {
                space
                    .map_identity(region.range(), region.access(), OnConflict::Skip, &mut report)
                    .map_err(|error| AddError::Map { region: name, error })?;
            }
            region.set_owner(Some(id));
        }
        flush(&self.hardware, domain).map_err(AddError::Hardware)
    }

    /// Forgets a device that has gone, or is about to: blocks its DMA, and unmaps the regions that only it
    /// used.
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
        if users == 0 {
            // The last; a bridge that has one of the ids goes on with it.
            let to = (bridges > 0).then(|| self.domain(self.hardware_domain)).flatten();
            self.send_off(&presence, place, to, notes)?;
        } else if !place.is_bridge() && place.owner() != Owner::Quarantine && requester.is_translated() {
            // Others go on with its ids: those that are with the same domain, or else in quarantine.
            self.transfer(&mut control, &presence, Owner::Quarantine, Mode::Relaxed)?.evict(device, notes)?;
        }
        let (mut left, mut was_alone) = (requester.holder(), place.is_alone());
        if place.is_bridge() {
            // What was mapped for it was so at home; those below it may have its regions and its id
            // elsewhere.
            left = self.domain(self.hardware_domain).map(|domain| domain.number);
            was_alone = false;
        } else if users > 0 || bridges > 0 {
            self.empty_quarantine(&presence, place, notes);
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
        self.forget(place, None);
        if let Some(left) = left {
            self.release(&self.presence.read(), (device, was_alone), left, notes);
        }
        Ok(())
    }

    /// Blocks the DMA of a requester that loses its last device, or sends it where a bridge goes on with it;
    /// on failure back to where it was.
    fn send_off(
        &self,
        presence: &Presence<'m, S>,
        device: &Device,
        to: Option<&'m Domain<S>>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let Some(requester) = presence.requesters.of(device) else { return Ok(()) };
        let sent = match to {
            Some(domain) => attach(&self.hardware, &presence.requesters, requester, Some(domain)),
            None => detach(&self.hardware, &presence.requesters, requester),
        };
        let error = match sent {
            Ok(()) | Err(HardwareError::NoUnit { .. }) => {
                requester.set_certain();
                return Ok(());
            }
            Err(error) => error,
        };
        let back = self.domain_at(requester.holder());
        if let Err(error) = attach(&self.hardware, &presence.requesters, requester, back) {
            requester.set_suspect(to.map(|domain| domain.number));
            notes(Note::Suspect { source_id: device.sbdf(), error });
        }
        Err(AssignError::Hardware { device: device.sbdf(), error })
    }
}
