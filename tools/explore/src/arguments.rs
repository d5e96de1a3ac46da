//! The command line.

use lexopt::prelude::*;

use crate::search::Bounds;
use crate::settings::SETTINGS;

/// What is said without arguments, and what about.
pub const USAGE: &str = "\
Usage: cargo xtask explore [OPTION]...

Makes every call in every state that a small machine can get into, breadth first, with a failure at every frame allocation and at every invalidation;
runs the real policy, page tables and VT-d driver; checks each state, and each moment of each call.

      --states N       at most N states, all settings together (1050000)
      --depth N        at most N calls in a row
      --failures N     let calls fail in states of fewer than N calls (3)
      --jobs N         settings that are explored at a time (as many as there are CPUs)
  -h, --help           this text

Exit: 0 all held, 1 something did not, 2 wrong usage.";

/// What to do.
pub enum Command {
    /// Explore.
    Explore {
        /// How far, in each setting.
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
    let mut bounds = Bounds { states: 1_050_000, depth: u32::MAX, failures: 3 };
    let mut jobs = std::thread::available_parallelism().map_or(1, Into::into);
    while let Some(word) = parser.next()? {
        match word {
            Long("states") => bounds.states = parser.value()?.parse()?,
            Long("depth") => bounds.depth = parser.value()?.parse()?,
            Long("failures") => bounds.failures = parser.value()?.parse()?,
            Long("jobs") => jobs = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(Command::Print(USAGE.into())),
            _ => return Err(word.unexpected()),
        }
    }
    bounds.states = bounds.states.div_ceil(SETTINGS.len());
    Ok(Command::Explore { bounds, jobs })
}
