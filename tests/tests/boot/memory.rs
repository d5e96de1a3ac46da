//! The hypervisor's own page tables on machines with little and much memory, below and above 4 GiB.

use std::sync::Arc;

use libtest_mimic::Trial;
use runner::plan::Options;

use crate::bench::{Bench, trial};
use crate::steps;

/// In MiB: odd ends, a hole below 4 GiB, and more than 4 GiB. QEMU takes from the host only what is touched.
const SIZES: [u32; 3] = [129, 1501, 5121];

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = steps::of_scenario(bench, "memory", Some("memory"));
    trials.extend(SIZES.map(|mib| {
        trial(bench, format!("memory: {mib} MiB"), move |bench| {
            let options =
                Options { scenario: Some("memory".into()), memory: Some(mib), ..Options::default() };
            bench.boot(&options).holds()
        })
    }));
    trials
}
