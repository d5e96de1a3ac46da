//! `cargo xtask bench`: what the libraries' operations take, in instructions as callgrind counts them, beside
//! what other crates take for the same.
//!
//! Instructions, because they are the same whenever and wherever this runs: compiler and crates alone decide.

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a tool on the host stops with a message"
)]

mod callgrind;
mod dmar;
mod frames;
mod hypercall;
mod layout;
mod measure;
mod p2m;
mod policy;
mod report;

use std::ffi::OsString;
use std::process::ExitCode;

use lexopt::prelude::*;

use crate::measure::Measurements;
use crate::report::Row;

/// The help text, from which `cargo xtask` knows the areas and options too.
const HELP: &str = include_str!("usage.txt");

/// A part that is measured.
struct Area {
    name: &'static str,
    /// What its table is headed with.
    title: &'static str,
    /// Runs its cases, under callgrind.
    measure: fn(&mut Measurements),
    /// Adds what follows from them.
    derive: fn(&mut Vec<Row>),
}

const AREAS: &[Area] = &[
    Area {
        name: "dmar",
        title: "Reading DMAR tables (no crate on crates.io reads them, as far as we know)",
        measure: dmar::measure,
        derive: dmar::derive,
    },
    Area {
        name: "p2m",
        title: "1:1 mappings and look-ups, second level; peers: long mode, mapping without looking first",
        measure: p2m::measure,
        derive: p2m::derive,
    },
    Area {
        name: "policy",
        title: "Registry, groups and ownership; remapping hardware that returns at once",
        measure: policy::measure,
        derive: |_| (),
    },
    Area {
        name: "layout",
        title: "Plans of a guest's memory around reserved regions",
        measure: layout::measure,
        derive: |_| (),
    },
    Area {
        name: "hypercall",
        title: "Xen's calls, 64-bit and compat; remapping hardware that returns at once",
        measure: hypercall::measure,
        derive: hypercall::derive,
    },
];

/// What the command line asks for.
enum Wanted {
    Help,
    /// To measure, under callgrind.
    Child(&'static Area),
    Report {
        areas: Vec<&'static Area>,
        json: bool,
    },
}

fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Wanted, lexopt::Error> {
    let mut parser = lexopt::Parser::from_args(words);
    let (mut areas, mut json, mut child) = (Vec::new(), false, false);
    while let Some(argument) = parser.next()? {
        match argument {
            Short('h') | Long("help") => return Ok(Wanted::Help),
            Long("json") => json = true,
            Long(name) if callgrind::CHILD.strip_prefix("--") == Some(name) => child = true,
            Value(name) => {
                let area = AREAS.iter().find(|area| name == area.name);
                areas.push(area.ok_or_else(|| format!("there is no area {:?}", name.to_string_lossy()))?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if child {
        let area = areas.first().ok_or("an area is missing")?;
        return Ok(Wanted::Child(area));
    }
    if areas.is_empty() {
        areas.extend(AREAS);
    }
    Ok(Wanted::Report { areas, json })
}

fn main() -> ExitCode {
    let done = match parse(std::env::args_os().skip(1)) {
        Ok(Wanted::Help) => {
            print!("{HELP}");
            Ok(())
        }
        Ok(Wanted::Child(area)) => {
            (area.measure)(&mut Measurements::new(area.name));
            Ok(())
        }
        Ok(Wanted::Report { areas, json }) => areas.into_iter().try_for_each(|area| report(area, json)),
        Err(error) => Err(format!("{error}\n\n{}", HELP.trim_end())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("error: {sentence}");
            ExitCode::from(2)
        }
    }
}

fn report(area: &Area, json: bool) -> Result<(), String> {
    let mut rows = callgrind::count(area.name)?;
    (area.derive)(&mut rows);
    let rows: Vec<Row> = rows.into_iter().map(Row::settled).collect();
    if json {
        print!("{}", report::json(&rows));
    } else {
        println!("{}\n\n{}", area.title, report::table(&rows));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{AREAS, Wanted, callgrind, parse};

    fn parsed(words: &[&str]) -> Result<Wanted, String> {
        parse(words.iter().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn without_an_area_all_are_reported() {
        let Ok(Wanted::Report { areas, json: false }) = parsed(&[]) else { panic!() };
        assert_eq!(areas.len(), AREAS.len());
    }

    #[test]
    fn areas_and_json_in_any_order() {
        for words in [&["--json", "dmar"], &["dmar", "--json"]] {
            let Ok(Wanted::Report { areas, json: true }) = parsed(words) else { panic!("{words:?}") };
            assert_eq!(areas.iter().map(|area| area.name).collect::<Vec<_>>(), ["dmar"]);
        }
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        assert!(parsed(&["dram"]).is_err_and(|sentence| sentence.contains("dram")));
        assert!(parsed(&["--jason"]).is_err());
        assert!(parsed(&["--json=yes"]).is_err());
        assert!(parsed(&[callgrind::CHILD]).is_err(), "an area is needed");
    }

    #[test]
    fn the_help_names_every_area() {
        assert!(AREAS.iter().all(|area| super::HELP.contains(&format!("\n  {} ", area.name))));
    }
}
