//! Tables under walkers that are not ours: QEMU's for AMD's nested paging, Bochs's for EPT, the IOMMU of
//! QEMU's for VT-d's format and EPT's.

use std::sync::Arc;

use libtest_mimic::Trial;
use runner::emulator::Emulator;

use crate::bench::Bench;
use crate::{required, skipped, steps};

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = steps::of_scenario(bench, "nested", Some("nested"));
    // For a device: tables of 3 levels, of 4, and a processor's EPT as it stands.
    for scenario in ["vtd-walk", "vtd-walk-4", "vtd-walk-ept"] {
        trials.extend(steps::of_scenario(bench, scenario, Some(scenario)));
    }
    if bench.has_bochs() {
        trials.extend(steps::of_scenario(bench, "ept", Some("ept")));
    } else if required() {
        let missing = format!("{} is not in the PATH", Emulator::Bochs.program());
        trials.push(Trial::test("ept: Bochs is there", || Err(missing.into())));
    } else {
        trials.push(skipped("ept", "Bochs is not installed; cargo xtask test installs it and runs them"));
    }
    trials
}
