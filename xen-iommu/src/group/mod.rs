//! Which devices must stay together: those that share a region, whose regions overlap or share a page, whose
//! DMA may carry one requester id, and, where the hypervisor requires isolation, those that nothing keeps
//! apart beside the IOMMU; and so on from device to device. Devices that are absent do not count until they
//! appear. Bridges and host bridges are never members.
//!
//! Within a group some are *bound* to each other, which no relaxed assignment may tear apart: by a requester
//! id or for want of isolation.

mod link;

pub use link::Link;

use crate::platform::Sbdf;
use crate::present::{Device, Presence, Requester, ring};
use crate::region::record::{NONE, Region};
use crate::region::registry::Registry;

/// What to do with devices that PCI does not keep apart: without Access Control Services they can reach each
/// other beside the IOMMU, or one can forge the other's requester id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Give them away alone, with a note that names where isolation is missing. Xen does so, without the
    /// note.
    #[default]
    Report,
    /// They must stay together, as for Linux' VFIO. No relaxed assignment yields here; only this setting
    /// does.
    Require,
}

/// What grouping needs to know.
pub(crate) struct Grouping<'g, 'm, S> {
    pub(crate) registry: &'g Registry<'m>,
    pub(crate) presence: &'g Presence<'m, S>,
    pub(crate) isolation: Isolation,
}

impl<'g, 'm, S> Grouping<'g, 'm, S> {
    /// Puts a device, alone until now, together with those it belongs to.
    pub(crate) fn join(&self, device: &'m Device) {
        self.join_but(device, device);
    }

    /// The same, where `gone` is still in the tables and is on its way out.
    fn join_but(&self, device: &'m Device, gone: &'m Device) {
        if device.is_bridge() {
            return;
        }
        let devices = &self.presence.devices;
        if let Some(requester) = self.presence.requesters.of(device) {
            match devices.at(requester.first_user.get()) {
                Some(other) => self.bind(device, other),
                None => requester.first_user.set(device.number),
            }
        }
        if self.isolation == Isolation::Require {
            let stays = |other: &&'m Device| other.number != gone.number;
            for other in devices.not_isolated_from(device).filter(stays) {
                self.bind(device, other);
            }
        }
        for region in self.accepted_regions_of(device.sbdf()) {
            if let Some(other) = devices.at(region.first_user()) {
                ring::unite(devices, device, other);
                continue;
            }
            region.set_first_user(device.number);
            // Not by way of regions whose devices are all absent: these join nobody.
            let users = self.registry.overlapping_with(region);
            for other in users.filter_map(|overlapping| devices.at(overlapping.first_user())) {
                ring::unite(devices, device, other);
            }
        }
    }

    /// Puts a device together with those of a requester that is to become one with its own.
    pub(crate) fn join_with(&self, device: &'m Device, requester: &Requester) {
        if let Some(other) = self.presence.devices.at(requester.first_user.get()) {
            self.bind(device, other);
        }
    }

    fn bind(&self, device: &'m Device, other: &'m Device) {
        let (mine, theirs) = (device.bound.get(), other.bound.get());
        let is_alone = device.is_alone();
        ring::unite(&self.presence.devices, device, other);
        if mine == theirs {
            return;
        }
        if is_alone {
            device.bound.set(theirs);
            return;
        }
        for member in self.members(device).filter(|member| member.bound.get() == mine) {
            member.bound.set(theirs);
        }
    }

    /// Takes a device out of its group, which may fall apart by it.
    pub(crate) fn leave(&self, device: &'m Device) {
        if device.is_bridge() {
            return;
        }
        let devices = &self.presence.devices;
        let mut list = NONE;
        for member in self.members(device) {
            for region in self.registry.regions_of(member.sbdf()) {
                region.set_first_user(NONE);
            }
            if let Some(requester) = self.presence.requesters.of(member) {
                requester.first_user.set(NONE);
            }
            member.next_in_list.set(list);
            list = member.number;
        }
        let members = || devices.list(list);
        for member in members() {
            member.group.reset(member.number);
            member.bound.set(member.number);
        }
        for member in members().filter(|member| member.number != device.number) {
            self.join_but(member, device);
        }
    }

    /// The members of a device's group, itself first.
    pub(crate) fn members(&self, device: &'m Device) -> impl Iterator<Item = &'m Device> + use<'g, 'm, S> {
        let presence: &'g Presence<'m, S> = self.presence;
        ring::members(&presence.devices, device)
    }

    /// Those that can never be elsewhere than the device, itself first.
    pub(crate) fn bound(&self, device: &'m Device) -> impl Iterator<Item = &'m Device> + use<'g, 'm, S> {
        self.members(device).filter(move |member| member.bound.get() == device.bound.get())
    }

    /// Those whose DMA nothing can tell from the device's, itself first.
    pub(crate) fn of_requester(
        &self,
        device: &'m Device,
    ) -> impl Iterator<Item = &'m Device> + use<'g, 'm, S> {
        // Groups may be large, and most devices have their requester to themselves.
        let users = self.presence.requesters.of(device).map_or(1, |requester| requester.users.get());
        let most = usize::try_from(users.max(1)).unwrap_or(usize::MAX);
        let same = move |other: &&'m Device| other.requester.get() == device.requester.get();
        self.bound(device).filter(same).take(most)
    }

    /// Why a member of the device's group is in it: what links it to the device, or to the member that is
    /// named, where that is another.
    pub(crate) fn reason(&self, device: &'m Device, other: &'m Device) -> Option<(Option<Sbdf>, Link)> {
        if let Some(link) = self.link(device, other) {
            return Some((None, link));
        }
        let mut others = self.members(device).filter(|via| via.number != other.number);
        let found = others.find_map(|via| Some((Some(via.sbdf()), self.link(via, other)?)));
        // What linked them is no member, or has gone, and they stay one requester until they go.
        found.or_else(|| are_alike(device, other).then(|| (None, Link::RequesterId(other.sbdf()))))
    }

    /// What links two members directly. Those of one requester that no member links are linked so, too.
    pub(crate) fn direct_reason(&self, device: &'m Device, other: &'m Device) -> Option<Link> {
        if !are_alike(device, other) {
            return self.link(device, other);
        }
        self.reason(device, other).and_then(|(via, link)| via.is_none().then_some(link))
    }

    /// Why two devices belong together by themselves, not by way of a third.
    pub(crate) fn link(&self, one: &Device, other: &Device) -> Option<Link> {
        let requester = self.presence.requesters.of(one).filter(|_| are_alike(one, other));
        if let Some(shared) =
            requester.and_then(|requester| self.presence.requesters.shared_id(requester, one, other))
        {
            return Some(Link::RequesterId(shared));
        }
        if self.isolation == Isolation::Require && one.isolation() == other.isolation() {
            return Some(Link::NotIsolated(one.isolation()));
        }
        self.region_link(one.sbdf(), other.sbdf())
    }

    /// As [`link`](Self::link), by regions alone; the devices need not be present.
    fn region_link(&self, one: Sbdf, other: Sbdf) -> Option<Link> {
        let mut overlap = None;
        for mine in self.accepted_regions_of(one) {
            for theirs in self.accepted_regions_of(other) {
                if core::ptr::eq(mine, theirs) {
                    return Some(Link::SharedRegion(mine.name()));
                }
                if mine.range().overlaps(&theirs.range()) {
                    overlap = Some(Link::Overlap(mine.name(), theirs.name()));
                }
            }
        }
        overlap
    }

    fn accepted_regions_of(&self, device: Sbdf) -> impl Iterator<Item = &'m Region<'m>> + '_ {
        self.registry.regions_of(device).filter(|region| region.rejection().is_none())
    }
}

/// Whether they have one requester.
fn are_alike(one: &Device, other: &Device) -> bool {
    one.requester.get() == other.requester.get()
}
