//! A check for people.

use std::io::{self, Write};

use super::{Check, Outcome};
use crate::guest::Guest;
use crate::plan::text::{BAD, GOOD, HEADING, verdict_line, write as write_plan};

/// Writes `check` of `file`, for `guest`, with ANSI styles; a stream that wants none strips them.
///
/// # Errors
/// Those of `out`.
pub fn write(check: &Check, guest: &Guest, file: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{HEADING}{file}{HEADING:#}")?;
    let style = if check.outcome() == Outcome::Kept { GOOD } else { BAD };
    writeln!(out, "with libxl as it is: {style}{}{style:#}", check.summary())?;
    for (theirs, region) in check.theirs.iter().zip(&check.ours.regions) {
        let style = if theirs.outcome == Outcome::Kept { GOOD } else { BAD };
        writeln!(out, "  {}: {style}{}{style:#}", verdict_line(region), theirs.sentence)?;
    }
    if let Some(planned) = &check.two_range {
        match &planned.failure {
            None => writeln!(
                out,
                "with the ends of RAM that the planner has for hvmloader: {GOOD}planned{GOOD:#}"
            )?,
            Some(sentence) => writeln!(
                out,
                "with the ends of RAM that the planner has for hvmloader: {BAD}no plan: {sentence}{BAD:#}"
            )?,
        }
    }
    writeln!(out, "with the planner and a builder that knows the plan:\n")?;
    write_plan(&check.ours, guest, out)
}
