//! Devices that come and go while the machine runs.

use std::sync::Arc;

use libtest_mimic::Trial;

use crate::bench::Bench;
use crate::steps;

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    steps::of_scenario(bench, "hotplug", Some("hotplug"))
}
