//! `cargo xtask bench`: sees to valgrind, then runs the `bench` package, which counts and reports.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cargo;
use crate::phase::quiet;
use crate::tools::VALGRIND;

/// Counts.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "bench", "--"]);
    if !words.iter().any(|word| word == "-h" || word == "--help") {
        command.env("VALGRIND", VALGRIND.have()?);
        let mut build = cargo();
        build.args(["build", "--quiet", "--release", "--package", "bench"]);
        eprintln!("{}", quiet("building the benchmarks"));
        let built = build.status().map_err(|error| format!("cannot start cargo: {error}"))?;
        if !built.success() {
            return Err("the benchmarks do not build".into());
        }
    }
    let status = command.args(words).status().map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
