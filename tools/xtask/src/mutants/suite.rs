//! What is run on each mutant: the quick tests of its folder, as `tools/mutants/suites.toml` says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// The suites of all folders.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suites {
    /// For all: names and values of environment variables.
    environment: BTreeMap<String, String>,
    /// By crate, or by folder or file in one.
    suite: BTreeMap<String, Suite>,
}

/// The quick tests for the mutants of one folder.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Suite {
    /// Packages whose tests are run.
    packages: Vec<String>,
    /// Which of their tests, as `cargo test` takes it.
    arguments: Vec<String>,
    /// Tests that take too long, by parts of their names.
    #[serde(default)]
    skip: Vec<String>,
    /// Folders with tests beside the package's own, on which the result depends.
    #[serde(default)]
    also_reads: Vec<String>,
}

impl Suites {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is not of this form.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// The suite for the mutants of a source file, and the folder that it is for: the innermost that has one.
    pub(crate) fn of(&self, file: &str) -> Result<(&str, &Suite), String> {
        let folders = Path::new(file).ancestors().filter_map(Path::to_str);
        let mut suites = folders.filter_map(|folder| self.suite.get_key_value(folder));
        let found = suites.next().map(|(folder, suite)| (&**folder, suite));
        found.ok_or_else(|| format!("tools/mutants/suites.toml has no suite for {file}"))
    }

    /// What the tests find in their environment.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment.iter().map(|(name, value)| (&**name, &**value))
    }
}

impl Suite {
    /// The words of `cargo test` itself.
    pub(crate) fn build_words(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(|word| &**word)
    }

    /// The packages whose tests are run.
    pub(crate) fn packages(&self) -> impl Iterator<Item = &str> {
        self.packages.iter().map(|package| &**package)
    }

    /// The words for the tests' own programs.
    pub(crate) fn test_words(&self) -> Vec<&str> {
        self.skip.iter().flat_map(|name| ["--skip", name]).collect()
    }

    /// Folders with tests beside the package's own.
    pub(crate) fn also_reads(&self) -> &[String] {
        &self.also_reads
    }

    /// All that decides what is run.
    pub(crate) fn spelled(&self) -> String {
        format!("{:?} {:?} {:?}", self.packages, self.arguments, self.skip)
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_innermost_folder_decides() {
        let suite = |name| format!("[suite.\"{name}\"]\npackages = [\"{name}\"]\narguments = []\n");
        let text = ["a", "a/src/b", "a/src/b/c.rs"].map(suite).concat();
        let suites: Suites = toml::from_str(&format!("[environment]\n{text}")).unwrap();
        let of = |file| suites.of(file).map(|(name, _)| name);
        assert_eq!(of("a/src/lib.rs"), Ok("a"));
        assert_eq!(of("a/src/bc.rs"), Ok("a"));
        assert_eq!(of("a/src/b/d.rs"), Ok("a/src/b"));
        assert_eq!(of("a/src/b/c.rs"), Ok("a/src/b/c.rs"));
        assert!(of("b/src/lib.rs").unwrap_err().contains("b/src/lib.rs"));
    }
}
