//! Whether a call was to be refused, by the rules written down here once more, and whether it changed the
//! owners that it is to change, and no others.

use xen_iommu::pci::Role;

use super::{Before, Breach, broken, owner_name};
use crate::calls::Call;
use crate::machine::{DEVICES, DOMAINS, Kind, Set, members};
use crate::make::Outcome;
use crate::rules::Owners;
use crate::world::{QUARANTINE, World};

/// Who belongs together in a state, by device.
pub(super) struct Together {
    group: [Set; DEVICES],
    bound: [Set; DEVICES],
    requester: [Set; DEVICES],
}

/// A move, as it is meant.
#[derive(Clone, Copy)]
struct Move {
    devices: Set,
    target: usize,
    relaxed: bool,
}

impl World {
    /// Who belongs together now.
    pub(super) fn together(&self, owners: &Owners) -> Together {
        let mut together = Together { group: [0; DEVICES], bound: [0; DEVICES], requester: [0; DEVICES] };
        for device in members(self.devices(owners)) {
            together.group[device] = self.group(device, owners);
            together.bound[device] = self.bound(device, owners);
            together.requester[device] = self.requester(device, owners);
        }
        together
    }

    /// Judges whether a call was rightly refused or rightly not, and whose owners it changed.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_rule(&self, before: &Before, call: Call, outcome: &Outcome) -> Result<(), Breach> {
        match self.against(before, call) {
            Some(why) => broken(outcome.refused, || format!("not refused, though {why}"))?,
            None => broken(!outcome.by_rule, || "refused, and no rule is against it".into())?,
        }
        if outcome.quiet {
            return Ok(());
        }
        self.judge_moved(before, call, outcome)?;
        let is_strict = match call {
            Call::Assign(_, to, relaxed) | Call::AssignGroup(_, to, relaxed) => {
                !relaxed && (1..DOMAINS).contains(&usize::from(to))
            }
            _ => false,
        };
        let mut on = outcome.running.iter().chain(&outcome.blocked);
        let goes_on = is_strict && !outcome.refused && on.any(|on| *on);
        broken(!goes_on, || {
            "not refused, though the DMA of a device that waits could not be switched off".into()
        })
    }

    /// Why a call is to be refused whatever memory and hardware say.
    fn against(&self, before: &Before, call: Call) -> Option<&'static str> {
        let owners = &before.owners;
        let there = |device: u8| owners[usize::from(device)].is_some();
        let exists = |domain: u8| before.exists(usize::from(domain));
        match call {
            Call::Create(domain) => exists(domain).then_some("the domain exists"),
            Call::Destroy(domain) => (!exists(domain)).then_some("there is no such domain"),
            Call::Add(device) => there(device).then_some("the device is there already"),
            Call::Remove(device) => (!there(device)).then_some("the device is not there"),
            Call::Assign(set, domain, relaxed) => self.against_giving(before, set, domain, relaxed, set),
            Call::AssignGroup(device, domain, relaxed) => {
                let device = usize::from(device);
                let come = members(before.together.group[device])
                    .filter(|member| matches!(owners[*member], Some(0 | QUARANTINE)));
                let all = come.fold(1 << device, |set, member| set | 1 << member);
                self.against_giving(before, 1 << device, domain, relaxed, all)
            }
            Call::Deassign(set, domain) => {
                let from = usize::from(domain);
                if members(set).any(|device| owners[device] != Some(from)) {
                    return Some("the domain does not have the device");
                }
                let (target, relaxed) = if from == QUARANTINE { (0, false) } else { (QUARANTINE, true) };
                self.against_move(before, &Move { devices: set, target, relaxed })
            }
            _ => None,
        }
    }

    fn against_giving(
        &self,
        before: &Before,
        named: Set,
        to: u8,
        relaxed: bool,
        all: Set,
    ) -> Option<&'static str> {
        let (owners, target) = (&before.owners, usize::from(to));
        if target != QUARANTINE && !before.exists(target) {
            return Some("there is no such domain");
        }
        for device in members(named) {
            let owner = owners[device].map(|owner| owner == target || [0, QUARANTINE].contains(&owner));
            match owner {
                None => return Some("the device is not there"),
                Some(false) => return Some("the device is another domain's"),
                Some(true) => {}
            }
        }
        let moving = members(all).filter(|device| owners[*device] != Some(target));
        let devices = moving.fold(0, |set, device| set | 1 << device);
        self.against_move(before, &Move { devices, target, relaxed })
    }

    fn against_move(&self, before: &Before, wanted: &Move) -> Option<&'static str> {
        let (owners, Move { devices, target, relaxed }) = (&before.owners, *wanted);
        let to_guest = target != 0 && target != QUARANTINE;
        let mut all = devices;
        for device in members(devices) {
            if self.board.devices[device].is_bridge() {
                return Some("bridges stay with the hardware domain");
            }
            if to_guest && !self.setting.translates {
                return Some("its unit does not translate");
            }
            if let Some(why) = self.against_functions(owners, device, wanted) {
                return Some(why);
            }
            let together = &before.together;
            let kept_with = if relaxed { together.bound[device] } else { together.group[device] };
            let is_elsewhere =
                |other: usize| owners[other] != Some(target) && owners[other] != Some(QUARANTINE);
            if target != QUARANTINE && members(kept_with & !devices).any(is_elsewhere) {
                return Some("another of the group is elsewhere");
            }
            let mates = members(together.requester[device] & self.devices(owners));
            let waiting = mates.filter(|mate| owners[*mate] == Some(QUARANTINE));
            all = waiting.fold(all, |all, mate| all | 1 << mate);
        }
        let rejected = |device: usize| {
            let mut regions = self.board.regions.iter().filter(|region| region.kind == Kind::Rejected);
            regions.any(|region| region.users.contains(&device))
        };
        (to_guest && !relaxed && members(all).any(rejected)).then_some("a region was rejected")
    }

    fn against_functions(&self, owners: &Owners, device: usize, wanted: &Move) -> Option<&'static str> {
        let to_guest = wanted.target != 0 && wanted.target != QUARANTINE;
        let is_guest = |owner: Option<usize>| owner.is_some_and(|owner| owner != 0 && owner != QUARANTINE);
        let own = &self.board.devices[device];
        for (index, other) in self.board.devices.iter().enumerate() {
            let of = |device: &crate::machine::Device| match device.role {
                Role::Virtual { physical } => Some(physical),
                _ => None,
            };
            let is_there = owners[index].is_some();
            if wanted.target != 0
                && of(other) == Some(own.sbdf)
                && is_there
                && (to_guest || is_guest(owners[index]))
            {
                return Some("it has virtual functions");
            }
            let stays = wanted.devices & 1 << index == 0;
            if to_guest && of(own) == Some(other.sbdf) && (owners[index] != Some(0) || !stays) {
                return Some("its physical function is not the hardware domain's");
            }
        }
        None
    }

    /// Who was to move has, and nobody else.
    fn judge_moved(&self, before: &Before, call: Call, outcome: &Outcome) -> Result<(), Breach> {
        let (then, now) = (&before.owners, self.owners());
        let owned_by = |domain: u8| {
            let its = (0..DEVICES).filter(|device| then[*device] == Some(usize::from(domain)));
            its.fold(0, |set: Set, device| set | 1 << device)
        };
        let away = |domain: u8| if usize::from(domain) == QUARANTINE { 0 } else { QUARANTINE };
        // Who may move, and where those are afterwards that must have.
        let (may, to): (Set, Option<(Set, usize)>) = match call {
            Call::Assign(set, domain, _) => (set, Some((set, domain.into()))),
            Call::AssignGroup(device, domain, _) => {
                (before.together.group[usize::from(device)], Some((1 << device, domain.into())))
            }
            Call::Deassign(set, domain) => (set, Some((set, away(domain)))),
            Call::Destroy(domain) => (owned_by(domain), Some((owned_by(domain), QUARANTINE))),
            Call::Add(device) => (1 << device, self.place_of_new(before, device)),
            Call::Remove(device) => (1 << device, None),
            Call::Resolve => (owned_by(0), self.place_of_late(before, outcome)),
            _ => (0, None),
        };
        for device in 0..self.board.devices.len() {
            let name = self.board.devices[device].name;
            broken(may & 1 << device != 0 || then[device] == now[device], || {
                format!("{name} moved to {}, and was not to", owner_name(now[device]))
            })?;
            let Some((must, to)) = to.filter(|_| !outcome.refused) else { continue };
            broken(must & 1 << device == 0 || now[device] == Some(to), || {
                format!("{name} is with {}, and not with {}", owner_name(now[device]), owner_name(Some(to)))
            })?;
        }
        let is_gone = |device: u8| now[usize::from(device)].is_none();
        match call {
            Call::Remove(device) if !outcome.refused => {
                broken(is_gone(device), || "removed, and still there".into())
            }
            _ => Ok(()),
        }
    }

    /// Where a device belongs that appears: it waits while a guest has one of its group, or where all of the
    /// others wait.
    fn place_of_new(&self, before: &Before, device: u8) -> Option<(Set, usize)> {
        let index = usize::from(device);
        if self.board.devices[index].is_bridge() {
            return Some((1 << device, 0));
        }
        let mut owners = before.owners;
        owners[index] = Some(0);
        let others = self.group(index, &owners) & !(1 << device);
        let with = |is: fn(usize) -> bool| members(others).any(|other| owners[other].is_some_and(is));
        let waits = with(|owner| owner == QUARANTINE) && !with(|owner| owner == 0);
        let guest = with(|owner| owner != QUARANTINE && owner != 0);
        Some((1 << device, if guest || waits { QUARANTINE } else { 0 }))
    }

    /// Where devices belong that get a late region which a guest's overlaps: they wait.
    fn place_of_late(&self, before: &Before, outcome: &Outcome) -> Option<(Set, usize)> {
        if outcome.seen.failed || before.known.resolved || before.known.torn {
            return None;
        }
        let is_guest =
            |device: usize| before.owners[device].is_some_and(|owner| (1..DOMAINS).contains(&owner));
        let mut late = 0;
        for region in self.board.regions.iter().filter(|region| region.kind == Kind::Late) {
            let home = region.users.iter().filter(|user| before.owners[**user] == Some(0));
            let meets = |user: &&usize| members(self.group(**user, &before.owners)).any(is_guest);
            late = home.filter(meets).fold(late, |late, user| late | 1 << user);
        }
        Some((late, QUARANTINE))
    }

    /// A toolstack is told of a device's regions, and of those of all that cannot be told from it, lowest
    /// first and none twice.
    pub(super) fn judge_told(&self, owners: &Owners) -> Result<(), Breach> {
        for (index, device) in self.board.devices.iter().enumerate() {
            let mut told: Vec<(u64, u64)> = Vec::new();
            self.policy.for_each_told(device.sbdf, |range| {
                told.push((range.start().raw(), range.end().raw()));
            });
            broken(told.windows(2).all(|pair| pair[0].1 <= pair[1].0), || {
                format!("what is told of {} overlaps, or is in no order", device.name)
            })?;
            let is_there = owners[index].is_some() && !device.is_bridge();
            let mates = if is_there { self.requester(index, owners) & self.devices(owners) } else { 0 };
            for region in members(mates | 1 << index).flat_map(|mate| self.regions_of(mate)) {
                let region = &self.board.regions[region];
                let is_told = told.iter().any(|(start, end)| *start <= region.start && region.end <= *end);
                broken(is_told, || format!("region {:#x} of {} is not told of", region.start, device.name))?;
            }
        }
        Ok(())
    }
}

impl Before {
    fn exists(&self, domain: usize) -> bool {
        self.roots.get(domain).is_some_and(|root| *root != 0)
    }
}
