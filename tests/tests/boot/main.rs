//! The boot tests: the image under the real QEMU, each boot a test by name.
//!
//! Where QEMU is missing they are skipped, unless `BOOT_TESTS=required` says that it must be there. Real
//! tables are read from `../shared/dmar-corpus` beside the checkout, and skipped where there are none.

// Helpers of tests fail tests.
#![allow(clippy::panic, clippy::unwrap_used, clippy::indexing_slicing)]

mod bench;
mod crashes;
mod firmware;
mod hotplug;
mod memory;
mod options;
mod steps;
mod tables;
mod walkers;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;

use bench::Bench;
use libtest_mimic::{Arguments, Failed, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match Bench::set_up() {
        Ok(bench) => trials(&Arc::new(bench)),
        Err(bench::Missing::Qemu) if !required() => {
            vec![skipped("all", "QEMU is not installed; cargo xtask test installs it and runs them")]
        }
        Err(missing) => vec![Trial::test("set-up", move || Err(Failed::from(missing.to_string())))],
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = steps::trials(bench);
    trials.extend(options::trials(bench));
    trials.extend(firmware::trials(bench));
    trials.extend(crashes::trials(bench));
    trials.extend(tables::trials(bench));
    trials.extend(walkers::trials(bench));
    trials.extend(memory::trials(bench));
    trials.extend(hotplug::trials(bench));
    trials
}

/// Whether a tool that is missing is a failure.
fn required() -> bool {
    env::var_os("BOOT_TESTS").is_some_and(|value| value == "required")
}

/// A test for what cannot be tested here.
fn skipped(name: &str, reason: &str) -> Trial {
    eprintln!("boot tests skipped: {name}: {reason}");
    Trial::test(format!("{name} ({reason})"), || Ok(())).with_ignored_flag(true)
}
