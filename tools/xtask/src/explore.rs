//! `cargo xtask explore`: runs the `explore` package, built without the code's deliberate faults unless one of them is asked for.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cargo;
use crate::phase::quiet;

/// Explores.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let is_broken = words.iter().filter_map(|word| word.to_str()).any(|word| word.starts_with("--fault"));
    let features: &[&str] = if is_broken { &[] } else { &["--no-default-features"] };
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "explore"]).args(features).arg("--");
    if !words.iter().any(|word| word == "-h" || word == "--help") {
        eprintln!("{}", quiet("building the policy, optimized"));
    }
    let status = command.args(words).status().map_err(|error| format!("cannot start cargo: {error}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
