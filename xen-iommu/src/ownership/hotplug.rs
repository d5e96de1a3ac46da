//! Devices that come and go.

use core::sync::atomic::Ordering;

use p2m::faults::{Fault, is_broken};
use p2m::{Access, AddressSpace, OnConflict, Seen};

use super::transfer::{attach, detach, flush};
use super::{Policy, State};
use crate::device::{Device, Domain, Owner, Requester};
use crate::error::{AddError, AssignError, Note};
use crate::group::Link;
use crate::pci::functions::FurtherIds;
use crate::pci::source::Source;
use crate::platform::{HardwareError, RemappingHardware, Sbdf};
use crate::region::registry::Region;

impl<'m, S: AddressSpace, H: RemappingHardware> Policy<'m, S, H> {
    /// Makes a device known that has appeared, with the requester id that its DMA carries ([`requester_id`](crate::requester_id) finds it) or, where it
    /// uses phantom functions, a [`Source`] that says so. It
    /// belongs to the hardware domain from now on, or to quarantine where the rest of its group is; its regions are mapped there.
    /// `new_space` makes an empty address space for its quarantine; it is called when the device is the first of its requester id with a region.
    ///
    /// # Errors
    /// [`AddError`]; nothing has changed then, but for [`AddError::Hardware`] after a time-out.
    pub fn add_device(
        &self,
        device: Sbdf,
        source: impl Into<Source>,
        new_space: impl FnOnce() -> Option<S>,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<Owner, AddError<'m>> {
        let source = source.into();
        let mut state = self.state.lock();
        if state.devices.find(device).is_some() {
            return Err(AddError::Present(device));
        }
        if state.devices.is_full() {
            return Err(AddError::NoPlace);
        }
        let known = state.requesters.find_with_phantoms(source.id);
        let mut phantoms =
            FurtherIds::phantom(source.id, source.phantom_stride).into_iter().flat_map(FurtherIds::iter);
        if let Some(taken) = phantoms.find(|id| state.requesters.find(*id).is_some()) {
            return Err(AddError::Phantom { device, taken });
        }
        let owner = self.owner_for(&state, device, known)?;
        let requester = match known {
            Some(requester) => requester,
            None => state.requesters.insert(source).ok_or(AddError::NoPlace)?,
        };
        let added = self
            .fill_quarantine(&mut state, device, requester, new_space)
            .and_then(|()| self.settle(&mut state, device, requester, owner, notes));
        if let Err(error) = added {
            // What the hardware may still use stays.
            if requester.users.get() == 0 && !requester.is_uncertain() {
                drop(state.requesters.remove(requester));
            }
            return Err(error);
        }
        if let Some(place) = state.devices.insert(device, owner, requester.number) {
            requester.users.set(requester.users.get().saturating_add(1));
            self.grouping(&state).join(place);
        }
        Ok(owner)
    }

    /// Forgets a device that has gone, or is about to: blocks its DMA, and unmaps the regions that only it used.
    ///
    /// # Errors
    /// [`AssignError::UnknownDevice`], and [`AssignError::Hardware`] when its DMA could not be blocked.
    pub fn remove_device(
        &self,
        device: Sbdf,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let mut state = self.state.lock();
        let place = state.devices.find(device).ok_or(AssignError::UnknownDevice(device))?;
        let requester = state.requesters.of(place).ok_or(AssignError::UnknownDevice(device))?;
        let is_last = requester.users.get() <= 1;
        if is_last && requester.translated.load(Ordering::Relaxed) && !is_broken(Fault::StayAttached) {
            detach(&mut state.hardware, requester)
                .map_err(|error| AssignError::Hardware { device, error })?;
            requester.set_certain();
        }
        let owner = place.owner();
        self.grouping(&state).leave(place);
        state.devices.remove(place);
        requester.users.set(requester.users.get().saturating_sub(1));
        if is_last {
            drop(state.requesters.remove(requester));
        }
        if let Owner::Domain(id) = owner {
            state.release(self, device, id, notes);
        }
        Ok(())
    }

    /// Whom a new device is to belong to: where those are that it belongs together with.
    fn owner_for(
        &self,
        state: &State<'m, S, H>,
        device: Sbdf,
        requester: Option<&'m Requester>,
    ) -> Result<Owner, AddError<'m>> {
        let grouping = self.grouping(state);
        let by_region = self.registry().regions_of(device).filter_map(|region| {
            let cluster = self.registry().cluster(region)?;
            state.devices.at(cluster.first_user.load(Ordering::Relaxed))
        });
        let by_source = requester.and_then(|requester| state.devices.at(requester.first_user.get()));
        let hardware_domain = Owner::Domain(self.hardware_domain());
        if is_broken(Fault::IgnoreGroupOfNew) {
            return Ok(hardware_domain);
        }
        let mut found = None;
        for other in by_region.chain(by_source) {
            let owner = other.owner();
            if owner != Owner::Quarantine && owner != hardware_domain
                || found.is_some_and(|found| found != owner)
            {
                let link = match requester.filter(|requester| other.requester.get() == requester.number) {
                    Some(requester) => Some(Link::RequesterId(requester.source())),
                    None => grouping.region_link(device, other.sbdf()),
                };
                return Err(AddError::Group { device, other: other.sbdf(), owner, link });
            }
            found = Some(owner);
        }
        let owner = found.unwrap_or(hardware_domain);
        self.check_holders(state, device, owner)?;
        Ok(owner)
    }

    /// Where relaxed moves have left a group in several places, no other domain than the owner may have the memory of the device's regions.
    fn check_holders(&self, state: &State<'m, S, H>, device: Sbdf, owner: Owner) -> Result<(), AddError<'m>> {
        let grouping = self.grouping(state);
        for region in self.registry().regions_of(device) {
            let holder =
                |other: &Region<'m>| other.owner().map(Owner::Domain).filter(|holder| *holder != owner);
            let Some(holder) = self.registry().overlapping(region.range()).find_map(holder) else { continue };
            let mut theirs = state.devices.all().filter(|other| other.owner() == holder).map(Device::sbdf);
            let linked = theirs.find_map(|other| Some((other, grouping.region_link(device, other)?)));
            let (other, link) = linked.map_or((device, None), |(other, link)| (other, Some(link)));
            return Err(AddError::Group { device, other, owner: holder, link });
        }
        Ok(())
    }

    /// Maps the device's regions in its requester's quarantine.
    fn fill_quarantine(
        &self,
        state: &mut State<'m, S, H>,
        device: Sbdf,
        requester: &Requester,
        new_space: impl FnOnce() -> Option<S>,
    ) -> Result<(), AddError<'m>> {
        let regions = || self.registry().regions_of(device).filter(|region| region.rejection().is_none());
        if regions().next().is_none() || is_broken(Fault::EmptyQuarantine) {
            return Ok(());
        }
        let mut quarantine = state.requesters.quarantine(requester).ok_or(AddError::NoPlace)?.lock();
        let space = match &mut *quarantine {
            Some(space) => space,
            none => none.insert(new_space().ok_or(AddError::NoSpace)?),
        };
        for region in regions() {
            if let Err(error) =
                space.map_identity(region.range(), Access::READ_WRITE, OnConflict::Refuse, &mut |_| {})
            {
                // What else this quarantine holds is for other devices of the requester; what was mapped for this one may stay: the requester's
                // devices cannot be told apart, and it goes with the last of them.
                return Err(AddError::Map { region, error });
            }
        }
        if let Some(pending) = space.take_flush() {
            state.hardware.flush(requester.space_id(), &pending).map_err(AddError::Hardware)?;
            space.confirm_flush();
        }
        Ok(())
    }

    /// Maps the device's regions at its owner and sends its requester there.
    fn settle(
        &self,
        state: &mut State<'m, S, H>,
        device: Sbdf,
        requester: &Requester,
        owner: Owner,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AddError<'m>> {
        let domain = match owner {
            Owner::Domain(id) => self.domain(id),
            Owner::Quarantine => None,
        };
        let settled = self.map_where_owned(state, device, domain, notes).and_then(|()| {
            attach(&mut state.hardware, &state.requesters, requester, domain).map_err(AddError::Hardware)
        });
        let translated = match settled {
            Ok(()) => {
                requester.set_certain();
                true
            }
            Err(AddError::Hardware(HardwareError::NoUnit { .. })) => {
                notes(Note::NotTranslated(device));
                false
            }
            Err(error) => {
                let is_new = requester.users.get() == 0;
                if is_new && let Err(error) = detach(&mut state.hardware, requester) {
                    requester.set_uncertain(None);
                    notes(Note::Uncertain { source: requester.source(), error });
                }
                // The device is not counted so far, so what was mapped for it alone has no user.
                if let Owner::Domain(id) = owner {
                    state.release(self, device, id, notes);
                }
                return Err(error);
            }
        };
        requester.translated.store(translated, Ordering::Relaxed);
        Ok(())
    }

    /// Maps the device's regions in the domain that is to own it, where they are not mapped so far. Only the hardware domain gets new devices, and
    /// what it has mapped there by itself stays.
    fn map_where_owned(
        &self,
        state: &mut State<'m, S, H>,
        device: Sbdf,
        domain: Option<&Domain<S>>,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AddError<'m>> {
        let Some((domain, id)) = domain.and_then(|domain| Some((domain, domain.id()?))) else {
            return Ok(());
        };
        let regions = self.registry().regions_of(device).filter(|region| region.rejection().is_none());
        for region in regions.filter(|region| region.owner().is_none()) {
            if let Some((domain, run)) = self.reached_elsewhere(region, domain) {
                return Err(AddError::ReachedBy { device, region, domain, run });
            }
            let mut report = |seen| {
                if let Seen::Skipped(run) = seen {
                    notes(Note::Skipped { region, domain: id, run });
                }
            };
            if let Some(space) = domain.space.lock().as_mut() {
                space
                    .map_identity(region.range(), Access::READ_WRITE, OnConflict::Skip, &mut report)
                    .map_err(|error| AddError::Map { region, error })?;
            }
            region.set_owner(Some(id));
        }
        flush(&mut state.hardware, domain).map_err(AddError::Hardware)
    }
}
