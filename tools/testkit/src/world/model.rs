//! The rule of who may get what, written from its sentences and from nothing of the policy's:
//!
//! - Strict: a member is assigned if every other present member of its group is with that domain, in
//!   quarantine, or named too.
//! - Relaxed: it succeeds unless a requester id would be split, or isolation be missing that the hypervisor
//!   requires.
//! - Members are those that share a region, whose regions overlap, that share a requester id, or that nothing
//!   isolates where that is required; and so on. Bridges never are, and are never assigned.
//! - `DOMID_IO` takes anything that no guest has, member by member.
//! - A physical function goes to a guest only without virtual functions, and leaves the hardware domain only
//!   while no guest has one; a virtual function goes to a guest only while its physical function is the
//!   hardware domain's.
//! - Strict: a device whose region was rejected is refused; so is one whose requester has another such that
//!   waits and goes with it.
//! - Strict: where a member that waits reaches what the guest is to get, or nothing isolates it from that
//!   where it must, and it cannot be switched off, that is refused.

use std::collections::{BTreeMap, BTreeSet};

use xen_iommu::abi::Errno;
use xen_iommu::pci::{Function, Role};
use xen_iommu::{DomId, Isolation, Mode, Owner, Sbdf};

use super::check::{inseparable, is_member};
use super::{HARDWARE_DOMAIN, Reserved, World};

/// What the rule looks at.
pub struct Model<'w> {
    regions: &'w [Reserved],
    isolation: Isolation,
    present: Vec<Function>,
    owners: BTreeMap<Sbdf, Owner>,
    domains: BTreeSet<DomId>,
    stubborn: BTreeSet<Sbdf>,
    off: BTreeSet<Sbdf>,
    blocked: BTreeSet<Sbdf>,
}

impl<'w> Model<'w> {
    /// The state of a world.
    #[must_use]
    pub fn new(world: &'w World<'_>) -> Self {
        let known = |id: &DomId| world.policy.with_space(*id, |_| ()).is_some();
        let (stubborn, off) = {
            let controlled = world.controlled();
            (controlled.stubborn.clone(), controlled.off.clone())
        };
        Self {
            regions: &world.machine.regions,
            isolation: world.machine.isolation,
            present: world.present(),
            owners: world.snapshot().owners,
            domains: (0..8).map(DomId).filter(known).collect(),
            stubborn,
            off,
            // By their remapping units, as was said.
            blocked: world.said().blocked,
        }
    }

    fn accepted<'s>(&'s self, device: Sbdf) -> impl Iterator<Item = &'s Reserved> + Clone + use<'s, 'w> {
        self.regions.iter().filter(move |region| region.rejected.is_none() && region.is_of(device))
    }

    fn share_memory(&self, one: Sbdf, other: Sbdf) -> bool {
        self.accepted(one)
            .any(|mine| self.accepted(other).any(|theirs| mine.start < theirs.end && theirs.start < mine.end))
    }

    /// Neither can be told from, or kept from, the other.
    fn is_bound(&self, one: &Function, other: &Function) -> bool {
        one.ids.meets(&other.ids)
            || (self.isolation == Isolation::Require && one.isolation == other.isolation)
    }

    fn closure(&self, of: Sbdf, linked: impl Fn(&Function, &Function) -> bool) -> Vec<Function> {
        let mut found: Vec<Function> = self.present.iter().filter(|one| one.sbdf == of).copied().collect();
        let mut next = 0;
        while let Some(one) = found.get(next).copied() {
            for other in self.present.iter().filter(|other| is_member(other)) {
                if !found.contains(other) && linked(&one, other) {
                    found.push(*other);
                }
            }
            next += 1;
        }
        found
    }

    /// A device's group.
    #[must_use]
    pub fn group(&self, of: Sbdf) -> BTreeSet<Sbdf> {
        let linked = |one: &Function, other: &Function| {
            self.is_bound(one, other) || self.share_memory(one.sbdf, other.sbdf)
        };
        self.closure(of, linked).into_iter().map(|one| one.sbdf).collect()
    }

    /// The pairs of devices of one group that two domains have.
    #[must_use]
    pub fn torn(&self) -> BTreeSet<(Sbdf, Sbdf)> {
        let mut torn = BTreeSet::new();
        for one in self.present.iter().filter(|one| is_member(one)) {
            for other in self.group(one.sbdf) {
                if let (Owner::Domain(mine), Owner::Domain(theirs)) =
                    (self.owners[&one.sbdf], self.owners[&other])
                    && mine != theirs
                {
                    torn.insert((one.sbdf, other));
                }
            }
        }
        torn
    }

    /// The numbers that an assignment may be refused with; none when it must succeed.
    #[must_use]
    pub fn assign(&self, devices: &[Sbdf], domain: DomId, mode: Mode) -> Vec<Errno> {
        let mut refused = Vec::new();
        let target = Owner::from(domain);
        let home = Owner::Domain(HARDWARE_DOMAIN);
        if target != Owner::Quarantine && !self.domains.contains(&domain) {
            refused.push(Errno::ESRCH);
        }
        if devices.iter().any(|device| !self.owners.contains_key(device)) {
            refused.push(Errno::ENODEV);
        }
        let moving: Vec<Function> = self
            .present
            .iter()
            .filter(|one| devices.contains(&one.sbdf) && self.owners[&one.sbdf] != target)
            .copied()
            .collect();
        let moves = |device: Sbdf| moving.iter().any(|one| one.sbdf == device);
        let owner = |device: Sbdf| if moves(device) { target } else { self.owners[&device] };
        for one in &moving {
            let theirs = self.owners[&one.sbdf];
            if theirs != home && theirs != Owner::Quarantine {
                refused.push(Errno::EBUSY);
            }
            let may = is_member(one)
                && self.may_by_functions(one, target, &owner)
                && (target == Owner::Quarantine || self.may_by_group(one, target, mode, &owner));
            if !may {
                refused.push(Errno::EPERM);
            }
        }
        if target == home || target == Owner::Quarantine || mode == Mode::Relaxed {
            return refused;
        }
        // With those that wait and go along.
        let all: Vec<Function> = moving.iter().flat_map(|one| inseparable(&self.present, one)).collect();
        let goes = |one: &&Function| moves(one.sbdf) || self.owners[&one.sbdf] == Owner::Quarantine;
        let going: Vec<Function> = all.iter().filter(goes).copied().collect();
        let rejected = |one: &Function| {
            self.regions.iter().any(|region| region.rejected.is_some() && region.is_of(one.sbdf))
        };
        if going.iter().any(rejected) {
            refused.push(Errno::EPERM);
        }
        for waiting in self.present.iter().filter(|one| is_member(one) && !moves(one.sbdf)) {
            let can_write = self.owners[&waiting.sbdf] == Owner::Quarantine
                && self.stubborn.contains(&waiting.sbdf)
                && !self.off.contains(&waiting.sbdf);
            let with = inseparable(&self.present, waiting);
            // Its unit blocks what goes through it, and nothing beside it.
            let is_blocked = self.blocked.contains(&waiting.sbdf);
            let reaches = |one: &Function| {
                !is_blocked && with.iter().any(|with| self.share_memory(with.sbdf, one.sbdf))
            };
            let bound = |one: &Function| {
                self.closure(one.sbdf, |one, other| self.is_bound(one, other)).contains(waiting)
            };
            if can_write && (going.contains(waiting) || going.iter().any(|one| reaches(one) || bound(one))) {
                refused.push(Errno::EBUSY);
            }
        }
        refused
    }

    fn may_by_group(
        &self,
        one: &Function,
        target: Owner,
        mode: Mode,
        owner: &impl Fn(Sbdf) -> Owner,
    ) -> bool {
        let others: BTreeSet<Sbdf> = match mode {
            Mode::Strict => self.group(one.sbdf),
            Mode::Relaxed => {
                let bound = self.closure(one.sbdf, |one, other| self.is_bound(one, other));
                bound.into_iter().map(|one| one.sbdf).collect()
            }
        };
        others.into_iter().all(|other| [target, Owner::Quarantine].contains(&owner(other)))
    }

    fn may_by_functions(&self, one: &Function, target: Owner, owner: &impl Fn(Sbdf) -> Owner) -> bool {
        let home = Owner::Domain(HARDWARE_DOMAIN);
        let to_guest = target != home && target != Owner::Quarantine;
        let mut functions = self
            .present
            .iter()
            .filter(|other| matches!(other.role, Role::Virtual { physical } if physical == one.sbdf));
        if target != home && functions.clone().any(|function| is_guests(self.owners[&function.sbdf])) {
            return false;
        }
        if to_guest && functions.next().is_some() {
            return false;
        }
        match one.role {
            Role::Virtual { physical } if to_guest => {
                self.owners.contains_key(&physical) && owner(physical) == home
            }
            _ => true,
        }
    }
}

fn is_guests(owner: Owner) -> bool {
    !matches!(owner, Owner::Quarantine | Owner::Domain(HARDWARE_DOMAIN))
}
