//! `cargo xtask boot`: sees to the emulator, then becomes the `runner boot` command, so that a signal to this
//! process reaches the one that watches it.

use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::phase::quiet;
use crate::tools::{BOCHS, QEMU, qemu_version};
use crate::words::Usage;
use crate::{cargo, root, succeeds};

const USAGE: Usage = Usage(include_str!("../../runner/src/boot.txt"));

/// Boots.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let read = USAGE.read_options(&words)?;
    if read.help {
        print!("{}", USAGE.0);
        return Ok(ExitCode::SUCCESS);
    }
    // Where the user is, for the paths among the words.
    let mut command = Command::new(cargo().get_program());
    command
        .args(["run", "--quiet", "--manifest-path"])
        .arg(root().join("tools/runner/Cargo.toml"))
        .args(["--", "boot"]);
    if read.value("--scenario") == Some("ept") {
        if !read.has("--bochs") {
            command.arg("--bochs").arg(BOCHS.have()?);
        }
    } else if !read.has("--qemu") {
        let qemu = QEMU.have()?;
        eprintln!("{}", quiet(&format!("{} ({})", qemu_version(&qemu)?, qemu.display())));
        command.arg("--qemu").arg(qemu);
    }
    eprintln!("{}", quiet("building the boot command and the image"));
    let mut build = cargo();
    succeeds(build.args(["build", "--quiet", "--package", "runner"]), "the boot command does not build")?;
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
    crate::code_of(command)
}
