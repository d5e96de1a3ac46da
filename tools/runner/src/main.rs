//! `runner boot`: boots the hypervisor under QEMU and shows what it says.

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod arguments;
mod boot;

use std::env;
use std::process::ExitCode;

const HELP: &str = "\
The runner of boots.

Usage: runner boot [OPTIONS]     boots the hypervisor; runner boot --help says how
       runner build-image        builds the image and prints where it is
       runner help";

/// What the command line cannot mean, and an emulator that does not start.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    match verb.to_str() {
        Some("boot") => boot::main(words),
        Some("build-image") => match runner::image::build(runner::image::Messages::Shown) {
            Ok(path) => {
                println!("{}", path.display());
                ExitCode::SUCCESS
            }
            Err(error) => complain(&error.to_string()),
        },
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        _ => complain(&format!("there is no command {:?}\n\n{HELP}", verb.to_string_lossy())),
    }
}

fn complain(sentence: &str) -> ExitCode {
    eprintln!("error: {sentence}");
    ExitCode::from(USAGE)
}
