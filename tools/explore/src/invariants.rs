//! What must hold. Judged by what hardware finds in memory and in its caches, and by rules of the machine that are written down here once more: the
//! policy is asked only for what it reports.

use crate::calls::{Call, Outcome, Step};
use crate::hardware::{child, frames_of};
use crate::machine::{
    DEVICES, DOMAINS, NAMES, PLACES, REGIONS, REQUESTERS, is_linked, ram, region_of, requester, sbdf, users,
};
use crate::state::Keys;
use crate::world::{Known, Own, QUARANTINE, World};

type Meaning = ([Option<usize>; DEVICES], [Option<usize>; REGIONS], Known, Vec<(usize, u64, u64, u64)>);

/// What does not hold.
pub type Breach = String;

fn broken(holds: bool, breach: impl FnOnce() -> Breach) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(breach()) }
}

/// What was so before a call.
pub struct Before {
    /// The state.
    pub keys: Keys,
    /// What was known.
    pub known: Known,
    /// Who owned what.
    pub owners: [Option<usize>; DEVICES],
    /// Where the regions were mapped.
    pub region_owners: [Option<usize>; REGIONS],
    /// By requester: the probes that it reached.
    pub reached: [u32; REQUESTERS],
    /// By domain: the top frame of the devices' table.
    pub roots: [u128; DOMAINS],
    /// The top frames of the tables that the requesters were attached to.
    pub attached: [u128; REQUESTERS],
    /// Something cached was in doubt, or a requester locked away.
    pub in_doubt: bool,
}

impl Before {
    /// Whether other devices with a device's requester id were there.
    fn has_others(&self, device: usize) -> bool {
        (0..DEVICES).any(|other| {
            other != device && requester(other) == requester(device) && self.owners[other].is_some()
        })
    }
}

/// Name of an owner.
#[must_use]
pub fn owner_name(owner: Option<usize>) -> String {
    match owner {
        None => "nobody (absent)".into(),
        Some(QUARANTINE) => "quarantine".into(),
        Some(domain) => format!("d{domain}"),
    }
}

impl World {
    /// What is so now.
    pub fn before(&mut self) -> Before {
        Before {
            known: self.known,
            keys: self.keys(),
            owners: self.owners(),
            region_owners: self.region_owners(),
            reached: self.surely_reached(),
            roots: [0, 1, 2].map(|domain| self.root_bit(domain)),
            attached: [0, 1, 2, 3].map(|requester| self.attached(requester)),
            in_doubt: self.machine.in_doubt()
                || self.known.uncertain.contains(&true)
                || (0..DEVICES).any(|device| self.policy.is_uncertain(sbdf(device))),
        }
    }

    fn attached(&self, requester: usize) -> u128 {
        let context = self.machine.context(requester);
        context.root().filter(|_| context.present()).map_or(0, crate::hardware::bit)
    }

    /// Judges a call: what happened while it went on, and that it did nothing where it was refused.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_call(
        &mut self,
        before: &Before,
        step: Step,
        outcome: &Outcome,
        after: &Keys,
    ) -> Result<(), Breach> {
        let seen = &outcome.seen;
        if let Some(wrong) = seen.wrong {
            return Err(format!("what hardware saw: {wrong:?}"));
        }
        broken(!outcome.disagreed, || "test_assign says otherwise than assign".into())?;
        broken(seen.failed || !outcome.for_want, || {
            "refused for want of memory or by hardware, though nothing failed".into()
        })?;
        self.judge_moments(before, step, outcome)?;
        if outcome.refused && !matches!(step.call, Call::Destroy(_)) {
            let uncertain = outcome.timed_out || outcome.uncertain.iter().any(|uncertain| *uncertain);
            let doubtful = uncertain || before.in_doubt || self.machine.in_doubt();
            broken(doubtful || after.contexts == before.keys.contexts, || {
                "refused, but requesters were switched".into()
            })?;
            if after.view != before.keys.view {
                // Large pages that were cut stay cut, see `AddressSpace::map_identity`; but they lead where they led.
                let now = self.meaning();
                self.back();
                let then = self.meaning();
                self.make(step, before.owners);
                return broken(now == then, || "refused, but owners or mappings changed".into());
            }
            broken(doubtful || after.doubt == before.keys.doubt, || {
                "refused, and caches are behind that were not".into()
            })?;
            // The quarantine of a requester that has other devices stays once it is made, see `Policy::add_device`.
            let made = matches!(step.call, Call::Add(device) if before.has_others(usize::from(device)));
            broken(after.frames == before.keys.frames || made && after.frames > before.keys.frames, || {
                format!("refused, but {} frames are in use, and {} were", after.frames, before.keys.frames)
            })?;
            // What an earlier flush that failed kept back may have come free.
            let fewer = after.held.iter().zip(&before.keys.held).all(|(after, before)| after <= before);
            broken(doubtful || fewer, || "refused, and frames wait for a flush".into())?;
        }
        Ok(())
    }

    /// Who owns what, and where the domains' tables lead.
    fn meaning(&self) -> Meaning {
        let mut runs: Vec<(usize, u64, u64, u64)> = Vec::new();
        for domain in 0..DOMAINS {
            for (table, (root, levels)) in self.roots(domain).into_iter().flatten().enumerate() {
                self.each_leaf(root, levels, 0, &mut |gfn, len, mfn| {
                    let table = domain * 2 + table;
                    match runs.last_mut() {
                        Some((last, at, run, first))
                            if (*last, *at + *run, *first + *run) == (table, gfn, mfn) =>
                        {
                            *run += len;
                        }
                        _ => runs.push((table, gfn, len, mfn)),
                    }
                });
            }
        }
        let known = Known { uncertain: Default::default(), ..self.known };
        (self.owners(), self.region_owners(), known, runs)
    }

    /// What devices reached while the call went on.
    fn judge_moments(&self, before: &Before, step: Step, outcome: &Outcome) -> Result<(), Breach> {
        let seen = &outcome.seen;
        let after = self.surely_reached();
        let layout = self.setting.layout;
        for requester in 0..REQUESTERS {
            let is_own = |device: &usize| {
                let goes = matches!(step.call, Call::Remove(gone) if usize::from(gone) == *device);
                let goes = goes || before.known.lacks[*device] || before.known.uncertain[requester];
                crate::machine::requester(*device) == requester && before.owners[*device].is_some() && !goes
            };
            let own =
                (0..DEVICES).filter(is_own).filter_map(region_of).filter(|region| !outcome.left[*region]);
            let own = own.fold(0, |bits, region| bits | layout.probes_in(region));
            let lost = own & seen.lost[requester] & before.reached[requester] & after[requester];
            broken(lost == 0, || {
                let probe = layout.probes()[lost.trailing_zeros() as usize];
                format!("requester {} did not reach frame {probe:#x} for a moment", NAMES[requester])
            })?;
        }
        let target = match step.call {
            Call::Assign(_, domain, _) => before.roots[usize::from(domain)],
            Call::Add(_) => before.roots[0],
            _ => 0,
        };
        let own = |requester| before.attached[requester] | self.attached(requester);
        let allowed = (0..REQUESTERS).fold(target, |allowed, requester| allowed | own(requester));
        for (probe, frame) in layout.probes().iter().enumerate() {
            broken(seen.through[probe] & !allowed == 0 || outcome.seen.failed || before.in_doubt, || {
                format!("frame {frame:#x} was reached by way of a third table for a moment")
            })?;
        }
        Ok(())
    }

    /// Judges a state.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_state(&mut self) -> Result<(), Breach> {
        let owners = self.owners();
        self.judge_owners(&owners)?;
        self.judge_attached(&owners)?;
        self.judge_reach(&owners)?;
        for domain in 0..DOMAINS {
            self.judge_domain(domain, &owners)?;
        }
        Ok(())
    }

    /// Groups have one owner each.
    fn judge_owners(&self, owners: &[Option<usize>; DEVICES]) -> Result<(), Breach> {
        for one in 0..DEVICES {
            for other in 0..one {
                let (Some(a), Some(b)) = (owners[one], owners[other]) else { continue };
                let told = || {
                    format!(
                        "{} belongs to {} and {} to {}",
                        NAMES[one],
                        owner_name(Some(a)),
                        NAMES[other],
                        owner_name(Some(b))
                    )
                };
                broken(a == b || requester(one) != requester(other), || told() + ", with one requester id")?;
                let linked = is_linked(one) && is_linked(other);
                broken(a == b || !linked || self.known.torn, || told() + ", whose regions share memory")?;
            }
        }
        Ok(())
    }

    /// Requesters are where their devices' owner is, with one domain id for each table.
    fn judge_attached(&self, owners: &[Option<usize>; DEVICES]) -> Result<(), Breach> {
        for requester in 0..REQUESTERS {
            broken(!self.is_off(requester, owners) || self.known.uncertain[requester], || {
                format!("requester {} is not attached where its devices belong to", NAMES[requester])
            })?;
            let context = self.machine.context(requester);
            for other in 0..requester {
                let other = self.machine.context(other);
                if context.present() && other.present() {
                    broken((context.id() == other.id()) == (context.root() == other.root()), || {
                        "two tables have one domain id, or one has two".into()
                    })?;
                }
            }
            if self.machine.in_doubt() {
                continue;
            }
            broken(self.machine.stale_context(requester).is_none(), || {
                format!("an old context entry of requester {} is still cached", NAMES[requester])
            })?;
            for (probe, frame) in self.setting.layout.probes().iter().enumerate() {
                broken(!self.machine.reach(requester, probe).is_stale(), || {
                    format!(
                        "an old translation of frame {frame:#x} for requester {} is still cached",
                        NAMES[requester]
                    )
                })?;
            }
        }
        Ok(())
    }

    /// No region is reachable from two domains, and each device reaches its own.
    fn judge_reach(&self, owners: &[Option<usize>; DEVICES]) -> Result<(), Breach> {
        let layout = self.setting.layout;
        let reached = self.reached();
        for (probe, frame) in layout.probes().iter().enumerate() {
            let mut domains = 0_u32;
            for domain in 0..DOMAINS {
                if let Some([(root, levels), _]) = self.roots(domain)
                    && self.machine.walk(root, levels, *frame).mfn == Some(*frame)
                {
                    domains |= 1 << domain;
                }
            }
            for requester in 0..REQUESTERS {
                let context = self.machine.context(requester);
                let Some(root) = context.root().filter(|_| reached[requester] & 1 << probe != 0) else {
                    continue;
                };
                match self.domain_of_root(root) {
                    Some(domain) => domains |= 1 << domain,
                    None => {
                        let own = |device: usize| {
                            crate::machine::requester(device) == requester
                                && region_of(device)
                                    .is_some_and(|region| layout.probes_in(region) & 1 << probe != 0)
                        };
                        broken((0..DEVICES).any(own), || {
                            format!("requester {} reaches frame {frame:#x} from quarantine", NAMES[requester])
                        })?;
                    }
                }
            }
            broken(domains.count_ones() <= 1, || {
                let names: Vec<_> =
                    (0..DOMAINS).filter(|d| domains & 1 << d != 0).map(|d| format!("d{d}")).collect();
                format!("frame {frame:#x} of a region is reachable from {}", names.join(" and "))
            })?;
        }
        for device in 0..DEVICES {
            let (Some(owner), Some(region)) = (owners[device], region_of(device)) else { continue };
            if self.known.lacks[device] || self.known.uncertain[requester(device)] {
                continue;
            }
            let wanted = layout.probes_in(region);
            broken(reached[requester(device)] & wanted == wanted, || {
                format!("{} of {} does not reach its region", NAMES[device], owner_name(Some(owner)))
            })?;
        }
        Ok(())
    }

    /// A domain's tables hold what its toolstack put there, the regions of its devices, and nothing else; and both hold the same.
    fn judge_domain(&self, domain: usize, owners: &[Option<usize>; DEVICES]) -> Result<(), Breach> {
        let Some([cpu, devices]) = self.roots(domain) else { return Ok(()) };
        let layout = self.setting.layout;
        let regions = layout.regions();
        let own = self.known.own[domain];
        let is_user = |region: usize| users(region).iter().any(|device| owners[*device] == Some(domain));
        let direct: Vec<(u64, u64)> = (0..REGIONS)
            .filter(|region| is_user(*region) || self.known.lingers[domain][*region])
            .map(|region| regions[region])
            .chain(
                (0..PLACES)
                    .filter(|place| own[*place] == Own::Direct)
                    .map(|place| regions[crate::calls::place_region(place as u8)]),
            )
            .collect();
        for (table, (root, levels)) in [("CPU", cpu), ("devices", devices)] {
            let mut breach = None;
            self.each_leaf(root, levels, 0, &mut |gfn, len, mfn| {
                let holds = if gfn == mfn {
                    covered(gfn, gfn + len, &direct)
                } else {
                    let is_ram = |place: usize| {
                        own[place] == Own::Ram && layout.place(place) == gfn && mfn == ram(domain, place)
                    };
                    len == 1 && (0..PLACES).any(is_ram)
                };
                if !holds && breach.is_none() {
                    breach = Some(format!(
                        "the {table} table of d{domain} maps frames from {gfn:#x} on, {len}, to {mfn:#x}, which nothing there needs"
                    ));
                }
            });
            if let Some(breach) = breach {
                return Err(breach);
            }
            for (place, what) in own.into_iter().enumerate() {
                let gfn = layout.place(place);
                let (from, to, first) = match what {
                    Own::Nothing => continue,
                    Own::Ram => (gfn, gfn + 1, ram(domain, place)),
                    Own::Direct => {
                        let (start, end) = regions[crate::calls::place_region(place as u8)];
                        (start, end, start)
                    }
                };
                for gfn in [from, to - 1] {
                    let found = self.machine.walk(root, levels, gfn).mfn;
                    broken(found == Some(first + (gfn - from)), || {
                        format!(
                            "what d{domain} has put at guest frame {gfn:#x} is no longer in the {table} table"
                        )
                    })?;
                }
            }
        }
        for frame in layout.probes() {
            let [one, other] =
                [cpu, devices].map(|(root, levels)| self.machine.walk(root, levels, *frame).mfn);
            broken(one == other, || {
                format!("the two tables of d{domain} do not agree at guest frame {frame:#x}")
            })?;
        }
        Ok(())
    }

    /// Visits the leaves of a table: guest frame, number of frames, machine frame.
    fn each_leaf(&self, root: usize, levels: u32, first: u64, visit: &mut dyn FnMut(u64, u64, u64)) {
        let span = 1_u64 << (9 * (levels - 1));
        for (index, word) in self.machine.words(root).iter().enumerate() {
            let entry = word.load(std::sync::atomic::Ordering::Relaxed);
            if entry & 7 == 0 {
                continue;
            }
            let gfn = first + index as u64 * span;
            match child(entry).filter(|_| levels > 1) {
                Some(next) => self.each_leaf(next, levels - 1, gfn, visit),
                None => visit(gfn, span, entry >> 12 & 0xff_ffff_ffff),
            }
        }
    }

    /// Gives everything back, and judges that nothing is left: no frame, no mapping, no context entry. Changes the state.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_end(&mut self) -> Result<(), Breach> {
        for domain in 1..DOMAINS {
            drop(self.policy.destroy_domain(xen_iommu::DomId(domain as u16), &mut |_| {}));
        }
        for device in 0..DEVICES {
            let _ = self.policy.remove_device(sbdf(device), &mut |_| {});
        }
        // What a failed flush kept back.
        let _ = self.policy.flush_domain(xen_iommu::DomId(0));
        self.known.own[1] = Default::default();
        self.known.own[2] = Default::default();
        self.known.lingers = Default::default();
        broken(self.owners() == [None; DEVICES], || "in the end: devices are left".into())?;
        broken(self.region_owners() == [None; REGIONS], || "in the end: a region still has an owner".into())?;
        for requester in 0..REQUESTERS {
            broken(!self.machine.context(requester).present(), || {
                format!("in the end: requester {} is still attached", NAMES[requester])
            })?;
        }
        self.judge_domain(0, &[None; DEVICES]).map_err(|breach| format!("in the end: {breach}"))?;
        let held = self.policy.with_space(xen_iommu::DomId(0), |space| space.held_frames()).unwrap_or(0);
        let tables = self.roots(0).map_or(0, |roots| {
            roots.into_iter().fold(0, |frames, (root, levels)| frames | frames_of(self.machine, root, levels))
        });
        let needed = (tables | self.machine.unit_frames()).count_ones() + QUEUE_FRAMES + held as u32;
        let used = self.machine.allocated().count_ones();
        broken(used == needed, || format!("in the end: {used} frames are in use, and {needed} are needed"))
    }
}

/// The invalidation queue's ring and status.
const QUEUE_FRAMES: u32 = 2;

/// Whether `start..end` is within the union of `ranges`.
fn covered(mut start: u64, end: u64, ranges: &[(u64, u64)]) -> bool {
    while start < end {
        let Some((_, to)) = ranges.iter().find(|(from, to)| (*from..*to).contains(&start)) else {
            return false;
        };
        start = *to;
    }
    true
}
