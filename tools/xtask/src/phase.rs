//! Phases of a longer run: each shown as it begins, with its command, and again with its time when all is
//! over.

use std::env;
use std::io::{IsTerminal, stderr};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// What a phase that did not fail says.
pub(crate) enum Done {
    /// All held.
    Held,
    /// Nothing was tried, for want of something that not everybody has; with how to get it.
    Skipped(String),
}

/// What became of a phase.
enum Outcome {
    Held(Duration),
    /// With the reason and the remedy.
    Skipped(String),
    /// With the reason.
    Failed(Duration, String),
    NotRun,
}

/// A run of phases that stops at the first that fails.
pub(crate) struct Phases {
    done: Vec<(&'static str, Outcome)>,
    failed: bool,
    started: Instant,
}

impl Phases {
    /// No phase yet.
    pub(crate) fn new() -> Self {
        Self { done: Vec::new(), failed: false, started: Instant::now() }
    }

    /// Runs a command as a phase.
    pub(crate) fn command(&mut self, name: &'static str, command: &mut Command) {
        self.phase(name, &spelled(command), || run(command));
    }

    /// Runs something as a phase.
    pub(crate) fn phase(
        &mut self,
        name: &'static str,
        what: &str,
        work: impl FnOnce() -> Result<Done, String>,
    ) {
        if self.failed {
            self.done.push((name, Outcome::NotRun));
            return;
        }
        eprintln!("\n{} {}", strong(name), quiet(what));
        let started = Instant::now();
        let outcome = match work() {
            Ok(Done::Held) => Outcome::Held(started.elapsed()),
            Ok(Done::Skipped(reason)) => {
                eprintln!("skipped: {reason}");
                Outcome::Skipped(reason)
            }
            Err(reason) => {
                self.failed = true;
                Outcome::Failed(started.elapsed(), reason)
            }
        };
        self.done.push((name, outcome));
    }

    /// Shows the phases with their times, and gives the exit code.
    pub(crate) fn summary(self) -> ExitCode {
        let width = self.done.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        eprintln!();
        for (name, outcome) in &self.done {
            let line = match outcome {
                Outcome::Held(time) => {
                    format!("{}   {name:<width$} {:>9}", paint("32", "ok  "), seconds(*time))
                }
                Outcome::Skipped(reason) => {
                    format!("{} {name:<width$}            {reason}", paint("33", "skip  "))
                }
                Outcome::Failed(time, reason) => {
                    format!("{}   {name:<width$} {:>9}  {reason}", paint("1;31", "FAIL"), seconds(*time))
                }
                Outcome::NotRun => quiet(&format!("  -    {name:<width$}   not run")),
            };
            eprintln!("{line}");
        }
        let time = seconds(self.started.elapsed());
        match self.done.iter().find(|(_, outcome)| matches!(outcome, Outcome::Failed(..))) {
            None => {
                eprintln!("\n{} in {time}", paint("1;32", "Everything held"));
                ExitCode::SUCCESS
            }
            Some((name, _)) => {
                eprintln!(
                    "\n{} after {time}; the phases after it were not run",
                    paint("1;31", &format!("{name} failed"))
                );
                ExitCode::FAILURE
            }
        }
    }
}

/// A command whose success is all that counts.
pub(crate) fn run(command: &mut Command) -> Result<Done, String> {
    match command.status() {
        Ok(status) if status.success() => Ok(Done::Held),
        Ok(status) => Err(status.to_string()),
        Err(error) => Err(format!("cannot start {}: {error}", command.get_program().to_string_lossy())),
    }
}

/// A command as one types it.
pub(crate) fn spelled(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// Dimmed, for what is said in passing.
pub(crate) fn quiet(text: &str) -> String {
    paint("2", text)
}

fn strong(text: &str) -> String {
    paint("1", text)
}

/// In a colour, where there are colours.
pub(crate) fn paint(code: &str, text: &str) -> String {
    let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    if stderr().is_terminal() && !set("NO_COLOR") {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
