//! A boot as JSON, one object a line.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use crate::plan::Plan;
use crate::qemu::Invocation;
use crate::record::Record;
use crate::run::{Ending, Report, Step, StepVerdict, Verdict};
use crate::stand_in::Left;

/// One line.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Line<'a> {
    /// What is run.
    Command {
        /// Program and arguments.
        argv: Vec<String>,
        /// The same, to be pasted into a shell.
        shell: String,
        /// What another machine's table names and has its stand-in.
        placed: &'a [String],
        /// What it names and has none.
        left: &'a [Left],
    },
    /// A line of the log that is no step.
    Log {
        /// `ERROR` to `TRACE`, `PANIC`, `TRAP`, or none for a line that has no form.
        level: Option<&'a str>,
        /// The part that speaks.
        target: Option<&'a str>,
        /// What it says.
        text: &'a str,
    },
    /// A step at its end, or one that `--list-steps` names.
    Step {
        /// Its name.
        name: &'a str,
        /// What it shows.
        title: &'a str,
        /// `pass`, `fail`, `unfinished`, or none when it was only named.
        verdict: Option<&'static str>,
        /// What was seen, or what was wrong.
        detail: &'a str,
        /// How long it took.
        milliseconds: Option<u64>,
    },
    /// The end.
    Summary {
        /// `held`, `failed` or `broken`.
        verdict: &'static str,
        /// What happened to a broken boot.
        problem: Option<String>,
        /// How many steps held.
        passed: usize,
        /// The names of those that did not.
        failed: Vec<String>,
        /// QEMU's exit status, if it ended by itself.
        status: Option<i32>,
        /// How long QEMU ran.
        milliseconds: u64,
    },
}

/// Writes a boot as it goes on.
pub struct Writer<W> {
    out: W,
    titles: Vec<(String, String)>,
    step_started: std::time::Instant,
}

impl<W: Write> Writer<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, titles: Vec::new(), step_started: std::time::Instant::now() }
    }

    /// Writes what is run.
    ///
    /// # Errors
    /// Those of the output.
    pub fn command(&mut self, invocation: &Invocation, plan: &Plan) -> io::Result<()> {
        self.line(&Line::Command {
            argv: invocation.words(),
            shell: invocation.to_string(),
            placed: &plan.placed,
            left: &plan.left,
        })
    }

    /// Writes a record of the log. A step is written when its verdict comes.
    ///
    /// # Errors
    /// Those of the output.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        match record {
            Record::Log { level, target, text } => self.line(&Line::Log {
                level: Some(level.word()),
                target: (!target.is_empty()).then_some(target),
                text,
            }),
            Record::Panic(text) => self.line(&Line::Log { level: Some("PANIC"), target: None, text }),
            Record::Trap(text) => self.line(&Line::Log { level: Some("TRAP"), target: None, text }),
            Record::Raw(text) if text.trim().is_empty() => Ok(()),
            Record::Raw(text) => self.line(&Line::Log { level: None, target: None, text }),
            Record::List { name, title } => {
                self.line(&Line::Step { name, title, verdict: None, detail: "", milliseconds: None })
            }
            Record::Step { name, title } => {
                self.step_started = std::time::Instant::now();
                self.titles.push((name.clone(), title.clone()));
                Ok(())
            }
            Record::Pass { name, detail } => self.step(name, StepVerdict::Passed, detail),
            Record::Fail { name, detail } => self.step(name, StepVerdict::Failed, detail),
            Record::Done { .. } => Ok(()),
        }
    }

    /// Writes the steps that had no end, and the summary.
    ///
    /// # Errors
    /// Those of the output.
    pub fn summary(&mut self, report: &Report, verdict: &Verdict) -> io::Result<()> {
        for Step { name, title, verdict, detail, took } in &report.steps {
            if *verdict == StepVerdict::Unfinished {
                let milliseconds = Some(milliseconds(*took));
                self.line(&Line::Step { name, title, verdict: Some(word(*verdict)), detail, milliseconds })?;
            }
        }
        self.line(&Line::Summary {
            verdict: match verdict {
                Verdict::Held => "held",
                Verdict::StepsFailed(_) => "failed",
                Verdict::Broken(_) => "broken",
            },
            problem: if let Verdict::Broken(problem) = verdict { Some(problem.clone()) } else { None },
            passed: report.steps_that(StepVerdict::Passed).len(),
            failed: report.steps_that(StepVerdict::Failed),
            status: if let Ending::Status(status) = report.ending { Some(status) } else { None },
            milliseconds: milliseconds(report.wall),
        })?;
        self.out.flush()
    }

    fn step(&mut self, name: &str, verdict: StepVerdict, detail: &str) -> io::Result<()> {
        let title = self.titles.iter().rev().find(|(known, _)| known == name);
        let title = title.map(|(_, title)| title.clone()).unwrap_or_default();
        let milliseconds = Some(milliseconds(self.step_started.elapsed()));
        self.line(&Line::Step { name, title: &title, verdict: Some(word(verdict)), detail, milliseconds })
    }

    fn line(&mut self, line: &Line<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

fn word(verdict: StepVerdict) -> &'static str {
    match verdict {
        StepVerdict::Passed => "pass",
        StepVerdict::Failed => "fail",
        StepVerdict::Unfinished => "unfinished",
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
