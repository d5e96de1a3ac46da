//! The seeds and all past findings through their targets, without a fuzzer: each file is a test.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use fuzz_targets::TARGETS;
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (name, target) in TARGETS {
        for folder in ["seeds", "findings"] {
            for file in files(&folder_of(folder, name)) {
                let test = format!("{folder}::{name}::{}", file.file_name().unwrap().to_string_lossy());
                trials.push(Trial::test(test, || {
                    target(&fs::read(file)?);
                    Ok(())
                }));
            }
        }
        // What a fuzzer begins with.
        trials.push(Trial::test(format!("{name}::no_bytes"), || {
            target(&[]);
            Ok(())
        }));
    }
    trials.push(Trial::test("seeds_are_those_that_the_example_writes", || {
        seeds_are_written();
        Ok(())
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn folder_of(folder: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join(target)
}

/// The files of a folder in order; none where there is no folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// `cargo run -p fuzz-targets --example seeds` writes them.
fn seeds_are_written() {
    let seeds = fuzz_targets::seeds();
    for seed in &seeds {
        let path = folder_of("seeds", seed.target).join(&seed.name);
        assert!(fs::read(&path).is_ok_and(|bytes| bytes == seed.bytes), "{} is out of date", path.display());
    }
    let count: usize = TARGETS.iter().map(|(name, _)| files(&folder_of("seeds", name)).len()).sum();
    assert_eq!(count, seeds.len(), "a file that is no seed");
}
