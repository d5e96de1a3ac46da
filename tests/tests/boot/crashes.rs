//! A hypervisor that crashes says so, by name, and never counts as a boot that held.

use std::sync::Arc;

use libtest_mimic::Trial;
use runner::plan::Options;
use runner::run::{Ending, STATUS_CRASHED};

use crate::bench::{Bench, trial};

/// The image's ways to crash on purpose, and what the report of each must name.
const CRASHES: [(&str, &str); 7] = [
    ("panic", "PANIC"),
    ("panic-in-record", "PANIC"),
    ("page-fault", "TRAP"),
    ("write-to-code", "TRAP"),
    ("stack-overflow", "TRAP"),
    ("invalid-opcode", "TRAP"),
    ("behind-memory", "TRAP"),
];

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    CRASHES
        .into_iter()
        .map(|(kind, word)| {
            trial(bench, format!("crash={kind} is reported"), move |bench| {
                let boot =
                    bench.boot(&Options { append: vec![format!("crash={kind}")], ..Options::default() });
                if boot.report.ending != Ending::Status(STATUS_CRASHED) {
                    return Err(boot.wrong(boot.report.ending.sentence(boot.report.emulator)));
                }
                match &boot.report.crash {
                    Some(text) if text.starts_with(word) => Ok(()),
                    other => Err(boot.wrong(format!("it is reported as {other:?}"))),
                }
            })
        })
        .collect()
}
