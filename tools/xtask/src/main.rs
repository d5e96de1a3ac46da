//! The project's commands: `cargo xtask bench`, `cargo xtask boot`, `cargo xtask test`. Each verb is a file; what they share is finding tools and showing phases.

mod bench;
mod boot;
mod explore;
mod fuzz;
mod phase;
mod test;
mod tools;

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// A verb of the command line.
struct Verb {
    name: &'static str,
    /// What it does, in a line.
    about: &'static str,
    run: fn(Vec<OsString>) -> Result<ExitCode, String>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "bench",
        about: "count instructions, beside those of other crates (bench --help: areas)",
        run: bench::run,
    },
    Verb {
        name: "boot",
        about: "boot the hypervisor under QEMU and show each step's verdict (boot --help: options)",
        run: boot::run,
    },
    Verb {
        name: "explore",
        about: "every call in every state of a small machine, with every failure (explore --help: bounds)",
        run: explore::run,
    },
    Verb {
        name: "test",
        about: "formatting, clippy, unit and integration tests, boot tests",
        run: test::run,
    },
    Verb {
        name: "fuzz",
        about: "look for inputs that break something (fuzz --help: targets and times)",
        run: fuzz::run,
    },
];

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let name = words.next().unwrap_or_default();
    if matches!(name.to_str(), Some("" | "help" | "--help" | "-h")) {
        println!("{}", help());
        return ExitCode::SUCCESS;
    }
    let Some(verb) = VERBS.iter().find(|verb| name == verb.name) else {
        eprintln!("error: there is no verb {:?}\n\n{}", name.to_string_lossy(), help());
        return ExitCode::from(2);
    };
    (verb.run)(words.collect()).unwrap_or_else(|sentence| {
        eprintln!("error: {sentence}");
        ExitCode::from(2)
    })
}

fn help() -> String {
    let verbs = VERBS.iter().map(|verb| format!("  {:<8} {}\n", verb.name, verb.about));
    format!(
        "Usage: cargo xtask VERB\n\n{}  help     this text\n\nWhat is missing on this machine (QEMU, Bochs, iasl, valgrind) is installed with apt where there is apt.",
        verbs.collect::<String>()
    )
}

/// The checkout.
fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Cargo, the one that runs us, in the checkout.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
