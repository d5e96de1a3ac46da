//! `cargo xtask explore`: runs the `explore` package.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cargo;
use crate::phase::quiet;

/// Explores.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "explore", "--"]);
    if !words.iter().any(|word| word == "-h" || word == "--help") {
        eprintln!("{}", quiet("building the policy, optimized"));
    }
    let status = command.args(words).status().map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
