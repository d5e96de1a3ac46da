//! Writes the seeds to `tools/fuzz/seeds`, in place of those that are there.
#![allow(clippy::unwrap_used, reason = "what fails says so")]

use std::fs;
use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../seeds");
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    let seeds = fuzz_targets::seeds();
    for seed in &seeds {
        let folder = folder.join(seed.target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(&seed.name), &seed.bytes).unwrap();
    }
    println!("{} seeds", seeds.len());
}
