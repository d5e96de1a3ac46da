//! Devices that come.

use p2m::{AddressSpace, OnConflict, Seen};

use super::assign::Transfer;
use super::domains::Domain;
use super::hardware::{attach, attach_ids, detach, flush};
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::{AddError, Holder};
use crate::note::Note;
use crate::owner::Owner;
use crate::pci::Function;
use crate::platform::{DomId, HardwareError, RemappingHardware, Sbdf};
use crate::present::{Device, Joining, Presence, Requester, Taken, requester_ids};

/// A device that has come, or got a region.
#[derive(Clone, Copy)]
pub(super) struct Newcomer<'m> {
    device: &'m Device,
    requester: &'m Requester,
    /// Requesters that are to become one with its own, once nothing can fail any more.
    joining: Joining<'m>,
}

/// How its requester was before.
#[derive(Clone, Copy)]
struct Before {
    holder: Option<u32>,
    is_blocked: bool,
    has_quarantine: bool,
}

impl<'m> Newcomer<'m> {
    /// A device that is there, and joins nobody by its ids.
    pub(super) fn of<S>(presence: &Presence<'m, S>, device: &'m Device) -> Option<Self> {
        let requester = presence.requesters.of(device)?;
        Some(Self { device, requester, joining: Joining::default() })
    }

    pub(super) fn device(&self) -> &'m Device {
        self.device
    }

    pub(super) fn requester(&self) -> &'m Requester {
        self.requester
    }

    /// Whether it is the device itself, or one of those that its requester is to be joined with.
    pub(super) fn comes(&self, device: &Device) -> bool {
        device.number == self.device.number || self.joining.has(device.requester.get())
    }

    /// Whether nothing can tell it from the device once it is there.
    fn is_alike(&self, device: &Device) -> bool {
        self.comes(device) || device.requester.get() == self.requester.number
    }
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Makes a function known that has appeared, a bridge or host bridge too ([`pci::walk`](crate::pci)
    /// describes it). It belongs to the hardware domain from now on, with its regions mapped there. Where the
    /// rest of its group waits in quarantine it does so too; and where a guest has one of the group, or its
    /// requester ids are those of devices in two places, it waits cut off: who has something keeps it, and
    /// the newcomer can be assigned when the rules permit. Devices in one place whose ids it has both of are
    /// one requester from then on. Where it cannot be told from what a guest has, it is translated as that,
    /// with its regions mapped there as far as nothing is in the way. `new_space` makes an empty address
    /// space for its quarantine; it is called for the first of its requester that has a region.
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
        let newcomer = self.record(function, notes)?;
        let Newcomer { device, requester, joining } = newcomer;
        let presence = self.presence.read();
        let grouping = self.grouping(&presence);
        grouping.join(device);
        joining.iter().for_each(|other| grouping.join_with(device, other));
        let (owner, guest) = self.owner_for(&presence, device);
        presence.devices.set_owner(device, owner);
        // Before anything is mapped where its DMA may go already, by an id that others have too.
        if let Some((other, holder)) = guest {
            notes(Note::Newcomer { device: function.sbdf, other, holder });
        }
        let quarantine = presence.requesters.quarantine(requester);
        let before = Before {
            holder: requester.holder(),
            is_blocked: requester.is_blocked(),
            has_quarantine: quarantine.is_some_and(|space| space.lock().is_some()),
        };
        if guest.is_some() || requester.is_contested() {
            self.cut_off(&mut control, &presence, newcomer, notes);
        }
        let added = self
            .fill_quarantine(&presence, newcomer, new_space)
            .and_then(|()| self.settle(&mut control, &presence, newcomer, before, notes));
        match added {
            Ok(()) => {
                self.keep_cut_off(&presence, newcomer);
                drop(presence);
                self.unite(newcomer, function);
                Ok(owner)
            }
            Err(error) => {
                for mate in grouping.bound(device).filter(|mate| mate.is_quiesced_now()) {
                    mate.set_quiesced(false);
                    control.resume(mate.sbdf());
                }
                self.empty_quarantine(&presence, newcomer, notes);
                let holder = self.holder_of(&presence, device);
                self.grouping(&presence).leave(device);
                drop(presence);
                self.take_back(newcomer, before);
                // What was mapped for it alone has no user any more.
                if let Some(holder) = holder {
                    let presence = self.presence.read();
                    let mates = presence.devices.all().filter(|mate| newcomer.is_alike(mate));
                    for mate in mates.map(Device::sbdf).chain([function.sbdf]) {
                        self.release(&presence, (mate, false), holder, notes);
                    }
                }
                Err(error)
            }
        }
    }

    /// Puts a function into the tables.
    fn record(&self, function: &Function, notes: &mut dyn FnMut(Note)) -> Result<Newcomer<'m>, AddError> {
        let taken = {
            let presence = self.presence.read();
            let Presence { devices, requesters } = &*presence;
            if devices.find(function.sbdf).is_some() {
                return Err(AddError::Present(function.sbdf));
            }
            if devices.is_full() || !requesters.has_room(&function.ids) {
                return Err(AddError::NoPlace);
            }
            // A bridge makes nobody one, nor does what no unit translates.
            let has_unit =
                |id| !matches!(self.hardware.check_translating(id), Err(HardwareError::NoUnit { .. }));
            let joins = || function.role.is_device() && requester_ids(function).all(has_unit);
            requesters.taken(&function.ids, devices, joins)
        };
        let mut presence = self.presence.write();
        let Presence { devices, requesters } = &mut *presence;
        let (requester, joining) = match taken {
            Taken::By(requester, joining) => (Some(requester), joining),
            Taken::Free => (requesters.insert(false), Joining::default()),
            Taken::ByTwo(id) => {
                notes(Note::Contested { device: function.sbdf, id });
                (requesters.insert(true), Joining::default())
            }
        };
        let requester = requester.ok_or(AddError::NoPlace)?;
        let device = devices.insert(function, requester.number).ok_or(AddError::NoPlace)?;
        requesters.add_ids(requester, function, device.number, devices);
        let count = if device.is_bridge() { &requester.bridges } else { &requester.users };
        count.set(count.get().saturating_add(1));
        Ok(Newcomer { device, requester, joining })
    }

    /// It has come: requesters that it makes one are one, and what no unit translates is none of its ids.
    fn unite(&self, newcomer: Newcomer<'m>, function: &Function) {
        let Newcomer { device, requester, joining } = newcomer;
        if device.is_without_unit() {
            self.presence.write().requesters.remove_ids(requester, device.number);
        }
        for other in joining.iter() {
            let mut presence = self.presence.write();
            let Presence { devices, requesters } = &mut *presence;
            let space = requesters.join(requester, other, devices);
            requesters.add_ids(requester, function, device.number, devices);
            drop((presence, space));
        }
    }

    /// Takes a device that has failed to come out of the tables.
    fn take_back(&self, newcomer: Newcomer<'m>, before: Before) {
        let Newcomer { device, requester, .. } = newcomer;
        if requester.is_suspect() {
            // What the hardware may still use stays, and with it the ids by which it is found again.
            let mut presence = self.presence.write();
            presence.requesters.orphan_ids(requester, device.number);
            presence.forget(device, requester);
            return;
        }
        let mut presence = self.presence.write();
        let space = presence.forget(device, requester);
        let quarantine = presence.requesters.quarantine(requester).filter(|_| !before.has_quarantine);
        let unused = quarantine.and_then(|quarantine| quarantine.lock().take());
        drop((presence, space, unused));
    }

    /// The devices that nothing can tell from a newcomer once it is there, itself among them.
    pub(super) fn company<'s>(
        &'s self,
        presence: &'s Presence<'m, S>,
        newcomer: Newcomer<'m>,
    ) -> impl Iterator<Item = &'m Device> + use<'s, 'm, S, H, C> {
        let bound = self.grouping(presence).bound(newcomer.device);
        bound.filter(move |mate| newcomer.is_alike(mate))
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
    /// and cannot be told from it, as they reach what it reaches. So it does that of those that wait and
    /// reach a guest's device beside the unit by way of it, which nothing blocks. They are marked as switched
    /// off just now.
    pub(super) fn cut_off(
        &self,
        control: &mut C,
        presence: &Presence<'m, S>,
        newcomer: Newcomer<'m>,
        notes: &mut dyn FnMut(Note),
    ) {
        let Newcomer { device, requester, .. } = newcomer;
        let bound = || self.grouping(presence).bound(device);
        let is_guests =
            |mate: &'m Device| matches!(mate.owner(), Owner::Domain(id) if id != self.hardware_domain);
        let is_with_guest = bound().any(is_guests);
        let waits = |mate: &&'m Device| mate.number == device.number || mate.owner() == Owner::Quarantine;
        let all_wait = self.company(presence, newcomer).all(|mate| waits(&mate));
        let reaches = |mate: &&'m Device| is_with_guest || newcomer.is_alike(mate);
        for mate in bound().filter(waits).filter(reaches).filter(|mate| !mate.is_quiesced()) {
            match control.quiesce(mate.sbdf()) {
                Ok(()) => mate.set_quiesced(true),
                Err(why) => {
                    let is_its = all_wait && newcomer.is_alike(mate);
                    if is_its {
                        requester.set_blocked(true);
                    }
                    // A contested one's other ids are not its to block.
                    let blocked = is_its && !requester.is_contested();
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
    pub(super) fn keep_cut_off(&self, presence: &Presence<'m, S>, newcomer: Newcomer<'m>) {
        let bound = self.grouping(presence).bound(newcomer.device);
        bound.filter(|mate| mate.is_quiesced_now()).for_each(Device::keep_quiesced);
    }

    /// Maps the device's regions where its DMA goes, and sends its requester there.
    fn settle(
        &self,
        control: &mut C,
        presence: &Presence<'m, S>,
        newcomer: Newcomer<'m>,
        before: Before,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AddError> {
        let Newcomer { device, requester, joining } = newcomer;
        let holder = self.holder_of(presence, device);
        let domain = self.domain_at(holder);
        let owned = match device.owner() {
            Owner::Domain(id) => self.domain(id),
            Owner::Quarantine => None,
        };
        // Those that wait, and cannot be told from it, are translated as it is from now on.
        let all_move = holder != before.holder;
        let mut come =
            self.company(presence, newcomer).filter(|mate| all_move || mate.number == device.number);
        let mapped = if device.is_bridge() {
            self.map_where_owned(presence, device, owned, notes)
        } else {
            come.try_for_each(|mate| self.map_where_owned(presence, mate, owned, notes))
        };
        let waits = owned.is_none() && !device.is_bridge();
        let mut company = None;
        let mapped = mapped.and_then(|()| {
            if let Some(id) = domain.and_then(Domain::id).filter(|_| waits) {
                company = Some(self.accompany(control, presence, (device, id), notes)?);
            }
            Ok(())
        });
        let joined = || joining.iter().filter(|_| all_move || holder.is_none());
        let attached = mapped.and_then(|()| {
            let requesters = &presence.requesters;
            attach(&self.hardware, requesters, requester, domain).map_err(AddError::Hardware)?;
            joined().try_for_each(|other| {
                let mut ids = requesters.ids(other);
                attach_ids(&self.hardware, requesters, (requester, &mut ids), domain)
                    .map_err(AddError::Hardware)
            })
        });
        match attached {
            Ok(()) => {
                requester.set_certain();
                requester.set_translated(true);
            }
            Err(AddError::Hardware(HardwareError::NoUnit { .. })) if joining.iter().next().is_none() => {
                notes(Note::NotTranslated(device.sbdf()));
                if requester.count() == 1 {
                    requester.set_translated(false);
                } else {
                    // Those that were there before it go on with the ids that they had.
                    device.set_without_unit();
                    let mut ids = presence.requesters.ids_of_one(requester, device.number);
                    if let Err(error) = detach(&self.hardware, &mut ids) {
                        requester.set_suspect(holder);
                        notes(Note::Suspect { source_id: device.sbdf(), error });
                    }
                }
            }
            Err(error) => {
                if let Some(company) = &mut company {
                    company.undo(notes);
                }
                requester.set_blocked(before.is_blocked);
                self.send_back(presence, newcomer, (holder, before.holder), joined(), notes);
                return Err(error);
            }
        }
        if let Some(company) = &mut company {
            company.keep();
        }
        self.tell_company(presence, device, notes);
        requester.set_holder(holder);
        if holder.is_some() && !requester.is_contested() {
            requester.set_blocked(false);
        }
        Ok(())
    }

    /// A newcomer that waits is translated as a domain's device from now on: its regions are mapped there, as
    /// those of one that goes along with a move would be.
    pub(super) fn accompany<'s>(
        &'s self,
        control: &'s mut C,
        presence: &'s Presence<'m, S>,
        (device, domain): (&'m Device, DomId),
        notes: &mut dyn FnMut(Note),
    ) -> Result<Transfer<'s, 'm, S, H, C>, AddError> {
        let owner = Owner::Domain(domain);
        let grouping = self.grouping(presence);
        let mut mates = grouping.of_requester(device).filter(|mate| mate.owner() == owner);
        let mode = if mates.all(Device::is_relaxed) { Mode::Relaxed } else { Mode::Strict };
        let transfer = self.transfer(control, presence, owner, mode);
        let mut transfer = transfer.map_err(|_| AddError::NoSpace)?;
        transfer.bring(device, notes).map_err(AddError::Hardware)?;
        Ok(transfer)
    }

    /// The ids that came with a device go again, all of them where nobody else has them and hardware only had
    /// not let them go; and the others go where they were.
    fn send_back(
        &self,
        presence: &Presence<'m, S>,
        newcomer: Newcomer<'m>,
        (holder, before): (Option<u32>, Option<u32>),
        joined: impl Iterator<Item = &'m Requester>,
        notes: &mut dyn FnMut(Note),
    ) {
        let Newcomer { device, requester, .. } = newcomer;
        let (requesters, domain) = (&presence.requesters, self.domain_at(before));
        let mut new = requesters.ids_of_one(requester, device.number);
        let mut older = requesters.ids_without(requester, device.number);
        let undone = detach(&self.hardware, &mut new)
            .and_then(|()| attach_ids(&self.hardware, requesters, (requester, &mut older), domain));
        let mut suspect = |requester: &Requester, error| {
            requester.set_suspect(holder);
            notes(Note::Suspect { source_id: device.sbdf(), error });
        };
        match undone {
            Ok(()) if requester.count() == 1 => requester.set_certain(),
            Ok(()) => {}
            Err(error) => suspect(requester, error),
        }
        for other in joined {
            if let Err(error) = attach(&self.hardware, requesters, other, domain) {
                suspect(other, error);
            }
        }
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
}
