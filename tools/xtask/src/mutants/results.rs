//! What became of mutants, kept by what it depends on: the source without its tests and comments, and for
//! those that survived the tests too, since more of them may catch it. (Who takes tests away removes
//! target/mutants.) Of each state of a source there is a file, to which a line is added as soon as a mutant's
//! fate is known, so that nothing is lost when a run is ended.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::root;

use super::list::Mutant;
use super::suite::{Suite, Suites};

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A test failed.
    Caught,
    /// The tests did not come to their end, and so noticed.
    TimedOut,
    /// It does not build.
    Unviable,
    /// No test noticed.
    Survived,
}

impl Fate {
    /// All of them, with the word for each and the file of cargo-mutants' output that names such mutants.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Caught, "caught", "caught.txt"),
        (Self::TimedOut, "timed-out", "timeout.txt"),
        (Self::Unviable, "unviable", "unviable.txt"),
        (Self::Survived, "survived", "missed.txt"),
    ];

    /// As it is written.
    pub(crate) fn word(self) -> &'static str {
        Self::ALL.iter().find(|(fate, ..)| *fate == self).map_or("", |(_, word, _)| *word)
    }

    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, its, _)| *its == word).map(|(fate, ..)| *fate)
    }
}

/// What the fates of one source file's mutants depend on.
struct Key {
    /// The name of its file here, after what the source says.
    source: String,
    /// What the tests say.
    tests: String,
}

/// All that is known.
pub(crate) struct Results {
    folder: PathBuf,
    keys: BTreeMap<String, Key>,
    fates: HashMap<String, Fate>,
}

impl Results {
    /// What is known of these mutants as the sources and tests are now.
    pub(crate) fn open(folder: PathBuf, mutants: &[Mutant], suites: &Suites) -> Result<Self, String> {
        fs::create_dir_all(&folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let mut results = Self { folder, keys: BTreeMap::new(), fates: HashMap::new() };
        let mut tests: BTreeMap<&str, u64> = BTreeMap::new();
        for mutant in mutants {
            if results.keys.contains_key(&mutant.file) {
                continue;
            }
            let (folder, suite) = suites.of(&mutant.file)?;
            if !tests.contains_key(folder) {
                tests.insert(folder, tests_of(&mutant.package, suite)?);
            }
            let path = root().join(&mutant.file);
            let source =
                fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
            let mut hash = Hash::new();
            hash.add(mutant.file.as_bytes());
            let (source, own_tests) = apart(&source);
            without_comments(source).for_each(|line| hash.add(line));
            let source = format!("{:016x}", hash.0);
            let mut hash = Hash(tests.get(folder).copied().unwrap_or_default());
            hash.add(own_tests);
            results.read(&mutant.file, Key { source, tests: format!("{:016x}", hash.0) });
        }
        Ok(results)
    }

    fn read(&mut self, file: &str, key: Key) {
        let text = fs::read_to_string(self.path(&key.source)).unwrap_or_default();
        let known = text.lines().filter_map(|line| {
            let (word, name) = line.split_once(' ')?;
            let fate = Fate::of_word(word)?;
            let name =
                if fate == Fate::Survived { name.strip_prefix(&*key.tests)?.trim_start() } else { name };
            Some((name.to_owned(), fate))
        });
        self.fates.extend(known);
        self.keys.insert(file.to_owned(), key);
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.txt"))
    }

    /// What is known of a mutant.
    pub(crate) fn fate(&self, mutant: &Mutant) -> Option<Fate> {
        self.fates.get(&mutant.name).copied()
    }

    /// Adds to what is known.
    pub(crate) fn add(&mut self, mutant: &Mutant, fate: Fate) -> Result<(), String> {
        let key = self.keys.get(&mutant.file).ok_or_else(|| format!("{} was not listed", mutant.name))?;
        let path = self.path(&key.source);
        let mut line = match fate {
            Fate::Survived => format!("{} {} {}\n", fate.word(), key.tests, mutant.name),
            _ => format!("{} {}\n", fate.word(), mutant.name),
        };
        if !path.exists() {
            // For whoever looks into the folder; no word for a fate begins so.
            line = format!("# {}\n{line}", mutant.file);
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        self.fates.insert(mutant.name.clone(), fate);
        Ok(())
    }
}

/// All that the mutants of a folder are tried with.
fn tests_of(package: &str, suite: &Suite) -> Result<u64, String> {
    let mut files = BTreeSet::new();
    let own = [format!("{package}/tests"), format!("{package}/src")];
    for (folder, all) in
        own.iter().zip([true, false]).chain(suite.also_reads().iter().zip(std::iter::repeat(true)))
    {
        gather(&root().join(folder), all, &mut files);
    }
    let mut hash = Hash::new();
    hash.add(suite.spelled().as_bytes());
    for file in files {
        hash.add(file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().as_bytes());
        hash.add(&fs::read(&file).map_err(|error| format!("cannot read {}: {error}", file.display()))?);
    }
    Ok(hash.0)
}

/// The files below a folder, all or those of tests.
fn gather(folder: &Path, all: bool, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let tests = all || path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() {
            gather(&path, tests, files);
        } else if tests {
            files.insert(path);
        }
    }
}

/// A source up to its module of tests, and that.
fn apart(source: &[u8]) -> (&[u8], &[u8]) {
    let mark = b"\n#[cfg(test)]\nmod tests {";
    let at = source.windows(mark.len()).position(|window| window == mark).unwrap_or(source.len());
    source.split_at_checked(at).unwrap_or((source, &[]))
}

/// The lines of a source. What comments say decides nothing, but how long they are: lines have numbers.
fn without_comments(source: &[u8]) -> impl Iterator<Item = &[u8]> {
    source.split(|byte| *byte == b'\n').map(|line| match line.trim_ascii_start() {
        [b'/', b'/', ..] => b"//",
        _ => line,
    })
}

/// FNV-1a, with the length of each part.
struct Hash(u64);

impl Hash {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
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
    fn what_is_added_is_there_the_next_time() {
        let folder = tempfile::tempdir().unwrap();
        let with_tests = |source: &str, tests: &str| {
            let (keys, fates) = (BTreeMap::new(), HashMap::new());
            let mut results = Results { folder: folder.path().to_owned(), keys, fates };
            results.read("a.rs", Key { source: source.to_owned(), tests: tests.to_owned() });
            results
        };
        let open = |source: &str| with_tests(source, "some");
        let mut results = open("one");
        assert_eq!(results.fate(&example("a.rs", 1)), None);
        results.add(&example("a.rs", 1), Fate::Caught).unwrap();
        results.add(&example("a.rs", 2), Fate::Survived).unwrap();
        assert!(results.add(&example("b.rs", 2), Fate::Caught).is_err());

        let results = open("one");
        assert_eq!(results.fate(&example("a.rs", 1)), Some(Fate::Caught));
        assert_eq!(results.fate(&example("a.rs", 2)), Some(Fate::Survived));
        assert_eq!(results.fate(&example("a.rs", 3)), None);
        assert_eq!(open("two").fate(&example("a.rs", 1)), None);
        // More tests may catch what survived.
        let results = with_tests("one", "more");
        assert_eq!(results.fate(&example("a.rs", 1)), Some(Fate::Caught));
        assert_eq!(results.fate(&example("a.rs", 2)), None);
        // A line that was cut off when the run was ended.
        fs::write(folder.path().join("three.txt"), "# a.rs\ncaught a.rs:1:9: replace + with - in toast\ncau")
            .unwrap();
        assert_eq!(open("three").fate(&example("a.rs", 1)), Some(Fate::Caught));
    }

    #[test]
    fn tests_are_told_from_sources() {
        let place = tempfile::tempdir().unwrap();
        for file in ["lib.rs", "tests.rs", "a/b.rs", "a/tests.rs", "a/tests/c.rs"] {
            let path = place.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let mut files = BTreeSet::new();
        gather(place.path(), false, &mut files);
        assert_eq!(
            files,
            ["a/tests/c.rs", "a/tests.rs", "tests.rs"].map(|file| place.path().join(file)).into()
        );
        gather(place.path(), true, &mut files);
        assert_eq!(files.len(), 5);
    }

    #[test]
    fn a_source_ends_where_its_tests_begin() {
        let source = b"fn f() {}\n\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(apart(source), (&b"fn f() {}\n"[..], &b"\n#[cfg(test)]\nmod tests {\n}\n"[..]));
        assert_eq!(apart(b"fn f() {}"), (&b"fn f() {}"[..], &[][..]));
    }

    #[test]
    fn comments_count_by_their_lines_alone() {
        let lines = |source| without_comments(source).collect::<Vec<_>>();
        assert_eq!(lines(b"//! a\n\n    // b\nf(); // c"), lines(b"//! x\n\n    //y\nf(); // c"));
        assert_ne!(lines(b"// a\n// b\nf();"), lines(b"// a\nf();"));
        assert_ne!(lines(b"f(); // a"), lines(b"f(); // b"));
    }

    #[test]
    fn each_fate_has_its_word() {
        for (fate, word, _) in Fate::ALL {
            assert_eq!((fate.word(), Fate::of_word(word)), (word, Some(fate)));
        }
        assert_eq!(Fate::of_word("#"), None);
    }
}
