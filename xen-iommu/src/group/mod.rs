//! Which devices must stay together: those that share a region, whose regions overlap or share a page, or whose DMA carries one requester id; and so
//! on from device to device. Devices that are absent do not count until they appear.
//!
//! A group is a ring of devices; one of them stands for it. Joining two groups relabels the smaller.

use core::fmt;
use core::sync::atomic::Ordering;

use crate::device::{Device, Devices, Requesters};
use crate::platform::Sbdf;
use crate::region::registry::{NONE, Region, Registry};

/// Why two devices belong together.
#[derive(Clone, Copy, Debug)]
pub enum Link<'m> {
    /// One region is both's.
    SharedRegion(&'m Region<'m>),
    /// A region of the one overlaps, or shares a page with, a region of the other.
    Overlap(&'m Region<'m>, &'m Region<'m>),
    /// The bus gives both this requester id.
    RequesterId(Sbdf),
}

impl fmt::Display for Link<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SharedRegion(region) => write!(f, "both use region {region}"),
            Self::Overlap(one, other) => write!(f, "their regions {one} and {other} share memory"),
            Self::RequesterId(source) => write!(f, "the DMA of both comes from {source}"),
        }
    }
}

/// Devices and requesters as far as grouping needs them.
pub(crate) struct Grouping<'g, 'm, S> {
    pub(crate) registry: &'g Registry<'m>,
    pub(crate) devices: &'g Devices<'m>,
    pub(crate) requesters: &'g Requesters<'m, S>,
}

impl<'m, S> Grouping<'_, 'm, S> {
    /// Puts a device, alone so far, together with those it belongs to.
    pub(crate) fn join(&self, device: &'m Device) {
        for region in self.registry.regions_of(device.sbdf()) {
            let Some(cluster) = self.registry.cluster(region) else { continue };
            match self.devices.at(cluster.first_user.load(Ordering::Relaxed)) {
                Some(other) => self.unite(device, other),
                None => cluster.first_user.store(device.number, Ordering::Relaxed),
            }
        }
        if let Some(requester) = self.requesters.of(device) {
            match self.devices.at(requester.first_user.get()) {
                Some(other) => self.unite(device, other),
                None => requester.first_user.set(device.number),
            }
        }
    }

    /// Takes a device out of its group, which may fall apart by it.
    pub(crate) fn leave(&self, device: &'m Device) {
        let mut chain = NONE;
        for member in self.members(device) {
            for region in self.registry.regions_of(member.sbdf()) {
                if let Some(cluster) = self.registry.cluster(region) {
                    cluster.first_user.store(NONE, Ordering::Relaxed);
                }
            }
            if let Some(requester) = self.requesters.of(member) {
                requester.first_user.set(NONE);
            }
            member.chain.set(chain);
            chain = member.number;
        }
        let members = || {
            let mut next = chain;
            core::iter::from_fn(move || {
                let member = self.devices.at(next)?;
                next = member.chain.get();
                Some(member)
            })
        };
        for member in members() {
            member.group.set(member.number);
            member.next_in_group.set(member.number);
            member.group_len.set(1);
        }
        for member in members().filter(|member| member.number != device.number) {
            self.join(member);
        }
    }

    /// The members of a device's group, itself first.
    pub(crate) fn members(&self, device: &'m Device) -> impl Iterator<Item = &'m Device> + use<'_, 'm, S> {
        let mut next = Some(device);
        core::iter::from_fn(move || {
            let member = next?;
            next = self.devices.at(member.next_in_group.get()).filter(|next| next.number != device.number);
            Some(member)
        })
    }

    /// Why two devices belong together by themselves, not by way of a third.
    pub(crate) fn link(&self, one: &'m Device, other: &'m Device) -> Option<Link<'m>> {
        if one.requester.get() == other.requester.get() {
            return self.requesters.of(one).map(|requester| Link::RequesterId(requester.source()));
        }
        self.region_link(one.sbdf(), other.sbdf())
    }

    /// As [`link`](Self::link), by regions alone; the devices need not be present.
    pub(crate) fn region_link(&self, one: Sbdf, other: Sbdf) -> Option<Link<'m>> {
        let mut overlap = None;
        for mine in self.registry.regions_of(one).filter(|region| region.rejection().is_none()) {
            for theirs in self.registry.regions_of(other).filter(|region| region.rejection().is_none()) {
                if core::ptr::eq(mine, theirs) {
                    return Some(Link::SharedRegion(mine));
                }
                if mine.range().overlaps(&theirs.range()) {
                    overlap = Some(Link::Overlap(mine, theirs));
                }
            }
        }
        overlap
    }

    fn unite(&self, one: &'m Device, other: &'m Device) {
        if one.group.get() == other.group.get() {
            return;
        }
        let len =
            |device: &Device| self.devices.at(device.group.get()).map_or(1, |first| first.group_len.get());
        let (larger, smaller) = if len(one) < len(other) { (other, one) } else { (one, other) };
        let group = larger.group.get();
        if let Some(first) = self.devices.at(group) {
            first.group_len.set(len(larger).saturating_add(len(smaller)));
        }
        for member in self.members(smaller) {
            member.group.set(group);
        }
        // Exchanging the successors of two rings makes them one.
        let next = larger.next_in_group.get();
        larger.next_in_group.set(smaller.next_in_group.get());
        smaller.next_in_group.set(next);
    }
}
