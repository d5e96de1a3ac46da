//! The steps: all hold, each can fail, and a boot is the same every time.

use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use runner::plan::Options;

use crate::bench::{Bench, trial};

/// The scenarios of the standard machine.
const SCENARIOS: [(&str, Option<&str>); 3] =
    [("devices", None), ("table", Some("table")), ("selftest", Some("selftest"))];

pub(crate) fn trials(bench: &Arc<Bench>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (label, scenario) in SCENARIOS {
        trials.extend(of_scenario(bench, label, scenario));
    }
    trials.push(trial(bench, "two boots say the same", |bench| {
        let first = bench.boot(&Options::default());
        let second = bench.boot(&Options::default());
        if first.report.records == second.report.records {
            return Ok(());
        }
        let pairs = first.report.records.iter().zip(&second.report.records);
        let other = pairs.into_iter().find(|(one, other)| one != other);
        Err(second.wrong(format!("they part at {other:?}")))
    }));
    trials.push(trial(bench, "an unknown step to break is an error", |bench| {
        let boot = bench.boot(&Options { break_step: Some("no-such-step".into()), ..Options::default() });
        match boot.holds() {
            Err(_) => Ok(()),
            Ok(()) => Err(boot.wrong("the boot held")),
        }
    }));
    trials
}

/// Every step of a scenario: held, listed, and failed alone when it is spoilt.
pub(crate) fn of_scenario(bench: &Arc<Bench>, label: &str, scenario: Option<&str>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let options = Options { scenario: scenario.map(str::to_owned), ..Options::default() };
    let whole = options.clone();
    trials.push(trial(bench, format!("{label}: every step holds"), move |bench| bench.boot(&whole).holds()));
    let steps = match bench.steps(scenario) {
        Ok(steps) => steps,
        Err(sentence) => {
            trials.push(Trial::test(format!("{label}: the steps have names"), move || {
                Err(Failed::from(sentence))
            }));
            return trials;
        }
    };
    let names = steps.clone();
    let listed = options.clone();
    trials.push(trial(bench, format!("{label}: the steps are those that are listed"), move |bench| {
        let boot = bench.boot(&listed);
        let run: Vec<_> = boot.report.steps.iter().map(|step| step.name.clone()).collect();
        if run == names { Ok(()) } else { Err(boot.wrong(format!("{names:?} are listed, {run:?} were run"))) }
    }));
    for step in steps {
        let spoilt = Options { break_step: Some(step.clone()), ..options.clone() };
        trials.push(trial(bench, format!("{label}: break={step}"), move |bench| {
            bench.boot(&spoilt).fails_only(&step)
        }));
    }
    trials
}
