//! What can be asked about devices, groups and requesters; nothing here waits for hardware or for an
//! assignment.

use p2m::{AddressSpace, MfnRange};

use super::Policy;
use crate::control::DeviceControl;
use crate::group::Link;
use crate::lock::SharedLock;
use crate::owner::Owner;
use crate::pci::class::{DeviceClass, RelaxError};
use crate::platform::{RemappingHardware, RequesterId, Sbdf};
use crate::present::{Device, Presence};
use crate::region::record::{NONE, Region};

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// Who owns a device; `None` when it is not present.
    pub fn owner(&self, device: Sbdf) -> Option<Owner> {
        self.presence.peek(|presence| presence.devices.find(device).map(Device::owner))
    }

    /// Whether the DMA of a device is switched off until it moves. Who traps configuration space keeps its
    /// bus master enable bit clear then.
    pub fn is_quiesced(&self, device: Sbdf) -> bool {
        self.presence.peek(|presence| presence.devices.find(device).is_some_and(Device::is_quiesced))
    }

    /// Visits the present functions, bridges too, lowest first. None comes or goes meanwhile, and each has
    /// the owner that it has at that moment: a move of several devices that is made beside it may be seen
    /// half done, since it changes one owner after the other and a reader waits for no move. Whoever needs
    /// all owners of one moment calls this within [`with_control`](Self::with_control), which waits for
    /// moves.
    ///
    /// `visit` must not call the policy, unless within [`with_control`](Self::with_control): who adds or
    /// removes a device waits for the visit, and further looks wait for that.
    pub fn for_each_device(&self, mut visit: impl FnMut(Sbdf, Owner)) {
        let presence = self.presence.read();
        presence.devices.all().for_each(|device| visit(device.sbdf(), device.owner()));
    }

    /// Visits all requester ids that are translated as `device` is: its own, and those of functions that
    /// hardware cannot tell from it. `visit` must not call the policy.
    pub fn for_each_requester_id(&self, device: Sbdf, visit: impl FnMut(RequesterId)) {
        let presence = self.presence.read();
        let requester = presence.devices.find(device).and_then(|device| presence.requesters.of(device));
        if let Some(requester) = requester {
            presence.requesters.ids(requester).for_each(visit);
        }
    }

    /// Visits the members of a device's group, itself first. With each: what links it directly to the device,
    /// where something does. A bridge has no group. `visit` must not call the policy.
    pub fn for_each_in_group(&self, device: Sbdf, mut visit: impl FnMut(Sbdf, Option<Link>)) {
        let presence = self.presence.read();
        let grouping = self.grouping(&presence);
        let Some(device) = presence.devices.find(device).filter(|device| !device.is_bridge()) else { return };
        for member in grouping.members(device) {
            let link =
                (member.number != device.number).then(|| grouping.direct_reason(device, member)).flatten();
            visit(member.sbdf(), link);
        }
    }

    /// Visits what a toolstack is to be told of the regions for `device`: the device's own, and those of
    /// every present function that hardware cannot tell from it, as these are mapped with it; see
    /// [`Registry::told`](crate::region::registry::Registry::told). The device need not be present.
    pub fn for_each_told(&self, device: Sbdf, visit: impl FnMut(MfnRange)) {
        let devices = core::iter::once(device).chain(self.inseparable(device));
        self.registry.told(devices).for_each(visit);
    }

    /// The present functions whose DMA hardware cannot tell from that of `device`, itself among them if it is
    /// present. Each step takes the presence lock anew, so that nothing is held between them.
    pub fn inseparable(&self, device: Sbdf) -> Inseparable<'_, 'm, S> {
        self.presence.peek(|presence| {
            let found = presence.devices.find(device).filter(|device| !device.is_bridge());
            let first = found.map_or(NONE, |device| device.number);
            let requester = found.map_or(NONE, |device| device.requester.get());
            // Devices that come and go between steps may lead from one circle into another; no walk is longer
            // than there are places.
            let left = presence.devices.capacity();
            Inseparable { presence: &self.presence, first, next: first, requester, left }
        })
    }

    /// Whether a device of the region is present. An accepted region without one is dormant.
    pub fn has_present_device(&self, region: &'m Region<'m>) -> bool {
        self.presence.peek(|presence| self.devices_of(presence, region).next().is_some())
    }

    /// Lets the regions of a USB controller be left out where they are in the way, also of strict moves,
    /// until the device is removed: for hypervisors whose administrator says so. It is off unless called.
    /// What is left out comes as a [`Note`](crate::Note), as under [`Mode::Relaxed`](crate::Mode::Relaxed).
    ///
    /// # Errors
    /// [`RelaxError`], for graphics above all: what they show pictures from is never left out silently.
    pub fn relax(&self, device: Sbdf, class: DeviceClass) -> Result<(), RelaxError> {
        let _ownership = self.ownership.lock();
        let presence = self.presence.read();
        let place = presence.devices.find(device).ok_or(RelaxError::UnknownDevice(device))?;
        match class {
            DeviceClass::Usb => place.set_relaxable(),
            DeviceClass::Graphics => return Err(RelaxError::Graphics(device)),
            DeviceClass::Other => return Err(RelaxError::Other(device)),
        }
        Ok(())
    }

    /// The present devices of a region, no bridges. One that several of its scopes cover comes several times.
    pub(super) fn devices_of<'p>(
        &'p self,
        presence: &'p Presence<'m, S>,
        region: &'p Region<'m>,
    ) -> impl Iterator<Item = &'m Device> + 'p {
        let found = self.registry.devices_of(region).flat_map(|devices| {
            let within = devices.interval().into_iter();
            let within = within.flat_map(|(first, last)| presence.devices.between(first, last));
            let named = devices.function().and_then(|function| presence.devices.find(function));
            named.into_iter().chain(within)
        });
        found.filter(|device| !device.is_bridge())
    }
}

/// See [`Policy::inseparable`].
pub struct Inseparable<'p, 'm, S> {
    presence: &'p SharedLock<Presence<'m, S>>,
    first: u32,
    next: u32,
    requester: u32,
    left: usize,
}

impl<S> Clone for Inseparable<'_, '_, S> {
    fn clone(&self) -> Self {
        let Self { presence, first, next, requester, left } = *self;
        Self { presence, first, next, requester, left }
    }
}

impl<S> Iterator for Inseparable<'_, '_, S> {
    type Item = Sbdf;

    fn next(&mut self) -> Option<Sbdf> {
        let presence = self.presence;
        presence.peek(|presence| {
            while let Some(left) = self.left.checked_sub(1) {
                self.left = left;
                let member = presence.devices.at(self.next)?;
                let next = member.group.next();
                self.next = if next == self.first { NONE } else { next };
                if member.requester.get() == self.requester {
                    return Some(member.sbdf());
                }
            }
            None
        })
    }
}
