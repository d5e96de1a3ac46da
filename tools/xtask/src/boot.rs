//! `cargo xtask boot`: sees to the emulator, then becomes the `runner boot` command, so that a signal to this process reaches the one that watches it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::phase::quiet;
use crate::tools::{BOCHS, QEMU, qemu_version};
use crate::{cargo, root};

/// Boots.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let has = |names: &[&str]| {
        let given = words.iter().filter_map(|word| word.to_str());
        given.into_iter().any(|word| names.iter().any(|name| word.split('=').next() == Some(name)))
    };
    // Where the user is, for the paths among the words.
    let mut command = Command::new(cargo().get_program());
    command
        .args(["run", "--quiet", "--manifest-path"])
        .arg(root().join("tools/runner/Cargo.toml"))
        .args(["--", "boot"]);
    if !has(&["-h", "--help"]) {
        let scenario = words.iter().filter_map(|word| word.to_str());
        if scenario.into_iter().any(|word| ["ept", "--scenario=ept"].contains(&word)) {
            if !has(&["--bochs"]) {
                command.arg("--bochs").arg(BOCHS.have()?);
            }
        } else if !has(&["--qemu"]) {
            let qemu = QEMU.have()?;
            eprintln!("{}", quiet(&format!("{} ({})", qemu_version(&qemu)?, qemu.display())));
            command.arg("--qemu").arg(qemu);
        }
        let mut build = cargo();
        build.args(["build", "--quiet", "--package", "runner"]);
        eprintln!("{}", quiet("building the boot command and the image"));
        let built = build.status().map_err(|error| format!("cannot start cargo: {error}"))?;
        if !built.success() {
            return Err("the boot command does not build".into());
        }
    }
    command.args(words);
    become_it(&mut command)
}

#[cfg(unix)]
fn become_it(command: &mut Command) -> Result<ExitCode, String> {
    use std::os::unix::process::CommandExt;
    Err(format!("cannot start cargo: {}", command.exec()))
}

#[cfg(not(unix))]
fn become_it(command: &mut Command) -> Result<ExitCode, String> {
    let status = command.status().map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
