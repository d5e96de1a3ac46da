//! What must hold after every call, whatever its outcome, and what a caller, a guest or a device could see.

use std::collections::{BTreeMap, BTreeSet};

use p2m::{DeviceRoot, Mfn};
use xen_iommu::pci::{Function, Role};
use xen_iommu::{DomId, Isolation, Note, Owner, Sbdf, SpaceId};

use super::{HARDWARE_DOMAIN, Reserved, World};

/// How much must hold.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// No call was relaxed: devices have all of their regions.
    pub strict: bool,
}

impl Rules {
    /// After strict calls alone.
    pub const STRICT: Self = Self { strict: true };
    /// After relaxed ones too.
    pub const RELAXED: Self = Self { strict: false };
}

/// What notes have said about devices that wait, until they move.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// Its DMA goes on.
    unquiesced: BTreeSet<Sbdf>,
    /// All of its DMA is blocked, to its regions too.
    pub(super) blocked: BTreeSet<Sbdf>,
    /// It appeared, or got a region, where that was a guest's.
    newcomers: BTreeSet<Sbdf>,
    /// Some of its requester ids are others'.
    contested: BTreeSet<Sbdf>,
    /// It does without a region that turned out to be its.
    unprovided: BTreeSet<Sbdf>,
}

/// Everything that a caller, a guest or a device could see.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// Who owns what.
    pub owners: BTreeMap<Sbdf, Owner>,
    regions: Vec<Option<DomId>>,
    attached: BTreeMap<Sbdf, Mfn>,
    reached: BTreeMap<Mfn, BTreeSet<u64>>,
    off: BTreeSet<Sbdf>,
    quiesced: BTreeSet<Sbdf>,
}

/// The next of two that the DMA of devices may share, and so on: all whose DMA cannot be told from a
/// device's.
#[must_use]
pub fn inseparable(functions: &[Function], from: &Function) -> Vec<Function> {
    let mut found = vec![*from];
    let mut next = 0;
    while let Some(one) = found.get(next).copied() {
        let more = functions.iter().filter(|other| other.ids.meets(&one.ids) && is_member(other));
        let more: Vec<Function> = more.filter(|other| !found.contains(other)).copied().collect();
        found.extend(more);
        next += 1;
    }
    found
}

/// Whether it is anybody's to give away.
#[must_use]
pub fn is_member(function: &Function) -> bool {
    !matches!(function.role, Role::Bridge | Role::HostBridge)
}

impl World<'_> {
    /// Takes down what a note says.
    ///
    /// # Panics
    /// Where p2m's tables keep what is to be removed.
    pub fn hear(&self, note: Note) {
        let mut said = self.said.lock().unwrap();
        match note {
            Note::NotQuiesced { device, blocked: false, .. } => said.unquiesced.insert(device),
            Note::NotQuiesced { device, blocked: true, .. } => {
                // With it all that cannot be told from it, also when it goes.
                let ever: Vec<Function> = self.functions.lock().unwrap().values().copied().collect();
                let with = ever.iter().find(|one| one.sbdf == device).map(|one| inseparable(&ever, one));
                said.blocked.extend(with.into_iter().flatten().map(|one| one.sbdf));
                true
            }
            Note::Newcomer { device, .. } => said.newcomers.insert(device),
            Note::Contested { device, .. } => said.contested.insert(device),
            Note::Unprovided { device, .. } => said.unprovided.insert(device),
            // No end of what was mapped lies inside a page of p2m's, so that no removal wants a frame.
            Note::Lingers { .. } => panic!("{note}"),
            _ => return,
        };
    }

    /// What notes have said.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap().clone()
    }

    /// Takes back what notes have said of a call that was refused.
    pub fn unsay(&self, before: Said) {
        *self.said.lock().unwrap() = before;
    }

    /// The functions that are present.
    #[must_use]
    pub fn present(&self) -> Vec<Function> {
        let mut present = Vec::new();
        let functions = self.functions.lock().unwrap();
        self.policy.for_each_device(|sbdf, _| present.push(functions[&sbdf]));
        present
    }

    /// The function as it was last added.
    #[must_use]
    pub fn function(&self, sbdf: Sbdf) -> Function {
        self.functions.lock().unwrap()[&sbdf]
    }

    /// Everything that a caller, a guest or a device could see.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut owners = BTreeMap::new();
        self.policy.for_each_device(|device, owner| {
            owners.insert(device, owner);
        });
        let quiesced = owners.keys().copied().filter(|device| self.policy.is_quiesced(*device)).collect();
        let regions = self.policy.registry().regions().map(|region| region.owner()).collect();
        let roots: BTreeMap<Sbdf, DeviceRoot> =
            self.told().attached.iter().map(|(id, (_, root))| (*id, *root)).collect();
        let attached = roots.iter().map(|(id, root)| (*id, root.root)).collect();
        let probes = self.probes();
        let by_root: BTreeMap<Mfn, DeviceRoot> = roots.values().map(|root| (root.root, *root)).collect();
        let reached = by_root.values().map(|root| (root.root, self.reached(*root, &probes))).collect();
        let off = self.controlled().off.clone();
        Snapshot { owners, regions, attached, reached, off, quiesced }
    }

    /// The frames of regions at which anything can change, and some between.
    fn probes(&self) -> BTreeSet<u64> {
        let regions = &self.machine.regions;
        let edges = regions.iter().flat_map(|region| {
            let edges = [region.start, region.start + 1, region.start - 1, region.end - 1, region.end];
            edges.into_iter().chain((region.start..region.end).step_by(0x80))
        });
        edges
            .filter(|frame| regions.iter().any(|region| (region.start..region.end).contains(frame)))
            .collect()
    }

    /// Those that a table leads to, 1:1.
    fn reached(&self, root: DeviceRoot, probes: &BTreeSet<u64>) -> BTreeSet<u64> {
        probes.iter().copied().filter(|frame| self.walk(root, *frame) == Some(*frame)).collect()
    }

    /// The frames that each requester id may reach: by the tables that it goes through, or by what their TLB
    /// still holds.
    fn reach(&self) -> BTreeMap<Sbdf, BTreeSet<u64>> {
        let probes = self.probes();
        let told = self.told();
        let mut by_space: BTreeMap<(SpaceId, Mfn), BTreeSet<u64>> = BTreeMap::new();
        for (space, root) in told.attached.values() {
            by_space.entry((*space, root.root)).or_insert_with(|| {
                let mut reached = self.reached(*root, &probes);
                // What is owed a flush was said to be.
                if !told.unflushed.contains(space) {
                    reached.extend(told.cached.get(space).into_iter().flatten());
                }
                reached
            });
        }
        told.attached
            .iter()
            .map(|(id, (space, root))| (*id, by_space[&(*space, root.root)].clone()))
            .collect()
    }

    /// Devices use all that they reach, so that TLBs fill.
    fn use_all(&self) {
        let reach = self.reach();
        let mut told = self.told();
        let attached = told.attached.clone();
        for (id, (space, _)) in attached {
            told.cached.entry(space).or_default().extend(&reach[&id]);
        }
    }

    /// Checks what must hold after every call, whatever its outcome.
    ///
    /// # Panics
    /// Where it does not.
    pub fn check(&self, rules: Rules) {
        self.forget_said();
        self.check_requesters();
        self.check_memory();
        if rules.strict {
            self.check_provided();
        }
        self.check_registry(rules);
        self.check_quiesced();
        self.use_all();
    }

    /// What was said of devices that wait ends when they move.
    fn forget_said(&self) {
        let waits = |device: &Sbdf| self.owner(*device) == Some(Owner::Quarantine);
        let mut said = self.said.lock().unwrap();
        let Said { unquiesced, blocked, newcomers, contested, unprovided } = &mut *said;
        [unquiesced, blocked, newcomers].into_iter().for_each(|devices| devices.retain(waits));
        contested.retain(|device| self.owner(*device).is_some());
        unprovided.retain(|device| matches!(self.owner(*device), Some(Owner::Domain(_))));
    }

    /// All requester ids of a device go the same way, and none of two domains' devices share one.
    fn check_requesters(&self) {
        let (present, said) = (self.present(), self.said());
        let members = present.iter().filter(|one| is_member(one) && !said.contested.contains(&one.sbdf));
        for one in members.clone().filter(|one| !self.policy.is_suspect(one.sbdf)) {
            let root = self.told().root(one.sbdf);
            for id in one.ids.iter() {
                assert_eq!(self.told().root(id), root, "{id} goes another way than {}", one.sbdf);
            }
        }
        for one in members.clone() {
            for other in members.clone() {
                let bound = one.ids.meets(&other.ids)
                    || (self.machine.isolation == Isolation::Require && one.isolation == other.isolation);
                if let (true, Some(Owner::Domain(one_owner)), Some(Owner::Domain(other_owner))) =
                    (bound, self.owner(one.sbdf), self.owner(other.sbdf))
                {
                    assert_eq!(
                        one_owner, other_owner,
                        "{} and {} cannot be told or kept apart",
                        one.sbdf, other.sbdf
                    );
                }
            }
        }
    }

    /// No frame of a region is reachable from two domains; what a guest has, nothing reaches that waits in
    /// quarantine, unless that was said.
    fn check_memory(&self) {
        let (present, said) = (self.present(), self.said());
        let ever: Vec<Function> = self.functions.lock().unwrap().values().copied().collect();
        let reach = self.reach();
        let may_reach = |id: Sbdf, frame: u64| reach.get(&id).is_some_and(|reach| reach.contains(&frame));
        for frame in self.probes() {
            let mut holders: BTreeSet<DomId> = (0..4).map(DomId).filter(|id| self.maps(*id, frame)).collect();
            let reaches = |one: &Function| one.ids.iter().any(|id| may_reach(id, frame));
            let certain = |one: &&Function| is_member(one) && !self.policy.is_suspect(one.sbdf);
            for one in present.iter().filter(certain) {
                if let Some(Owner::Domain(id)) = self.owner(one.sbdf)
                    && reaches(one)
                {
                    holders.insert(id);
                }
            }
            assert!(holders.len() <= 1, "frame {frame:#x} is reachable from {holders:?}");
            for one in present.iter().filter(certain) {
                if self.owner(one.sbdf) != Some(Owner::Quarantine) || !reaches(one) {
                    continue;
                }
                let is_off = self.controlled().off.contains(&one.sbdf);
                let guest = holders.iter().find(|id| **id != HARDWARE_DOMAIN);
                if let Some(guest) = guest
                    && !is_off
                {
                    let was_said = said.unquiesced.contains(&one.sbdf);
                    assert!(was_said, "{} reaches {guest}'s frame {frame:#x} from quarantine", one.sbdf);
                }
                // It is translated as one whose owner may have anything, or reaches what is its own.
                let with = inseparable(&ever, one);
                let is_elsewhere = with.iter().any(|with| {
                    let owner = self.owner(with.sbdf);
                    with.sbdf != one.sbdf && matches!(owner, Some(Owner::Domain(_)))
                });
                let own = self.machine.regions.iter().any(|region| {
                    (region.start..region.end).contains(&frame)
                        && with.iter().any(|with| region.is_of(with.sbdf))
                });
                assert!(
                    own || is_elsewhere || said.contested.contains(&one.sbdf),
                    "{} reaches frame {frame:#x} from quarantine",
                    one.sbdf
                );
            }
        }
    }

    /// Devices reach their regions, wherever they are.
    fn check_provided(&self) {
        let (present, said) = (self.present(), self.said());
        for one in present.iter().filter(|one| is_member(one) && !self.policy.is_suspect(one.sbdf)) {
            let with = inseparable(&present, one);
            let waits = self.owner(one.sbdf) == Some(Owner::Quarantine);
            let goes_without = said.unprovided.contains(&one.sbdf)
                || said.contested.contains(&one.sbdf)
                || said.newcomers.contains(&one.sbdf)
                || waits && with.iter().any(|with| said.blocked.contains(&with.sbdf));
            if goes_without {
                continue;
            }
            let regions = self.machine.regions.iter();
            let regions = regions.filter(|region| region.rejected.is_none() && region.is_of(one.sbdf));
            for frame in regions.flat_map(Reserved::probes) {
                for id in one.ids.iter() {
                    assert_eq!(
                        self.dma(id, frame),
                        Some(frame),
                        "{} ({:?}) has lost frame {frame:#x} of its region",
                        one.sbdf,
                        self.owner(one.sbdf)
                    );
                }
            }
        }
    }

    /// Where the registry says that a region is mapped, it is, and nowhere else.
    fn check_registry(&self, rules: Rules) {
        let all: Vec<_> = self.policy.registry().regions().collect();
        for id in (0..4).map(DomId) {
            for region in &all {
                let frame = region.range().start();
                let mapped = self.maps(id, frame.raw());
                let owned =
                    all.iter().any(|region| region.range().contains(frame) && region.owner() == Some(id));
                assert!(owned || !mapped, "{id} maps frame {frame}, and the registry does not know");
                assert!(mapped || !owned || !rules.strict, "{id} does not map frame {frame}");
            }
        }
    }

    /// What is off waits, and the policy knows.
    fn check_quiesced(&self) {
        let off = self.controlled().off.clone();
        for one in self.present() {
            assert_eq!(
                self.policy.is_quiesced(one.sbdf),
                off.contains(&one.sbdf),
                "{} is off or not, and the policy says otherwise",
                one.sbdf
            );
        }
        for device in off {
            assert_eq!(self.owner(device), Some(Owner::Quarantine), "{device} is off and does not wait");
        }
    }
}
