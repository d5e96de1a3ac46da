//! The tables of nested paging under walkers that are not ours: QEMU's for AMD's format, Bochs's for EPT.

use std::sync::Arc;

use libtest_mimic::Trial;

use crate::bench::Bench;
use crate::{required, skipped, steps};

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = steps::of_scenario(bench, "nested", Some("nested"));
    // Where it is required and missing, the boots fail and say so.
    if bench.has_bochs() || required() {
        trials.extend(steps::of_scenario(bench, "ept", Some("ept")));
    } else {
        trials.push(skipped("ept", "Bochs is not installed; cargo xtask test installs it and runs them"));
    }
    trials
}
