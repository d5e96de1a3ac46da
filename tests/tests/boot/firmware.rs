//! Wrong firmware: the boot says what is wrong in a sentence and carries on as is safe.

use std::sync::Arc;

use libtest_mimic::Trial;
use runner::firmware::Firmware;
use runner::plan::Options;

use crate::bench::{Bench, trial};

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let wrong = Firmware::ALL.into_iter().filter(|kind| *kind != Firmware::Good);
    wrong
        .map(|kind| {
            trial(bench, format!("firmware {kind}: said in a sentence, nothing assigned"), move |bench| {
                let boot = bench.boot(&Options { firmware: kind, ..Options::default() });
                boot.holds()?;
                let complaints = boot.complaints();
                let words = words(kind);
                if !complaints.iter().any(|line| words.iter().any(|word| line.contains(word))) {
                    return Err(boot.wrong(format!("no warning names one of {words:?}")));
                }
                // With two right tables, either may serve, or none.
                let usable = kind == Firmware::Two;
                let safe = boot
                    .report
                    .records
                    .iter()
                    .any(|record| record.to_string().to_lowercase().contains("no assignment"));
                if safe || usable {
                    Ok(())
                } else {
                    Err(boot.wrong("nothing says that there is no assignment"))
                }
            })
        })
        .collect()
}

/// What a sentence on this must name.
fn words(kind: Firmware) -> &'static [&'static str] {
    match kind {
        Firmware::Good => &[],
        Firmware::BadChecksum => &["checksum", "sum"],
        Firmware::BadLength | Firmware::HugeLength => &["length", "bytes", "beyond"],
        Firmware::BadSignature | Firmware::None => &["no dmar"],
        Firmware::Two => &["two", "second", "2 dmar"],
    }
}
