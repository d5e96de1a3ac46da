//! Sending requesters through tables, and flushing what the hardware may still hold.

use p2m::AddressSpace;

use super::assign::Transfer;
use super::domains::Domain;
use crate::control::DeviceControl;
use crate::error::AssignError;
use crate::note::Note;
use crate::platform::{HardwareError, RemappingHardware, RequesterId};
use crate::present::{Requester, Requesters};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Transfer<'_, 'm, S, H, C> {
    /// Nothing moves from a place where it may not be.
    pub(super) fn fetch_back(&mut self) -> Result<(), AssignError> {
        for device in self.selected() {
            let Some(requester) = self.presence.requesters.of(device) else { continue };
            self.policy
                .fetch_back(self.presence, requester)
                .map_err(|error| AssignError::Hardware { device: device.sbdf(), error })?;
        }
        Ok(())
    }

    /// Sends the selected devices' requesters through the target's tables; on failure sends them back.
    pub(super) fn switch(&mut self, notes: &mut dyn FnMut(Note)) -> Result<(), AssignError> {
        let mut failed = None;
        for device in self.moving() {
            let Some(requester) = self.presence.requesters.of(device) else { continue };
            if !requester.is_translated() || (self.domain.is_none() && self.stays_with(device).is_some()) {
                continue;
            }
            let is_there = self.domain.is_some_and(|domain| requester.holder() == Some(domain.number));
            if is_there || !requester.switch() {
                continue;
            }
            if let Err(error) = self.attach(requester, self.domain) {
                failed = Some(AssignError::Hardware { device: device.sbdf(), error });
                break;
            }
        }
        let Some(error) = failed else { return Ok(()) };
        for device in self.moving() {
            let Some(requester) = self.presence.requesters.of(device) else { continue };
            if !requester.unswitch() {
                continue;
            }
            let source = self.policy.domain_at(requester.holder());
            if let Err(error) = self.attach(requester, source) {
                requester.set_suspect(self.domain.map(|domain| domain.number));
                notes(Note::Suspect { source_id: device.sbdf(), error });
            }
        }
        Err(error)
    }

    fn attach(&self, requester: &Requester, domain: Option<&Domain<S>>) -> Result<(), HardwareError> {
        attach(&self.policy.hardware, &self.presence.requesters, requester, domain)
    }
}

/// Sends a requester through a domain's tables, or its quarantine's, or blocks it where it has none.
pub(super) fn attach<S: AddressSpace>(
    hardware: &impl RemappingHardware,
    requesters: &Requesters<'_, S>,
    requester: &Requester,
    domain: Option<&Domain<S>>,
) -> Result<(), HardwareError> {
    attach_ids(hardware, requesters, (requester, &mut requesters.ids(requester)), domain)
}

/// As [`attach`], these ids alone, which need not be the requester's.
pub(super) fn attach_ids<S: AddressSpace>(
    hardware: &impl RemappingHardware,
    requesters: &Requesters<'_, S>,
    (requester, ids): (&Requester, &mut dyn Iterator<Item = RequesterId>),
    domain: Option<&Domain<S>>,
) -> Result<(), HardwareError> {
    let (space, root) = match domain {
        Some(domain) => (domain.space_id(), domain.space.lock().as_ref().map(AddressSpace::device_root)),
        None => {
            let quarantine = requesters.quarantine(requester).filter(|_| !requester.is_blocked());
            let root = quarantine.and_then(|space| space.lock().as_ref().map(AddressSpace::device_root));
            (requester.space_id(), root)
        }
    };
    match root {
        Some(root) => each(ids, |id| hardware.attach(id, space, root)),
        None => each(ids, |id| hardware.detach(id)),
    }
}

/// Does it for each id, also after one that no unit translates, which is what it comes to then.
fn each(
    ids: &mut dyn Iterator<Item = RequesterId>,
    does: impl Fn(RequesterId) -> Result<(), HardwareError>,
) -> Result<(), HardwareError> {
    let mut without_unit = Ok(());
    for id in ids {
        match does(id) {
            Err(error @ HardwareError::NoUnit { .. }) => without_unit = Err(error),
            other => other?,
        }
    }
    without_unit
}

/// Blocks these ids. One that no unit translates is as it was.
pub(super) fn detach(
    hardware: &impl RemappingHardware,
    ids: &mut dyn Iterator<Item = RequesterId>,
) -> Result<(), HardwareError> {
    match each(ids, |id| hardware.detach(id)) {
        Err(HardwareError::NoUnit { .. }) => Ok(()),
        done => done,
    }
}

/// Flushes what is owed for a domain's address space. It stays owed if that fails.
pub(super) fn flush<S: AddressSpace>(
    hardware: &impl RemappingHardware,
    domain: &Domain<S>,
) -> Result<(), HardwareError> {
    let mut space = domain.space.lock();
    let Some(space) = space.as_mut() else { return Ok(()) };
    if let Some(owed) = space.take_flush() {
        hardware.flush(domain.space_id(), &owed)?;
        space.confirm_flush(owed);
    }
    Ok(())
}
