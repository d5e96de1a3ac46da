//! Ways to break the code on purpose, as patches in `tools/explore/breaks`: each is applied to a copy of the
//! checkout and built, and the exploration of that has to find it. So the code itself has nothing in it that
//! breaks it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use crate::mirror::Mirror;
use crate::phase::{paint, quiet};
use crate::tools::GIT;
use crate::{cargo, root};

/// How far a break is looked for, unless its patch says otherwise.
const BOUNDS: &str = "--states 48000 --depth 5 --failures 2";
/// Before these words in a patch's header stand other options for the exploration that is to find it.
const OPTIONS: &str = "Explore: ";

/// A patch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Break {
    name: String,
    /// What is broken, and against which rule.
    what: String,
    /// For the exploration.
    options: String,
    patch: PathBuf,
}

/// All of them, by name.
pub(crate) fn all() -> Result<Vec<Break>, String> {
    in_folder(&root().join("tools/explore/breaks"))
}

fn in_folder(folder: &Path) -> Result<Vec<Break>, String> {
    let files = fs::read_dir(folder).map_err(|error| format!("cannot read {}: {error}", folder.display()))?;
    let mut files: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "patch"));
    files.sort();
    files.into_iter().map(read).collect()
}

fn read(patch: PathBuf) -> Result<Break, String> {
    let text =
        fs::read_to_string(&patch).map_err(|error| format!("cannot read {}: {error}", patch.display()))?;
    let header = text.lines().take_while(|line| !line.starts_with("diff ") && !line.starts_with("--- "));
    let (options, what): (Vec<&str>, Vec<&str>) =
        header.filter(|line| !line.is_empty()).partition(|line| line.starts_with(OPTIONS));
    if what.is_empty() {
        return Err(format!("{} does not begin with a sentence that says what is broken", patch.display()));
    }
    let options = options.first().and_then(|line| line.strip_prefix(OPTIONS)).unwrap_or(BOUNDS);
    Ok(Break {
        name: patch.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        what: what.join(" "),
        options: options.to_owned(),
        patch,
    })
}

/// Applies a patch in a folder, or only tries to; git's words when it does not apply.
fn apply(patch: &Path, folder: &Path, only_check: bool) -> Result<(), String> {
    let mut command = Command::new(GIT.have()?);
    command.current_dir(folder).args(["apply", "--whitespace=nowarn"]);
    if only_check {
        command.arg("--check");
    }
    // In a folder of a repository, git would leave out what the patch has outside of it; so there is no
    // repository around.
    if let Some(around) = folder.parent() {
        command.env("GIT_CEILING_DIRECTORIES", around);
    }
    let output = command.arg(patch).output().map_err(|error| format!("cannot start git: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("{} does not apply: {words}", patch.display()))
}

/// Prints names and sentences.
pub(crate) fn list() -> Result<ExitCode, String> {
    let all = all()?;
    let width = all.iter().map(|one| one.name.len()).max().unwrap_or_default();
    for Break { name, what, .. } in all {
        println!("{name:<width$}  {what}");
    }
    Ok(ExitCode::SUCCESS)
}

/// The place where breaks are built, one after the other, so that what no patch touches is built once.
struct Bench {
    tree: Mirror,
    build: PathBuf,
}

/// A breach that a break has led to.
struct Find {
    breach: String,
    /// How many calls led to it.
    calls: usize,
    /// After how many states, in the tool's words.
    states: String,
}

/// What became of a break.
enum Outcome {
    Found(Find),
    Overlooked,
}

impl Bench {
    fn set_up() -> Result<Self, String> {
        let folder = root().join("target/breaks");
        Ok(Self { tree: Mirror::of_checkout(folder.join("tree"))?, build: folder.join("build") })
    }

    fn explore(&self, one: &Break) -> Result<Outcome, String> {
        self.tree.refresh()?;
        apply(&one.patch, self.tree.folder(), false)?;
        let mut command = cargo();
        command.current_dir(self.tree.folder()).env("CARGO_TARGET_DIR", &self.build);
        // What a break leaves without a use is no matter here.
        command.env("RUSTFLAGS", "-Awarnings");
        command.args(["run", "--quiet", "--profile", "breaks", "--package", "explore", "--"]);
        command.args(one.options.split_whitespace()).stdout(Stdio::piped());
        let output = command.spawn().and_then(std::process::Child::wait_with_output);
        let output = output.map_err(|error| format!("cannot start cargo: {error}"))?;
        outcome(output.status.code(), &String::from_utf8_lossy(&output.stdout))
            .map_err(|reason| format!("{}: {reason}", one.name))
    }
}

/// What the exploration says of a break.
fn outcome(code: Option<i32>, text: &str) -> Result<Outcome, String> {
    let breach = text.lines().find_map(|line| line.strip_prefix("broken: "));
    match (code, breach) {
        (Some(0), _) => Ok(Outcome::Overlooked),
        (Some(1), Some(breach)) => {
            let steps = text.lines().skip_while(|line| !line.starts_with("after boot")).skip(1);
            let calls = steps.take_while(|line| line.starts_with("  ")).count();
            // The last line is of all settings.
            let states = text.lines().rev().find_map(|line| Some(line.split_once(" states, ")?.0));
            let (breach, states) = (breach.to_owned(), states.unwrap_or("?").to_owned());
            Ok(Outcome::Found(Find { breach, calls, states }))
        }
        (Some(code), _) => {
            Err(format!("it does not build, or the exploration ended with {code} and found nothing"))
        }
        (None, _) => Err("the exploration was ended by a signal".into()),
    }
}

/// Explores the code broken in each of the ways named, or in all.
pub(crate) fn find(name: Option<&str>) -> Result<ExitCode, String> {
    let mut all = all()?;
    if let Some(name) = name {
        all.retain(|one| one.name == name);
        if all.is_empty() {
            return Err(format!("there is no break {name:?}; cargo xtask explore --list-breaks names them"));
        }
    }
    for one in &all {
        apply(&one.patch, &root(), true)?;
    }
    let overlooked = explore(&all)?;
    if overlooked == 0 {
        eprintln!("{}", paint("1;32", &format!("all {} breaks were found", all.len())));
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{}", paint("1;31", &format!("{overlooked} of {} breaks were not found", all.len())));
    Ok(ExitCode::FAILURE)
}

/// A break that has to be found, for a test that cannot wait for all.
pub(crate) fn sample() -> Result<(), String> {
    let mut all = all()?;
    all.truncate(1);
    if all.is_empty() {
        return Err("there is no break".into());
    }
    if explore(&all)? == 0 { Ok(()) } else { Err("a break was not found".into()) }
}

/// How many were not found.
fn explore(all: &[Break]) -> Result<usize, String> {
    let bench = Bench::set_up()?;
    let mut overlooked = 0_usize;
    for one in all {
        eprintln!("{} {}", paint("1", &one.name), quiet(&one.what));
        let started = Instant::now();
        let outcome = bench.explore(one);
        let seconds = started.elapsed().as_secs();
        match outcome {
            Ok(Outcome::Found(Find { breach, calls, states })) => {
                let calls = if calls == 1 { "1 call".into() } else { format!("{calls} calls") };
                eprintln!(
                    "  {} in {seconds} s, in {states} states, after {calls}: {breach}",
                    paint("32", "found")
                );
            }
            Ok(Outcome::Overlooked) => {
                overlooked = overlooked.saturating_add(1);
                eprintln!("  {} in {seconds} s, with {}", paint("1;31", "not found"), one.options);
            }
            // The others are worth a look all the same.
            Err(reason) => {
                overlooked = overlooked.saturating_add(1);
                eprintln!("  {}: {reason}", paint("1;31", "not explored"));
            }
        }
    }
    Ok(overlooked)
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_break_applies_to_the_sources() {
        let all = all().unwrap();
        assert!(!all.is_empty());
        for one in all {
            assert_eq!(apply(&one.patch, &root(), true), Ok(()));
            assert!(one.what.ends_with('.') && one.what.contains("rule"), "{}: {}", one.name, one.what);
        }
    }

    #[test]
    fn a_patch_says_what_it_breaks() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
        file(
            "b.patch",
            "Toast is not turned, against\nrule 3.\nExplore: --states 9\n\ndiff --git a/x b/x\nnot this\n",
        );
        file("a.patch", "Toast is dry.\n--- a/x\n+++ b/x\n");
        file("README", "no patch");
        let all = in_folder(place.path()).unwrap();
        let said: Vec<_> = all.iter().map(|one| (&*one.name, &*one.what, &*one.options)).collect();
        assert_eq!(
            said,
            [("a", "Toast is dry.", BOUNDS), ("b", "Toast is not turned, against rule 3.", "--states 9")]
        );
        file("c.patch", "diff --git a/x b/x\n");
        assert!(in_folder(place.path()).unwrap_err().contains("c.patch does not begin with a sentence"));
    }

    #[test]
    fn a_patch_applies_whatever_repository_is_around() {
        let place = tempfile::tempdir().unwrap();
        let tree = place.path().join("target/tree");
        fs::create_dir_all(tree.join("p")).unwrap();
        fs::create_dir(place.path().join(".git")).unwrap();
        fs::write(tree.join("p/x"), "one\ntwo\n").unwrap();
        let patch = place.path().join("a.patch");
        fs::write(&patch, "A sentence.\n\n--- a/p/x\n+++ b/p/x\n@@ -1,2 +1,2 @@\n one\n-two\n+three\n")
            .unwrap();
        apply(&patch, &tree, true).unwrap();
        assert_eq!(fs::read_to_string(tree.join("p/x")).unwrap(), "one\ntwo\n");
        apply(&patch, &tree, false).unwrap();
        assert_eq!(fs::read_to_string(tree.join("p/x")).unwrap(), "one\nthree\n");
        assert!(apply(&patch, &tree, true).unwrap_err().contains("does not apply"));
    }

    #[test]
    fn only_a_breach_is_a_find() {
        let text = "setting: 3 states, 9 calls\n\nbroken: a frame is reachable\nafter boot\n  1. create d1\n  2. assign\n\n7 states, 9 calls";
        assert!(matches!(outcome(Some(1), text).unwrap(), Outcome::Found(Find { breach, calls: 2, states })
                if breach == "a frame is reachable" && states == "7"));
        assert!(matches!(outcome(Some(0), "all held").unwrap(), Outcome::Overlooked));
        for code in [Some(1), Some(2), Some(101), None] {
            assert!(outcome(code, "error: it does not build").is_err());
        }
    }
}
