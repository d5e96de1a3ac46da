//! What became of mutants on other computers: `tools/mutants/known.toml` names the sources of which all
//! mutants were tried and none survived but those in the list, so that a fresh checkout goes on from there.
//!
//! ```toml
//! ["p2m/src/holes.rs"]
//! source = "0123456789abcdef"
//! caught = 20
//! timed_out = 2
//! unviable = 3
//! accepted = 2
//! ```
//! A source is known by its hash, without its tests and comments (see [`results`](super::results)).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// What is at the top of the file.
const HEAD: &str = "\
# The sources of which all mutants were tried, and what became of these: `cargo xtask mutants --keep` writes it. A source that has changed since
# (comments and tests aside) counts for nothing here.
";

/// What became of the mutants of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tried {
    /// The source's hash.
    pub(crate) source: String,
    pub(crate) caught: usize,
    pub(crate) timed_out: usize,
    pub(crate) unviable: usize,
    pub(crate) accepted: usize,
}

/// By source file.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Known(pub(crate) BTreeMap<String, Tried>);

impl Known {
    /// Reads the file; nothing is known where there is none.
    ///
    /// # Errors
    /// When it is not of this form.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display())),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Whether all mutants of the file were tried as its source is now.
    pub(crate) fn has(&self, file: &str, source: &str) -> bool {
        self.0.get(file).is_some_and(|tried| tried.source == source)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<(), String> {
        let mut text = HEAD.to_owned();
        for (file, Tried { source, caught, timed_out, unviable, accepted }) in &self.0 {
            // Writing to a string does not fail.
            let _ = write!(
                text,
                "\n[\"{file}\"]\nsource = \"{source}\"\ncaught = {caught}\ntimed_out = {timed_out}\n\
                 unviable = {unviable}\naccepted = {accepted}\n"
            );
        }
        fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("known.toml");
        assert_eq!(Known::read(&path), Ok(Known::default()));
        let tried = Tried { source: "0f".into(), caught: 20, timed_out: 2, unviable: 3, accepted: 1 };
        let known =
            Known(BTreeMap::from([("a/b.rs".to_owned(), tried), ("c.rs".to_owned(), Tried::default())]));
        known.write(&path).unwrap();
        assert_eq!(Known::read(&path).unwrap(), known);
        assert!(known.has("a/b.rs", "0f") && !known.has("a/b.rs", "10") && !known.has("b.rs", "0f"));
        fs::write(&path, "[\"a\"]\nsource = 1").unwrap();
        assert!(Known::read(&path).unwrap_err().contains("known.toml"));
    }
}
