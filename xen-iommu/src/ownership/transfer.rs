//! Moving devices from owner to owner as one transaction: select, map in the target, switch the requesters, unmap in the source.

use core::sync::atomic::Ordering;

use p2m::faults::{Fault, is_broken};
use p2m::{Access, AddressSpace, Entry, GfnRange, IdentityError, OnConflict, P2mType, Run, Seen};

use super::release::unmap;
use super::{Mode, Policy, State};
use crate::device::{Device, Domain, Owner, Requester, Requesters};
use crate::error::{AssignError, Note};
use crate::group::Link;
use crate::platform::{DomId, HardwareError, RemappingHardware, RequesterId, Sbdf};
use crate::region::registry::{NONE, Region, Stage};

/// A move under way, under the ownership lock. What it touches it marks (selected devices, staged regions, switched requesters), and it leaves no mark
/// behind, whichever way it ends.
pub(super) struct Transfer<'s, 'm, S, H> {
    policy: &'s Policy<'m, S, H>,
    pub(super) state: &'s mut State<'m, S, H>,
    /// The first selected device's number.
    first: u32,
}

impl<'s, 'm, S: AddressSpace, H: RemappingHardware> Transfer<'s, 'm, S, H> {
    pub(super) fn new(policy: &'s Policy<'m, S, H>, state: &'s mut State<'m, S, H>) -> Self {
        Self { policy, state, first: NONE }
    }

    pub(super) fn find(&self, sbdf: Sbdf) -> Result<&'m Device, AssignError<'m>> {
        self.state.devices.find(sbdf).ok_or(AssignError::UnknownDevice(sbdf))
    }

    /// Moves `devices`, and with `whole_groups` those that belong to them, to `target`: all or none.
    pub(super) fn run(
        mut self,
        devices: &[Sbdf],
        whole_groups: bool,
        target: Owner,
        mode: Mode,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let target_domain = self.target_domain(target)?;
        let done = self
            .select(devices, whole_groups, target, mode)
            .and_then(|()| self.check_translated(target))
            .and_then(|()| self.fetch_back())
            .and_then(|()| target_domain.map_or(Ok(()), |domain| self.map(domain, mode, notes)));
        if is_broken(Fault::UnmapFirst) && done.is_ok() {
            self.unmap_in_sources();
        }
        let done = done.and_then(|()| self.switch(target_domain, notes));
        match done {
            Ok(()) => self.commit(devices, target, notes),
            Err(_) => self.undo_map(target_domain),
        }
        self.unselect();
        done
    }

    /// The checks of [`run`](Self::run) that look at owners and groups.
    pub(super) fn test(
        mut self,
        devices: &[Sbdf],
        whole_groups: bool,
        target: Owner,
        mode: Mode,
    ) -> Result<(), AssignError<'m>> {
        self.target_domain(target)?;
        let done = self
            .select(devices, whole_groups, target, mode)
            .and_then(|()| self.check_translated(target))
            .and_then(|()| match (target, mode) {
                (Owner::Domain(_), Mode::Strict) => self.check_rejected(),
                _ => Ok(()),
            });
        self.unselect();
        done
    }

    fn target_domain(&self, target: Owner) -> Result<Option<&'m Domain<S>>, AssignError<'m>> {
        match target {
            Owner::Quarantine => Ok(None),
            Owner::Domain(id) => self.policy.domain(id).map(Some).ok_or(AssignError::UnknownDomain(id)),
        }
    }

    /// Selects the devices that are not at the target, and checks that no group is torn.
    fn select(
        &mut self,
        devices: &[Sbdf],
        whole_groups: bool,
        target: Owner,
        mode: Mode,
    ) -> Result<(), AssignError<'m>> {
        for sbdf in devices {
            let device = self.find(*sbdf)?;
            if device.owner() == target {
                continue;
            }
            self.mark(device);
            if whole_groups {
                let grouping = self.policy.grouping(self.state);
                let mut first = self.first;
                for member in grouping.members(device).filter(|member| member.owner() != target) {
                    first = chain(member, first);
                }
                self.first = first;
            }
        }
        let grouping = self.policy.grouping(self.state);
        for device in self.selected() {
            for other in
                grouping.members(device).filter(|other| !other.is_selected() && other.owner() != target)
            {
                // The members that are not directly linked to this device are so to another selected one, or to one left out that is found there.
                let Some(link) = grouping.link(device, other) else { continue };
                // Regions can be left with the others under relaxed; one requester id cannot be in two places.
                if mode_of(device, mode) == Mode::Strict || matches!(link, Link::RequesterId(_)) {
                    let (device, owner) = (device.sbdf(), other.owner());
                    return Err(AssignError::Group { device, other: other.sbdf(), owner, link });
                }
            }
        }
        Ok(())
    }

    fn mark(&mut self, device: &'m Device) {
        self.first = chain(device, self.first);
    }

    fn selected(&self) -> impl Iterator<Item = &'m Device> + use<'_, 'm, S, H> {
        let mut next = self.first;
        core::iter::from_fn(move || {
            let device = self.state.devices.at(next)?;
            next = device.chain.get();
            Some(device)
        })
    }

    fn unselect(&mut self) {
        self.unmark(|_| {});
    }

    /// Takes every mark away, after `last` has seen each region.
    fn unmark(&mut self, last: impl Fn(&Region<'_>)) {
        for device in self.selected() {
            device.selected.store(false, Ordering::Relaxed);
            for region in self.policy.registry.regions_of(device.sbdf()) {
                last(region);
                region.set_stage(Stage::Idle);
            }
            if let Some(requester) = self.state.requesters.of(device) {
                requester.switched.store(false, Ordering::Relaxed);
            }
        }
        self.first = NONE;
    }

    /// A device whose DMA no unit translates stays with the hardware domain: nothing would keep it inside another.
    fn check_translated(&self, target: Owner) -> Result<(), AssignError<'m>> {
        if target == Owner::Domain(self.policy.hardware_domain) {
            return Ok(());
        }
        for device in self.selected() {
            let translated = self
                .state
                .requesters
                .of(device)
                .is_some_and(|requester| requester.translated.load(Ordering::Relaxed));
            if !translated {
                let source = device.sbdf();
                return Err(AssignError::Hardware {
                    device: source,
                    error: HardwareError::NoUnit { source },
                });
            }
        }
        Ok(())
    }

    /// Nothing moves from a place where it may not be.
    fn fetch_back(&mut self) -> Result<(), AssignError<'m>> {
        let mut next = self.first;
        while let Some(device) = self.state.devices.at(next) {
            next = device.chain.get();
            let Some(requester) = self.state.requesters.of(device) else { continue };
            self.policy
                .fetch_back(self.state, requester, device.owner())
                .map_err(|error| AssignError::Hardware { device: device.sbdf(), error })?;
        }
        Ok(())
    }

    fn check_rejected(&self) -> Result<(), AssignError<'m>> {
        for device in self.selected().filter(|device| !device.is_relaxable()) {
            let mut regions = self.policy.registry.regions_of(device.sbdf());
            if let Some(region) = regions.find(|region| region.rejection().is_some()) {
                return Err(AssignError::RejectedRegion { device: device.sbdf(), region });
            }
        }
        Ok(())
    }

    /// Maps the selected devices' regions in `domain`.
    fn map(
        &mut self,
        domain: &'m Domain<S>,
        mode: Mode,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let Some(id) = domain.id() else { return Ok(()) };
        let is_hardware_domain = id == self.policy.hardware_domain;
        if mode == Mode::Strict && !is_hardware_domain {
            self.check_rejected()?;
        }
        // The hardware domain maps its own memory as it likes, reserved memory too: what is there is the same frame, so it stays.
        for device in self.selected() {
            let relaxed = is_hardware_domain || mode_of(device, mode) == Mode::Relaxed;
            let on_conflict = if relaxed { OnConflict::Skip } else { OnConflict::Refuse };
            for region in self.policy.registry.regions_of(device.sbdf()) {
                if region.rejection().is_some() {
                    notes(Note::WithoutRejected { region });
                    continue;
                }
                if region.stage() != Stage::Idle {
                    continue;
                }
                if region.owner() == Some(id) {
                    // A relaxed move may have left out what was occupied; that stays out while devices there use the rest.
                    for run in missing(region, domain) {
                        if on_conflict == OnConflict::Refuse {
                            let error = IdentityError::Conflict { gfn: run.gfns.start(), found: run.entry };
                            return Err(AssignError::Map {
                                device: device.sbdf(),
                                region,
                                domain: id,
                                error,
                            });
                        }
                        notes(Note::Skipped { region, domain: id, run });
                    }
                    region.set_stage(Stage::Left);
                    continue;
                }
                if let Some(holder) = self.held_elsewhere(region, id) {
                    region.set_stage(Stage::Left);
                    notes(Note::LeftWith { region, domain: holder });
                    continue;
                }
                self.check_reached(device, region, domain)?;
                let mut report = |seen| {
                    if let Seen::Skipped(run) = seen {
                        notes(Note::Skipped { region, domain: id, run });
                    }
                };
                let mut space = domain.space.lock();
                let Some(space) = space.as_mut() else { return Err(AssignError::UnknownDomain(id)) };
                space
                    .map_identity(region.range(), Access::READ_WRITE, on_conflict, &mut report)
                    .map_err(|error| AssignError::Map { device: device.sbdf(), region, domain: id, error })?;
                region.set_stage(Stage::Mapped);
            }
        }
        let first = self.selected().next();
        flush(&self.state.hardware, domain).map_err(|error| AssignError::Hardware {
            device: first.map_or(Sbdf::from_raw(0), Device::sbdf),
            error,
        })
    }

    /// A domain other than `target` that keeps the region, or one that it overlaps, for devices that are not selected. Only a relaxed move gets here
    /// with one: a strict one has the whole group.
    fn held_elsewhere(&self, region: &'m Region<'m>, target: DomId) -> Option<DomId> {
        self.policy.registry.overlapping_with(region).find_map(|other| {
            let owner = other.owner().filter(|owner| *owner != target)?;
            self.is_used(other, owner).then_some(owner)
        })
    }

    /// Whether a present device of the region stays with `owner`.
    fn is_used(&self, region: &Region<'m>, owner: DomId) -> bool {
        self.state
            .devices_of(&self.policy.registry, region)
            .any(|device| !device.is_selected() && device.owner() == Owner::Domain(owner))
    }

    /// No other domain may reach the region on its own account.
    fn check_reached(
        &self,
        device: &Device,
        region: &'m Region<'m>,
        target: &Domain<S>,
    ) -> Result<(), AssignError<'m>> {
        match self.policy.reached_elsewhere(region, target) {
            Some((domain, run)) => Err(AssignError::ReachedBy { device: device.sbdf(), region, domain, run }),
            None => Ok(()),
        }
    }

    /// Takes back what [`map`](Self::map) installed.
    fn undo_map(&mut self, domain: Option<&'m Domain<S>>) {
        let Some(domain) = domain.filter(|_| !is_broken(Fault::SkipUndoMap)) else { return };
        let regions = || self.selected().flat_map(|device| self.policy.registry.regions_of(device.sbdf()));
        for region in regions().filter(|region| region.stage() == Stage::Mapped) {
            region.set_stage(Stage::Leaving);
        }
        for region in regions().filter(|region| region.stage() == Stage::Leaving) {
            region.set_stage(Stage::Idle);
            // Pieces that no region kept there covers were installed as they stand, so that taking them needs no frame.
            let _ = unmap(&self.policy.registry, region, domain);
        }
        // Nothing has used the mappings: the requesters are where they were.
        let _ = flush(&self.state.hardware, domain);
    }

    /// What [`Fault::UnmapFirst`] does.
    fn unmap_in_sources(&self) {
        for device in self.selected() {
            let Owner::Domain(id) = device.owner() else { continue };
            let Some(domain) = self.policy.domain(id) else { continue };
            for region in self.policy.registry.regions_of(device.sbdf()) {
                let _ = domain.space.lock().as_mut().map(|space| space.unmap_identity(region.range()));
            }
        }
    }

    /// Sends the selected devices' requesters through the target's tables; on failure sends them back.
    fn switch(
        &mut self,
        target: Option<&'m Domain<S>>,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let mut failed = None;
        let mut next = self.first;
        while let Some(device) = self.state.devices.at(next) {
            next = device.chain.get();
            let Some(requester) = self.state.requesters.of(device) else { continue };
            let translated = requester.translated.load(Ordering::Relaxed);
            if !translated || requester.switched.swap(true, Ordering::Relaxed) {
                continue;
            }
            if is_broken(Fault::ForgetRequester) && next == NONE {
                continue;
            }
            if let Err(error) = attach(&self.state.hardware, &self.state.requesters, requester, target) {
                failed = Some(AssignError::Hardware { device: device.sbdf(), error });
                break;
            }
        }
        let Some(error) = failed else { return Ok(()) };
        if is_broken(Fault::SkipSwitchBack) {
            return Err(error);
        }
        let mut next = self.first;
        while let Some(device) = self.state.devices.at(next) {
            next = device.chain.get();
            let Some(requester) = self.state.requesters.of(device) else { continue };
            if !requester.switched.swap(false, Ordering::Relaxed) {
                continue;
            }
            let source = match device.owner() {
                Owner::Domain(id) => self.policy.domain(id),
                Owner::Quarantine => None,
            };
            if let Err(error) = attach(&self.state.hardware, &self.state.requesters, requester, source) {
                requester.set_uncertain(target.map(|domain| domain.number));
                notes(Note::Uncertain { source: requester.source(), error });
            }
        }
        Err(error)
    }

    /// Makes the target the owner, and removes the mappings that nobody needs any more from the domains that were.
    fn commit(&mut self, named: &[Sbdf], target: Owner, notes: &mut dyn FnMut(Note<'m>)) {
        let mut next = self.first;
        while let Some(device) = self.state.devices.at(next) {
            next = device.chain.get();
            let source = device.owner();
            device.set_owner(target);
            device.selected.store(false, Ordering::Relaxed);
            if !named.contains(&device.sbdf()) {
                notes(Note::MovedAlong(device.sbdf()));
            }
            if let Owner::Domain(id) = source {
                self.state.release(self.policy, device.sbdf(), id, notes);
            }
        }
        let owner = match target {
            Owner::Domain(id) => Some(id),
            Owner::Quarantine => None,
        };
        self.unmark(|region| {
            if region.stage() == Stage::Mapped {
                region.set_owner(owner);
            }
        });
    }
}

/// How strictly this device's regions are to be provided.
fn mode_of(device: &Device, mode: Mode) -> Mode {
    if device.is_relaxable() { Mode::Relaxed } else { mode }
}

/// The runs in a region that `domain` does not map 1:1 as the policy would.
fn missing<S: AddressSpace>(region: &Region<'_>, domain: &Domain<S>) -> impl Iterator<Item = Run> {
    let gfns = region.range().identity();
    let mut next = gfns.start();
    core::iter::from_fn(move || {
        while next < gfns.end() {
            let run = domain.space.lock().as_ref().map(|space| space.look_up(next))?;
            let gfn = next;
            next = run.gfns.end();
            let there = GfnRange::new(gfn, next.min(gfns.end()))?;
            let Entry { p2m_type, mfn, access } = run.entry;
            let is_whole = p2m_type == P2mType::MmioDirect
                && access == Access::READ_WRITE
                && mfn.is_some_and(|mfn| mfn.raw() == gfn.raw());
            if !is_whole {
                return Some(Run { gfns: there, ..run });
            }
        }
        None
    })
}

/// Puts a device at the front of the chain of selected ones, once.
fn chain(device: &Device, first: u32) -> u32 {
    if device.selected.swap(true, Ordering::Relaxed) {
        return first;
    }
    device.chain.set(first);
    device.number
}

/// Sends a requester through a domain's tables, or its quarantine's, or blocks it where it has none.
pub(super) fn attach<S: AddressSpace>(
    hardware: &impl RemappingHardware,
    requesters: &Requesters<'_, S>,
    requester: &Requester,
    domain: Option<&Domain<S>>,
) -> Result<(), HardwareError> {
    let (space, root) = match domain {
        Some(domain) => (domain.space_id(), domain.space.lock().as_ref().map(AddressSpace::device_root)),
        None => {
            let quarantine = requesters.quarantine(requester);
            (
                requester.space_id(),
                quarantine.and_then(|space| space.lock().as_ref().map(AddressSpace::device_root)),
            )
        }
    };
    match root {
        Some(root) => {
            let unit_of = requester.source();
            requester.try_for_each_id(|id| hardware.attach(RequesterId { id, unit_of }, space, root))
        }
        None => detach(hardware, requester),
    }
}

/// Blocks a requester.
pub(super) fn detach(hardware: &impl RemappingHardware, requester: &Requester) -> Result<(), HardwareError> {
    let unit_of = requester.source();
    requester.try_for_each_id(|id| hardware.detach(RequesterId { id, unit_of }))
}

/// Flushes what is pending in a domain's address space.
pub(super) fn flush<S: AddressSpace>(
    hardware: &impl RemappingHardware,
    domain: &Domain<S>,
) -> Result<(), HardwareError> {
    let mut space = domain.space.lock();
    let Some(space) = space.as_mut() else { return Ok(()) };
    if let Some(pending) = space.take_flush() {
        if !is_broken(Fault::SkipFlush) {
            hardware.flush(domain.space_id(), &pending)?;
        }
        space.confirm_flush();
    }
    Ok(())
}
