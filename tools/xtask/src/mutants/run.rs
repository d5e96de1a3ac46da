//! Finds out what becomes of mutants: cargo-mutants on copies of the checkout, some mutants of one file at a
//! time, so that little is lost when it is ended and each copy builds only what changed.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{IsTerminal, stderr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::mirror::Mirror;
use crate::phase::{paint, quiet, spelled};
use crate::{cargo, root};

use super::list::Mutant;
use super::results::{Fate, Results};
use super::suite::{Suite, Suites};
use super::survivors::Survivors;

/// So many mutants are given to cargo-mutants at once.
const BATCH: usize = 40;
/// How often cargo-mutants' output is looked at.
const POLL: Duration = Duration::from_millis(200);
/// No test run is ended earlier; a computer may be slow for a while.
const LEAST_TIME: Duration = Duration::from_secs(20);
/// Nor does a build take longer.
const BUILD_SECONDS: &str = "300";
/// A suite that takes longer is worth a word.
const QUICK: Duration = Duration::from_secs(5);
/// Without a terminal, every how many mutants it is said how far it is.
const LINE_EVERY: usize = 25;

/// Mutants of one file.
type Batch<'m> = Vec<&'m Mutant>;

fn batches<'m>(open: &[&'m Mutant]) -> VecDeque<Batch<'m>> {
    let of_files = open.chunk_by(|one, other| one.file == other.file);
    of_files.flat_map(|mutants| mutants.chunks(BATCH)).map(<[_]>::to_vec).collect()
}

/// What the workers share.
struct Shared<'a, 'm> {
    left: VecDeque<Batch<'m>>,
    results: &'a mut Results,
    accepted: &'a Survivors,
    progress: Progress,
    /// The first thing that went wrong; nothing is begun after it.
    wrong: Option<String>,
}

/// Finds out about all of these, so many at a time, adding to the results as they come.
pub(crate) fn all(
    open: &[&Mutant],
    suites: &Suites,
    results: &mut Results,
    accepted: &Survivors,
    jobs: usize,
) -> Result<(), String> {
    let left = batches(open);
    let jobs = jobs.clamp(1, left.len().max(1));
    let progress = Progress::new(open.len());
    let shared = Mutex::new(Shared { left, results, accepted, progress, wrong: None });
    thread::scope(|scope| {
        for number in 1..=jobs {
            let shared = &shared;
            scope.spawn(move || {
                if let Err(reason) = work(number, jobs, suites, shared) {
                    lock(shared).wrong.get_or_insert(reason);
                }
            });
        }
    });
    let Shared { progress, wrong, .. } = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    progress.end();
    wrong.map_or(Ok(()), Err)
}

/// Takes batches until none is left.
fn work(number: usize, jobs: usize, suites: &Suites, shared: &Mutex<Shared<'_, '_>>) -> Result<(), String> {
    let mut bench = None;
    let mut limits: HashMap<String, Duration> = HashMap::new();
    loop {
        let Some(batch) = next(shared) else { return Ok(()) };
        let Some(file) = batch.first().map(|mutant| &*mutant.file) else { continue };
        let (folder, suite) = suites.of(file)?;
        let bench = match &mut bench {
            Some(bench) => bench,
            none => none.insert(Bench::set_up(number, jobs)?),
        };
        let limit = match limits.get(folder) {
            Some(limit) => *limit,
            None => {
                let time = bench.unchanged(folder, suite, suites)?;
                let slow = if time > QUICK { "; more than it should" } else { "" };
                let seconds = time.as_secs_f64();
                lock(shared)
                    .progress
                    .say(&quiet(&format!("{folder}: the quick suite takes {seconds:.1} s{slow}")));
                let limit = time.saturating_mul(5).max(LEAST_TIME);
                limits.insert(folder.to_owned(), limit);
                limit
            }
        };
        bench.tree.refresh()?;
        bench.batch(&batch, suite, suites, limit, shared)?;
    }
}

fn next<'m>(shared: &Mutex<Shared<'_, 'm>>) -> Option<Batch<'m>> {
    let mut shared = lock(shared);
    if shared.wrong.is_some() { None } else { shared.left.pop_front() }
}

fn lock<'g, 'a, 'm>(shared: &'g Mutex<Shared<'a, 'm>>) -> MutexGuard<'g, Shared<'a, 'm>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of the checkout, and what is built of it.
struct Bench {
    tree: Mirror,
    folder: PathBuf,
    cores: usize,
}

impl Bench {
    fn set_up(number: usize, jobs: usize) -> Result<Self, String> {
        let folder = root().join(format!("target/mutants/bench-{number}"));
        let cores = thread::available_parallelism().map_or(1, Into::into);
        let cores = cores.checked_div(jobs).unwrap_or(1).max(1);
        Ok(Self { tree: Mirror::of_checkout(folder.join("tree"))?, folder, cores })
    }

    fn cargo(&self, suites: &Suites) -> Command {
        let mut command = cargo();
        command.current_dir(self.tree.folder()).envs(suites.environment());
        command.env("CARGO_TARGET_DIR", self.folder.join("build"));
        command
            .env("CARGO_BUILD_JOBS", self.cores.to_string())
            .env("RUST_TEST_THREADS", self.cores.to_string());
        command.stdin(Stdio::null());
        command
    }

    /// Runs the suite on the code as it is, which has to hold; how long it takes.
    fn unchanged(&self, folder: &str, suite: &Suite, suites: &Suites) -> Result<Duration, String> {
        let mut time = Duration::ZERO;
        for build in [true, false] {
            let mut command = self.cargo(suites);
            command.args(["test", "--profile=mutants"]).args(build.then_some("--no-run"));
            for package in suite.packages() {
                command.args(["--package", package]);
            }
            command.args(suite.build_words());
            if !build {
                command.arg("--").args(suite.test_words());
            }
            let spelled = spelled(&command);
            let started = Instant::now();
            let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
            time = started.elapsed();
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                return Err(format!("the quick suite of {folder} fails without a mutant: {spelled}\n{text}"));
            }
        }
        Ok(time)
    }

    /// Has cargo-mutants try these.
    fn batch(
        &self,
        batch: &Batch<'_>,
        suite: &Suite,
        suites: &Suites,
        limit: Duration,
        shared: &Mutex<Shared<'_, '_>>,
    ) -> Result<(), String> {
        let _ = fs::remove_dir_all(self.folder.join("mutants.out"));
        let log = self.folder.join("log");
        let file = File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let mut command = self.cargo(suites);
        command.args(words(batch, suite, limit)).arg("--output").arg(&self.folder);
        command.stdout(file).stderr(Stdio::inherit());
        let mut child = Ended(command.spawn().map_err(|error| format!("cannot start cargo: {error}"))?);
        let mut heard = BTreeSet::new();
        loop {
            let status = child.0.try_wait().map_err(|error| format!("cannot wait for cargo: {error}"))?;
            for (mutant, fate) in told(&self.folder.join("mutants.out"), batch) {
                if heard.insert(&*mutant.name) {
                    hear(mutant, fate, &mut lock(shared))?;
                }
            }
            let Some(status) = status else {
                thread::sleep(POLL);
                continue;
            };
            // 2 and 3 say that mutants survived or timed out.
            if !matches!(status.code(), Some(0 | 2 | 3)) || heard.len() < batch.len() {
                let missing = batch.len().saturating_sub(heard.len());
                return Err(format!(
                    "cargo-mutants ended with {status} and said nothing of {missing} mutants; see {}",
                    log.display()
                ));
            }
            return Ok(());
        }
    }
}

/// Ends the child when it is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It can only fail when the child has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The words of cargo-mutants for these mutants.
fn words(batch: &Batch<'_>, suite: &Suite, limit: Duration) -> Vec<OsString> {
    let mut words: Vec<String> =
        ["mutants", "--in-place", "--no-config", "--no-shuffle", "--baseline=skip", "--profile=mutants"]
            .map(String::from)
            .into();
    words.extend(["--annotations=none", "--colors=never", "--cap-lints=false"].map(String::from));
    words.push(format!("--timeout={}", limit.as_secs()));
    words.push(format!("--build-timeout={BUILD_SECONDS}"));
    words.extend(batch.first().map(|mutant| format!("--file={}", mutant.file)));
    words.extend(batch.iter().map(|mutant| format!("--re=^{}$", literal(&mutant.name))));
    words.extend(suite.packages().map(|package| format!("--test-package={package}")));
    // These for building and running the tests, those for running alone.
    words.extend(suite.build_words().map(|word| format!("--cargo-arg={word}")));
    words.extend(["--"].into_iter().chain(suite.test_words()).map(|word| format!("--cargo-test-arg={word}")));
    words.into_iter().map(OsString::from).collect()
}

/// A name as a regular expression that means it.
fn literal(name: &str) -> String {
    let escaped = |c: char| if r"\.+*?()|[]{}^$".contains(c) { format!("\\{c}") } else { c.to_string() };
    name.chars().map(escaped).collect()
}

/// What cargo-mutants has said so far of these mutants.
fn told<'m>(output: &Path, batch: &Batch<'m>) -> Vec<(&'m Mutant, Fate)> {
    let mut told = Vec::new();
    for (fate, _, file) in Fate::ALL {
        let text = fs::read_to_string(output.join(file)).unwrap_or_default();
        for name in text.lines() {
            told.extend(batch.iter().find(|mutant| mutant.name == name).map(|mutant| (*mutant, fate)));
        }
    }
    told
}

fn hear(mutant: &Mutant, fate: Fate, shared: &mut Shared<'_, '_>) -> Result<(), String> {
    shared.results.add(mutant, fate)?;
    let accepted = shared.accepted.reason(mutant).is_some();
    match fate {
        Fate::Survived if !accepted => {
            shared.progress.say(&format!("{} {}", paint("1;31", "survived"), mutant.name));
        }
        Fate::TimedOut => shared.progress.say(&format!("{} {}", paint("33", "timed out"), mutant.name)),
        _ => {}
    }
    shared.progress.one(&mutant.package, fate == Fate::Survived && !accepted);
    Ok(())
}

/// How far it is.
struct Progress {
    all: usize,
    done: usize,
    survivors: usize,
    started: Instant,
    terminal: bool,
}

impl Progress {
    fn new(all: usize) -> Self {
        Self { all, done: 0, survivors: 0, started: Instant::now(), terminal: stderr().is_terminal() }
    }

    fn say(&self, line: &str) {
        eprintln!("{}{line}", if self.terminal { "\r\x1b[K" } else { "" });
    }

    fn one(&mut self, package: &str, survived: bool) {
        self.done = self.done.saturating_add(1);
        self.survivors = self.survivors.saturating_add(usize::from(survived));
        let seconds = self.started.elapsed().as_secs_f64() / self.done as f64;
        let left = seconds * self.all.saturating_sub(self.done) as f64 / 60.0;
        let line = format!(
            "{package}: {} of {} mutants, {} survivors, {seconds:.1} s each, {left:.0} minutes left",
            self.done, self.all, self.survivors
        );
        if self.terminal {
            eprint!("\r\x1b[K{line}");
        } else if self.done.is_multiple_of(LINE_EVERY) || self.done == self.all {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::super::list::example;
    use super::*;

    #[test]
    fn batches_are_of_one_file_and_not_long() {
        let all: Vec<Mutant> =
            (0..90).map(|at| example("a.rs", at)).chain((0..3).map(|at| example("b.rs", at))).collect();
        let batches = batches(&all.iter().collect::<Vec<_>>());
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [40, 40, 10, 3]);
    }

    #[test]
    fn names_are_meant_as_they_are() {
        assert_eq!(
            literal("a/b.rs:1:2: replace f -> Option<[u8; 4]> with Some((1 + *x))"),
            r"a/b\.rs:1:2: replace f -> Option<\[u8; 4\]> with Some\(\(1 \+ \*x\)\)"
        );
    }

    #[test]
    fn cargo_mutants_output_is_read_as_far_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let all = [1, 2, 3].map(|line| example("a.rs", line));
        let batch: Batch<'_> = all.iter().collect();
        assert!(told(&folder.path().join("none"), &batch).is_empty());
        fs::write(folder.path().join("caught.txt"), format!("{}\na.rs:3:9: repl", all[0].name)).unwrap();
        fs::write(folder.path().join("missed.txt"), format!("{}\nanother\n", all[1].name)).unwrap();
        assert_eq!(told(folder.path(), &batch), [(&all[0], Fate::Caught), (&all[1], Fate::Survived)]);
    }
}
