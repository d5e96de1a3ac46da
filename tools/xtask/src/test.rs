//! `cargo xtask test`: everything that must hold, and nothing skipped for want of a tool.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::cargo;
use crate::phase::{Phases, quiet};
use crate::tools::{BOCHS, IASL, QEMU, VALGRIND, qemu_version};

const IMAGE: &str = "qemu-intel-iommu/Cargo.toml";

/// Runs every check; stops at the first that fails.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    if let Some(word) = words.first() {
        return Err(format!(
            "cargo xtask test takes no {}; some of the tests: cargo test --package NAME",
            word.to_string_lossy()
        ));
    }
    let mut phases = Phases::new();
    phases.phase("tools", "rustfmt, clippy, QEMU, Bochs, iasl, valgrind", || {
        component("fmt", "rustfmt")?;
        component("clippy", "clippy")?;
        let qemu = QEMU.have()?;
        eprintln!("{}", quiet(&format!("{} ({})", qemu_version(&qemu)?, qemu.display())));
        let bochs = BOCHS.have()?;
        eprintln!("{}", quiet(&format!("Bochs ({})", bochs.display())));
        let iasl = IASL.have()?;
        eprintln!("{}", quiet(&format!("iasl ({})", iasl.display())));
        let valgrind = VALGRIND.have()?;
        eprintln!("{}", quiet(&format!("valgrind ({})", valgrind.display())));
        Ok(())
    });
    phases.command("format", &mut with(&["fmt", "--all", "--check"]));
    phases.command("format of the image", &mut with(&["fmt", "--manifest-path", IMAGE, "--check"]));
    phases.command(
        "clippy",
        &mut with(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    );
    phases.command(
        "clippy of the image",
        &mut with(&["clippy", "--quiet", "--manifest-path", IMAGE, "--all-targets", "--", "-D", "warnings"]),
    );
    // The same command as the boot tests use, so that they find the image fresh.
    phases.command("image", &mut with(&["run", "--quiet", "--package", "runner", "--", "build-image"]));
    // Where a tool is missing, a test may skip; here it has what it needs, and a skip is a failure.
    phases.command("tests", with(&["test", "--workspace"]).env("BOOT_TESTS", "required"));
    Ok(phases.summary())
}

fn with(words: &[&str]) -> Command {
    let mut command = cargo();
    command.args(words);
    command
}

fn component(verb: &str, name: &str) -> Result<(), String> {
    let output = cargo().args([verb, "--version"]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    Err(format!(
        "cargo {verb} is missing: rustup component add {name} (or the distribution's package of that name)"
    ))
}
