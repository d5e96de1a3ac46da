//! The command line.

use lexopt::prelude::*;

use crate::search::Bounds;

/// The help text, from which `cargo xtask` knows the options too.
pub const USAGE: &str = include_str!("usage.txt");

/// What to do.
pub enum Command {
    /// Explore.
    Explore {
        /// How far.
        bounds: Bounds,
        /// How many settings at a time.
        jobs: usize,
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
    let mut bounds = Bounds { states: 1_000_000, depth: u32::MAX, failures: 3, only: "" };
    let mut jobs = std::thread::available_parallelism().map_or(1, Into::into);
    while let Some(word) = parser.next()? {
        match word {
            Long("states") => bounds.states = parser.value()?.parse()?,
            Long("depth") => bounds.depth = parser.value()?.parse()?,
            Long("failures") => bounds.failures = parser.value()?.parse()?,
            Long("only") => bounds.only = Box::leak(parser.value()?.string()?.into_boxed_str()),
            Long("jobs") => jobs = parser.value()?.parse()?,
            Long("list-breaks" | "break" | "breaks") => {
                return Err("copies of the code are broken and explored by cargo xtask explore".into());
            }
            Short('h') | Long("help") => return Ok(Command::Print(USAGE.trim_end().into())),
            _ => return Err(word.unexpected()),
        }
    }
    Ok(Command::Explore { bounds, jobs })
}
