//! The project's commands, `cargo xtask VERB`. Each verb is a file; what they share is reading words, finding
//! tools, showing phases and copying the checkout.

mod bench;
mod boot;
mod breaks;
mod explore;
mod fuzz;
mod metadata;
mod mirror;
mod mutants;
mod phase;
mod test;
mod tools;
mod words;

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
        about: "every call in every state of a small machine, with every failure (explore --help: bounds, breaks)",
        run: explore::run,
    },
    Verb {
        name: "test",
        about: "formatting, clippy, docs, features, the oldest Rust, all tests (test --help: the phases)",
        run: test::run,
    },
    Verb {
        name: "fuzz",
        about: "look for inputs that break something (fuzz --help: targets and times)",
        run: fuzz::run,
    },
    Verb {
        name: "mutants",
        about: "change the libraries in small ways that some test has to notice (mutants --help: options)",
        run: mutants::run,
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
        "Usage: cargo xtask VERB\n\n{}  help     this text\n\nWhat is missing on this machine (QEMU, Bochs, iasl, valgrind, Xen's headers) is installed with apt where there is apt.",
        verbs.collect::<String>()
    )
}

/// The checkout.
fn root() -> PathBuf {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.ancestors().nth(2).map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// Runs a command that only prepares; the sentence says what its failure means.
fn succeeds(command: &mut Command, otherwise: &str) -> Result<(), String> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(otherwise.into()),
        Err(error) => Err(format!("cannot start {}: {error}", command.get_program().to_string_lossy())),
    }
}

/// Runs a command that is the verb's work, and takes its exit code.
fn code_of(command: &mut Command) -> Result<ExitCode, String> {
    let status = command.status();
    let status = status
        .map_err(|error| format!("cannot start {}: {error}", command.get_program().to_string_lossy()))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// Cargo, the one that runs us, in the checkout.
fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}
