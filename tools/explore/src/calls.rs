//! The calls that are explored, and what each came to.

use std::fmt;

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2m, P2mType};
use xen_iommu::{AssignError, DomId, GroupPolicy, HardwareError, Mode, Note};

use crate::hardware::{Failure, Seen};
use crate::machine::{
    A, B, C, D, DEVICES, DOMAINS, E, NAMES, PLACES, REGIONS, REQUESTERS, is_linked, ram, region_of,
    requester, sbdf, source,
};
use crate::world::{Own, World, space};

/// Devices as bits.
pub type Set = u8;

/// A call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `Policy::create_domain`.
    Create(u8),
    /// `Policy::destroy_domain`.
    Destroy(u8),
    /// `Policy::test_assign`, then `Policy::assign`.
    Assign(Set, u8, bool),
    /// `Policy::deassign`.
    Deassign(Set, u8),
    /// `Policy::add_device`.
    Add(u8),
    /// `Policy::remove_device`.
    Remove(u8),
    /// A toolstack populates a place with RAM.
    Populate(u8, u8),
    /// A toolstack maps the region of a place 1:1 by itself.
    MapDirect(u8, u8),
    /// A toolstack unmaps what it put at a place.
    Unmap(u8, u8),
}

/// A call, and what fails meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Step {
    /// The call.
    pub call: Call,
    /// The failure.
    pub failure: Failure,
}

fn names(set: Set) -> String {
    let names: Vec<_> =
        (0..DEVICES).filter(|device| set & 1 << device != 0).map(|device| NAMES[device]).collect();
    names.join(", ")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.call {
            Call::Create(domain) => write!(f, "create d{domain}")?,
            Call::Destroy(domain) => write!(f, "destroy d{domain}")?,
            Call::Assign(set, domain, relaxed) => {
                write!(f, "assign {} to d{domain}{}", names(set), if relaxed { ", relaxed" } else { "" })?;
            }
            Call::Deassign(set, domain) => write!(f, "deassign {} from d{domain}", names(set))?,
            Call::Add(device) => write!(f, "add {}", NAMES[usize::from(device)])?,
            Call::Remove(device) => write!(f, "remove {}", NAMES[usize::from(device)])?,
            Call::Populate(domain, place) => write!(f, "d{domain} puts RAM at place {place}")?,
            Call::MapDirect(domain, place) => {
                write!(f, "d{domain} maps the region at place {place} by itself")?
            }
            Call::Unmap(domain, place) => write!(f, "d{domain} unmaps place {place}")?,
        }
        match self.failure {
            Failure::None => Ok(()),
            Failure::Frames(from) => write!(f, "; no frames from allocation {from} on"),
            Failure::TimeOut(at) => write!(f, "; invalidation {at} times out"),
            Failure::TimeOuts(from) => write!(f, "; every invalidation from {from} on times out"),
            Failure::QueueError(at) => write!(f, "; queue error at invalidation {at}"),
        }
    }
}

/// All calls that are made in each state.
#[must_use]
pub fn calls() -> Vec<Call> {
    let single = |device: usize| 1 << device;
    let sets: [Set; 11] = [
        single(A),
        single(B),
        single(C),
        single(D),
        single(E),
        single(A) | single(B),
        single(A) | single(C),
        single(A) | single(B) | single(C),
        single(D) | single(E),
        single(A) | single(D),
        (1 << DEVICES) - 1,
    ];
    let mut calls = Vec::new();
    for domain in 1..DOMAINS as u8 {
        calls.extend([Call::Create(domain), Call::Destroy(domain)]);
    }
    for set in sets {
        for domain in 0..DOMAINS as u8 {
            calls.extend([
                Call::Assign(set, domain, false),
                Call::Assign(set, domain, true),
                Call::Deassign(set, domain),
            ]);
        }
    }
    for device in 0..DEVICES as u8 {
        calls.extend([Call::Add(device), Call::Remove(device)]);
    }
    for place in 0..PLACES as u8 {
        for domain in 1..DOMAINS as u8 {
            calls.push(Call::Populate(domain, place));
        }
        for domain in 0..DOMAINS as u8 {
            calls.extend([Call::MapDirect(domain, place), Call::Unmap(domain, place)]);
        }
    }
    calls
}

/// What a call came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// It was refused.
    pub refused: bool,
    /// It was refused because hardware did not answer in time.
    pub timed_out: bool,
    /// It was refused for want of memory or by hardware.
    pub for_want: bool,
    /// It was not made: a toolstack that behaves would not.
    pub left_out: bool,
    /// What was said by notes: by requester, that it is uncertain where it leads.
    pub uncertain: [bool; REQUESTERS],
    /// That a flush did not come about.
    pub not_flushed: bool,
    /// By region: that it was left out, or part of it.
    pub left: [bool; REGIONS],
    /// By domain and region.
    pub lingers: [[bool; REGIONS]; DOMAINS],
    /// It was refused at once and touched nothing.
    pub quiet: bool,
    /// `test_assign` and `assign` did not agree.
    pub disagreed: bool,
    /// What hardware saw.
    pub seen: Seen,
}

impl Outcome {
    fn note(&mut self, note: Note<'_>, layout: crate::machine::Layout) {
        let index = |region: &xen_iommu::region::record::Region<'_>| {
            layout.regions().iter().position(|(start, _)| *start == region.range().start().raw()).unwrap_or(0)
        };
        match note {
            Note::Skipped { region, .. } | Note::LeftWith { region, .. } => self.left[index(region)] = true,
            Note::Lingers { region, domain } => self.lingers[usize::from(domain.0)][index(region)] = true,
            Note::NotFlushed { .. } => self.not_flushed = true,
            Note::Uncertain { source: which, .. } => {
                for (requester, uncertain) in self.uncertain.iter_mut().enumerate() {
                    *uncertain |= source(requester) == which;
                }
            }
            _ => {}
        }
    }

    fn assign(&mut self, result: Result<(), AssignError<'_>>) {
        let Err(error) = result else { return };
        self.refused = true;
        match error {
            AssignError::Hardware { error, .. } => {
                self.for_want = true;
                self.timed_out |= matches!(error, HardwareError::TimedOut { .. });
            }
            AssignError::Map { error: p2m::IdentityError::NoFrames { .. }, .. } => self.for_want = true,
            _ => {}
        }
    }
}

impl World {
    /// Makes a call in a state with these owners, and brings what is known of the state up to it.
    pub fn make(&mut self, step: Step, owners: [Option<usize>; DEVICES]) -> Outcome {
        let mut outcome = Outcome::default();
        self.machine.begin(step.failure);
        self.call(step.call, &mut outcome);
        outcome.quiet = outcome.refused
            && !outcome.for_want
            && !outcome.disagreed
            && self.machine.is_quiet()
            && self.owners() == owners;
        if outcome.quiet {
            self.machine.end_quietly();
            return outcome;
        }
        outcome.seen = self.machine.end();
        self.learn(step.call, owners, &outcome);
        outcome
    }

    fn call(&mut self, call: Call, outcome: &mut Outcome) {
        let (policy, machine, layout) = (self.policy, self.machine, self.setting.layout);
        let id = |domain: u8| DomId(u16::from(domain));
        let devices =
            |set: Set| -> Vec<_> { (0..DEVICES).filter(|device| set & 1 << device != 0).map(sbdf).collect() };
        match call {
            Call::Create(domain) => {
                let made = space(machine, self.setting.separate);
                outcome.for_want = made.is_none();
                outcome.refused = made.is_none_or(|space| policy.create_domain(id(domain), space).is_err());
            }
            Call::Destroy(domain) => {
                match policy.destroy_domain(id(domain), &mut |note| outcome.note(note, layout)) {
                    Ok(space) => drop(space),
                    Err(xen_iommu::DomainError::Device(error)) => outcome.assign(Err(error)),
                    Err(_) => outcome.refused = true,
                }
            }
            Call::Assign(set, domain, relaxed) => {
                let mode = if relaxed { Mode::Relaxed } else { Mode::Strict };
                let devices = devices(set);
                let test = policy.test_assign(&devices, id(domain), mode);
                let result =
                    policy.assign(&devices, id(domain), mode, &mut |note| outcome.note(note, layout));
                outcome.disagreed = match (test, &result) {
                    (Err(_), Ok(())) => true,
                    (Ok(()), Err(error)) => !matches!(
                        error,
                        AssignError::Map { .. }
                            | AssignError::Hardware { .. }
                            | AssignError::ReachedBy { .. }
                    ),
                    _ => false,
                };
                outcome.assign(result);
            }
            Call::Deassign(set, domain) => {
                let result =
                    policy.deassign(&devices(set), id(domain), &mut |note| outcome.note(note, layout));
                outcome.assign(result);
            }
            Call::Add(device) => {
                let device = usize::from(device);
                let new_space = || space(machine, false);
                let result =
                    policy.add_device(sbdf(device), source(requester(device)), new_space, &mut |note| {
                        outcome.note(note, layout);
                    });
                if let Err(error) = result {
                    outcome.refused = true;
                    match error {
                        xen_iommu::AddError::Hardware(error) => {
                            outcome.for_want = true;
                            outcome.timed_out = matches!(error, HardwareError::TimedOut { .. });
                        }
                        xen_iommu::AddError::Map { error: p2m::IdentityError::NoFrames { .. }, .. }
                        | xen_iommu::AddError::NoSpace => outcome.for_want = true,
                        _ => {}
                    }
                }
            }
            Call::Remove(device) => {
                let result =
                    policy.remove_device(sbdf(usize::from(device)), &mut |note| outcome.note(note, layout));
                outcome.assign(result);
            }
            Call::Populate(domain, place) => {
                let gfn = layout.place(usize::from(place));
                let frame = ram(usize::from(domain), usize::from(place));
                let entry = Entry {
                    p2m_type: P2mType::RamRw,
                    mfn: Some(Mfn::new(frame)),
                    access: Access::READ_WRITE,
                };
                self.own(domain, outcome, |space| {
                    let range = one(gfn, gfn + 1);
                    p2m::populate(space, range, entry, &[]).map_err(|error| match error {
                        p2m::PopulateError::Map(error) => Some(error),
                        _ => None,
                    })
                });
            }
            Call::MapDirect(domain, place) => {
                if !self.may_map(usize::from(domain), usize::from(place)) {
                    outcome.left_out = true;
                    outcome.refused = true;
                    return;
                }
                let (start, end) = layout.regions()[place_region(place)];
                let entry = Entry {
                    p2m_type: P2mType::MmioDirect,
                    mfn: Some(Mfn::new(start)),
                    access: Access::READ_WRITE,
                };
                self.own(domain, outcome, |space| {
                    p2m::populate(space, one(start, end), entry, &[]).map_err(|error| match error {
                        p2m::PopulateError::Map(error) => Some(error),
                        _ => None,
                    })
                });
            }
            Call::Unmap(domain, place) => {
                let (start, end) = match self.known.own[usize::from(domain)][usize::from(place)] {
                    Own::Nothing => {
                        outcome.left_out = true;
                        outcome.refused = true;
                        return;
                    }
                    Own::Ram => {
                        let gfn = layout.place(usize::from(place));
                        (gfn, gfn + 1)
                    }
                    Own::Direct if self.is_used(usize::from(domain), place) => {
                        outcome.left_out = true;
                        outcome.refused = true;
                        return;
                    }
                    Own::Direct => layout.regions()[place_region(place)],
                };
                self.own(domain, outcome, |space| space.unmap(one(start, end)).map_err(Some));
            }
        }
    }

    /// What a toolstack does to a domain's own map.
    fn own(
        &self,
        domain: u8,
        outcome: &mut Outcome,
        work: impl FnOnce(&mut crate::world::Space) -> Result<(), Option<p2m::MapError>>,
    ) {
        let id = DomId(u16::from(domain));
        match self.policy.with_space(id, work) {
            Some(Ok(())) => outcome.not_flushed |= self.policy.flush_domain(id).is_err(),
            Some(Err(error)) => {
                outcome.refused = true;
                outcome.for_want = matches!(error, Some(p2m::MapError::NoFrames { .. }));
            }
            None => outcome.refused = true,
        }
    }

    /// A hypervisor lets a domain map reserved memory by itself only while no other domain has it.
    fn may_map(&self, domain: usize, place: usize) -> bool {
        let regions = self.setting.layout.regions();
        let (start, end) = regions[place_region(place as u8)];
        let overlaps = |region: usize| regions[region].0 < end && start < regions[region].1;
        let owners = self.region_owners();
        (0..REGIONS)
            .filter(|region| overlaps(*region))
            .all(|region| owners[region].is_none_or(|id| id == domain))
            && (0..DOMAINS).all(|other| other == domain || self.known.own[other][place] != Own::Direct)
    }

    /// Nor does it let a domain take that back while devices there use it.
    fn is_used(&self, domain: usize, place: u8) -> bool {
        let ranges = self.setting.layout.regions();
        let (start, end) = ranges[place_region(place)];
        let owners = self.owners();
        (0..DEVICES).any(|device| {
            let region = region_of(device).map(|region| ranges[region]);
            owners[device] == Some(domain) && region.is_some_and(|(from, to)| from < end && start < to)
        })
    }

    /// What is known after the call.
    fn learn(&mut self, call: Call, before: [Option<usize>; DEVICES], outcome: &Outcome) {
        let owners = self.owners();
        let mut places = (0..DEVICES).filter(|device| is_linked(*device)).filter_map(|device| owners[device]);
        let first = places.next();
        let is_torn = places.any(|owner| Some(owner) != first);
        let may_tear = self.setting.groups == GroupPolicy::Refuse && matches!(call, Call::Assign(_, _, true));
        self.known.torn = is_torn && (self.known.torn || may_tear);
        for device in 0..DEVICES {
            let Some(owner) = owners[device] else {
                self.known.lacks[device] = false;
                continue;
            };
            if before[device] != Some(owner) {
                self.known.lacks[device] = region_of(device).is_some_and(|region| outcome.left[region]);
            }
        }
        let reached = self.reached();
        for device in 0..DEVICES {
            if let Some(region) = region_of(device).filter(|_| self.known.lacks[device] && !outcome.refused) {
                let wanted = self.setting.layout.probes_in(region);
                self.known.lacks[device] = reached[requester(device)] & wanted != wanted;
            }
        }
        let region_owners = self.region_owners();
        for domain in 0..DOMAINS {
            for region in 0..REGIONS {
                let lingers = &mut self.known.lingers[domain][region];
                *lingers |= outcome.lingers[domain][region];
                let used = crate::machine::users(region).iter().any(|device| owners[*device] == Some(domain));
                *lingers &= region_owners[region] == Some(domain) && !used;
            }
        }
        for domain in 0..DOMAINS {
            if self.roots(domain).is_none() {
                self.known.own[domain] = [Own::Nothing; PLACES];
            }
        }
        if !outcome.refused {
            match call {
                Call::Populate(domain, place) => {
                    self.known.own[usize::from(domain)][usize::from(place)] = Own::Ram;
                }
                Call::MapDirect(domain, place) => {
                    self.known.own[usize::from(domain)][usize::from(place)] = Own::Direct;
                }
                Call::Unmap(domain, place) => {
                    self.known.own[usize::from(domain)][usize::from(place)] = Own::Nothing;
                }
                _ => {}
            }
        }
        for requester in 0..REQUESTERS {
            let off = self.is_off(requester, &owners);
            let uncertain = &mut self.known.uncertain[requester];
            *uncertain = off && (*uncertain || outcome.uncertain[requester] || outcome.seen.failed);
        }
    }

    /// Whether a requester's context entry leads elsewhere than to its devices' owner.
    #[must_use]
    pub fn is_off(&self, requester: usize, owners: &[Option<usize>; DEVICES]) -> bool {
        let present =
            |device: &usize| crate::machine::requester(*device) == requester && owners[*device].is_some();
        let owner = (0..DEVICES).find(present).and_then(|device| owners[device]);
        let context = self.machine.context(requester);
        let at = context.root().filter(|_| context.present()).map(|root| self.domain_of_root(root));
        match (owner, at) {
            (None, None) | (Some(crate::world::QUARANTINE), Some(None)) => false,
            // Without a region there is nothing to be reached.
            (Some(crate::world::QUARANTINE), None) => {
                (0..DEVICES).filter(present).any(|device| region_of(device).is_some())
            }
            (Some(owner), Some(Some(at))) => owner != at,
            _ => true,
        }
    }
}

fn one(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap_or_default()
}

/// The region that a place stands for.
#[must_use]
pub fn place_region(place: u8) -> usize {
    if place == 0 { 0 } else { 2 }
}
