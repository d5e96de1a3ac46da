//! Who belongs together on a machine: the policy's rules, written down here once more.

use xen_iommu::Isolation;

use crate::machine::{DEVICES, Kind, Set, members};
use crate::world::{QUARANTINE, World};

/// Each device's owner; see [`World::owners`].
pub type Owners = [Option<usize>; DEVICES];

impl World {
    /// The devices that are present, bridges among them.
    #[must_use]
    pub fn present(&self, owners: &Owners) -> Set {
        (0..DEVICES).filter(|device| owners[*device].is_some()).fold(0, |set, device| set | 1 << device)
    }

    /// Those of them that are no bridges.
    #[must_use]
    pub fn devices(&self, owners: &Owners) -> Set {
        let devices = members(self.present(owners)).filter(|device| !self.board.devices[*device].is_bridge());
        devices.fold(0, |set, device| set | 1 << device)
    }

    /// The regions of a device that count: not rejected, and known to be its.
    pub fn regions_of(&self, device: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let (board, resolved) = (self.board, self.known.resolved);
        (0..board.regions.len()).filter(move |region| {
            let region = &board.regions[*region];
            let counts = match region.kind {
                Kind::Accepted => true,
                Kind::Rejected => false,
                Kind::Late => resolved,
            };
            counts && region.users.contains(&device)
        })
    }

    /// The devices of a region that counts.
    #[must_use]
    pub fn users(&self, region: usize) -> Set {
        (0..self.board.devices.len())
            .filter(|device| self.regions_of(*device).any(|its| its == region))
            .fold(0, |set, device| set | 1 << device)
    }

    /// The probes in a device's regions.
    #[must_use]
    pub fn wanted(&self, device: usize) -> u32 {
        self.regions_of(device).fold(0, |bits, region| bits | self.board.probes_in(region))
    }

    /// Spreads from a device over `all` by a relation.
    fn closure(&self, device: usize, all: Set, related: impl Fn(usize, usize) -> bool) -> Set {
        let mut found: Set = 1 << device;
        loop {
            let more = members(all & !found).filter(|other| members(found).any(|one| related(one, *other)));
            let more = more.fold(0, |set, other| set | 1 << other);
            if more == 0 {
                return found;
            }
            found |= more;
        }
    }

    /// Those, bridges too, whose DMA nothing can tell from a device's, itself among them.
    #[must_use]
    pub fn requester(&self, device: usize, owners: &Owners) -> Set {
        self.closure(device, self.present(owners), |one, other| self.ids[one] & self.ids[other] != 0)
    }

    /// Whether the hypervisor wants two devices kept together for want of isolation.
    fn is_bound(&self, one: usize, other: usize) -> bool {
        let isolation = |device: usize| self.board.devices[device].function().isolation;
        self.setting.isolation == Isolation::Require && isolation(one) == isolation(other)
    }

    /// Those that no assignment may tear from a device.
    #[must_use]
    pub fn bound(&self, device: usize, owners: &Owners) -> Set {
        self.closure(device, self.devices(owners), |one, other| {
            self.ids[one] & self.ids[other] != 0 || self.is_bound(one, other)
        })
    }

    /// A device's group.
    #[must_use]
    pub fn group(&self, device: usize, owners: &Owners) -> Set {
        let overlap = |one, other| {
            self.regions_of(one).any(|mine| {
                self.regions_of(other).any(|theirs| mine == theirs || self.board.overlap(mine, theirs))
            })
        };
        self.closure(device, self.devices(owners), |one, other| {
            self.ids[one] & self.ids[other] != 0 || self.is_bound(one, other) || overlap(one, other)
        })
    }

    /// Where the DMA of a requester goes: to the domain that has one of its devices, or to quarantine; to the
    /// hardware domain where only bridges have it.
    #[must_use]
    pub fn holder(&self, requester: Set, owners: &Owners) -> usize {
        let devices = requester & self.devices(owners);
        let mut owners = members(devices).filter_map(|device| owners[device]);
        match owners.find(|owner| *owner != QUARANTINE) {
            Some(domain) => domain,
            None if devices == 0 => 0,
            None => QUARANTINE,
        }
    }

    /// Where the DMA of a device goes.
    #[must_use]
    pub fn holder_of(&self, device: usize, owners: &Owners) -> usize {
        self.holder(self.requester(device, owners), owners)
    }

    /// Those whose DMA may carry a requester id: the present ones that have it, or else those of absent ones
    /// that had it, and all that cannot be told from them.
    #[must_use]
    pub fn requester_of_source(&self, source: usize, owners: &Owners) -> Option<Set> {
        let carriers = self.machine.carriers(source);
        let present = self.present(owners);
        let there = carriers.clone().find(|device| present & 1 << device != 0);
        let there = there.or_else(|| {
            let mut ids = carriers.map(|device| self.ids[device]);
            let shared = |ids: Set| members(present).find(|device| self.ids[*device] & ids != 0);
            ids.find_map(shared)
        });
        there.map(|device| self.requester(device, owners))
    }

    /// Whether a requester id is not where it belongs.
    #[must_use]
    pub fn is_off(&self, source: usize, owners: &Owners) -> bool {
        let at = self.sight.roots[source].map(|root| self.domain_of_root(root));
        let Some(requester) = self.requester_of_source(source, owners) else { return at.is_some() };
        let is_there = self.machine.carriers(source).any(|device| owners[device].is_some());
        match (self.holder(requester, owners), at) {
            // Of an id whose device is gone, others may have it or not.
            (_, None) if !is_there => false,
            (QUARANTINE, Some(None)) => false,
            // Without a region there is nothing to be reached.
            (QUARANTINE, None) => {
                members(requester).any(|device| self.wanted(device) != 0)
                    && members(requester)
                        .all(|device| !self.known.blocked[device] && !self.known.unprovided[device])
            }
            (owner, Some(Some(at))) => owner != at,
            _ => true,
        }
    }
}
