//! `cargo xtask mutants` from one run to the next, with a script in cargo-mutants' place and a small
//! checkout.

#![cfg(unix)]
// Helpers of tests fail tests.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// What becomes of which mutant.
const MUTANTS: &str = "\
caught p2m/src/a.rs:1:3: replace + with - in toast
missed p2m/src/a.rs:2:3: replace * with / in toast
unviable p2m/src/b.rs:1:1: replace jam -> Option<[u8; 2]> with Some(Default::default())
timeout xen-iommu/src/lib.rs:1:1: delete ! in butter
";

const ACCEPTED: &str = "[[survivor]]\nfile = \"p2m/src/a.rs\"\nmutant = \"replace * with / in toast\"\nline = \"a * 1\"\nreason = \"the same\"\n";

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("mutants", MUTANTS);
        place.write("checkout/p2m/src/a.rs", "a + 0;\n  a * 1\n");
        place.write("checkout/p2m/src/b.rs", "None\n");
        place.write("checkout/p2m/tests/all.rs", "one\n");
        place.write("checkout/xen-iommu/src/lib.rs", "!true\n");
        place.write("checkout/tools/mutants/survivors.toml", "");
        place.write(
            "checkout/tools/mutants/suites.toml",
            "[environment]\nQUICK = \"1\"\n[suite.acpi-dmar]\npackages = [\"acpi-dmar\"]\narguments = []\n\
             [suite.p2m]\npackages = [\"p2m\"]\narguments = [\"--lib\"]\nskip = [\"slow\"]\n\
             [suite.xen-iommu]\npackages = [\"xen-iommu\", \"tests\"]\narguments = [\"--test\", \"policy\"]\n",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    /// Exit code, what is printed, and how cargo was called to try mutants.
    fn run(&self, words: &[&str], variables: &[(&str, &str)]) -> (i32, String, Vec<String>) {
        let _ = fs::remove_file(self.path("log"));
        let output: Output = Command::new(env!("CARGO_BIN_EXE_xtask"))
            .arg("mutants")
            .args(words)
            .env("CARGO", Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-mutants.sh"))
            .env("CARGO_MANIFEST_DIR", self.path("checkout/tools/xtask"))
            .env("FAKE_PLACE", self.0.path())
            .envs(variables.iter().copied())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let tried = log.lines().filter(|line| line.contains("--in-place")).map(str::to_owned).collect();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap(), tried)
    }
}

#[test]
fn survivors_fail_and_nothing_is_tried_twice() {
    let place = Place::new();
    let (code, text, tried) = place.run(&["--jobs", "1"], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("survived p2m/src/a.rs:2:3: replace * with / in toast\n    a * 1\n"), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert!(rows.contains(&vec!["p2m", "3", "1", "0", "1", "0", "1", "0", "0"]), "{text}");
    assert!(rows.contains(&vec!["xen-iommu", "1", "0", "1", "0", "0", "0", "0", "0"]), "{text}");
    assert_eq!(tried.len(), 3);
    assert!(
        tried[0].contains("--test-package=p2m --cargo-arg=--lib --cargo-test-arg=-- --cargo-test-arg=--skip")
    );
    assert!(tried[2].contains("--test-package=xen-iommu --test-package=tests --cargo-arg=--test"));

    let (code, _, tried) = place.run(&[], &[]);
    assert_eq!((code, tried), (1, vec![]));
    place.write("checkout/tools/mutants/survivors.toml", ACCEPTED);
    let (code, text, tried) = place.run(&[], &[]);
    assert_eq!((code, tried), (0, vec![]), "{text}");
}

#[test]
fn what_changed_is_tried_again() {
    let place = Place::new();
    place.write("checkout/tools/mutants/survivors.toml", ACCEPTED);
    assert_eq!(place.run(&[], &[]).0, 0);
    place.write("checkout/p2m/src/b.rs", "None // and a word\n");
    let (_, _, tried) = place.run(&[], &[]);
    assert!(tried.len() == 1 && tried[0].contains("--file=p2m/src/b.rs"), "{tried:?}");
    // More tests may catch what survived; what was caught stays so.
    place.write("checkout/p2m/tests/all.rs", "two\n");
    let (_, _, tried) = place.run(&[], &[]);
    assert!(tried.len() == 1 && tried[0].contains("--file=p2m/src/a.rs"), "{tried:?}");
    assert_eq!(tried[0].matches("--re=").count(), 1);
    place.write("checkout/p2m/tests/all.rs", "one\n");
    assert_eq!(place.run(&[], &[]).2.len(), 0);
}

#[test]
fn what_is_kept_in_the_repository_is_not_tried_elsewhere() {
    let place = Place::new();
    // A source with a survivor that has no reason is not kept.
    assert_eq!(place.run(&["--keep"], &[]).0, 1);
    let known = || fs::read_to_string(place.path("checkout/tools/mutants/known.toml")).unwrap();
    assert!(known().contains("[\"p2m/src/b.rs\"]") && !known().contains("a.rs"), "{}", known());
    place.write("checkout/tools/mutants/survivors.toml", ACCEPTED);
    assert_eq!(place.run(&["--keep"], &[]).0, 0);
    let kept = known();
    assert!(kept.contains("[\"p2m/src/a.rs\"]") && kept.contains("accepted = 1"), "{kept}");

    // A checkout on another computer.
    let target = place.path("checkout/target");
    fs::remove_dir_all(&target).unwrap();
    let (code, text, tried) = place.run(&["--keep"], &[]);
    assert_eq!((code, tried, known()), (0, vec![], kept), "{text}");
    assert_eq!(place.run(&["--again"], &[]).2.len(), 3);
    fs::remove_dir_all(&target).unwrap();
    place.write("checkout/p2m/src/b.rs", "None;\n");
    let (_, _, tried) = place.run(&[], &[]);
    assert!(tried.len() == 1 && tried[0].contains("--file=p2m/src/b.rs"), "{tried:?}");
}

#[test]
fn the_list_must_be_true() {
    let place = Place::new();
    place.write("checkout/tools/mutants/survivors.toml", &ACCEPTED.replace("a * 1", "a * 2"));
    let (code, text, _) = place.run(&["--file", "p2m/src/b.rs"], &[]);
    assert!(code == 1 && text.contains("no such mutant any more"), "{text}");
    place.write("checkout/tools/mutants/survivors.toml", &ACCEPTED.replace("reason", "because"));
    let (code, text, tried) = place.run(&[], &[]);
    assert!(code == 2 && text.contains("because") && tried.is_empty(), "{text}");
}

#[test]
fn a_run_that_goes_wrong_keeps_what_it_learned() {
    let place = Place::new();
    place.write("mutants", &MUTANTS.replace("missed", "lost"));
    let (code, text, _) = place.run(&["--jobs", "1"], &[]);
    assert!(code == 2 && text.contains("said nothing of 1 mutants"), "{text}");
    place.write("mutants", MUTANTS);
    let (code, text, tried) = place.run(&["--file", "p2m/src/a.rs"], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(tried.len() == 1 && tried[0].matches("--re=").count() == 1, "{tried:?}");

    let (code, text, tried) = Place::new().run(&[], &[("FAKE_SUITE", "101")]);
    assert!(code == 2 && text.contains("fails without a mutant") && tried.is_empty(), "{text}");
    let (code, text, _) = Place::new().run(&[], &[("FAKE_CODE", "4")]);
    assert!(code == 2 && text.contains("cargo-mutants ended with exit status: 4"), "{text}");
}

#[test]
fn shards_and_lists_run_what_they_say() {
    let place = Place::new();
    let (_, text, tried) = place.run(&["--list"], &[]);
    assert!(tried.is_empty() && text.matches("not run ").count() == 4, "{text}");
    let parts: usize = ["1/2", "2/2"].iter().map(|shard| place.run(&["--shard", shard], &[]).2.len()).sum();
    assert_eq!(parts, 3);
    assert_eq!(place.run(&[], &[]).2.len(), 0);
}

#[test]
fn only_what_changed_since_main() {
    let place = Place::new();
    let git = place.path("git");
    place.write("git", "#!/bin/sh\necho p2m/src/b.rs\necho README.md\n");
    let mut mode = fs::metadata(&git).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    fs::set_permissions(&git, mode).unwrap();
    let (code, text, tried) = place.run(&["--changed"], &[("GIT", git.to_str().unwrap())]);
    assert_eq!(code, 0, "{text}");
    assert!(tried.len() == 1 && tried[0].contains("--file=p2m/src/b.rs"), "{tried:?}");
}
