//! Making a call, what came of it, and what is known after it.

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2m, P2mType};
use xen_iommu::{
    AddError, AssignError, DomId, DomainError, HardwareError, Mode, Note, RegionName, ScopeOutcome,
};

use crate::calls::{Call, Step};
use crate::hardware::Seen;
use crate::late::{Buses, dmar};
use crate::machine::{Board, DEVICES, DOMAINS, REGIONS, SOURCES, Set, members, ram};
use crate::rules::Owners;
use crate::world::{Own, QUARANTINE, World, space};

/// What a call came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// It was refused.
    pub refused: bool,
    /// It was refused because hardware did not answer in time.
    pub timed_out: bool,
    /// It was refused by a rule: neither for want of memory, nor by hardware, nor for what is mapped in the
    /// way.
    pub by_rule: bool,
    /// It was refused for want of memory or by hardware.
    pub for_want: bool,
    /// What was said by notes: by requester id, that it is uncertain where it leads.
    pub uncertain: [bool; SOURCES],
    /// By domain: that a flush did not come about.
    pub not_flushed: [bool; DOMAINS],
    /// By region: that it was left out, or part of it.
    pub left: [bool; REGIONS],
    /// By domain and region.
    pub lingers: [[bool; REGIONS]; DOMAINS],
    /// By device: that it waits and its DMA goes on, or is blocked.
    pub running: [bool; DEVICES],
    /// See `running`.
    pub blocked: [bool; DEVICES],
    /// By device: that its late region is not kept for it.
    pub unprovided: [bool; DEVICES],
    /// By device: that it waits cut off, as a guest has others of its group.
    pub newcomer: [bool; DEVICES],
    /// It was refused at once, or had nothing to do, and touched nothing.
    pub quiet: bool,
    /// `check_assign` and `assign` did not agree.
    pub disagreed: bool,
    /// What hardware saw.
    pub seen: Seen,
}

impl Outcome {
    fn note(&mut self, note: Note, board: &'static Board) {
        let index = |region: RegionName| board.region_at(region.base).unwrap_or(0);
        let domain = |domain: DomId| usize::from(domain.0);
        match note {
            Note::Skipped { region, .. }
            | Note::LeftWith { region, .. }
            | Note::ReachedBy { region, .. }
            | Note::Unprovided { region, .. } => self.left[index(region)] = true,
            Note::Lingers { region, domain: of } => self.lingers[domain(of)][index(region)] = true,
            Note::NotFlushed { domain: of, .. } => self.not_flushed[domain(of)] = true,
            Note::NotQuiesced { device, blocked, .. } => {
                if let Some(device) = board.device_at(device) {
                    let places = if blocked { &mut self.blocked } else { &mut self.running };
                    places[device] = true;
                }
            }
            Note::Newcomer { device, .. } => {
                if let Some(device) = board.device_at(device) {
                    self.newcomer[device] = true;
                }
            }
            Note::Suspect { source_id, .. } => {
                let device = board.device_at(source_id);
                let ids = device.map_or(0, |device| board.sources_of(device));
                members(ids).for_each(|source| self.uncertain[source] = true);
            }
            Note::NotMoved { error: AssignError::Hardware { error, .. }, .. } => {
                self.timed_out |= matches!(error, HardwareError::TimedOut { .. });
            }
            _ => {}
        }
    }

    fn assign(&mut self, result: Result<(), AssignError>) {
        let Err(error) = result else { return };
        self.refused = true;
        self.by_rule = match error {
            AssignError::Hardware { error, .. } => matches!(error, HardwareError::NotTranslating { .. }),
            AssignError::Map { .. } | AssignError::ReachedBy { .. } | AssignError::NotQuiesced { .. } => {
                false
            }
            _ => true,
        };
        match error {
            AssignError::Hardware { error: HardwareError::NotTranslating { .. }, .. } => {}
            AssignError::Hardware { error, .. } => self.hardware(error),
            AssignError::Map { error: p2m::IdentityError::NoFrames { .. }, .. }
            | AssignError::NotQuiesced { .. } => self.for_want = true,
            _ => {}
        }
    }

    fn add(&mut self, error: AddError) {
        self.refused = true;
        self.by_rule = matches!(error, AddError::Present(_) | AddError::NoPlace);
        match error {
            AddError::Hardware(error) => self.hardware(error),
            AddError::Map { error: p2m::IdentityError::NoFrames { .. }, .. } | AddError::NoSpace => {
                self.for_want = true;
            }
            _ => {}
        }
    }

    fn hardware(&mut self, error: HardwareError) {
        self.for_want = true;
        self.timed_out |= matches!(error, HardwareError::TimedOut { .. });
    }
}

fn id(domain: u8) -> DomId {
    if usize::from(domain) == QUARANTINE { DomId::IO } else { DomId(u16::from(domain)) }
}

impl World {
    /// Makes a call in a state with these owners, and brings what is known of the state up to it.
    pub fn make(&mut self, step: Step, owners: Owners) -> Outcome {
        let mut outcome = Outcome::default();
        let mut present = self.present(&owners);
        match step.call {
            Call::Add(device) => present |= 1 << device,
            // It has gone, or does no DMA any more.
            Call::Remove(device) => present &= !(1 << device),
            _ => {}
        }
        self.machine.set_present(present);
        self.machine.begin(step.failure);
        self.call(step.call, &mut outcome);
        outcome.quiet = (outcome.refused || matches!(step.call, Call::Flush(_)))
            && !outcome.for_want
            && !outcome.disagreed
            && self.machine.is_quiet()
            && self.owners() == owners;
        if outcome.quiet {
            self.machine.end_quietly();
            return outcome;
        }
        outcome.seen = self.machine.end();
        *self.sight = self.machine.sight();
        self.machine.set_present(self.present(&self.owners()));
        self.learn(step.call, owners, &outcome);
        outcome
    }

    fn call(&mut self, call: Call, outcome: &mut Outcome) {
        let (policy, machine, board) = (self.policy, self.machine, self.board);
        let devices =
            |set: Set| -> Vec<_> { members(set).map(|device| board.devices[device].sbdf).collect() };
        let mode = |relaxed| if relaxed { Mode::Relaxed } else { Mode::Strict };
        match call {
            Call::Create(domain) => {
                let made = space(machine, self.setting.separate);
                outcome.for_want = made.is_none();
                outcome.refused = made.is_none_or(|space| policy.create_domain(id(domain), space).is_err());
            }
            Call::Destroy(domain) => {
                match policy.destroy_domain(id(domain), &mut |note| outcome.note(note, board)) {
                    Ok(space) => drop(space),
                    Err(DomainError::Device(error)) => outcome.assign(Err(error)),
                    Err(DomainError::NotFlushed { error, .. }) => {
                        outcome.refused = true;
                        outcome.not_flushed[usize::from(domain)] = true;
                        outcome.hardware(error);
                    }
                    Err(_) => outcome.refused = true,
                }
            }
            Call::Assign(set, domain, relaxed) => {
                let devices = devices(set);
                let check = policy.check_assign(&devices, id(domain), mode(relaxed));
                let result = policy.assign(&devices, id(domain), mode(relaxed), &mut |note| {
                    outcome.note(note, board);
                });
                outcome.disagreed = match (check, &result) {
                    (Err(_), Ok(())) => true,
                    (Ok(()), Err(error)) => !matches!(
                        error,
                        AssignError::Map { .. }
                            | AssignError::Hardware { .. }
                            | AssignError::ReachedBy { .. }
                            | AssignError::NotQuiesced { .. }
                    ),
                    _ => false,
                };
                outcome.assign(result);
            }
            Call::AssignGroup(device, domain, relaxed) => {
                let device = board.devices[usize::from(device)].sbdf;
                let result = policy.assign_group(device, id(domain), mode(relaxed), &mut |note| {
                    outcome.note(note, board);
                });
                outcome.assign(result);
            }
            Call::Deassign(set, domain) => {
                let result =
                    policy.deassign(&devices(set), id(domain), &mut |note| outcome.note(note, board));
                outcome.assign(result);
            }
            Call::Flush(domain) => {
                if let Err(error) = policy.flush_domain(id(domain)) {
                    outcome.refused = true;
                    outcome.not_flushed[usize::from(domain)] = true;
                    outcome.hardware(error);
                }
            }
            Call::Add(device) => {
                let function = board.devices[usize::from(device)].function();
                let new_space = || space(machine, false);
                let result = policy.add_device(&function, new_space, &mut |note| outcome.note(note, board));
                if let Err(error) = result {
                    outcome.add(error);
                }
            }
            Call::Remove(device) => {
                let device = board.devices[usize::from(device)].sbdf;
                let result = policy.remove_device(device, &mut |note| outcome.note(note, board));
                outcome.assign(result);
            }
            Call::Resolve => {
                let (dmar, pci) = (dmar(board), Buses { has_bridge: true });
                let mut failed = Vec::new();
                let report = &mut |scope| {
                    if let ScopeOutcome::Unprovided { device, error, region } = scope {
                        failed.push((device, region, error));
                    }
                };
                let new_space = || space(machine, false);
                policy.resolve_scopes(&dmar, &pci, new_space, report, &mut |note| outcome.note(note, board));
                outcome.refused = self.known.resolved;
                for (device, region, error) in failed {
                    // It goes without, which is said; the call itself is done.
                    outcome.left[board.region_at(region.base).unwrap_or(0)] = true;
                    if let Some(device) = board.device_at(device) {
                        outcome.unprovided[device] = true;
                    }
                    outcome.timed_out |= matches!(error, AddError::Hardware(HardwareError::TimedOut { .. }));
                }
            }
            Call::Populate(domain, place) => {
                let (gfn, _) = board.places[usize::from(place)];
                let frame = ram(usize::from(domain), usize::from(place));
                self.put(domain, (gfn, gfn + 1), frame, P2mType::RamRw, outcome);
            }
            Call::MapDirect(domain, place) => {
                if !self.may_map(usize::from(domain), usize::from(place)) {
                    outcome.refused = true;
                    return;
                }
                let (start, end) = self.place(place);
                self.put(domain, (start, end), start, P2mType::MmioDirect, outcome);
            }
            Call::Unmap(domain, place) => {
                let (start, end) = match self.known.own[usize::from(domain)][usize::from(place)] {
                    Own::Ram => {
                        let (gfn, _) = board.places[usize::from(place)];
                        (gfn, gfn + 1)
                    }
                    Own::Direct if !self.is_used(usize::from(domain), place) => self.place(place),
                    _ => {
                        outcome.refused = true;
                        return;
                    }
                };
                self.own(domain, outcome, |space| space.unmap(one(start, end)).map_err(Some));
            }
        }
    }

    /// A toolstack populates.
    fn put(
        &self,
        domain: u8,
        (start, end): (u64, u64),
        frame: u64,
        p2m_type: P2mType,
        outcome: &mut Outcome,
    ) {
        let entry = Entry { p2m_type, mfn: Some(Mfn::new(frame)), access: Access::READ_WRITE };
        self.own(domain, outcome, |space| {
            p2m::populate(space, one(start, end), entry, &[]).map_err(|error| match error {
                p2m::PopulateError::Map(error) => Some(error),
                _ => None,
            })
        });
    }

    /// What a toolstack does to a domain's own map.
    fn own(
        &self,
        domain: u8,
        outcome: &mut Outcome,
        work: impl FnOnce(&mut crate::world::Space) -> Result<(), Option<p2m::MapError>>,
    ) {
        match self.policy.with_space(id(domain), work) {
            Some(Ok(())) => {
                outcome.not_flushed[usize::from(domain)] |= self.policy.flush_domain(id(domain)).is_err();
            }
            Some(Err(error)) => {
                outcome.refused = true;
                outcome.for_want = matches!(error, Some(p2m::MapError::NoFrames { .. }));
            }
            None => outcome.refused = true,
        }
    }

    /// The frames of a place's region.
    #[must_use]
    pub fn place(&self, place: u8) -> (u64, u64) {
        let region = &self.board.regions[self.board.places[usize::from(place)].1];
        (region.start, region.end)
    }

    /// A hypervisor lets a domain map reserved memory by itself only while no other domain, and nobody who
    /// waits, has it.
    fn may_map(&self, domain: usize, place: usize) -> bool {
        let region = self.board.places[place].1;
        let owners = self.region_owners();
        let overlapping = (0..self.board.regions.len()).filter(|other| self.board.overlap(region, *other));
        let (start, end) = self.place(place as u8);
        let reached = self.reached();
        // What was mapped for a device that has gone may be reached by those that cannot be told from it.
        let waits = |source: usize| {
            let root = self.sight.roots[source];
            let probes = self.board.probes.iter().enumerate();
            let mut probes = probes.filter(|(_, frame)| (start..end).contains(*frame));
            root.is_some_and(|root| self.domain_of_root(root).is_none())
                && probes.any(|(probe, _)| reached[source] & 1 << probe != 0)
        };
        overlapping.into_iter().all(|other| owners[other].is_none_or(|id| id == domain))
            && (domain == 0 || !(0..self.board.sources.len()).any(waits))
            && (0..DOMAINS).all(|other| other == domain || self.known.own[other][place] != Own::Direct)
    }

    /// Nor does it let a domain take that back while devices there use it.
    fn is_used(&self, domain: usize, place: u8) -> bool {
        let region = self.board.places[usize::from(place)].1;
        let owners = self.owners();
        members(self.present(&owners)).any(|device| {
            self.holder_of(device, &owners) == domain
                && self.regions_of(device).any(|its| self.board.overlap(its, region))
        })
    }

    /// What is known after the call.
    fn learn(&mut self, call: Call, before: Owners, outcome: &Outcome) {
        let held = self.holders(&before);
        self.known.resolved |= call == Call::Resolve;
        let owners = self.owners();
        let devices = self.devices(&owners);
        let is_torn = members(devices).any(|device| {
            let mut others = members(self.group(device, &owners)).filter_map(|other| owners[other]);
            owners[device] != Some(QUARANTINE)
                && others.any(|other| other != QUARANTINE && Some(other) != owners[device])
        });
        let may_tear = matches!(call, Call::Assign(_, _, true) | Call::AssignGroup(_, _, true) | Call::Resolve)
            // A newcomer may belong to two groups.
            || matches!(call, Call::Add(_));
        self.known.torn = is_torn && (self.known.torn || may_tear);
        let now = self.holders(&owners);
        let reached = self.reached();
        for device in 0..DEVICES {
            if owners[device].is_none() {
                self.known.lacks[device] = false;
                self.known.running[device] = false;
                self.known.blocked[device] = false;
                self.known.unprovided[device] = false;
                continue;
            }
            if owners[device] != Some(QUARANTINE) {
                self.known.running[device] = false;
            }
            if now[device] != Some(QUARANTINE) {
                self.known.blocked[device] = false;
            }
            if !outcome.refused {
                self.known.running[device] |= outcome.running[device] && owners[device] == Some(QUARANTINE);
                self.known.blocked[device] |= outcome.blocked[device];
            }
            self.known.unprovided[device] |= outcome.unprovided[device];
            let left = outcome.newcomer[device] || self.regions_of(device).any(|region| outcome.left[region]);
            if now[device] != held[device] {
                self.known.lacks[device] = left;
            }
            self.known.lacks[device] |= left && call == Call::Resolve;
            if self.known.lacks[device] && !outcome.refused {
                let wanted = self.wanted(device);
                self.known.lacks[device] = members(self.ids[device])
                    .any(|source| reached[source] & wanted != wanted)
                    || members(self.ids[device]).any(|source| self.is_off(source, &owners));
            }
        }
        let region_owners = self.region_owners();
        for domain in 0..DOMAINS {
            for region in 0..self.board.regions.len() {
                let used = members(self.users(region) & self.present(&owners))
                    .any(|device| now[device] == Some(domain));
                let lingers = &mut self.known.lingers[domain][region];
                *lingers |= outcome.lingers[domain][region];
                *lingers &= region_owners[region] == Some(domain) && !used;
            }
        }
        for domain in 0..DOMAINS {
            if self.roots(domain).is_none() {
                self.known.own[domain] = Default::default();
            }
        }
        if !outcome.refused {
            let (domain, place, what) = match call {
                Call::Populate(domain, place) => (domain, place, Own::Ram),
                Call::MapDirect(domain, place) => (domain, place, Own::Direct),
                Call::Unmap(domain, place) => (domain, place, Own::Nothing),
                _ => (0, 0, self.known.own[0][0]),
            };
            self.known.own[usize::from(domain)][usize::from(place)] = what;
        }
        for source in 0..self.board.sources.len() {
            let off = self.is_off(source, &owners);
            let uncertain = &mut self.known.uncertain[source];
            *uncertain = off && (*uncertain || outcome.uncertain[source] || outcome.seen.failed);
        }
    }

    /// By device: where its DMA goes.
    #[must_use]
    pub fn holders(&self, owners: &Owners) -> [Option<usize>; DEVICES] {
        let mut holders = [None; DEVICES];
        for device in members(self.present(owners)) {
            holders[device] = Some(self.holder_of(device, owners));
        }
        holders
    }
}

fn one(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap_or_default()
}
