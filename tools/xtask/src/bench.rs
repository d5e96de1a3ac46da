//! `cargo xtask bench`: sees to valgrind, then runs the `bench` package, which counts and reports.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::phase::quiet;
use crate::tools::VALGRIND;
use crate::words::Usage;
use crate::{cargo, code_of, succeeds};

const USAGE: Usage = Usage(include_str!("../../bench/src/usage.txt"));

/// Counts.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let read = USAGE.read(&words)?;
    if read.help {
        print!("{}", USAGE.0);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(area) = read.others.iter().find(|area| !USAGE.lists(area)) {
        return Err(format!("there is no area {area:?}\n\n{}", USAGE.0.trim_end()));
    }
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "bench", "--"]).args(words);
    command.env("VALGRIND", VALGRIND.have()?);
    eprintln!("{}", quiet("building the benchmarks"));
    let mut build = cargo();
    succeeds(
        build.args(["build", "--quiet", "--release", "--package", "bench"]),
        "the benchmarks do not build",
    )?;
    code_of(&mut command)
}
