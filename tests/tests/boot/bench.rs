//! What every boot test stands on: QEMU, the image, and questions about a run.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::{Failed, Trial};
use runner::emulator::Emulator;
use runner::image::{self, Messages};
use runner::plan::{Options, Plan};
use runner::qemu;
use runner::record::{Level, Record};
use runner::run::{Report, Run, StepVerdict, TIME_LIMIT, Verdict};

/// The emulators and the image.
pub(crate) struct Bench {
    qemu: PathBuf,
    bochs: Option<PathBuf>,
    image: PathBuf,
}

/// What is not there.
#[derive(Debug)]
pub(crate) enum Missing {
    Qemu,
    Image(String),
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu => write!(f, "{} is not in the PATH", qemu::PROGRAM),
            Self::Image(reason) => f.write_str(reason),
        }
    }
}

impl Bench {
    /// Finds the emulators and builds the image.
    pub(crate) fn set_up() -> Result<Self, Missing> {
        let qemu = qemu::find().ok_or(Missing::Qemu)?;
        let image = image::build(Messages::Kept).map_err(|error| Missing::Image(error.to_string()))?;
        Ok(Self { qemu, bochs: Emulator::Bochs.find(), image })
    }

    /// Boots.
    pub(crate) fn boot(&self, options: &Options) -> Boot {
        let invocation = Plan::new(options)
            .and_then(|plan| plan.prepare(self.program(plan.emulator), &self.image, &image::boot_folder()))
            .unwrap_or_else(|error| panic!("{error}"));
        let report = Run::start(&invocation, TIME_LIMIT).and_then(|run| run.finish(|_| ()));
        Boot { command: invocation.to_string(), report: report.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// Whether Bochs is there.
    pub(crate) fn has_bochs(&self) -> bool {
        self.bochs.is_some()
    }

    fn program(&self, emulator: Emulator) -> &Path {
        match (emulator, &self.bochs) {
            (Emulator::Bochs, Some(bochs)) => bochs,
            (Emulator::Bochs, None) => Path::new(emulator.program()),
            (Emulator::Qemu, _) => &self.qemu,
        }
    }

    /// The names of a scenario's steps.
    pub(crate) fn steps(&self, scenario: Option<&str>) -> Result<Vec<String>, String> {
        let scenario = scenario.map(str::to_owned);
        let boot = self.boot(&Options { list_steps: true, scenario, ..Options::default() });
        Ok(boot.report.listing()?.iter().map(|(name, _)| name.clone()).collect())
    }
}

/// A test on the bench.
pub(crate) fn trial(
    bench: &Arc<Bench>,
    name: impl Into<String>,
    test: impl FnOnce(&Bench) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let bench = Arc::clone(bench);
    Trial::test(name, move || test(&bench))
}

/// A boot that is over.
pub(crate) struct Boot {
    command: String,
    pub(crate) report: Report,
}

impl Boot {
    /// The boot is wrong: what is, the log's end, and how to see it again.
    pub(crate) fn wrong(&self, what: impl fmt::Display) -> Failed {
        let records = &self.report.records;
        let end: String = records
            .iter()
            .skip(records.len().saturating_sub(25))
            .map(|record| format!("  {record}\n"))
            .collect();
        format!("{what}\nThe log's end:\n{end}{}\n$ {}", self.report.stderr, self.command).into()
    }

    /// Every step held.
    pub(crate) fn holds(&self) -> Result<(), Failed> {
        match self.report.verdict() {
            Verdict::Held => Ok(()),
            Verdict::StepsFailed(names) => {
                let first = self.report.steps.iter().find(|step| step.verdict == StepVerdict::Failed);
                let reason = first.map(|step| step.detail.as_str()).unwrap_or_default();
                Err(self.wrong(format!("failed: {}; the first because: {reason}", names.join(", "))))
            }
            Verdict::Broken(sentence) => Err(self.wrong(sentence)),
        }
    }

    /// This step failed, and no other.
    pub(crate) fn fails_only(&self, step: &str) -> Result<(), Failed> {
        match self.report.verdict() {
            Verdict::StepsFailed(names) if names == [step] => Ok(()),
            Verdict::Held => Err(self.wrong(format!("{step} was to fail, and every step held"))),
            Verdict::StepsFailed(names) => {
                Err(self.wrong(format!("{step} was to fail, and these did: {}", names.join(", "))))
            }
            Verdict::Broken(sentence) => Err(self.wrong(sentence)),
        }
    }

    /// What the log says beyond information, in lower case.
    pub(crate) fn complaints(&self) -> Vec<String> {
        self.report
            .records
            .iter()
            .filter(|record| matches!(record, Record::Log { level: Level::Warn | Level::Error, .. }))
            .map(|record| record.to_string().to_lowercase())
            .collect()
    }
}
