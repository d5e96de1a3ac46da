//! Tables of real machines: the hypervisor reads, groups, maps and answers for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::Trial;
use runner::plan::Options;

use crate::bench::{Bench, trial};
use crate::skipped;

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/dmar-corpus");
    let tables = tables(&corpus);
    if tables.is_empty() {
        return vec![skipped("tables", "there is no ../shared/dmar-corpus beside the checkout")];
    }
    tables
        .into_iter()
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            trial(bench, format!("table {name}"), move |bench| {
                bench.boot(&Options { dmar: Some(path), ..Options::default() }).holds()
            })
        })
        .collect()
}

fn tables(corpus: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(corpus) else { return Vec::new() };
    let mut tables: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "dmar"))
        .collect();
    tables.sort();
    tables
}
