//! `cargo xtask mutants`: changes the libraries in small ways, by cargo-mutants, and runs a quick suite of
//! tests on each change: a mutant that no test notices survives, and says what is not tested.
//!
//! [`list`] knows the mutants; [`suite`] says what is run on them; [`results`] keeps what became of them, by
//! what it depends on, and [`known`] what became of them elsewhere; [`mod@run`] finds out the rest;
//! [`survivors`] reads which may survive, and why.

mod known;
mod list;
mod results;
mod run;
mod suite;
mod survivors;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::process::{Command, ExitCode};

use crate::phase::{paint, quiet};
use crate::tools::{GIT, have_cargo_verb};
use crate::words::{Usage, Words};
use crate::{cargo, root};

use known::{Known, Tried};
use list::Mutant;
use results::{Fate, Results};
use suite::Suites;
use survivors::Survivors;

/// The libraries that are changed. A plan is held against brute force and properties instead: nearly every
/// change of `rdm-layout` is another plan, which its contract notices at once.
const LIBRARIES: [&str; 4] = ["acpi-dmar", "p2m", "xen-abi", "xen-iommu"];

const USAGE: Usage = Usage(
    "\
Usage: cargo xtask mutants [OPTION]...

Changes acpi-dmar, p2m, xen-abi and xen-iommu in small ways, one at a time, and runs a quick suite of tests on each (tools/mutants/suites.toml): a test
has to fail. What became of each mutant is kept in target/mutants/results, by the source it is in and, if it survived, by the tests that were run; a later
run does only what is not known. A mutant that survives is a failure, unless tools/mutants/survivors.toml names it with the reason.

  --shard K/N      only the K-th of N parts, by files; the results of several machines may be put into one folder
  --changed        only in files that differ from the branch main
  --base REF       with --changed: from this instead of main
  --file PATH      only in this file
  --package NAME   only in this crate
  --jobs N         so many at a time, each on a copy of its own (as many as there are CPUs)
  --keep           afterwards, write what became of those of whole sources into tools/mutants/known.toml, for other checkouts
  --again          try those, too, of which known.toml says what became of them
  --list           name the mutants and what is known of them, and run nothing
  -h, --help       this text

Exit: 0 none survived that is not in the list, 1 some did, or the list names one that is not there or is caught; 2 it could not be tried.
",
);

/// What the words ask for.
struct Wanted {
    shard: Shard,
    /// Which files; none is all.
    files: Option<BTreeSet<String>>,
    /// Which crate; none is all.
    package: Option<String>,
    jobs: usize,
}

/// Tries the mutants.
pub(crate) fn run(words: Vec<OsString>) -> Result<ExitCode, String> {
    let words = USAGE.read_options(&words)?;
    if words.help {
        print!("{}", USAGE.0);
        return Ok(ExitCode::SUCCESS);
    }
    let wanted = Wanted::read(&words)?;
    let suites = Suites::read(&root().join("tools/mutants/suites.toml"))?;
    let accepted = Survivors::read(&root().join("tools/mutants/survivors.toml"))?;
    have_cargo_verb(&mut cargo(), "mutants", "makes the mutants")?;

    let all = list::of_packages(&LIBRARIES)?;
    let mut results = Results::open(root().join("target/mutants/results"), &all, &suites)?;
    let known_file = root().join("tools/mutants/known.toml");
    let known = Known::read(&known_file)?;
    if !words.has("--again") {
        results.trust(&known, &all, &accepted);
    }
    let chosen = wanted.choose(&all);
    if chosen.is_empty() {
        eprintln!("there are no mutants in the files that were asked for");
    }
    if words.has("--list") {
        for mutant in chosen {
            let fate = results.fate(mutant).map_or("not run", Fate::word);
            println!("{fate:<9} {}", mutant.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let open = chosen.iter().filter(|mutant| results.fate(mutant).is_none());
    let open: Vec<&Mutant> = open.copied().collect();
    let found = chosen.len().saturating_sub(open.len());
    eprintln!(
        "{}",
        quiet(&format!("{} mutants, of {found} of which it is known what becomes of them", chosen.len()))
    );
    if !open.is_empty() {
        run::all(&open, &suites, &mut results, &accepted, wanted.jobs)?;
    }
    if words.has("--keep") {
        keep(&all, &results, &accepted, &known).write(&known_file)?;
    }
    Ok(verdict(&all, &chosen, &results, &accepted))
}

impl Wanted {
    fn read(words: &Words) -> Result<Self, String> {
        let shard = words.value("--shard").map_or(Ok(Shard { index: 1, of: 1 }), Shard::read)?;
        if words.has("--base") && !words.has("--changed") {
            return Err("--base says what --changed compares with, and goes with that".into());
        }
        let mut files = words.value("--file").map(|file| BTreeSet::from([file.to_owned()]));
        if words.has("--changed") {
            let changed = changed(words.value("--base").unwrap_or("main"))?;
            files = Some(match files {
                None => changed,
                Some(files) => files.intersection(&changed).cloned().collect(),
            });
        }
        let package = words.value("--package").map(str::to_owned);
        if let Some(package) = &package
            && !LIBRARIES.contains(&&**package)
        {
            return Err(format!("--package {package}: the crates are {}", LIBRARIES.join(", ")));
        }
        let cpus = std::thread::available_parallelism().map_or(1, Into::into);
        Ok(Self { shard, files, package, jobs: words.number("--jobs").unwrap_or(cpus).max(1) })
    }

    fn choose<'m>(&self, all: &'m [Mutant]) -> Vec<&'m Mutant> {
        let ours = self.shard.files(all);
        let wanted = |file: &String| self.files.as_ref().is_none_or(|files| files.contains(file));
        let of_package = |name: &String| self.package.as_ref().is_none_or(|package| package == name);
        let chosen = all.iter().filter(|mutant| of_package(&mutant.package) && wanted(&mutant.file));
        chosen.filter(|mutant| ours.contains(&*mutant.file)).collect()
    }
}

/// Files that differ from where this branch left the other.
fn changed(base: &str) -> Result<BTreeSet<String>, String> {
    let mut command = Command::new(GIT.have()?);
    command.current_dir(root()).args(["diff", "--name-only", "--relative", "--merge-base", base]);
    let output = command.output().map_err(|error| format!("cannot start git: {error}"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("git does not know what differs from {base}: {words}"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// A part of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shard {
    /// From 1.
    index: usize,
    of: usize,
}

impl Shard {
    fn read(word: &str) -> Result<Self, String> {
        let numbers =
            word.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        match numbers {
            Some((index, of)) if (1..=of).contains(&index) => Ok(Self { index, of }),
            _ => Err(format!("--shard {word}: it is K/N, with K from 1 to N")),
        }
    }

    /// Its files. Whole files, since results are kept by files; each to the part that has least so far, the
    /// largest first.
    fn files(self, all: &[Mutant]) -> BTreeSet<&str> {
        let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
        for mutant in all {
            let size = sizes.entry(&mutant.file).or_default();
            *size = size.saturating_add(1);
        }
        let mut sizes: Vec<(usize, &str)> = sizes.into_iter().map(|(file, size)| (size, file)).collect();
        sizes.sort_by(|one, other| other.cmp(one));
        let mut parts = vec![(0_usize, BTreeSet::new()); self.of];
        for (size, file) in sizes {
            if let Some((sum, files)) = parts.iter_mut().min_by_key(|(sum, _)| *sum) {
                *sum = sum.saturating_add(size);
                files.insert(file);
            }
        }
        parts.into_iter().nth(self.index.saturating_sub(1)).map(|(_, files)| files).unwrap_or_default()
    }
}

/// The sources of which all mutants were tried, and none survives but those in the list.
fn keep(all: &[Mutant], results: &Results, accepted: &Survivors, known: &Known) -> Known {
    let mut kept = Known::default();
    for mutants in all.chunk_by(|one, other| one.file == other.file) {
        let Some(Mutant { file, .. }) = mutants.first() else { continue };
        let Some(source) = results.source(file) else { continue };
        let mut sums = Sums::default();
        for mutant in mutants {
            sums.count(results.fate(mutant), accepted.reason(mutant).is_some());
        }
        let Sums { caught, timed_out, unviable, accepted, survivors, not_run, known: elsewhere, .. } = sums;
        let tried = Tried { source: source.to_owned(), caught, timed_out, unviable, accepted };
        if elsewhere > 0 {
            kept.0.extend(known.0.get_key_value(file).map(|(file, tried)| (file.clone(), tried.clone())));
        } else if survivors == 0 && not_run == 0 {
            kept.0.insert(file.clone(), tried);
        }
    }
    kept
}

/// What one crate's mutants came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sums {
    mutants: usize,
    caught: usize,
    timed_out: usize,
    unviable: usize,
    accepted: usize,
    survivors: usize,
    known: usize,
    not_run: usize,
}

impl Sums {
    fn count(&mut self, fate: Option<Fate>, accepted: bool) {
        let sum = match fate {
            Some(Fate::Caught) => &mut self.caught,
            Some(Fate::TimedOut) => &mut self.timed_out,
            Some(Fate::Unviable) => &mut self.unviable,
            Some(Fate::Survived) if accepted => &mut self.accepted,
            Some(Fate::Survived) => &mut self.survivors,
            Some(Fate::Known) => &mut self.known,
            None => &mut self.not_run,
        };
        *sum = sum.saturating_add(1);
        self.mutants = self.mutants.saturating_add(1);
    }
}

/// Shows the table, the survivors, and what is wrong with the list of them.
fn verdict(all: &[Mutant], chosen: &[&Mutant], results: &Results, accepted: &Survivors) -> ExitCode {
    println!(
        "\n{:<10} {:>8} {:>8} {:>10} {:>9} {:>9} {:>10} {:>8} {:>8}",
        "crate", "mutants", "caught", "timed out", "unviable", "accepted", "survivors", "known", "not run"
    );
    for package in LIBRARIES {
        let mut sums = Sums::default();
        for mutant in chosen.iter().filter(|mutant| mutant.package == package) {
            sums.count(results.fate(mutant), accepted.reason(mutant).is_some());
        }
        if sums.mutants > 0 {
            let Sums { mutants, caught, timed_out, unviable, accepted, survivors, known, not_run } = sums;
            println!(
                "{package:<10} {mutants:>8} {caught:>8} {timed_out:>10} {unviable:>9} {accepted:>9} {survivors:>10} {known:>8} {not_run:>8}"
            );
        }
    }
    let survived = |mutant: &&&Mutant| results.fate(mutant) == Some(Fate::Survived);
    let survivors = chosen.iter().filter(survived).filter(|mutant| accepted.reason(mutant).is_none());
    let mut holds = true;
    for mutant in survivors {
        holds = false;
        println!("\n{} {}\n    {}", paint("1;31", "survived"), mutant.name, mutant.line);
    }
    for complaint in accepted.complaints(all, &|mutant| results.fate(mutant)) {
        holds = false;
        println!("\n{} {complaint}", paint("1;31", "tools/mutants/survivors.toml:"));
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn shards_have_each_file_once_and_about_the_same() {
        let sizes = [("a", 5), ("b", 9), ("c", 4), ("d", 1), ("e", 8)];
        let mutants =
            |(file, count): (&str, usize)| (0..count).map(|at| list::example(file, at)).collect::<Vec<_>>();
        let all: Vec<Mutant> = sizes.into_iter().flat_map(mutants).collect();
        let parts: Vec<_> = (1..=2).map(|index| Shard { index, of: 2 }.files(&all)).collect();
        assert_eq!(parts, [BTreeSet::from(["b", "c", "d"]), BTreeSet::from(["a", "e"])]);
        assert_eq!(Shard { index: 1, of: 1 }.files(&all).len(), 5);
        assert_eq!(Shard { index: 7, of: 7 }.files(&all).len(), 0);
    }

    #[test]
    fn a_shard_is_one_of_some() {
        assert_eq!(Shard::read("2/3"), Ok(Shard { index: 2, of: 3 }));
        for word in ["0/3", "4/3", "1", "1/0", "a/b", "-1/2"] {
            assert!(Shard::read(word).unwrap_err().contains("K/N"), "{word}");
        }
    }
}
