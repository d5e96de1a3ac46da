//! `cargo xtask test`: everything that must hold, and nothing skipped for want of a tool that can be had
//! here.

use std::ffi::OsString;
use std::process::{Command, ExitCode, Stdio};

use crate::breaks;
use crate::cargo;
use crate::metadata::Workspace;
use crate::phase::{Done, Phases, quiet, run as run_command};
use crate::root;
use crate::tools::{BOCHS, IASL, QEMU, VALGRIND, XEN_HEADERS, in_path, install, qemu_version};
use crate::words::Usage;

const IMAGE: &str = "qemu-intel-iommu/Cargo.toml";

/// The packages for others to build on.
pub(crate) const LIBRARIES: [&str; 5] = ["acpi-dmar", "p2m", "rdm-layout", "xen-abi", "xen-iommu"];

const USAGE: Usage = Usage(
    "\
Usage: cargo xtask test

Runs every check, one phase after the other, and stops at the first that fails: formatting; clippy; the documentation, without a warning; each
combination of the libraries' features; the oldest Rust that Cargo.toml states; the image; all tests, the boots among them; and a way to break the
code on purpose, which has to be found. The times of all phases are shown at the end.

What is missing (QEMU, Bochs, iasl, valgrind, Xen's headers) is installed with apt where there is apt, and the oldest Rust by rustup where there is rustup.
Some of the tests alone: cargo test --package NAME.

  -h, --help   this text

Exit: 0 everything held, 1 something did not, 2 wrong usage.
",
);

/// Runs every check; stops at the first that fails.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    if USAGE.read_options(&words)?.help {
        print!("{}", USAGE.0);
        return Ok(ExitCode::SUCCESS);
    }
    let mut phases = Phases::new();
    phases.phase("tools", "rustfmt, clippy, QEMU, Bochs, iasl, valgrind, Xen's headers", || {
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
        let headers = XEN_HEADERS.have()?;
        eprintln!("{}", quiet(&format!("Xen's headers ({})", headers.display())));
        Ok(Done::Held)
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
    phases.command("docs", strict(&mut with(&["doc", "--quiet", "--no-deps", "--workspace"])));
    phases.command(
        "docs of the image",
        strict(&mut with(&["doc", "--quiet", "--no-deps", "--manifest-path", IMAGE])),
    );
    phases.phase("features", "each combination of the libraries' features", features);
    phases.phase("oldest Rust", "cargo check with the rust-version of Cargo.toml", oldest_rust);
    // The same command as the boot tests use, so that they find the image fresh.
    phases.command("image", &mut with(&["run", "--quiet", "--package", "runner", "--", "build-image"]));
    // Where a tool is missing, a test may skip; here it has what it needs, and a skip is a failure.
    phases.command("tests", with(&["test", "--workspace"]).env("BOOT_TESTS", "required"));
    phases.phase("a break", "the code broken in one of the ways of tools/explore/breaks", || {
        breaks::sample().map(|()| Done::Held)
    });
    Ok(phases.summary())
}

fn with(words: &[&str]) -> Command {
    let mut command = cargo();
    command.args(words);
    command
}

/// A warning of rustdoc's is a failure.
fn strict(command: &mut Command) -> &mut Command {
    command.env("RUSTDOCFLAGS", "-D warnings")
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

/// Checks each library with each combination of its features, by clippy, which can be told to fail by a
/// warning.
fn features() -> Result<Done, String> {
    let workspace = Workspace::read()?;
    for name in LIBRARIES {
        for features in workspace.package(name)?.combinations()? {
            eprintln!(
                "{}",
                quiet(&format!("{name} with {}", if features.is_empty() { "none" } else { &features }))
            );
            let mut command = with(&["clippy", "--quiet", "--no-default-features", "--package", name]);
            command.args(["--features", &features, "--", "-D", "warnings"]);
            run_command(&mut command)
                .map_err(|reason| format!("{name} with features {features:?}: {reason}"))?;
        }
    }
    Ok(Done::Held)
}

/// Checks with the oldest Rust that is said to do, where rustup has it or can get it.
fn oldest_rust() -> Result<Done, String> {
    let workspace = Workspace::read()?;
    let version = workspace.package("xen-iommu")?.rust_version.clone();
    let version = version.ok_or("xen-iommu states no rust-version")?;
    let by_hand = format!("rustup toolchain install {version} --profile minimal");
    if in_path("rustup").is_none() {
        return Ok(Done::Skipped(format!(
            "there is no rustup to get Rust {version}: https://rustup.rs, then {by_hand}"
        )));
    }
    let installed = rustup(&version, &["--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !installed.is_ok_and(|status| status.success()) {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", &version, "--profile", "minimal", "--no-self-update"]);
        if let Err(reason) = install(&mut command) {
            return Ok(Done::Skipped(format!("{reason}; try again where rustup can fetch it: {by_hand}")));
        }
    }
    run_command(&mut rustup(&version, &["check", "--quiet", "--workspace"]))?;
    run_command(&mut rustup(&version, &["check", "--quiet", "--manifest-path", IMAGE]))
}

/// The cargo of this toolchain.
fn rustup(version: &str, words: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.current_dir(root()).args(["run", version, "cargo"]).args(words);
    command
}
