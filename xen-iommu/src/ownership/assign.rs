//! Moving devices from owner to owner as one transaction: select, check, switch waiting devices off, map in
//! the target, switch the requesters, unmap in the source.

use p2m::AddressSpace;

use super::domains::Domain;
use super::hardware::flush;
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::note::Note;
use crate::owner::Owner;
use crate::platform::{DomId, HardwareError, RemappingHardware, Sbdf};
use crate::present::{Device, Part, Presence, Requester};
use crate::region::record::{NONE, Region, Stage};

/// A move under way, under the ownership lock. What it touches it marks (devices' parts, staged regions,
/// switched requesters), and it leaves no mark behind, whichever way it ends.
pub(super) struct Transfer<'s, 'm, S, H, C> {
    pub(super) policy: &'s Policy<'m, S, H, C>,
    pub(super) control: &'s mut C,
    pub(super) presence: &'s Presence<'m, S>,
    pub(super) target: Owner,
    /// The target's place; `None` for quarantine.
    pub(super) domain: Option<&'m Domain<S>>,
    pub(super) mode: Mode,
    /// The list of devices that have a part, by the first one's number.
    first: u32,
    /// The list of devices that were switched off for this move and have no other part, likewise.
    pub(super) first_quiesced: u32,
}

impl<'s, 'm, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Transfer<'s, 'm, S, H, C> {
    pub(super) fn new(
        policy: &'s Policy<'m, S, H, C>,
        control: &'s mut C,
        presence: &'s Presence<'m, S>,
        target: Owner,
        mode: Mode,
    ) -> Result<Self, AssignError> {
        let domain = match target {
            Owner::Quarantine => None,
            Owner::Domain(id) => Some(policy.domain(id).ok_or(AssignError::UnknownDomain(id))?),
        };
        let (first, first_quiesced) = (NONE, NONE);
        Ok(Self { policy, control, presence, target, domain, mode, first, first_quiesced })
    }

    /// The target, where it is a guest.
    pub(super) fn guest(&self) -> Option<DomId> {
        match self.target {
            Owner::Domain(id) if id != self.policy.hardware_domain => Some(id),
            _ => None,
        }
    }

    /// Moves `devices`, and with `whole_groups` those of their groups that no guest has: all or none.
    pub(super) fn run(
        mut self,
        devices: &[Sbdf],
        whole_groups: bool,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let selected = self.select(devices, whole_groups);
        if selected.is_ok() && self.first == NONE {
            return Ok(());
        }
        let checked = selected.and_then(|()| self.check_rules());
        self.carry_out(checked, devices, notes)
    }

    /// Takes a device into quarantine whatever the rules: its domain goes, or it goes itself.
    pub(super) fn evict(mut self, device: Sbdf, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        let selected = self.select(&[device], false);
        self.carry_out(selected, &[device], notes)
    }

    /// Does what was selected and checked, or nothing.
    fn carry_out(
        mut self,
        checked: Result<(), AssignError>,
        devices: &[Sbdf],
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let done = checked
            .and_then(|()| self.fetch_back())
            .and_then(|()| self.check_regions())
            .and_then(|()| self.quiesce_waiting(notes))
            .and_then(|()| self.domain.map_or(Ok(()), |domain| self.provide(domain, notes)))
            .and_then(|()| self.switch(notes));
        match done {
            Ok(()) => self.commit(devices, notes),
            Err(_) => {
                self.withdraw(notes);
                self.resume_quiesced(notes);
            }
        }
        self.unmark(|_| {});
        done
    }

    /// The checks of [`run`](Self::run) that change nothing.
    pub(super) fn check(mut self, devices: &[Sbdf]) -> Result<(), AssignError> {
        let done =
            self.select(devices, false).and_then(|()| self.check_rules()).and_then(|()| self.check_regions());
        self.unmark(|_| {});
        done
    }

    /// Gives each device that is not at the target its part, and each that nothing can tell from one of them.
    fn select(&mut self, devices: &[Sbdf], whole_groups: bool) -> Result<(), AssignError> {
        let hardware_domain = Owner::Domain(self.policy.hardware_domain);
        for sbdf in devices {
            let device = self.presence.devices.find(*sbdf).ok_or(AssignError::UnknownDevice(*sbdf))?;
            if device.owner() != self.target {
                if device.is_bridge() {
                    return Err(AssignError::Bridge(*sbdf));
                }
                mark(device, Part::Moves, &mut self.first);
            }
            if whole_groups {
                let grouping = self.policy.grouping(self.presence);
                let comes = |member: &&'m Device| {
                    member.owner() != self.target
                        && [Owner::Quarantine, hardware_domain].contains(&member.owner())
                };
                let mut first = self.first;
                for member in grouping.members(device).filter(comes) {
                    mark(member, Part::Moves, &mut first);
                }
                self.first = first;
            }
        }
        let mut first = self.first;
        for device in self.selected() {
            if let Some(requester) = self.presence.requesters.of(device) {
                requester.left.set(requester.holder().unwrap_or(NONE));
            }
            // In quarantine they go where the device goes: into the target with it, and out of a domain that
            // nobody of the requester stays in.
            let goes = self.domain.is_some() || self.stays_with(device).is_none();
            let mates = self.policy.grouping(self.presence);
            for mate in mates.of_requester(device) {
                if goes && mate.owner() == Owner::Quarantine && mate.part() == Part::Idle {
                    mark(mate, Part::Accompanies, &mut first);
                }
            }
        }
        self.first = first;
        Ok(())
    }

    /// With whom a device stays that shares the requester of this one and does not move; `None` where all
    /// that do not move wait in quarantine.
    pub(super) fn stays_with(&self, device: &'m Device) -> Option<DomId> {
        let grouping = self.policy.grouping(self.presence);
        let mut staying = grouping.of_requester(device).filter(|mate| mate.part() != Part::Moves);
        staying.find_map(|mate| match mate.owner() {
            Owner::Domain(id) => Some(id),
            Owner::Quarantine => None,
        })
    }

    /// The devices that have a part.
    pub(super) fn selected(&self) -> impl Iterator<Item = &'m Device> + use<'m, S, H, C> {
        self.presence.devices.list(self.first)
    }

    /// Those of them that get another owner.
    pub(super) fn moving(&self) -> impl Iterator<Item = &'m Device> + use<'m, S, H, C> {
        self.selected().filter(|device| device.part() == Part::Moves)
    }

    /// How strictly this device's regions are to be provided: for one that only goes along, as those that it
    /// goes with.
    pub(super) fn mode_of(&self, device: &'m Device) -> Mode {
        let is_relaxed = |device: &Device| device.is_relaxable();
        let relaxed = if device.part() == Part::Accompanies {
            let grouping = self.policy.grouping(self.presence);
            let mut moving =
                grouping.of_requester(device).filter(|mate| mate.part() == Part::Moves).peekable();
            moving.peek().is_some() && moving.all(is_relaxed)
        } else {
            is_relaxed(device)
        };
        if relaxed { Mode::Relaxed } else { self.mode }
    }

    /// Takes every mark away, after `last` has seen each region.
    pub(super) fn unmark(&mut self, last: impl Fn(&Region<'_>)) {
        for device in self.selected() {
            device.set_part(Part::Idle);
            // Only what is mapped in a target has stages.
            for region in self.domain.iter().flat_map(|_| self.policy.registry.regions_of(device.sbdf())) {
                last(region);
                region.set_stage(Stage::Idle);
            }
            if let Some(requester) = self.presence.requesters.of(device) {
                requester.unswitch();
            }
        }
        self.first = NONE;
    }

    /// Makes the target the owner, and removes the mappings that nobody needs any more from the domains that
    /// were.
    fn commit(&mut self, named: &[Sbdf], notes: &mut dyn FnMut(Note)) {
        for device in self.moving() {
            self.presence.devices.set_owner(device, self.target);
            device.set_relaxed(self.mode == Mode::Relaxed);
            if !named.contains(&device.sbdf()) {
                notes(Note::MovedAlong(device.sbdf()));
            }
        }
        for device in self.selected() {
            let Some(requester) = self.presence.requesters.of(device) else { continue };
            let holder = self.policy.holder_of(self.presence, device);
            requester.set_holder(holder);
            if holder.is_some() {
                requester.set_blocked(false);
            }
        }
        for device in self.moving().filter(|device| device.is_quiesced() && self.domain.is_some()) {
            device.set_quiesced(false);
            self.control.resume(device.sbdf());
        }
        self.keep_quiesced();
        for device in self.selected() {
            let Some(requester) = self.presence.requesters.of(device) else { continue };
            if let Some(left) = left(requester) {
                self.policy.release(self.presence, (device.sbdf(), device.is_alone()), left, notes);
            }
        }
        self.own_mapped();
    }

    /// What was mapped in the target is the target's; takes every mark away.
    fn own_mapped(&mut self) {
        let owner = match self.target {
            Owner::Domain(id) => Some(id),
            Owner::Quarantine => None,
        };
        self.unmark(|region| {
            if region.stage() == Stage::Mapped {
                region.set_owner(owner);
            }
        });
    }

    /// A device that waits is translated as one of the target's from now on: maps its regions there, as far
    /// as nothing is in the way, which is said. To be [kept](Self::keep) or [undone](Self::undo).
    pub(super) fn bring(
        &mut self,
        device: &'m Device,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), HardwareError> {
        let Some(domain) = self.domain else { return Ok(()) };
        mark(device, Part::Accompanies, &mut self.first);
        self.map_brought(device, domain, notes);
        let flushed = flush(&self.policy.hardware, domain);
        if flushed.is_err() {
            self.undo(notes);
        }
        flushed
    }

    /// What was [brought](Self::bring) stays.
    pub(super) fn keep(&mut self) {
        self.keep_quiesced();
        self.own_mapped();
    }

    /// What was [brought](Self::bring) goes again.
    pub(super) fn undo(&mut self, notes: &mut dyn FnMut(Note)) {
        self.withdraw(notes);
        self.resume_quiesced(notes);
        self.unmark(|_| {});
    }
}

/// The number of the domain that a requester has left.
fn left(requester: &Requester) -> Option<u32> {
    let left = Some(requester.left.get()).filter(|left| *left != NONE)?;
    (requester.holder() != Some(left)).then_some(left)
}

/// Puts a device at the front of a list, once.
fn mark(device: &Device, part: Part, first: &mut u32) {
    if device.part() == Part::Idle {
        device.next_in_list.set(*first);
        *first = device.number;
    }
    if device.part() != Part::Moves {
        device.set_part(part);
    }
}
