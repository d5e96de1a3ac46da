//! Options of the kernel command line: regions of an administrator, and the scenario's own.

use std::sync::Arc;

use libtest_mimic::Trial;
use runner::plan::Options;
use runner::record::Record;

use crate::bench::{Bench, trial};

/// Wrong values of `rmrr=`, and the character (from 1) at which each is wrong.
const MALFORMED: [(&str, u32); 5] = [
    ("zz=00:03.0", 1),
    ("0xfff6-zz=00:03.0", 8),
    ("0xfff6-0xfff6:00:03.0", 14),
    ("0xfff6-0xfff6=00:03.9", 21),
    ("0xfff8-0xfff6=00:03.0", 7),
];

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (spec, position) in MALFORMED {
        trials.push(trial(bench, format!("rmrr={spec} is reported, and costs nothing else"), move |bench| {
            let boot = bench.boot(&Options { rmrr: vec![spec.into()], ..Options::default() });
            boot.holds()?;
            let wanted = format!("character {position}");
            let told = |line: &String| line.contains("rmrr") && line.contains(&wanted);
            if boot.complaints().iter().any(told) {
                return Ok(());
            }
            Err(boot.wrong(format!("no warning says what is wrong with rmrr={spec} at {wanted}")))
        }));
    }
    trials.push(trial(bench, "rmrr= with a wrong and a right region: the right one counts", |bench| {
        let spec = "zz=00:03.0;0xfff9-0xfffa=00:07.0";
        let without = bench.boot(&Options::default());
        let boot = bench.boot(&Options { rmrr: vec![spec.into()], ..Options::default() });
        boot.holds()?;
        // Beyond the echo of the command line.
        let new =
            |record: &&Record| !without.report.records.contains(record) && !record.to_string().contains("zz");
        if boot.report.records.iter().filter(new).any(|record| record.to_string().contains("fff9")) {
            return Ok(());
        }
        Err(boot.wrong("the region at frame 0xfff9 is nowhere in the log"))
    }));
    trials.push(trial(bench, "omit=uhci shows the faults", |bench| {
        let boot = bench.boot(&Options { omit_uhci: true, ..Options::default() });
        boot.fails_only("firmware-dma")?;
        let told = |record: &Record| {
            let text = record.to_string().to_lowercase();
            text.contains("fault") && text.contains("00:1d.0")
        };
        if boot.report.records.iter().any(told) {
            return Ok(());
        }
        Err(boot.wrong("no line tells of a fault of 00:1d.0"))
    }));
    trials
}
