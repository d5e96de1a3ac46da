//! A boot for people: the command, the log as it comes with each step's verdict, and a summary.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::plan::Plan;
use crate::qemu::Invocation;
use crate::record::{Level, Record};
use crate::run::{Report, StepVerdict, Verdict};

/// What the reader's terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    /// Whether it shows colours.
    pub colour: bool,
    /// Whether it shows more than ASCII.
    pub unicode: bool,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Colour {
    /// On a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Theme {
    /// What standard output can show.
    pub fn of_stdout(colour: Colour) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        let colour = match colour {
            Colour::Auto => io::stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            Colour::Always => true,
            Colour::Never => false,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(|name| set(name));
        let locale = locale.and_then(|name| env::var(name).ok()).unwrap_or_default().to_lowercase();
        Self { colour, unicode: locale.contains("utf-8") || locale.contains("utf8") }
    }

    fn paint(self, style: Style, text: impl Display) -> String {
        if self.colour { format!("{style}{text}{style:#}") } else { text.to_string() }
    }

    fn sign(self, verdict: StepVerdict) -> String {
        let (unicode, ascii, style) = match verdict {
            StepVerdict::Passed => ("✓", "ok", GOOD),
            StepVerdict::Failed => ("✗", "FAIL", BAD),
            StepVerdict::Unfinished => ("✗", "CUT", BAD),
        };
        if self.unicode { self.paint(style, unicode) } else { self.paint(style, format!("{ascii:<4}")) }
    }

    fn rule(self) -> String {
        self.paint(QUIET, if self.unicode { "─" } else { "-" }.repeat(72))
    }
}

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WARNING: Style = AnsiColor::Yellow.on_default();
const QUIET: Style = Style::new().dimmed();
const STRONG: Style = Style::new().bold();
const PLAIN: Style = Style::new();

/// Shows a boot.
pub struct Show<W> {
    out: W,
    theme: Theme,
    in_step: bool,
}

impl<W: Write> Show<W> {
    /// Shows on `out`.
    pub fn new(out: W, theme: Theme) -> Self {
        Self { out, theme, in_step: false }
    }

    /// Shows what is run, and what another machine's table could not have.
    ///
    /// # Errors
    /// Those of the output.
    pub fn command(&mut self, invocation: &Invocation, plan: &Plan) -> io::Result<()> {
        let lines = invocation.lines();
        for (index, line) in lines.iter().enumerate() {
            let start = if index == 0 { "$ " } else { "    " };
            let end = if index + 1 == lines.len() { "" } else { " \\" };
            writeln!(self.out, "{}", self.theme.paint(QUIET, format!("{start}{line}{end}")))?;
        }
        writeln!(self.out)?;
        self.stand_ins(plan)
    }

    fn stand_ins(&mut self, plan: &Plan) -> io::Result<()> {
        let theme = self.theme;
        for problem in &plan.problems {
            writeln!(self.out, "{}", theme.paint(WARNING, format!("The table is damaged: {problem}")))?;
        }
        if !plan.placed.is_empty() {
            writeln!(self.out, "Stand-ins for what the table's RMRRs name: {}", plan.placed.join(", "))?;
        }
        for left in &plan.left {
            writeln!(
                self.out,
                "{}",
                theme.paint(WARNING, format!("No stand-in: {} {}", left.scope, left.reason))
            )?;
        }
        if !(plan.problems.is_empty() && plan.placed.is_empty() && plan.left.is_empty()) {
            writeln!(self.out)?;
        }
        Ok(())
    }

    /// Shows a record of the log.
    ///
    /// # Errors
    /// Those of the output.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        let theme = self.theme;
        match record {
            Record::Step { name, title } => {
                self.in_step = true;
                writeln!(self.out)?;
                writeln!(self.out, "{}  {title}", theme.paint(STRONG, name))?;
            }
            Record::Pass { detail, .. } => {
                self.in_step = false;
                writeln!(self.out, "  {} {detail}", theme.sign(StepVerdict::Passed))?;
            }
            Record::Fail { detail, .. } => {
                self.in_step = false;
                let detail = theme.paint(BAD, detail);
                writeln!(self.out, "  {} {detail}", theme.sign(StepVerdict::Failed))?;
            }
            Record::Log { level, .. } => {
                let style = match level {
                    Level::Error => BAD,
                    Level::Warn => WARNING,
                    Level::Info | Level::Debug | Level::Trace => QUIET,
                };
                self.quiet_line(style, record)?;
            }
            Record::Panic(_) | Record::Trap(_) => self.quiet_line(BAD, record)?,
            Record::Raw(text) if text.trim().is_empty() => {}
            Record::Raw(_) => self.quiet_line(PLAIN, record)?,
            Record::List { name, title } => {
                writeln!(self.out, "{}  {title}", theme.paint(STRONG, format!("{name:<24}")))?;
            }
            Record::Done { .. } => {}
        }
        self.out.flush()
    }

    fn quiet_line(&mut self, style: Style, record: &Record) -> io::Result<()> {
        let indent = if self.in_step { "    " } else { "" };
        writeln!(self.out, "{indent}{}", self.theme.paint(style, record))
    }

    /// Shows what the boot amounts to.
    ///
    /// # Errors
    /// Those of the output.
    pub fn summary(&mut self, report: &Report, verdict: &Verdict) -> io::Result<()> {
        let theme = self.theme;
        writeln!(self.out)?;
        if !report.steps.is_empty() {
            writeln!(self.out, "{}", theme.rule())?;
            let width = report.steps.iter().map(|step| step.name.len()).max().unwrap_or_default();
            for step in &report.steps {
                let name = theme.paint(PLAIN, format!("{:<width$}", step.name));
                let time = theme.paint(QUIET, format!("{:>9}", time(step.took)));
                let text = match step.verdict {
                    StepVerdict::Passed => step.title.clone(),
                    StepVerdict::Failed => theme.paint(BAD, &step.detail),
                    StepVerdict::Unfinished => theme.paint(BAD, "began, and nothing was heard of it again"),
                };
                writeln!(self.out, "{} {name} {time}  {text}", theme.sign(step.verdict))?;
            }
            writeln!(self.out, "{}", theme.rule())?;
        }
        if let Verdict::Broken(_) = verdict {
            for line in report.stderr.lines().filter(|line| !line.contains("should be prefixed with")) {
                writeln!(self.out, "{}", theme.paint(WARNING, line))?;
            }
        }
        let held = report.steps_that(StepVerdict::Passed).len();
        let all = report.steps.len();
        let wall = time(report.wall);
        let sentence = match verdict {
            Verdict::Held if all == 1 => theme.paint(GOOD.bold(), "The one step held"),
            Verdict::Held => theme.paint(GOOD.bold(), format!("All {all} steps held")),
            Verdict::StepsFailed(names) => {
                theme.paint(BAD, format!("{held} of {all} steps held; failed: {}", names.join(", ")))
            }
            Verdict::Broken(sentence) => theme.paint(BAD, sentence),
        };
        writeln!(self.out, "{sentence} {}", theme.paint(QUIET, format!("({wall} in {})", report.emulator)))?;
        self.out.flush()
    }
}

/// A time as people like to read it.
pub fn time(time: Duration) -> String {
    let milliseconds = time.as_millis();
    if milliseconds < 1000 { format!("{milliseconds} ms") } else { format!("{:.1} s", time.as_secs_f64()) }
}
