//! The tables of real machines, kept outside the repository.

use std::path::{Path, PathBuf};

/// Every table of the corpus with its path, in order; `None`, with a message, where the corpus is absent.
pub(crate) fn corpus() -> Option<Vec<(PathBuf, Vec<u8>)>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/dmar-corpus");
    let Ok(entries) = std::fs::read_dir(&directory) else {
        eprintln!("skipped: there is no corpus of real tables at {}", directory.display());
        return None;
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "dmar"))
        .collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no table", directory.display());
    Some(paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect())
}
