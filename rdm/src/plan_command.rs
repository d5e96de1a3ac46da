//! `rdm plan`: a guest by options, laid out.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice};
use lexopt::ValueExt;
use lexopt::prelude::{Long, Short};
use rdm::guest::words::{self, Policies};
use rdm::guest::{Guest, GuestFirmware};
use rdm::inspect::Report;
use rdm::plan::host::Host;
use rdm::plan::{Planned, json, picture, text, xl};
use rdm_layout::xen::Strategy;

use crate::arguments::colour;
use crate::complain;
use crate::table::Source;

const HELP: &str = "\
Lays out a guest's memory around the reserved regions of its devices, and says what lies where, or why there is
no such layout and what would make one.

Usage: rdm plan --memory SIZE [OPTIONS]

  --memory SIZE       the guest's memory: 4G, 512M; a plain number is in MiB
  --pci DEVICE        one of its devices, as in pci= of xl.cfg: 00:02.0 or 0000:00:02.0,rdm_policy=strict
                      (or relaxed, or private); once for each
  --strategy WHICH    whose regions count: devices (those of --pci) or host (all, so that any can be added
                      later); devices if not given
  --policy POLICY     of devices without one of their own, strict, relaxed or private; strict if not given
  --bar BAR           a BAR beside those of the devices: SIZE[,64][,pref], such as 256M,64,pref; once for each
  --firmware WHICH    bios, ovmf, or none (a kernel booted directly); bios if not given
  --two-range         for toolstacks that know two ends of RAM (libxl), and unmodified hvmloader
  --dmar FILE         a table's bytes instead of the running machine's; '-' is standard input
  --root DIR          look for the machine's /sys and /proc below this folder: a copy of another machine's
  --json              one JSON object instead of the table
  --xl                the matching lines of an xl.cfg instead of the table
  --svg OUT           draw it too
  --color WHEN        auto, always or never; NO_COLOR in the environment means never
  -h, --help          this text

The running machine gives the table, the devices' BARs and the width of addresses, as far as it can be read
(needs root).

Exit status: 0 planned; 1 no plan, with the sentence; 2 wrong usage.";

/// The options, read.
#[derive(Debug)]
struct Arguments {
    guest: Guest,
    dmar: Option<PathBuf>,
    root: PathBuf,
    json: bool,
    xl: bool,
    svg: Option<PathBuf>,
    colour: ColorChoice,
}

/// Reads the words behind `plan`; `None` for the help text.
fn read(words: impl IntoIterator<Item = OsString>) -> Result<Option<Arguments>, lexopt::Error> {
    let (mut memory, mut dmar, mut root, mut svg) = (None, None, None, None);
    let (mut json, mut xl, mut colour) = (false, false, ColorChoice::Auto);
    let mut guest = Guest::new(0);
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("memory") => memory = Some(value(&mut parser, "memory", words::memory)?),
            Long("pci") => {
                let device = value(&mut parser, "pci", |word| words::device(word, Policies::All))?;
                guest.add(device).map_err(|error| format!("--pci: {error}"))?;
            }
            Long("strategy") => guest.strategy = value(&mut parser, "strategy", strategy)?,
            Long("policy") => {
                guest.policy = value(&mut parser, "policy", |word| words::policy(word, Policies::All))?;
            }
            Long("bar") => guest.bars.push(value(&mut parser, "bar", words::bar)?),
            Long("firmware") => guest.firmware = value(&mut parser, "firmware", firmware)?,
            Long("two-range") => guest.two_range = true,
            Long("dmar") => dmar = Some(PathBuf::from(parser.value()?)),
            Long("root") => root = Some(PathBuf::from(parser.value()?)),
            Long("json") => json = true,
            Long("xl") => xl = true,
            Long("svg") => svg = Some(PathBuf::from(parser.value()?)),
            Long("color" | "colour") => colour = self::colour(&parser.value()?.string()?)?,
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected()),
        }
    }
    guest.memory = memory.ok_or("--memory is missing")?;
    if json && xl {
        return Err("--json and --xl are two ways to say it: leave out one of them".into());
    }
    if dmar.is_some() && root.is_some() {
        return Err("--root is a machine, and a file is judged without one: leave out one of them".into());
    }
    let root = root.unwrap_or_else(|| "/".into());
    Ok(Some(Arguments { guest, dmar, root, json, xl, svg, colour }))
}

/// An option's value; an error has the option's name.
fn value<T>(
    parser: &mut lexopt::Parser,
    name: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, lexopt::Error> {
    let word = parser.value()?.string()?;
    read(&word).map_err(|error| format!("--{name} {error}").into())
}

fn strategy(word: &str) -> Result<Strategy, String> {
    match word {
        "devices" => Ok(Strategy::Devices),
        "host" => Ok(Strategy::Host),
        _ => Err(format!("{word:?}: a strategy is devices or host")),
    }
}

fn firmware(word: &str) -> Result<GuestFirmware, String> {
    match word {
        "bios" => Ok(GuestFirmware::Bios),
        "ovmf" => Ok(GuestFirmware::Ovmf),
        "none" => Ok(GuestFirmware::Direct),
        _ => Err(format!("{word:?}: a firmware is bios, ovmf or none")),
    }
}

/// Runs the command.
pub(crate) fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match read(words) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return complain(&format!("{error}\nrdm plan --help lists the options")),
    };
    ended(plan(&arguments))
}

/// The exit status of a run that says whether there is a plan.
pub(crate) fn ended(run: io::Result<bool>) -> ExitCode {
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // Who reads has seen enough, as `head` does.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn plan(arguments: &Arguments) -> io::Result<bool> {
    let source = match Source::read(arguments.dmar.as_deref(), &arguments.root) {
        Ok(source) => source,
        Err(sentence) => return Err(io::Error::other(sentence)),
    };
    let report = Report::new(&source.bytes, source.machine.as_ref());
    complain_of(&report);
    let guest = &arguments.guest;
    let planned = Planned::new(guest, &Host::new(&report));
    let mut out = Vec::new();
    if arguments.json {
        json::write(&planned, guest, &mut out)?;
        out.push(b'\n');
    } else if arguments.xl {
        if let Some(sentence) = &planned.failure {
            eprintln!("error: no plan: {sentence}");
        } else {
            xl::write(&planned, guest, &mut out)?;
        }
    } else {
        text::write(&planned, guest, &mut out)?;
    }
    let mut stdout = AutoStream::new(io::stdout(), arguments.colour);
    stdout.write_all(&out)?;
    stdout.flush()?;
    if let Some(svg) = &arguments.svg {
        draw(svg, &planned, guest)?;
    }
    Ok(planned.is_planned())
}

/// The table's errors, beside what is planned with the rest of it.
pub(crate) fn complain_of(report: &Report<'_>) {
    for error in &report.errors {
        eprintln!("warning: the table: {error}");
    }
}

/// Draws a plan into a file.
pub(crate) fn draw(file: &Path, planned: &Planned, guest: &Guest) -> io::Result<()> {
    fs::write(file, picture::draw(planned, guest).to_string()).map_err(|error| {
        io::Error::new(error.kind(), format!("{} cannot be written: {error}", file.display()))
    })
}
