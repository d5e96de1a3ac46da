//! Requesters of which nobody knows where their DMA goes: a move failed, and the hardware did not take them
//! back either.
//!
//! Such a requester may reach the tables it was to go to as well as those it came from. Its devices are
//! locked away: nothing moves them, and the domain that it may reach is not destroyed, before the hardware
//! has sent it back to where its devices are. That is tried at every such call.

use p2m::AddressSpace;

use super::domains::Domain;
use super::{Policy, hardware};
use crate::control::DeviceControl;
use crate::error::{AssignError, DomainError};
use crate::platform::{HardwareError, RemappingHardware, Sbdf};
use crate::present::{Presence, Requester};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Whether nobody knows what the DMA of `device` reaches, since the hardware failed a move and then the
    /// way back ([`Note::Suspect`](crate::Note::Suspect)). It stays so until a call that moves the device, or
    /// destroys a domain that it may reach, has made the hardware take it back.
    pub fn is_suspect(&self, device: Sbdf) -> bool {
        self.presence.peek(|presence| {
            let requester = presence.devices.find(device).and_then(|device| presence.requesters.of(device));
            requester.is_some_and(Requester::is_suspect)
        })
    }

    /// Sends a requester back to where it belongs, if it is suspect.
    pub(super) fn fetch_back(
        &self,
        presence: &Presence<'m, S>,
        requester: &Requester,
    ) -> Result<(), HardwareError> {
        if !requester.is_suspect() {
            return Ok(());
        }
        let domain = self.domain_at(requester.holder());
        hardware::attach(&self.hardware, &presence.requesters, requester, domain)?;
        requester.set_certain();
        Ok(())
    }

    /// Sends back all that may reach `domain`, though their devices are elsewhere: its tables may be freed
    /// after that.
    pub(super) fn fetch_back_from(
        &self,
        presence: &Presence<'m, S>,
        domain: &Domain<S>,
    ) -> Result<(), DomainError> {
        for device in presence.devices.all() {
            let Some(requester) = presence.requesters.of(device) else { continue };
            if requester.may_reach(domain.number) {
                self.fetch_back(presence, requester).map_err(|error| {
                    DomainError::Device(AssignError::Hardware { device: device.sbdf(), error })
                })?;
            }
        }
        Ok(())
    }
}
