//! What must hold of a call: at each moment of it, and afterwards.

use super::rule::Together;
use super::{Breach, broken};
use crate::calls::{Call, Step, name};
use crate::hardware::{bit, frames_of};
use crate::machine::{DEVICES, DOMAINS, REGIONS, SOURCES, Set};
use crate::make::Outcome;
use crate::rules::Owners;
use crate::state::Keys;
use crate::world::{Known, QUARANTINE, World};

type Meaning = (Owners, [Option<usize>; REGIONS], Set, Known, Vec<(usize, u64, u64, u64)>);

/// What was so before a call.
pub struct Before {
    /// The state.
    pub keys: Keys,
    /// What was known.
    pub known: Known,
    /// Who owned what.
    pub owners: Owners,
    /// Where the regions were mapped.
    pub region_owners: [Option<usize>; REGIONS],
    /// Where the devices' DMA went.
    holders: [Option<usize>; DEVICES],
    /// By requester id: the probes that it reached.
    reached: [u32; SOURCES],
    /// By domain: the top frame of the devices' table.
    pub(super) roots: [u128; DOMAINS],
    /// Who belonged together.
    pub(super) together: Together,
    /// The top frames of the tables that the requester ids were attached to.
    attached: [u128; SOURCES],
    /// Something cached was in doubt, or a requester locked away.
    in_doubt: bool,
    /// The frames that were in use.
    allocated: u128,
    /// Those of them that a domain's tables, or a context entry, led to.
    led_to: u128,
}

impl World {
    /// What is so now.
    pub fn before(&mut self) -> Before {
        let owners = self.owners();
        Before {
            known: self.known,
            keys: self.keys(),
            owners,
            holders: self.holders(&owners),
            together: self.together(&owners),
            region_owners: self.region_owners(),
            reached: self.surely_reached(),
            roots: [0, 1, 2].map(|domain| self.root_bit(domain)),
            attached: self.all_attached(),
            in_doubt: self.is_in_doubt(),
            allocated: self.pool.allocated(),
            led_to: self.led_to(),
        }
    }

    /// The frames of all tables that a domain has or a context entry leads to.
    fn led_to(&self) -> u128 {
        let domains = self.all_roots().into_iter().flatten().flatten();
        let attached = (0..self.board.sources.len()).filter_map(|source| {
            let levels = u32::from(self.sight.contexts[source]?.high.width()) + 2;
            Some((self.sight.roots[source]?, levels))
        });
        domains.chain(attached).fold(0, |all, (root, levels)| all | frames_of(self.pool, root, levels))
    }

    /// Something cached may be wrong, or a requester is locked away.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.machine.in_doubt()
            || self.known.uncertain.contains(&true)
            || self.board.devices.iter().any(|device| self.policy.is_suspect(device.sbdf))
    }

    fn all_attached(&self) -> [u128; SOURCES] {
        let mut attached = [0; SOURCES];
        for (source, attached) in attached.iter_mut().enumerate().take(self.board.sources.len()) {
            *attached = self.sight.roots[source].map_or(0, bit);
        }
        attached
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
        if let Some(violation) = self.machine.violation() {
            return Err(format!("what hardware saw: {violation}"));
        }
        broken(!outcome.disagreed, || "check_assign says otherwise than assign".into())?;
        let failed = step.failure != crate::hardware::Failure::None;
        broken(failed || !outcome.for_want, || {
            "refused for want of memory or by hardware, though nothing failed".into()
        })?;
        self.judge_moments(before, step, outcome)?;
        self.judge_flushed(before, step, outcome)?;
        if outcome.refused && !matches!(step.call, Call::Destroy(_)) {
            self.judge_refused(before, step, outcome, after)?;
        }
        Ok(())
    }

    /// A call that was refused did nothing.
    fn judge_refused(
        &mut self,
        before: &Before,
        step: Step,
        outcome: &Outcome,
        after: &Keys,
    ) -> Result<(), Breach> {
        let uncertain = outcome.timed_out || outcome.uncertain.iter().any(|uncertain| *uncertain);
        let doubtful = uncertain || before.in_doubt || self.is_in_doubt();
        broken(doubtful || after.contexts == before.keys.contexts, || {
            "refused, but requesters were switched".into()
        })?;
        if after.view != before.keys.view {
            // Large pages that were cut stay cut, see `AddressSpace::map_identity`; but they lead where they
            // led.
            let now = self.meaning();
            self.back();
            let then = self.meaning();
            self.make(step, before.owners);
            // A device that was there without its region has got it by one that did not come in the end.
            let excused = matches!(step.call, Call::Add(_)) && before.known.lacks.contains(&true);
            return broken(now == then || excused, || "refused, but owners or mappings changed".into());
        }
        broken(doubtful || after.doubt == before.keys.doubt, || {
            "refused, and caches are behind that were not".into()
        })?;
        let fits = after.frames == before.keys.frames || doubtful || self.may_keep(before, step.call, after);
        broken(fits, || {
            format!("refused, but {} frames are in use, and {} were", after.frames, before.keys.frames)
        })?;
        // What an earlier flush that failed kept back may have come free.
        let fewer = after.held.iter().zip(&before.keys.held).all(|(after, before)| after <= before);
        broken(doubtful || seen_failure(outcome) || fewer, || "refused, and frames wait for a flush".into())
    }

    /// Whether a call that was refused may leave another number of frames in use. Adding a device may: its
    /// requester's quarantine stays once it is made where the requester has other devices, see
    /// `Policy::add_device`; and where hardware had not let the requester go when its last device went, what
    /// was kept for that reason, to which nothing led, comes free as soon as hardware does.
    fn may_keep(&self, before: &Before, call: Call, after: &Keys) -> bool {
        let Call::Add(added) = call else { return false };
        if self.has_others(before, usize::from(added)) {
            return after.frames >= before.keys.frames;
        }
        let gone = before.allocated & !self.pool.allocated();
        after.frames <= before.keys.frames && gone & before.led_to == 0
    }

    /// Whether other devices that cannot be told from it were there.
    fn has_others(&self, before: &Before, device: usize) -> bool {
        (0..DEVICES).any(|other| {
            other != device && self.ids[other] & self.ids[device] != 0 && before.owners[other].is_some()
        })
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
        (self.owners(), self.region_owners(), self.machine.quiesced(), known, runs)
    }

    /// What a call that succeeded has flushed is not cached any more, whatever failed before.
    fn judge_flushed(&self, before: &Before, step: Step, outcome: &Outcome) -> Result<(), Breach> {
        let domain = match step.call {
            Call::Flush(domain) => usize::from(domain),
            // Who is there already is not moved, and nothing is flushed.
            Call::Assign(_, domain, _) if self.owners() != before.owners => usize::from(domain),
            _ => return Ok(()),
        };
        if outcome.refused || outcome.seen.failed || domain == QUARANTINE {
            return Ok(());
        }
        let Some([_, (root, _)]) = self.roots(domain) else { return Ok(()) };
        for source in (0..self.board.sources.len()).filter(|source| self.sight.roots[*source] == Some(root)) {
            // A context entry that is cached and not in memory is no matter of this domain's.
            if self.sight.stale[source].is_some() {
                continue;
            }
            for (probe, frame) in self.board.probes.iter().enumerate() {
                broken(!self.sight.reach[source][probe].is_stale(), || {
                    format!(
                        "flushed, but an old translation of frame {frame:#x} is still cached for d{domain}"
                    )
                })?;
            }
        }
        Ok(())
    }

    /// What devices reached while the call went on.
    fn judge_moments(&self, before: &Before, step: Step, outcome: &Outcome) -> Result<(), Breach> {
        let seen = &outcome.seen;
        let after = self.surely_reached();
        for source in 0..self.board.sources.len() {
            let own = self.machine.carriers(source).filter(|device| {
                let goes = matches!(step.call, Call::Remove(gone) if usize::from(gone) == *device);
                let known = &before.known;
                before.owners[*device].is_some()
                    && !(goes
                        || known.lacks[*device]
                        || known.blocked[*device]
                        || known.unprovided[*device]
                        || known.uncertain[source])
            });
            let own = own.flat_map(|device| self.regions_of(device)).filter(|region| !outcome.left[*region]);
            let own = own.fold(0, |bits, region| bits | self.board.probes_in(region));
            let lost = own & seen.lost[source] & before.reached[source] & after[source];
            broken(lost == 0, || {
                let probe = self.board.probes[lost.trailing_zeros() as usize];
                format!("{} did not reach frame {probe:#x} for a moment", self.board.sources[source])
            })?;
        }
        if seen.failed || before.in_doubt {
            return Ok(());
        }
        let target = match step.call {
            Call::Assign(_, domain, _) | Call::AssignGroup(_, domain, _) => {
                before.roots.get(usize::from(domain)).copied().unwrap_or(0)
            }
            Call::Add(_) => before.roots[0],
            _ => 0,
        };
        let attached = before.attached.into_iter().chain(self.all_attached());
        let allowed = attached.fold(target, |allowed, root| allowed | root);
        for (probe, frame) in self.board.probes.iter().enumerate() {
            broken(seen.through[probe] & !allowed == 0, || {
                format!("frame {frame:#x} was reached by way of a third table for a moment")
            })?;
        }
        self.judge_beside(before, step, outcome)
    }

    /// Who waited all the time did no DMA into what a guest had.
    fn judge_beside(&self, before: &Before, step: Step, outcome: &Outcome) -> Result<(), Breach> {
        let owners = self.owners();
        let now = self.holders(&owners);
        // Those that were to move: mapped first, then switched (XSA-400), and then perhaps undone.
        let named = match step.call {
            Call::Assign(set, ..) => set,
            Call::AssignGroup(device, ..) => self.group(usize::from(device), &before.owners),
            _ => 0,
        };
        let probes = self.board.probes.iter().enumerate();
        for (probe, frame) in probes.filter(|(_, frame)| !self.mapped_itself(&before.known, **frame)) {
            for source in
                (0..self.board.sources.len()).filter(|source| outcome.seen.beside[probe][*source] != 0)
            {
                let mut carriers = self.machine.carriers(source);
                let waits = |device: usize| {
                    before.holders[device] == Some(QUARANTINE) && now[device] == Some(QUARANTINE)
                };
                let is_said = |device: usize| {
                    named & 1 << device != 0
                        || outcome.running[device]
                        || outcome.blocked[device]
                        || before.known.running[device]
                };
                if !carriers.clone().any(waits) || carriers.any(is_said) || self.maps_itself(*frame) {
                    continue;
                }
                let mut guests = 1..DOMAINS;
                let guest =
                    guests.find(|guest| outcome.seen.beside[probe][source] & before.roots[*guest] != 0);
                broken(guest.is_none(), || {
                    format!(
                        "{} reached frame {frame:#x} from quarantine for a moment while {} had it",
                        self.board.sources[source],
                        name(guest.unwrap_or(0))
                    )
                })?;
            }
        }
        Ok(())
    }
}

fn seen_failure(outcome: &Outcome) -> bool {
    outcome.seen.failed
}
