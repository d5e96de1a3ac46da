//! `cargo xtask explore`: runs the `explore` package, on the code as it is or on copies that are broken on
//! purpose.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::phase::quiet;
use crate::words::Usage;
use crate::{breaks, cargo, code_of};

const USAGE: Usage = Usage(include_str!("../../explore/src/usage.txt"));

/// Explores.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let read = USAGE.read_options(&words)?;
    if read.help {
        print!("{}", USAGE.0);
        return Ok(ExitCode::SUCCESS);
    }
    let mut breaks = ["--list-breaks", "--break", "--breaks"].into_iter().filter(|name| read.has(name));
    if let Some(name) = breaks.next() {
        if read.count() > 1 {
            return Err(format!("{name} goes alone; a patch says itself how far it is looked for"));
        }
        return match name {
            "--list-breaks" => breaks::list(),
            _ => breaks::find(read.value("--break")),
        };
    }
    let mut command = cargo();
    command.args(["run", "--quiet", "--release", "--package", "explore", "--"]).args(words);
    eprintln!("{}", quiet("building the policy, optimized"));
    code_of(&mut command)
}
