//! Mapping the regions of devices that move in the domain that gets them, and taking that back.

use p2m::{Access, AddressSpace, Entry, GfnRange, IdentityError, OnConflict, P2mType, Run, Seen};

use super::assign::Transfer;
use super::domains::Domain;
use super::release::unmap;
use super::{Mode, Policy, hardware};
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::note::Note;
use crate::platform::{DomId, RemappingHardware, Sbdf};
use crate::present::{Device, Part, Presence};
use crate::region::record::{Region, Stage};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Transfer<'_, 'm, S, H, C> {
    /// Maps the selected devices' regions in `domain`.
    pub(super) fn provide(
        &self,
        domain: &'m Domain<S>,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let Some(id) = domain.id() else { return Ok(()) };
        let is_hardware_domain = id == self.policy.hardware_domain;
        for device in self.selected() {
            if device.part() == Part::Accompanies && !is_hardware_domain {
                self.tell_company(device, id, notes);
            }
            self.tell_isolation(device, id, notes);
        }
        // A region that any device wants strictly is provided so.
        for wanted in [Mode::Strict, Mode::Relaxed] {
            // The hardware domain maps its own memory as it likes, reserved memory too: what is there is the
            // same frame, so it stays.
            let skips = is_hardware_domain || wanted == Mode::Relaxed;
            let on_conflict = if skips { OnConflict::Skip } else { OnConflict::Refuse };
            for device in self.selected().filter(|device| self.mode_of(device) == wanted) {
                for region in self.policy.registry.regions_of(device.sbdf()) {
                    if region.stage() == Stage::Idle && !self.goes_without((device, wanted), region, notes) {
                        self.provide_region(device, region, (domain, id), on_conflict, notes)?;
                    }
                }
            }
        }
        let first = self.selected().next();
        hardware::flush(&self.policy.hardware, domain).map_err(|error| AssignError::Hardware {
            device: first.map_or(Sbdf::from_raw(0), Device::sbdf),
            error,
        })
    }

    /// Maps the regions of a device that waits where the target's are that it is translated as. A move of
    /// theirs would be refused for what is in the way; here it is said.
    pub(super) fn map_brought(
        &mut self,
        device: &'m Device,
        domain: &'m Domain<S>,
        notes: &mut dyn FnMut(Note),
    ) {
        let Some(id) = domain.id() else { return };
        let limit = self.limit(device);
        let (to_guest, is_relaxed) = (self.guest().is_some(), self.mode == Mode::Relaxed);
        let on_conflict = if to_guest && !is_relaxed { OnConflict::Refuse } else { OnConflict::Skip };
        for region in self.policy.registry.regions_of(device.sbdf()) {
            if !to_guest && region.rejection().is_some() {
                continue;
            }
            let mapped = match self.unfit(device, region, limit).filter(|_| to_guest) {
                Some(unfit) => Err(unfit),
                None => self
                    .quiesce_users(region, notes)
                    .and_then(|()| self.provide_region(device, region, (domain, id), on_conflict, notes)),
            };
            if let Err(error) = mapped {
                notes(Note::WaitsWithout { device: device.sbdf(), domain: id, error });
            }
        }
    }

    /// Whether a device does not get this region, which is said. Strict moves have been refused for it.
    fn goes_without(
        &self,
        (device, mode): (&'m Device, Mode),
        region: &'m Region<'m>,
        notes: &mut dyn FnMut(Note),
    ) -> bool {
        let name = region.name();
        if let Some(why) = region.rejection() {
            notes(Note::WithoutRejected { region: name, why });
            return true;
        }
        if self.guest().is_none() || mode == Mode::Strict {
            return false;
        }
        match self.unfit(device, region, self.limit(device)) {
            Some(AssignError::Forbidden { region, what, .. }) => {
                notes(Note::WithoutForbidden { region, what });
            }
            Some(AssignError::BeyondUnit { device, region, width }) => {
                notes(Note::BeyondUnit { device, region, width });
            }
            _ => return false,
        }
        true
    }

    fn provide_region(
        &self,
        device: &'m Device,
        region: &'m Region<'m>,
        (domain, id): (&'m Domain<S>, DomId),
        on_conflict: OnConflict,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let (sbdf, name) = (device.sbdf(), region.name());
        let refused = |error| AssignError::Map { device: sbdf, region: name, domain: id, error };
        if region.owner() == Some(id) {
            // A relaxed move may have left out what was occupied; that stays out while devices there use the
            // rest.
            for run in missing(region, domain) {
                if on_conflict == OnConflict::Refuse {
                    return Err(refused(IdentityError::Conflict { gfn: run.gfns.start(), found: run.entry }));
                }
                notes(Note::Skipped { region: name, domain: id, run });
            }
            region.set_stage(Stage::Left);
            return Ok(());
        }
        if let Some(holder) = self.held_elsewhere(region, id) {
            region.set_stage(Stage::Left);
            notes(Note::LeftWith { region: name, domain: holder });
            return Ok(());
        }
        self.reclaim(device, region, id, notes).map_err(refused)?;
        if let Some((domain, run)) = self.policy.reached_elsewhere(region, domain) {
            return Err(AssignError::ReachedBy { device: sbdf, region: name, domain, run });
        }
        let mut report = |seen| {
            if let Seen::Skipped(run) = seen {
                notes(Note::Skipped { region: name, domain: id, run });
            }
        };
        let mut space = domain.space.lock();
        let Some(space) = space.as_mut() else { return Err(AssignError::UnknownDomain(id)) };
        space.map_identity(region.range(), region.access(), on_conflict, &mut report).map_err(refused)?;
        region.set_stage(Stage::Mapped);
        Ok(())
    }

    /// What another domain has of a region without a device that uses it there goes: it was mapped for a
    /// bridge, or has lingered.
    fn reclaim(
        &self,
        device: &'m Device,
        region: &'m Region<'m>,
        target: DomId,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), IdentityError> {
        for other in self.policy.registry.overlapping_with(region) {
            let Some(owner) = other.owner().filter(|owner| *owner != target) else { continue };
            let Some(number) = self.policy.domain(owner).map(|domain| domain.number) else { continue };
            // Who moves from there takes it along at the end.
            let mut users = self.policy.devices_of(self.presence, other);
            if users.any(|user| self.policy.is_at(self.presence, user, number)) {
                continue;
            }
            self.policy.release(self.presence, (device.sbdf(), false), number, notes);
            if other.owner() == Some(owner) {
                return Err(IdentityError::NoFrames { needed: 1 });
            }
        }
        Ok(())
    }

    /// A device that waits goes where one that moves goes.
    fn tell_company(&self, device: &'m Device, domain: DomId, notes: &mut dyn FnMut(Note)) {
        let grouping = self.policy.grouping(self.presence);
        let with = grouping.of_requester(device).find(|mate| mate.part() == Part::Moves);
        if let Some(with) = with {
            notes(Note::TranslatedWith { device: device.sbdf(), with: with.sbdf(), domain });
        }
    }

    /// Something elsewhere is not kept apart from a device that a guest gets.
    fn tell_isolation(&self, device: &'m Device, domain: DomId, notes: &mut dyn FnMut(Note)) {
        if self.guest() != Some(domain) || device.part() != Part::Moves {
            return;
        }
        let mut others = self.presence.devices.not_isolated_from(device);
        let is_elsewhere = |other: &&'m Device| {
            other.number != device.number && other.part() == Part::Idle && other.owner() != self.target
        };
        if let Some(other) = others.find(is_elsewhere) {
            let at = device.isolation();
            notes(Note::NotIsolated { device: device.sbdf(), other: other.sbdf(), at });
        }
    }

    /// A domain other than `target` that keeps the region, or one that it overlaps, for devices that are not
    /// selected. Only a relaxed move gets here with one: strictly, the rest of the group is with the target
    /// or waits.
    pub(super) fn held_elsewhere(&self, region: &'m Region<'m>, target: DomId) -> Option<DomId> {
        self.policy.registry.overlapping_with(region).find_map(|other| {
            let owner = other.owner().filter(|owner| *owner != target)?;
            self.is_kept(other, owner).then_some(owner)
        })
    }

    /// Whether a present device of the region stays with `owner`.
    pub(super) fn is_kept(&self, region: &'m Region<'m>, owner: DomId) -> bool {
        let Some(number) = self.policy.domain(owner).map(|domain| domain.number) else { return false };
        self.policy.devices_of(self.presence, region).any(|device| match device.part() {
            Part::Idle => self.policy.is_at(self.presence, device, number),
            // It stays where those are that cannot be told from it.
            Part::Moves => {
                self.domain.is_none()
                    && self.stays_with(device).is_some()
                    && self.policy.is_at(self.presence, device, number)
            }
            Part::Accompanies => false,
        })
    }

    /// Takes back what [`provide`](Self::provide) installed.
    pub(super) fn withdraw(&mut self, notes: &mut dyn FnMut(Note)) {
        let Some(domain) = self.domain else { return };
        let regions = || self.selected().flat_map(|device| self.policy.registry.regions_of(device.sbdf()));
        let mut any = false;
        for region in regions().filter(|region| region.stage() == Stage::Mapped) {
            region.set_stage(Stage::Leaving);
            any = true;
        }
        for region in regions().filter(|region| region.stage() == Stage::Leaving) {
            region.set_stage(Stage::Idle);
            // Pieces that no region kept there covers were installed as they stand, so that taking them needs
            // no frame.
            let _ = unmap(&self.policy.registry, region, domain);
        }
        if !any {
            return;
        }
        // What was undone is owed until it is flushed, now or by whoever flushes the domain next.
        if let (Err(error), Some(id)) = (hardware::flush(&self.policy.hardware, domain), domain.id()) {
            notes(Note::NotFlushed { domain: id, error });
        }
    }
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Whether the DMA of a device goes through the tables of the domain of this number.
    pub(super) fn is_at(&self, presence: &Presence<'m, S>, device: &Device, domain: u32) -> bool {
        presence.requesters.of(device).is_some_and(|requester| requester.holder() == Some(domain))
    }
}

/// The runs in a region that `domain` does not map 1:1 as the policy would.
fn missing<S: AddressSpace>(region: &Region<'_>, domain: &Domain<S>) -> impl Iterator<Item = Run> {
    let (gfns, wanted) = (region.range().identity(), region.access());
    let mut next = gfns.start();
    core::iter::from_fn(move || {
        while next < gfns.end() {
            let run = domain.space.lock().as_ref().map(|space| space.look_up(next))?;
            let gfn = next;
            next = run.gfns.end();
            let there = GfnRange::new(gfn, next.min(gfns.end()))?;
            if !is_identity(run.entry, gfn.raw(), wanted) {
                return Some(Run { gfns: there, ..run });
            }
        }
        None
    })
}

fn is_identity(entry: Entry, frame: u64, wanted: Access) -> bool {
    let Entry { p2m_type, mfn, access } = entry;
    p2m_type == P2mType::MmioDirect && access == wanted && mfn.is_some_and(|mfn| mfn.raw() == frame)
}
