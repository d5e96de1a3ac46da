//! The calls that are explored.

use std::fmt;

use crate::hardware::Failure;
use crate::machine::{Board, Set};
use crate::world::{QUARANTINE, Setting};

/// A call. Domains are numbers; [`QUARANTINE`] stands for `DomId::IO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `Policy::create_domain`.
    Create(u8),
    /// `Policy::destroy_domain`.
    Destroy(u8),
    /// `Policy::check_assign`, then `Policy::assign`.
    Assign(Set, u8, bool),
    /// `Policy::assign_group`.
    AssignGroup(u8, u8, bool),
    /// `Policy::deassign`.
    Deassign(Set, u8),
    /// `Policy::flush_domain`.
    Flush(u8),
    /// `Policy::add_device`.
    Add(u8),
    /// `Policy::remove_device`.
    Remove(u8),
    /// A bridge has appeared: `Policy::resolve_scopes`.
    Resolve,
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

impl Step {
    /// It in words.
    #[must_use]
    pub fn show(self, board: &'static Board) -> Shown {
        Shown { step: self, board }
    }
}

/// A step in words.
pub struct Shown {
    step: Step,
    board: &'static Board,
}

/// What a domain's number stands for.
#[must_use]
pub fn name(domain: usize) -> String {
    if domain == QUARANTINE { "quarantine".into() } else { format!("d{domain}") }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |set| self.board.names(set);
        let device = |device: u8| self.board.devices[usize::from(device)].name;
        let name = |domain: u8| name(usize::from(domain));
        let relaxed = |relaxed| if relaxed { ", relaxed" } else { "" };
        match self.step.call {
            Call::Create(domain) => write!(f, "create d{domain}")?,
            Call::Destroy(domain) => write!(f, "destroy d{domain}")?,
            Call::Assign(set, domain, mode) => {
                write!(f, "assign {} to {}{}", names(set), name(domain), relaxed(mode))?;
            }
            Call::AssignGroup(of, domain, mode) => {
                write!(f, "assign the group of {} to {}{}", device(of), name(domain), relaxed(mode))?;
            }
            Call::Deassign(set, domain) => write!(f, "deassign {} from {}", names(set), name(domain))?,
            Call::Flush(domain) => write!(f, "flush d{domain}")?,
            Call::Add(added) => write!(f, "add {}", device(added))?,
            Call::Remove(removed) => write!(f, "remove {}", device(removed))?,
            Call::Resolve => f.write_str("the bridge appears, and late scopes are resolved")?,
            Call::Populate(domain, place) => write!(f, "d{domain} puts RAM at place {place}")?,
            Call::MapDirect(domain, place) => {
                write!(f, "d{domain} maps the region at place {place} by itself")?;
            }
            Call::Unmap(domain, place) => write!(f, "d{domain} unmaps place {place}")?,
        }
        match self.step.failure {
            Failure::None => Ok(()),
            Failure::Frames(from) => write!(f, "; no frames from allocation {from} on"),
            Failure::TimeOut(at) => write!(f, "; invalidation {at} times out"),
            Failure::TimeOuts(from) => write!(f, "; every invalidation from {from} on times out"),
            Failure::QueueError(at) => write!(f, "; queue error at invalidation {at}"),
            Failure::Quiesce(at) => write!(f, "; device {at} of those to be switched off goes on"),
            Failure::Silence(told) => {
                write!(
                    f,
                    "; the device TLB does not answer{}",
                    if told { ", which the unit tells" } else { "" }
                )
            }
        }
    }
}

/// All calls that are made in each state.
#[must_use]
pub fn calls(setting: &Setting) -> Vec<Call> {
    let (board, what) = (setting.board, setting.calls);
    let count = board.devices.len() as u8;
    let singles = (0..count).map(|device| 1 << device);
    let sets: Vec<Set> = singles.chain(board.sets.iter().copied()).collect();
    let guests = 1..=setting.guests;
    let domains: Vec<u8> = (0..=setting.guests).chain([QUARANTINE as u8]).collect();
    let modes: &[bool] = if what.relaxed { &[false, true] } else { &[false] };
    let mut calls = Vec::new();
    for domain in guests.clone() {
        calls.extend([Call::Create(domain), Call::Destroy(domain)]);
    }
    for set in sets {
        for domain in &domains {
            calls.extend(modes.iter().map(|mode| Call::Assign(set, *domain, *mode)));
            calls.push(Call::Deassign(set, *domain));
        }
    }
    for device in (0..count).filter(|_| what.groups) {
        for domain in guests.clone().chain([QUARANTINE as u8]) {
            calls.extend(modes.iter().map(|mode| Call::AssignGroup(device, domain, *mode)));
        }
    }
    calls.extend((0..=setting.guests).map(Call::Flush));
    for device in (0..count).filter(|_| what.presence) {
        calls.extend([Call::Add(device), Call::Remove(device)]);
    }
    if board.regions.iter().any(|region| region.kind == crate::machine::Kind::Late) {
        calls.push(Call::Resolve);
    }
    for place in (0..board.places.len() as u8).filter(|_| what.toolstack) {
        for domain in guests.clone() {
            calls.push(Call::Populate(domain, place));
        }
        for domain in 0..=setting.guests {
            calls.extend([Call::MapDirect(domain, place), Call::Unmap(domain, place)]);
        }
    }
    calls
}
