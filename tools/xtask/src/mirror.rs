//! A copy of the checkout, for what is changed and built on trial. Only what differs is written, so that
//! cargo builds only that anew.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::root;

/// What is not of the sources.
const LEFT_OUT: [&str; 2] = ["target", ".git"];

/// A copy of the checkout.
pub(crate) struct Mirror {
    folder: PathBuf,
}

impl Mirror {
    /// The copy in this folder, made or brought up to date: whatever was changed there is undone.
    pub(crate) fn of_checkout(folder: PathBuf) -> Result<Self, String> {
        let mirror = Self { folder };
        mirror.refresh()?;
        Ok(mirror)
    }

    /// Undoes whatever was changed in the copy.
    pub(crate) fn refresh(&self) -> Result<(), String> {
        copy(&root(), &self.folder)
            .map_err(|error| format!("cannot copy the checkout to {}: {error}", self.folder.display()))
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Makes `to` hold what `from` holds.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        let kept = !LEFT_OUT.iter().any(|name| entry.file_name() == *name);
        let same = fs::metadata(from.join(entry.file_name()))
            .is_ok_and(|there| entry.file_type().is_ok_and(|here| here.is_dir() == there.is_dir()));
        if kept && !same {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if LEFT_OUT.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if fs::metadata(&from)?.is_dir() {
            copy(&from, &to)?;
            continue;
        }
        let bytes = fs::read(&from)?;
        if !fs::read(&to).is_ok_and(|there| there == bytes) {
            fs::write(&to, bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_differs_is_written_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        for (file, text) in [("a", "1"), ("sub/b", "2"), ("target/c", "3"), (".git/d", "4")] {
            let file = from.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/b")).unwrap(), "2");
        assert!(!to.join("target").exists() && !to.join(".git").exists());

        let written = fs::metadata(to.join("a")).unwrap().modified().unwrap();
        fs::write(to.join("sub/b"), "changed").unwrap();
        fs::write(to.join("sub/stray"), "").unwrap();
        fs::create_dir(to.join("target")).unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(to.join("sub/b")).unwrap(), "2");
        assert!(!to.join("sub/stray").exists() && to.join("target").exists());
        assert_eq!(fs::metadata(to.join("a")).unwrap().modified().unwrap(), written);
    }
}
