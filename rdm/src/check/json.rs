//! A check as one JSON object: `libxl` says how the guest goes as things are (`kept`, `lost`, `fails`) and
//! each of its regions, `two_range` whether there is a plan for unmodified hvmloader (null without firmware),
//! `ours` is the object of `rdm plan`.

use serde::Serialize;

use super::{Check, Outcome};
use crate::guest::Guest;
use crate::plan::json as plan;

#[derive(Serialize)]
struct Object<'c> {
    file: &'c str,
    libxl: Libxl<'c>,
    two_range: Option<bool>,
    ours: serde_json::Value,
}

#[derive(Serialize)]
struct Libxl<'c> {
    outcome: &'c str,
    summary: String,
    lowmem_end: u64,
    highmem_end: u64,
    regions: Vec<Region<'c>>,
}

#[derive(Serialize)]
struct Region<'c> {
    name: &'c str,
    outcome: &'c str,
    sentence: &'c str,
}

const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Kept => "kept",
        Outcome::Lost => "lost",
        Outcome::Fails => "fails",
    }
}

/// Writes the object of `check` of `file`, for `guest`, without a line's end.
///
/// # Errors
/// Those of `out`.
pub fn write(check: &Check, guest: &Guest, file: &str, out: impl std::io::Write) -> serde_json::Result<()> {
    let mut ours = Vec::new();
    plan::write(&check.ours, guest, &mut ours)?;
    let regions = check.theirs.iter().map(|region| Region {
        name: &region.name,
        outcome: word(region.outcome),
        sentence: &region.sentence,
    });
    let address = |gfn: p2m::Gfn| gfn.address().unwrap_or(u64::MAX);
    let object = Object {
        file,
        libxl: Libxl {
            outcome: word(check.outcome()),
            summary: check.summary(),
            lowmem_end: address(check.ends.lowmem_end),
            highmem_end: address(check.ends.highmem_end),
            regions: regions.collect(),
        },
        two_range: check.two_range.as_ref().map(|planned| planned.is_planned()),
        ours: serde_json::from_slice(&ours)?,
    };
    serde_json::to_writer(out, &object)
}
