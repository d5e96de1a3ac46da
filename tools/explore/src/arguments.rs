//! The command line.

use lexopt::prelude::*;

use crate::search::Bounds;
use crate::settings::named;

/// The help text, from which `cargo xtask` knows the options too.
pub const USAGE: &str = include_str!("usage.txt");

/// What to do.
pub enum Command {
    /// Explore.
    Explore {
        /// How far, in each setting.
        bounds: Bounds,
        /// How many settings at a time.
        jobs: usize,
        /// Which, by their indices.
        which: Vec<usize>,
    },
    /// Print this.
    Print(String),
}

/// Reads the words.
///
/// # Errors
/// A sentence for the user.
pub fn read(words: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, String> {
    parse(lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
}

fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut bounds = Bounds { states: 1_050_000, depth: u32::MAX, failures: 3 };
    let mut jobs = std::thread::available_parallelism().map_or(1, Into::into);
    let mut which = named("");
    while let Some(word) = parser.next()? {
        match word {
            Long("states") => bounds.states = parser.value()?.parse()?,
            Long("depth") => bounds.depth = parser.value()?.parse()?,
            Long("failures") => bounds.failures = parser.value()?.parse()?,
            Long("jobs") => jobs = parser.value()?.parse()?,
            Long("setting") => {
                let words = parser.value()?.string()?;
                which = named(&words);
                if which.is_empty() {
                    return Err(format!("no setting has {words:?} in its name").into());
                }
            }
            Long("list-breaks" | "break" | "breaks") => {
                return Err("copies of the code are broken and explored by cargo xtask explore".into());
            }
            Short('h') | Long("help") => return Ok(Command::Print(USAGE.trim_end().into())),
            _ => return Err(word.unexpected()),
        }
    }
    bounds.states = bounds.states.div_ceil(which.len());
    Ok(Command::Explore { bounds, jobs, which })
}
