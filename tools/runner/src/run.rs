//! Runs a boot: starts QEMU, bounds it in time, reads its log, ends it on every way out, and says what became
//! of it.
//!
//! The image ends QEMU through isa-debug-exit, whose status is (value << 1) | 1. Anything but the three
//! statuses below means that the boot did not come to its end; 0 among them, which a reset gives under
//! `-no-reboot`.

use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::emulator::Emulator;
use crate::interrupt;
use crate::process;
use crate::qemu::Invocation;
use crate::record::{Level, Record};

/// QEMU's status when every step held.
pub const STATUS_HELD: i32 = 33;
/// QEMU's status when some step failed.
pub const STATUS_FAILED: i32 = 35;
/// QEMU's status after a panic or an exception.
pub const STATUS_CRASHED: i32 = 37;
/// Bochs's status, whatever happened.
const BOCHS_STATUS: i32 = 1;
/// How long a boot may take unless it is told otherwise. It takes a fraction of a second; a slow host under
/// load takes some.
pub const TIME_LIMIT: Duration = Duration::from_secs(30);

/// A log beyond this is a loop that prints.
const LOG_LIMIT: usize = 16 << 20;
/// A line beyond this is cut.
const LINE_LIMIT: usize = 16 << 10;
/// QEMU's own messages beyond this are not kept.
const STDERR_LIMIT: usize = 64 << 10;
/// How often the signals and the clock are looked at.
const POLL: Duration = Duration::from_millis(20);
/// How long the log may still come after QEMU is gone.
const GRACE: Duration = Duration::from_millis(500);

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepVerdict {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// It began, and nothing was heard of it again.
    Unfinished,
}

/// A step of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Its name.
    pub name: String,
    /// What it shows, in a sentence.
    pub title: String,
    /// What became of it.
    pub verdict: StepVerdict,
    /// What was seen, or what was wrong.
    pub detail: String,
    /// How long it took, by our clock.
    pub took: Duration,
}

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this status.
    Status(i32),
    /// By a signal that was not ours.
    Signal(i32),
    /// We ended it: this much time was over.
    TimeLimit(Duration),
    /// We ended it: this signal came.
    Interrupted(i32),
    /// We ended it: its log had no end.
    LogLimit,
}

/// What a run amounts to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The boot came to its end, and every step held.
    Held,
    /// The boot came to its end, and these steps failed.
    StepsFailed(Vec<String>),
    /// The boot did not come to its end, or contradicts itself: the sentence says how.
    Broken(String),
}

/// All that was seen of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The steps in the order in which they began.
    pub steps: Vec<Step>,
    /// Names and titles that `list-steps` gave.
    pub listed: Vec<(String, String)>,
    /// How many steps held and failed, by the image's own count, if it came to its end.
    pub done: Option<(u32, u32)>,
    /// What a panic or an exception said.
    pub crash: Option<String>,
    /// Every record in order.
    pub records: Vec<Record>,
    /// What it ran on.
    pub emulator: Emulator,
    /// How that ended. Bochs's own status says nothing; here it has the one that QEMU would have had by the
    /// log.
    pub ending: Ending,
    /// From QEMU's start to its end.
    pub wall: Duration,
    /// What QEMU itself had to say.
    pub stderr: String,
    /// A verdict that came for a step that was not under way.
    stray: Option<String>,
}

/// A boot under way. Dropping it ends QEMU.
pub struct Run {
    child: Child,
    started: Instant,
    time_limit: Duration,
    lines: Receiver<Vec<u8>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    stderr_reader: Option<JoinHandle<()>>,
    log_size: usize,
    step_started: Instant,
    gone: Option<Instant>,
    ended_by_us: Option<Ending>,
    report: Report,
}

impl Run {
    /// Starts QEMU.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(invocation: &Invocation, time_limit: Duration) -> io::Result<Self> {
        let mut command = invocation.command();
        // QEMU puts a terminal on its standard input into raw mode.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::die_with_parent(&mut command);
        let mut child = command.spawn()?;
        let started = Instant::now();
        let (sender, lines) = mpsc::sync_channel(1024);
        let stderr = Arc::new(Mutex::new(Vec::new()));
        if let Some(out) = child.stdout.take() {
            thread::spawn(move || send_lines(BufReader::new(out), &sender));
        }
        let stderr_reader = child.stderr.take().map(|err| {
            let kept = Arc::clone(&stderr);
            thread::spawn(move || keep(err, &kept))
        });
        let report = Report {
            steps: Vec::new(),
            listed: Vec::new(),
            done: None,
            crash: None,
            records: Vec::new(),
            emulator: invocation.emulator,
            ending: Ending::Status(0),
            wall: Duration::ZERO,
            stderr: String::new(),
            stray: None,
        };
        Ok(Self {
            child,
            started,
            time_limit,
            lines,
            stderr,
            stderr_reader,
            log_size: 0,
            step_started: started,
            gone: None,
            ended_by_us: None,
            report,
        })
    }

    /// QEMU's process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the next record; none once the log is at its end.
    pub fn next_record(&mut self) -> Option<Record> {
        loop {
            match self.lines.recv_timeout(POLL) {
                Ok(line) => {
                    self.log_size = self.log_size.saturating_add(line.len() + 1);
                    if self.log_size > LOG_LIMIT {
                        self.end(Ending::LogLimit);
                        return None;
                    }
                    let record = Record::parse(&line);
                    self.note(&record);
                    // A guest that prints without end never leaves this branch by itself.
                    self.look_at_the_clock();
                    // Bochs's own words, between which the image's lines come.
                    if self.report.emulator == Emulator::Bochs && matches!(record, Record::Raw(_)) {
                        continue;
                    }
                    return Some(record);
                }
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    self.look_at_the_clock();
                    if self.gone.is_none() && !matches!(self.child.try_wait(), Ok(None)) {
                        self.gone = Some(Instant::now());
                    }
                    // Something that QEMU left behind may hold its output open for ever.
                    if self.gone.is_some_and(|gone| gone.elapsed() > GRACE) {
                        return None;
                    }
                }
            }
        }
    }

    /// Reads the log to its end, showing each record to `see`, and says what was seen.
    ///
    /// # Errors
    /// When the system does not tell how QEMU ended.
    pub fn finish(mut self, mut see: impl FnMut(&Record)) -> io::Result<Report> {
        while let Some(record) = self.next_record() {
            see(&record);
        }
        // The log is at its end; QEMU may not be, when it closed its output and lives on.
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.look_at_the_clock();
            thread::sleep(Duration::from_millis(1));
        };
        let mut report = self.report.clone();
        report.wall = self.started.elapsed();
        report.ending = self.ended_by_us.unwrap_or_else(|| match report.emulator {
            Emulator::Qemu => natural(status),
            Emulator::Bochs => report.told(natural(status)),
        });
        // QEMU hears Ctrl-C too, and may have been the first to go.
        if self.ended_by_us.is_none()
            && let Some(signal) = interrupt::signal()
        {
            report.ending = Ending::Interrupted(signal);
        }
        let gone = Instant::now();
        while self.stderr_reader.as_ref().is_some_and(|reader| !reader.is_finished())
            && gone.elapsed() < GRACE
        {
            thread::sleep(Duration::from_millis(1));
        }
        let kept = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        report.stderr = String::from_utf8_lossy(&kept).into_owned();
        drop(kept);
        Ok(report)
    }

    fn look_at_the_clock(&mut self) {
        if let Some(signal) = interrupt::signal() {
            self.end(Ending::Interrupted(signal));
        } else if self.started.elapsed() >= self.time_limit {
            self.end(Ending::TimeLimit(self.time_limit));
        }
    }

    /// Ends QEMU for this reason; the first reason stands, and a QEMU that has already ended needs none.
    fn end(&mut self, reason: Ending) {
        if self.ended_by_us.is_none() && matches!(self.child.try_wait(), Ok(None)) {
            self.ended_by_us = Some(reason);
            // It can only fail when the child is gone already.
            let _ = self.child.kill();
            self.gone = Some(Instant::now());
        }
    }

    fn note(&mut self, record: &Record) {
        let report = &mut self.report;
        match record {
            Record::Step { name, title } => {
                self.step_started = Instant::now();
                report.steps.push(Step {
                    name: name.clone(),
                    title: title.clone(),
                    verdict: StepVerdict::Unfinished,
                    detail: String::new(),
                    took: Duration::ZERO,
                });
            }
            Record::Pass { name, detail } | Record::Fail { name, detail } => match report.steps.last_mut() {
                Some(step) if step.name == *name && step.verdict == StepVerdict::Unfinished => {
                    step.verdict = match record {
                        Record::Pass { .. } => StepVerdict::Passed,
                        _ => StepVerdict::Failed,
                    };
                    step.detail.clone_from(detail);
                    step.took = self.step_started.elapsed();
                }
                _ => report.stray = report.stray.take().or_else(|| Some(name.clone())),
            },
            Record::List { name, title } => report.listed.push((name.clone(), title.clone())),
            Record::Done { passed, failed } => report.done = Some((*passed, *failed)),
            Record::Panic(_) | Record::Trap(_) => {
                // A panic while reporting a panic says less than the first.
                report.crash = report.crash.take().or_else(|| Some(record.to_string()));
            }
            Record::Raw(_) if report.emulator == Emulator::Bochs => return,
            Record::Log { .. } | Record::Raw(_) => {}
        }
        report.records.push(record.clone());
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Report {
    /// The names of the steps that ended so.
    pub fn steps_that(&self, verdict: StepVerdict) -> Vec<String> {
        self.steps.iter().filter(|step| step.verdict == verdict).map(|step| step.name.clone()).collect()
    }

    /// What the run amounts to. Only [`Verdict::Held`] is success.
    pub fn verdict(&self) -> Verdict {
        if let Some(sentence) = self.broken() {
            return Verdict::Broken(sentence);
        }
        let failed = self.steps_that(StepVerdict::Failed);
        if !failed.is_empty() {
            return Verdict::StepsFailed(failed);
        }
        if self.steps.is_empty() {
            return Verdict::Broken("The boot came to its end without a single step.".into());
        }
        Verdict::Held
    }

    /// Names and titles of the steps, after a boot with `list-steps`.
    ///
    /// # Errors
    /// The sentence that says why there are none.
    pub fn listing(&self) -> Result<&[(String, String)], String> {
        if let Some(sentence) = self.not_at_the_end() {
            return Err(sentence);
        }
        if self.listed.is_empty() {
            return Err("The image was asked for its steps and named none.".into());
        }
        Ok(&self.listed)
    }

    /// The status that the image would have given to QEMU, when Bochs ended as it always does and the log is
    /// at its end.
    fn told(&self, ending: Ending) -> Ending {
        match (ending, &self.crash, self.done) {
            (Ending::Status(BOCHS_STATUS), Some(_), _) => Ending::Status(STATUS_CRASHED),
            (Ending::Status(BOCHS_STATUS), None, Some((_, 0))) => Ending::Status(STATUS_HELD),
            (Ending::Status(BOCHS_STATUS), None, Some(_)) => Ending::Status(STATUS_FAILED),
            _ => ending,
        }
    }

    fn broken(&self) -> Option<String> {
        if let Some(sentence) = self.not_at_the_end() {
            return Some(sentence);
        }
        let Some((passed, failed)) = self.done else {
            return Some(format!(
                "{} without a DONE line, so the run was cut short{}.",
                self.ending.sentence(self.emulator),
                self.place()
            ));
        };
        if let Some(name) = &self.stray {
            return Some(format!("The log has a verdict for step {name}, which was not under way."));
        }
        if let [name, ..] = self.steps_that(StepVerdict::Unfinished).as_slice() {
            return Some(format!("Step {name} began, and the log has no verdict for it."));
        }
        let seen = (self.steps_that(StepVerdict::Passed).len(), self.steps_that(StepVerdict::Failed).len());
        if (u32::try_from(seen.0), u32::try_from(seen.1)) != (Ok(passed), Ok(failed)) {
            let error = self.records.iter().rev().find_map(|record| match record {
                Record::Log { level: Level::Error, text, .. } => Some(format!(" The last error was: {text}")),
                _ => None,
            });
            return Some(format!(
                "The log shows {} steps that held and {} that failed, but ends in {passed} and {failed}.{}",
                seen.0,
                seen.1,
                error.unwrap_or_default()
            ));
        }
        let held = self.ending == Ending::Status(STATUS_HELD);
        if held != (failed == 0) {
            return Some(format!("{}, but {failed} steps failed.", self.ending.sentence(self.emulator)));
        }
        None
    }

    /// The sentence for a boot that did not end as the image ends a run.
    fn not_at_the_end(&self) -> Option<String> {
        let (place, emulator) = (self.place(), self.emulator);
        if let Some(text) = &self.crash
            && !matches!(self.ending, Ending::Interrupted(_))
        {
            return Some(format!("The hypervisor crashed{place}: {text}"));
        }
        Some(match self.ending {
            Ending::TimeLimit(limit) => {
                format!("The boot did not end within {} s{place}; {emulator} was ended.", limit.as_secs_f32())
            }
            Ending::Interrupted(signal) => {
                format!("Interrupted by {}{place}; {emulator} was ended.", signal_name(signal))
            }
            Ending::LogLimit => {
                format!("The log grew beyond {} MiB{place}; {emulator} was ended.", LOG_LIMIT >> 20)
            }
            Ending::Status(STATUS_CRASHED) => {
                format!(
                    "{}{place}, as after a crash, but no line of the log says why.",
                    self.ending.sentence(self.emulator)
                )
            }
            Ending::Status(STATUS_HELD | STATUS_FAILED) => return None,
            Ending::Status(0) => format!(
                "{}{place}: a reset or a triple fault, or somebody closed it. The boot did not come to its end.",
                self.ending.sentence(self.emulator)
            ),
            Ending::Status(BOCHS_STATUS) if emulator == Emulator::Bochs => {
                format!("{}{place}: {}", self.ending.sentence(emulator), last_line(&self.stderr))
            }
            Ending::Status(1) if !self.stderr.trim().is_empty() => {
                format!("{emulator} did not start: {}", last_line(&self.stderr))
            }
            Ending::Status(_) => {
                format!(
                    "{}{place}, which the image never gives. The boot did not come to its end.",
                    self.ending.sentence(self.emulator)
                )
            }
            Ending::Signal(_) => format!("{}{place}.", self.ending.sentence(self.emulator)),
        })
    }

    /// Where the run was, as the rest of a sentence.
    fn place(&self) -> String {
        match self.steps.last() {
            Some(step) if step.verdict == StepVerdict::Unfinished => format!(" in step {}", step.name),
            Some(step) => format!(" after step {}", step.name),
            None if self.records.is_empty() => " before it said a word".into(),
            None => " before the first step".into(),
        }
    }
}

impl Ending {
    /// How the emulator ended, as the begin of a sentence.
    pub fn sentence(self, emulator: Emulator) -> String {
        match self {
            Self::Status(status) => format!("{emulator} ended with status {status}"),
            Self::Signal(signal) => format!("{emulator} was ended by {}", signal_name(signal)),
            Self::TimeLimit(_) | Self::Interrupted(_) | Self::LogLimit => format!("We ended {emulator}"),
        }
    }
}

fn signal_name(number: i32) -> String {
    match signal_hook::low_level::signal_name(number) {
        Some(name) => name.into(),
        None => format!("signal {number}"),
    }
}

fn last_line(text: &str) -> &str {
    // Bochs draws a line below what it says last.
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.trim_matches('=').is_empty());
    lines.next().unwrap_or_default()
}

fn natural(status: ExitStatus) -> Ending {
    if let Some(code) = status.code() {
        return Ending::Status(code);
    }
    #[cfg(unix)]
    {
        use std::os::unix::process::ExitStatusExt;
        Ending::Signal(status.signal().unwrap_or_default())
    }
    #[cfg(not(unix))]
    Ending::Signal(0)
}

fn send_lines(mut out: impl BufRead, lines: &SyncSender<Vec<u8>>) {
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_LIMIT).unwrap_or(u64::MAX);
        match out.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) if lines.send(strip_end(line)).is_err() => return,
            Ok(_) => {}
        }
    }
}

fn strip_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
    }
    line
}

fn keep(mut err: impl Read, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    // What is not kept is still read, or QEMU would wait for ever.
    while let Ok(count @ 1..) = err.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = STDERR_LIMIT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}
