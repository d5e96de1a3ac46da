//! `rdm`: what a machine's firmware says of reserved device memory, and which devices can be passed through.

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod arguments;
mod check_command;
mod command;
mod plan_command;
mod progress;
mod query_command;
mod table;

use std::env;
use std::process::ExitCode;

const HELP: &str = "\
What a machine's firmware says of reserved device memory, which devices can be passed through, and where a guest's
memory lies around their regions.

Usage: rdm inspect [OPTIONS] [FILE...]             reads DMAR tables; rdm inspect --help says how
       rdm plan --memory SIZE [OPTIONS]            lays out a guest's memory; rdm plan --help says how
       rdm check [OPTIONS] GUEST.cfg               says what would happen to a guest; rdm check --help says how
       rdm query [OPTIONS] (--all | --device SBDF) what a toolstack is answered; rdm query --help says how
       rdm help";

/// What the command line cannot mean.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    match verb.to_str() {
        Some("inspect") => command::main(words),
        Some("plan") => plan_command::main(words),
        Some("check") => check_command::main(words),
        Some("query") => query_command::main(words),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        Some("") => complain(HELP),
        _ => complain(&format!("there is no command {:?}\n\n{HELP}", verb.to_string_lossy())),
    }
}

fn complain(sentence: &str) -> ExitCode {
    eprintln!("error: {sentence}");
    ExitCode::from(USAGE)
}
