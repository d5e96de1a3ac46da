//! `runner boot`.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use runner::emulator::Emulator;
use runner::image::{self, Messages};
use runner::interrupt;
use runner::json;
use runner::plan::{Options, Plan};
use runner::record::Record;
use runner::run::{Ending, Report, Run, Verdict};
use runner::show::{Show, Theme};

use crate::arguments::{self, Arguments, HELP};
use crate::complain;

/// Reads the options, boots, and says how it went.
pub(crate) fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match arguments::read(words) {
        Ok(arguments) => arguments,
        Err(error) => return complain(&format!("{error}\ncargo xtask boot --help says what there is")),
    };
    if arguments.help {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match boot(&arguments) {
        Ok(code) => code,
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        Err(Failed::Output(error)) => complain(&format!("cannot write: {error}")),
        Err(Failed::Start(sentence)) => complain(&sentence),
    }
}

/// Why there was no boot.
enum Failed {
    /// Nobody could read of it.
    Output(io::Error),
    /// This.
    Start(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn start(error: impl std::fmt::Display) -> Failed {
    Failed::Start(error.to_string())
}

/// Who sees the boot.
struct Watchers {
    show: Option<Show<io::Stdout>>,
    json: Option<json::Writer<Box<dyn Write>>>,
}

impl Watchers {
    fn new(arguments: &Arguments) -> Result<Self, Failed> {
        let json: Option<Box<dyn Write>> = match &arguments.json {
            None => None,
            Some(path) if path.as_os_str() == "-" => Some(Box::new(io::stdout())),
            Some(path) => {
                let file = File::create(path);
                let file =
                    file.map_err(|error| start(format!("cannot write {}: {error}", path.display())))?;
                Some(Box::new(BufWriter::new(file)))
            }
        };
        let alone = arguments.json.as_deref() == Some(Path::new("-"));
        let show = (!alone).then(|| Show::new(io::stdout(), Theme::of_stdout(arguments.colour)));
        Ok(Self { show, json: json.map(json::Writer::new) })
    }

    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.show.as_mut().map_or(Ok(()), |show| show.record(record))?;
        self.json.as_mut().map_or(Ok(()), |json| json.record(record))
    }
}

fn boot(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let plan = Plan::new(&arguments.options).map_err(start)?;
    let named = match plan.emulator {
        Emulator::Qemu => &arguments.qemu,
        Emulator::Bochs => &arguments.bochs,
    };
    let found = match named.clone().or_else(|| plan.emulator.find()) {
        Some(found) => found,
        None => {
            let program = plan.emulator.program();
            return Err(start(format!("{program} is not in the PATH; cargo xtask boot installs it")));
        }
    };
    let image = match &arguments.image {
        Some(image) if image.is_file() => image.clone(),
        Some(image) => return Err(start(format!("there is no image {}", image.display()))),
        None => image::build(Messages::Shown).map_err(start)?,
    };
    interrupt::watch().map_err(|error| start(format!("cannot watch for signals: {error}")))?;
    if arguments.options.break_step.is_some() && !arguments.dry_run {
        check_step(arguments, &found, &image)?;
    }
    let mut watchers = Watchers::new(arguments)?;
    let invocation = plan.prepare(&found, &image, &image::boot_folder()).map_err(start)?;
    if let Some(show) = &mut watchers.show {
        show.command(&invocation, &plan)?;
    }
    if let Some(json) = &mut watchers.json {
        json.command(&invocation, &plan)?;
    }
    if arguments.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    let mut run = Run::start(&invocation, arguments.time_limit)
        .map_err(|error| start(format!("cannot start {}: {error}", found.display())))?;
    while let Some(record) = run.next_record() {
        watchers.record(&record)?;
    }
    let report = run.finish(|_| ())?;
    if arguments.options.list_steps {
        return match report.listing() {
            Ok(_) => Ok(ExitCode::SUCCESS),
            Err(sentence) => Err(Failed::Start(sentence)),
        };
    }
    let verdict = report.verdict();
    if let Some(show) = &mut watchers.show {
        show.summary(&report, &verdict)?;
    }
    if let Some(json) = &mut watchers.json {
        json.summary(&report, &verdict)?;
    }
    Ok(code(&report, &verdict))
}

fn code(report: &Report, verdict: &Verdict) -> ExitCode {
    match (verdict, report.ending) {
        (Verdict::Held, _) => ExitCode::SUCCESS,
        (_, Ending::Interrupted(signal)) => ExitCode::from(u8::try_from(128 + signal).unwrap_or(1)),
        _ => ExitCode::FAILURE,
    }
}

/// A step that the image does not know is not spoilt, and the boot would hold.
fn check_step(arguments: &Arguments, program: &Path, image: &Path) -> Result<(), Failed> {
    let Some(step) = &arguments.options.break_step else { return Ok(()) };
    let options = Options { list_steps: true, break_step: None, ..arguments.options.clone() };
    let invocation = Plan::new(&options)
        .and_then(|plan| plan.prepare(program, image, &image::boot_folder()))
        .map_err(start)?;
    let report = Run::start(&invocation, arguments.time_limit)
        .and_then(|run| run.finish(|_| ()))
        .map_err(|error| start(format!("cannot start {}: {error}", program.display())))?;
    let listing = report.listing().map_err(Failed::Start)?;
    if listing.iter().any(|(name, _)| name == step) {
        return Ok(());
    }
    let names: Vec<String> = listing.iter().map(|(name, title)| format!("  {name:<24}  {title}")).collect();
    Err(Failed::Start(format!("there is no step {step:?}; the steps are\n{}", names.join("\n"))))
}
