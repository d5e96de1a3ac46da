//! What `cargo xtask` does about a missing QEMU, with a folder of stand-ins as the only programs there are.

#![cfg(unix)]
// Helpers of tests fail tests.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// What `cargo xtask test` needs beside Rust.
const TEST_TOOLS: &[&str] = &["qemu-system-x86_64", "bochs", "iasl", "valgrind", "git"];

struct Place {
    folder: TempDir,
    variables: Vec<(&'static str, &'static str)>,
}

impl Place {
    /// A machine that has these programs.
    fn with(programs: &[&str]) -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap(), variables: Vec::new() };
        fs::create_dir(place.programs()).unwrap();
        let breaks = place.checkout().join("tools/explore/breaks");
        fs::create_dir_all(&breaks).unwrap();
        fs::write(breaks.join("dry.patch"), "Toast is dry, against rule 1.\n\ndiff --git a/x b/x\n").unwrap();
        for program in programs.iter().chain(&["cargo", "id", "env"]) {
            symlink(fake(), place.programs().join(program)).unwrap();
        }
        place
    }

    fn and(mut self, name: &'static str, value: &'static str) -> Self {
        self.variables.push((name, value));
        self
    }

    fn programs(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn checkout(&self) -> PathBuf {
        self.folder.path().join("checkout")
    }

    fn xtask(&self, words: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_xtask"))
            .args(words)
            .env("PATH", self.programs())
            .env("CARGO_MANIFEST_DIR", self.checkout().join("tools/xtask"))
            .env("CARGO", self.programs().join("cargo"))
            .env("FAKE_LOG", self.folder.path().join("log"))
            .env("FAKE_SH", fake())
            .env("FAKE_BIN", self.programs())
            .env("FAKE_UID", "1000")
            // No program that a folder of stand-ins could have.
            .env("XEN_PUBLIC_HEADERS", self.folder.path())
            .env_remove("QEMU")
            .env_remove("GIT")
            .envs(self.variables.iter().copied())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// How the programs were called.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

fn fake() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake.sh")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const INSTALL: &str = "apt-get install -q -y --no-install-recommends qemu-system-x86\n";

#[test]
fn qemu_that_is_there_is_used() {
    let place = Place::with(&["qemu-system-x86_64", "apt-get"]);
    let output = place.xtask(&["boot", "--list-steps"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!place.log().contains("apt-get"));
    let program = place.programs().join("qemu-system-x86_64");
    let boot = format!("-- boot --qemu {} --list-steps", program.display());
    assert!(place.log().contains(&boot), "{}", place.log());
    assert!(stderr(&output).contains("QEMU 8.2.2"));
}

#[test]
fn root_installs_with_apt() {
    let place = Place::with(&["apt-get"]).and("FAKE_UID", "0");
    let output = place.xtask(&["boot"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let log = place.log();
    assert!(log.contains("apt-get update") && log.contains(INSTALL) && !log.contains("sudo"), "{log}");
    assert!(stderr(&output).contains("installing Debian's package qemu-system-x86"));
}

#[test]
fn others_install_with_sudo() {
    let place = Place::with(&["apt-get", "sudo"]);
    let output = place.xtask(&["boot"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(
        place.log().contains(&format!("sudo -n env DEBIAN_FRONTEND=noninteractive {INSTALL}")),
        "{}",
        place.log()
    );
}

#[test]
fn without_sudo_or_apt_the_user_is_told() {
    let place = Place::with(&["apt-get"]);
    let output = place.xtask(&["boot"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("as root: apt-get update && apt-get install qemu-system-x86"));

    for (manager, line) in [("dnf", "sudo dnf install qemu-system-x86-core"), ("brew", "brew install qemu")] {
        let output = Place::with(&[manager]).xtask(&["boot"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(line), "{}", stderr(&output));
    }
    let output = Place::with(&[]).xtask(&["boot"]);
    assert!(stderr(&output).contains("qemu-system-x86") && stderr(&output).contains("$QEMU"));
}

#[test]
fn an_installation_that_fails_is_an_error() {
    let place = Place::with(&["apt-get"]).and("FAKE_UID", "0").and("FAKE_BROKEN", "1");
    let output = place.xtask(&["boot"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("apt-get install") && stderr(&output).contains("failed"));
    assert!(!place.log().contains("cargo"));
}

#[test]
fn an_old_qemu_is_named() {
    let place = Place::with(&["qemu-system-x86_64"]).and("FAKE_VERSION", "6.2.0");
    assert!(stderr(&place.xtask(&["boot"])).contains("older than 7.2"));
}

#[test]
fn help_needs_nothing() {
    let place = Place::with(&[]);
    let output = place.xtask(&["help"]);
    let help = String::from_utf8(output.stdout).unwrap();
    for verb in ["bench", "boot", "explore", "fuzz", "mutants", "test"] {
        assert!(help.contains(&format!("\n  {verb} ")), "{help}");
        if verb != "fuzz" {
            let output = place.xtask(&[verb, "--help"]);
            let help = String::from_utf8(output.stdout).unwrap();
            assert!(
                output.status.success() && help.contains(&format!("cargo xtask {verb}")),
                "{verb}: {help}"
            );
        }
    }
    assert_eq!(place.log(), "");
}

#[test]
fn wrong_words_are_refused_before_anything_is_done() {
    let place = Place::with(&["apt-get"]).and("FAKE_UID", "0");
    for words in [
        &["toast"][..],
        &["bench", "toast"],
        &["bench", "--toast"],
        &["boot", "--toast"],
        &["boot", "toast"],
        &["boot", "--memory", "much"],
        &["boot", "--dmar"],
        &["boot", "--dry-run=yes"],
        &["explore", "--states", "many"],
        &["explore", "--breaks", "--states", "3"],
        &["explore", "--break", "toast"],
        &["mutants", "--shard", "3/2"],
        &["mutants", "--base", "main"],
        &["mutants", "--jobs", "x"],
        &["test", "toast"],
        &["test", "--quick"],
    ] {
        let output = place.xtask(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{words:?}: {}", stderr(&output));
        assert_eq!(place.log(), "", "{words:?}");
    }
}

#[test]
fn a_test_run_stops_at_what_fails_and_says_so() {
    let place = Place::with(TEST_TOOLS).and("FAKE_CARGO", "1");
    let output = place.xtask(&["test"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.contains("tools failed") && text.contains("rustup component add rustfmt"), "{text}");
    assert!(text.lines().any(|line| line.contains("tests") && line.contains("not run")), "{text}");

    let place = Place::with(TEST_TOOLS);
    let output = place.xtask(&["test"]);
    assert!(output.status.success());
    let text = stderr(&output);
    assert!(text.contains("Everything held") && text.contains("found in"), "{text}");
    let log = place.log();
    assert!(log.contains("cargo test --workspace\n") && log.contains("cargo doc "), "{log}");
    for features in ["", "one", "two", "one,two"] {
        assert!(log.contains(&format!("--package xen-iommu --features {features} --")), "{log}");
    }
    // A break that is not found is a failure.
    let output = Place::with(TEST_TOOLS).and("FAKE_EXPLORE", "all held").xtask(&["test"]);
    assert!(!output.status.success());
    assert!(stderr(&output).contains("a break was not found"), "{}", stderr(&output));
}

#[test]
fn the_oldest_rust_is_tried_where_rustup_has_it() {
    let skipped = |output: &Output| {
        let text = stderr(output);
        text.lines().any(|line| line.starts_with("skip") && line.contains("rustup toolchain install 1.88"))
    };
    let output = Place::with(TEST_TOOLS).xtask(&["test"]);
    assert!(output.status.success() && skipped(&output), "{}", stderr(&output));

    let tools = [TEST_TOOLS, &["rustup"]].concat();
    let place = Place::with(&tools);
    let output = place.xtask(&["test"]);
    assert!(output.status.success() && !skipped(&output), "{}", stderr(&output));
    assert!(place.log().contains("rustup run 1.88 cargo check --quiet --workspace\n"), "{}", place.log());

    let place = Place::with(&tools).and("FAKE_RUSTUP", "1");
    let output = place.xtask(&["test"]);
    assert!(output.status.success() && skipped(&output), "{}", stderr(&output));
    assert!(place.log().contains("rustup toolchain install 1.88"), "{}", place.log());
}
