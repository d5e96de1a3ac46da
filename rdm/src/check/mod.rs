//! What would happen to a guest of an xl.cfg: with libxl and hvmloader as they are, and with the planner.

pub mod json;
pub mod text;

use rdm_layout::xen::libxl::{Ends, Fate, hvmloader_in_the_way};
use rdm_layout::{Policy, Region};

use crate::guest::{Guest, GuestFirmware, policy_word};
use crate::plan::Planned;
use crate::plan::host::{Host, Wanted};

/// How it goes with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The guest has it.
    Kept,
    /// The guest starts, and its device does without the region, or writes where it should not.
    Lost,
    /// The guest does not start.
    Fails,
}

/// A region, and what libxl, Xen and hvmloader make of it.
#[derive(Debug)]
pub struct Theirs {
    /// Its name.
    pub name: String,
    /// How it goes.
    pub outcome: Outcome,
    /// The same in words.
    pub sentence: String,
}

/// What would happen to a guest.
#[derive(Debug)]
pub struct Check {
    /// Where libxl ends RAM.
    pub ends: Ends,
    /// Its regions as they are dealt with today.
    pub theirs: Vec<Theirs>,
    /// Planned for a builder that takes RAM in several ranges.
    pub ours: Planned,
    /// Planned for unmodified hvmloader; `None` where the guest has no firmware.
    pub two_range: Option<Planned>,
}

impl Check {
    /// Of a guest on a host.
    #[must_use]
    pub fn new(guest: &Guest, host: &Host<'_>) -> Self {
        let wanted = host.regions(guest);
        let regions: Vec<Region> = wanted.iter().map(|wanted| wanted.region).collect();
        let ends = Ends::new(guest.memory, guest.hole, guest.boundary, &regions);
        let theirs = wanted.iter().enumerate().map(|(index, wanted)| {
            let fate = ends.fate(&regions, index).unwrap_or(Fate::Free);
            let (outcome, sentence) = theirs(guest, &ends, fate, wanted);
            Theirs { name: wanted.name.clone(), outcome, sentence }
        });
        let with_firmware = guest.firmware != GuestFirmware::Direct;
        let two_range = with_firmware.then(|| Guest { two_range: true, ..guest.clone() });
        Self {
            ends,
            theirs: theirs.collect(),
            ours: Planned::new(guest, host),
            two_range: two_range.map(|guest| Planned::new(&guest, host)),
        }
    }

    /// How it goes with the guest as things are.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.theirs.iter().map(|region| region.outcome).max().unwrap_or(Outcome::Kept)
    }

    /// The same in words.
    #[must_use]
    pub fn summary(&self) -> String {
        let named = |outcome| {
            let regions = self.theirs.iter().filter(|region| region.outcome == outcome);
            regions.map(|region| region.name.as_str()).collect::<Vec<_>>().join(", ")
        };
        match self.outcome() {
            Outcome::Kept => "the guest starts, and its devices keep their regions".into(),
            Outcome::Lost => format!("the guest starts, and loses {}", named(Outcome::Lost)),
            Outcome::Fails => format!("the guest does not start because of {}", named(Outcome::Fails)),
        }
    }
}

/// What becomes of a region today.
fn theirs(guest: &Guest, ends: &Ends, fate: Fate, wanted: &Wanted) -> (Outcome, String) {
    let is_strict = wanted.region.policy != Policy::Relaxed;
    let policy = policy_word(wanted.region.policy);
    // A region of no device of the guest's is kept free, and not mapped.
    let is_given = !wanted.devices.is_empty();
    if wanted.users > 1 && is_strict && is_given {
        let sentence = format!(
            "Xen refuses its device (EPERM), as the table names {} devices for it and the policy is strict",
            wanted.users
        );
        return (Outcome::Fails, sentence);
    }
    let why = if wanted.region.frames.start() <= guest.boundary {
        format!(
            "RAM lies there, and libxl moves it above its boundary of {} MiB alone",
            guest.boundary.raw() / 256
        )
    } else if wanted.region.frames.end().raw() > 1 << 20 {
        format!("RAM lies there, up to {:#x}", u128::from(ends.highmem_end.raw()) << 12)
    } else {
        "RAM lies there".into()
    };
    let lost = "what lies there is the guest's, and the device's DMA meets it";
    match fate {
        Fate::Conflict if is_strict => (Outcome::Fails, format!("libxl: RDM conflict ({policy}): {why}")),
        Fate::Conflict => (Outcome::Lost, format!("libxl warns and goes on ({policy}): {why}; {lost}")),
        Fate::Overlooked => {
            let outcome = if is_strict && is_given { Outcome::Fails } else { Outcome::Lost };
            let sentence = "libxl does not look at it, as another region has the same start; RAM lies there";
            (outcome, format!("{sentence}, so that Xen cannot map it ({policy})"))
        }
        Fate::Free => match hvmloader_in_the_way(&wanted.region.frames) {
            Some(what) if guest.firmware != GuestFirmware::Direct => {
                (Outcome::Fails, format!("hvmloader has its {what} there: it stops, or is overwritten"))
            }
            _ if wanted.users > 1 && is_given => {
                (Outcome::Kept, format!("kept free; Xen warns that {} devices share it", wanted.users))
            }
            _ => (Outcome::Kept, "kept free".into()),
        },
    }
}
