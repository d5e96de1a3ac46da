//! Requesters of which nobody knows where their DMA goes: a move failed, and the hardware did not take them back either.
//!
//! Such a requester may reach the tables it was to go to as well as those it came from. Its devices are locked away: nothing moves them, and the domain
//! that it may reach is not destroyed, before the hardware has sent it back to where its devices are. That is tried at every such call.

use p2m::AddressSpace;

use super::{Policy, State, transfer};
use crate::device::{Domain, Owner, Requester};
use crate::error::{AssignError, DomainError};
use crate::platform::{HardwareError, RemappingHardware, Sbdf};

impl<'m, S: AddressSpace, H: RemappingHardware> Policy<'m, S, H> {
    /// Whether nobody knows what the DMA of `device` reaches, since the hardware failed a move and then the way back
    /// ([`Note::Uncertain`](crate::Note::Uncertain)). It stays so until a call that moves the device, or destroys a domain that it may reach, has made
    /// the hardware take it back.
    pub fn is_uncertain(&self, device: Sbdf) -> bool {
        let state = self.state.lock();
        let requester = state.devices.find(device).and_then(|device| state.requesters.of(device));
        requester.is_some_and(Requester::is_uncertain)
    }

    /// Sends a requester back to `owner`, to whom its devices belong, if it is uncertain.
    pub(super) fn fetch_back(
        &self,
        state: &mut State<'m, S, H>,
        requester: &Requester,
        owner: Owner,
    ) -> Result<(), HardwareError> {
        if !requester.is_uncertain() {
            return Ok(());
        }
        let domain = match owner {
            Owner::Domain(id) => self.domain(id),
            Owner::Quarantine => None,
        };
        transfer::attach(&state.hardware, &state.requesters, requester, domain)?;
        requester.set_certain();
        Ok(())
    }

    /// Sends back all that may reach `domain`, though their devices are elsewhere: its tables may be freed after that.
    pub(super) fn fetch_back_from(
        &self,
        state: &mut State<'m, S, H>,
        domain: &Domain<S>,
    ) -> Result<(), DomainError<'m>> {
        loop {
            let found = state.devices.all().find_map(|device| {
                let requester = state.requesters.of(device)?;
                requester.may_reach(domain.number).then(|| (device.sbdf(), requester, device.owner()))
            });
            let Some((device, requester, owner)) = found else { return Ok(()) };
            self.fetch_back(state, requester, owner)
                .map_err(|error| DomainError::Device(AssignError::Hardware { device, error }))?;
        }
    }
}
