//! Options of the kernel command line: regions of an administrator, and the scenario's own.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use runner::plan::Options;
use runner::record::{Level, Record};

use crate::bench::{Bench, Boot, trial};

/// Wrong values of `rmrr=`, and the character (from 1) at which each is wrong.
const MALFORMED: [(&str, u32); 5] = [
    ("zz=00:03.0", 1),
    ("0xfff6-zz=00:03.0", 8),
    ("0xfff6-0xfff6:00:03.0", 14),
    ("0xfff6-0xfff6=00:03.9", 21),
    ("0xfff8-0xfff6=00:03.0", 7),
];

/// Pages that no guest may reach, and what is said of a region there.
const FORBIDDEN: [(&str, u64, &str); 4] = [
    ("the interrupts' range", 0xfee00, "it is over the interrupts' range, 0xfee00000 to 0xfeefffff"),
    ("the end of the interrupts' range", 0xfeeff, "it is over the interrupts' range"),
    ("the unit's registers", 0xfed90, "it is over the registers of the remapping unit at 0xfed90000"),
    ("configuration space", 0xb0000, "it is over the memory-mapped configuration space at 0xb0000000"),
];

/// A device with a BAR of memory and without a region, on which no step depends.
const LAST: &str = "00:1f.2";

/// The machine with a region over one page for [`LAST`].
fn over(page: u64) -> Options {
    let rmrr = vec![format!("{page:#x}={LAST}")];
    Options { rmrr, scenario: Some("table".into()), ..Options::default() }
}

/// A region over this page is rejected with this sentence, by which its device is refused, and costs nothing
/// else.
fn rejected(bench: &Bench, page: u64, sentence: &str) -> Result<(), Failed> {
    let boot = bench.boot(&over(page));
    boot.holds()?;
    let warned = |line: &String| line.contains("rejected") && line.contains(&sentence.to_lowercase());
    if !boot.complaints().iter().any(warned) {
        return Err(boot.wrong(format!("no warning says that {sentence}")));
    }
    let assign = boot.report.steps.iter().find(|step| step.name == "assign");
    match assign {
        Some(step) if step.detail.contains("refused") && step.detail.contains(sentence) => Ok(()),
        _ => Err(boot.wrong(format!("{LAST} is not refused, as {sentence}"))),
    }
}

/// The first page of a device's BAR, by the log.
fn bar_page(boot: &Boot, device: &str) -> Option<u64> {
    let lines = boot.report.records.iter().map(Record::to_string);
    let range = lines.into_iter().find_map(|line| {
        let (_, range) = line.split_once(&format!("{device} decodes [0x"))?;
        Some(range.split(',').next()?.to_owned())
    })?;
    Some(u64::from_str_radix(&range, 16).ok()? >> 12)
}

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
    for (what, page, sentence) in FORBIDDEN {
        trials.push(trial(
            bench,
            format!("rmrr= over {what} is rejected, and its device refused"),
            move |bench| rejected(bench, page, sentence),
        ));
    }
    trials.push(trial(
        bench,
        "rmrr= over another device's BAR is rejected, over its own it is not",
        |bench| {
            let found = bench.boot(&Options { log: Some(Level::Debug), ..Options::default() });
            let (Some(others), Some(own)) = (bar_page(&found, "00:04.0"), bar_page(&found, LAST)) else {
                return Err(found.wrong("the log does not say where BARs are"));
            };
            rejected(bench, others, "it is over a window of 0000:00:04.0")?;
            let boot = bench.boot(&over(own));
            boot.holds()?;
            match boot.complaints().iter().find(|line| line.contains("rejected")) {
                Some(line) => Err(boot.wrong(format!("its own BAR is in its way: {line}"))),
                None => Ok(()),
            }
        },
    ));
    trials.push(trial(
        bench,
        "isolation=require links what nothing keeps apart, isolation=report does not",
        |bench| {
            for (word, linked) in [("require", true), ("report", false)] {
                let boot =
                    bench.boot(&Options { append: vec![format!("isolation={word}")], ..Options::default() });
                boot.holds()?;
                let step = boot.report.steps.iter().find(|step| step.name == "isolation");
                if step.is_none_or(|step| step.detail.starts_with("EPERM") != linked) {
                    return Err(
                        boot.wrong(format!("with isolation={word}, one alone is to be refused: {linked}"))
                    );
                }
            }
            Ok(())
        },
    ));
    trials.push(trial(bench, "iommu=off: no assignment, and nothing is told", |bench| {
        let (scenario, append) = (Some("table".into()), vec!["iommu=off".into()]);
        let boot = bench.boot(&Options { scenario, append, ..Options::default() });
        boot.holds()?;
        if boot.complaints().iter().any(|line| line.contains("switched off: no assignment")) {
            return Ok(());
        }
        Err(boot.wrong("nothing says that there is no assignment"))
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
