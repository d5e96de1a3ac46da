//! `machine boot`: boots the hypervisor on its QEMU machine and shows what it says.

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod arguments;
mod boot;

use std::env;
use std::process::ExitCode;

const HELP: &str = "\
The QEMU machine that the hypervisor boots on.

Usage: machine boot [OPTIONS]     boots it; machine boot --help says how
       machine build-image        builds the image and prints where it is
       machine help";

/// What the command line cannot mean, and a machine that does not start.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    match verb.to_str() {
        Some("boot") => boot::main(words),
        Some("build-image") => match machine::image::build(machine::image::Messages::Shown) {
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
