//! `cargo xtask fuzz`: looks for inputs that break something, with libFuzzer, which needs a nightly toolchain
//! and cargo-fuzz.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use crate::phase::{paint, quiet, spelled};
use crate::tools::{have_cargo_verb, in_path, install};
use crate::words::Usage;
use crate::{cargo, root};

const USAGE: Usage = Usage(
    "\
Usage: cargo xtask fuzz [TARGET] [SECONDS]

Tries inputs on TARGET, or on all targets in turn, for SECONDS each (60). What it learns stays in target/fuzz-corpus; an input that breaks something
is kept in tools/fuzz/findings, from where `cargo test -p fuzz-targets` replays it.

  -h, --help   this text, and the targets

Exit: 0 nothing was found, 1 something was, 2 wrong usage.",
);

/// What became of a target.
struct Outcome {
    target: String,
    runs: u64,
    /// Edges of the program that some input took, as libFuzzer counts them.
    coverage: u64,
    time: Duration,
    findings: Vec<PathBuf>,
}

/// Fuzzes.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let read = USAGE.read(&words)?;
    if read.help || read.others.first().is_some_and(|word| word == "help") {
        println!("{}\n\nTargets: {}", USAGE.0, targets()?.join(", "));
        return Ok(ExitCode::SUCCESS);
    }
    let (targets, seconds) = choose(&read.others, targets()?)?;
    let nightly = Nightly::find()?;
    nightly.have_cargo_fuzz()?;
    let mut build = nightly.cargo();
    build.args(["fuzz", "build", "--fuzz-dir", "tools/fuzz"]);
    eprintln!("{}", quiet(&format!("$ {}", spelled(&build))));
    match build.status() {
        Ok(status) if status.success() => {}
        Ok(status) => {
            return Err(format!("the targets do not build ({status}); libFuzzer needs a C++ compiler"));
        }
        Err(error) => return Err(format!("cannot start cargo: {error}")),
    }
    let outcomes = targets.into_iter().map(|target| fuzz(&nightly, target, seconds));
    let outcomes = outcomes.collect::<Result<Vec<_>, String>>()?;
    Ok(summary(&outcomes))
}

/// The targets as the package for cargo-fuzz has them.
fn targets() -> Result<Vec<String>, String> {
    let manifest = root().join("tools/fuzz/Cargo.toml");
    let text = fs::read_to_string(&manifest)
        .map_err(|error| format!("cannot read {}: {error}", manifest.display()))?;
    let bins = text.split("[[bin]]").skip(1);
    let names = bins.filter_map(|bin| bin.split("name = \"").nth(1)?.split('"').next());
    Ok(names.map(str::to_owned).collect())
}

fn choose(words: &[String], all: Vec<String>) -> Result<(Vec<String>, u64), String> {
    let (target, seconds) = match words {
        [] => (None, None),
        [one] if one.parse::<u64>().is_ok() => (None, Some(one)),
        [target] => (Some(target), None),
        [target, seconds] => (Some(target), Some(seconds)),
        _ => return Err(USAGE.0.into()),
    };
    let seconds = seconds.map_or(Ok(60), |word| {
        let number = word.parse().ok().filter(|number| *number > 0);
        number.ok_or(format!("{word:?} is no number of seconds\n\n{}", USAGE.0))
    })?;
    let Some(target) = target else { return Ok((all, seconds)) };
    if !all.contains(target) {
        return Err(format!("there is no target {target:?}; there are {}", all.join(", ")));
    }
    Ok((vec![target.clone()], seconds))
}

/// A cargo of a nightly toolchain: sanitizers are only there.
enum Nightly {
    /// The one that runs us.
    This,
    /// By `rustup run`.
    Rustup,
}

impl Nightly {
    fn find() -> Result<Self, String> {
        let version = cargo().arg("--version").output();
        if version.is_ok_and(|version| version.stdout.windows(8).any(|part| part == b"-nightly")) {
            return Ok(Self::This);
        }
        if in_path("rustup").is_none() {
            return Err("fuzzing needs a nightly toolchain, and rustup, which has them, is missing: \
                        see https://rustup.rs, then rustup toolchain install nightly"
                .into());
        }
        let version = Self::Rustup.cargo().arg("--version").stderr(Stdio::null()).output();
        if !version.is_ok_and(|version| version.status.success()) {
            eprintln!("fuzzing needs a nightly toolchain; installing one");
            install(Command::new("rustup").args([
                "toolchain",
                "install",
                "nightly",
                "--profile",
                "minimal",
            ]))?;
        }
        Ok(Self::Rustup)
    }

    fn cargo(&self) -> Command {
        match self {
            Self::This => cargo(),
            Self::Rustup => {
                let mut command = Command::new("rustup");
                command.current_dir(root()).args(["run", "nightly", "cargo"]);
                command
            }
        }
    }

    fn have_cargo_fuzz(&self) -> Result<(), String> {
        have_cargo_verb(&mut self.cargo(), "fuzz", "starts libFuzzer")
    }
}

fn fuzz(nightly: &Nightly, target: String, seconds: u64) -> Result<Outcome, String> {
    let corpus = root().join("target/fuzz-corpus").join(&target);
    let findings = root().join("tools/fuzz/findings").join(&target);
    for folder in [&corpus, &findings] {
        fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    let before = files(&findings);
    // Tables are bytes, and may be long; what the other targets make of bytes is at its end long before.
    let tables = matches!(target.as_str(), "parse" | "resolve" | "inspect" | "registry");
    let mut command = nightly.cargo();
    command.args(["fuzz", "run", "--fuzz-dir", "tools/fuzz", &target]).arg(&corpus);
    command.arg(root().join("tools/fuzz/seeds").join(&target));
    let real = root().join("../shared/dmar-corpus");
    if tables && real.is_dir() {
        command.arg(real);
    }
    command.arg("--").arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={}", if tables { 0x1_0000 } else { 0x1000 }));
    command.args(["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"]);
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    eprintln!("\n{} {}", paint("1", &target), quiet(&spelled(&command)));

    let mut child =
        command.stderr(Stdio::piped()).spawn().map_err(|error| format!("cannot start cargo: {error}"))?;
    let (mut runs, mut coverage, mut started) = (0, 0, Instant::now());
    for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(|lines| lines.lines()) {
        let Ok(line) = line else { continue };
        if line.starts_with("INFO: Seed:") {
            // What came before was building.
            started = Instant::now();
        } else if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            runs = count.trim().parse().unwrap_or(runs);
        } else if let Some(rest) = line.split(" cov: ").nth(1) {
            coverage = rest.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(coverage);
        }
        // Each input that was new is a line, and so are the words to recommend and the statistics.
        let noise = ["\tNEW ", "\tREDUCE ", "\tRELOAD ", "ecommended dictionary", "# Uses: ", "stat::"];
        if !noise.iter().any(|part| line.contains(part)) {
            eprintln!("{}", quiet(&line));
        }
    }
    let status = child.wait().map_err(|error| format!("cannot wait for cargo: {error}"))?;
    let found: Vec<_> = files(&findings).difference(&before).cloned().collect();
    // An empty folder would be one more thing to explain.
    let _ = fs::remove_dir(&findings);
    if !status.success() && found.is_empty() {
        return Err(format!("fuzzing {target} ended without a finding and without success ({status})"));
    }
    Ok(Outcome { target, runs, coverage, time: started.elapsed(), findings: found })
}

fn files(folder: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn summary(outcomes: &[Outcome]) -> ExitCode {
    println!("\n{:<10} {:>12} {:>9} {:>9} {:>9}", "target", "runs", "seconds", "coverage", "findings");
    for Outcome { target, runs, coverage, time, findings } in outcomes {
        println!("{target:<10} {runs:>12} {:>9} {coverage:>9} {:>9}", time.as_secs(), findings.len());
    }
    let mut code = ExitCode::SUCCESS;
    for Outcome { target, findings, .. } in outcomes {
        for finding in findings {
            code = ExitCode::FAILURE;
            let finding = finding.strip_prefix(root()).unwrap_or(finding).display();
            println!(
                "\n{target} fails on {finding}. Replay it with: cargo test -p fuzz-targets --test replay findings::{target}"
            );
            println!("Make it smaller with: cargo +nightly fuzz tmin {target} {finding}");
        }
    }
    code
}
