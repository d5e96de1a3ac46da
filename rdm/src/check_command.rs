//! `rdm check`: a guest by its xl.cfg, with libxl as it is and with the planner.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice};
use lexopt::ValueExt;
use lexopt::prelude::{Long, Short, Value};
use rdm::check::{Check, json, text};
use rdm::guest::{Guest, config};
use rdm::inspect::Report;
use rdm::plan::host::Host;

use crate::arguments::colour;
use crate::complain;
use crate::plan_command::{complain_of, draw, ended};
use crate::table::Source;

const HELP: &str = "\
Reads an xl.cfg (memory, maxmem, type, pci, rdm, rdm_mem_boundary, mmio_hole, firmware or bios, vga, videoram,
device_model_version) and says what would happen to the guest's reserved regions, with libxl as it is and with
the planner.

Usage: rdm check [OPTIONS] GUEST.cfg

  GUEST.cfg           the file; '-' is standard input

  --dmar FILE         a table's bytes instead of the running machine's
  --root DIR          look for the machine's /sys and /proc below this folder: a copy of another machine's
  --json              one JSON object instead of the tables
  --svg OUT           draw the plan too
  --color WHEN        auto, always or never; NO_COLOR in the environment means never
  -h, --help          this text

Exit status: 0 planned; 1 no plan, with the sentence; 2 wrong usage, or an xl.cfg that is wrong.";

/// The options, read.
#[derive(Debug)]
struct Arguments {
    file: PathBuf,
    dmar: Option<PathBuf>,
    root: PathBuf,
    json: bool,
    svg: Option<PathBuf>,
    colour: ColorChoice,
}

/// Reads the words behind `check`; `None` for the help text.
fn read(words: impl IntoIterator<Item = OsString>) -> Result<Option<Arguments>, lexopt::Error> {
    let (mut file, mut dmar, mut root, mut svg) = (None, None, None, None);
    let (mut json, mut colour) = (false, ColorChoice::Auto);
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dmar") => dmar = Some(PathBuf::from(parser.value()?)),
            Long("root") => root = Some(PathBuf::from(parser.value()?)),
            Long("json") => json = true,
            Long("svg") => svg = Some(PathBuf::from(parser.value()?)),
            Long("color" | "colour") => colour = self::colour(&parser.value()?.string()?)?,
            Short('h') | Long("help") => return Ok(None),
            Value(name) if file.is_none() => file = Some(PathBuf::from(name)),
            other => return Err(other.unexpected()),
        }
    }
    let file = file.ok_or("the guest's file is missing")?;
    if dmar.is_some() && root.is_some() {
        return Err("--root is a machine, and a file is judged without one: leave out one of them".into());
    }
    if file == Path::new("-") && dmar.as_deref() == Some(Path::new("-")) {
        return Err("standard input is one file: the guest's or the table".into());
    }
    let root = root.unwrap_or_else(|| "/".into());
    Ok(Some(Arguments { file, dmar, root, json, svg, colour }))
}

/// Runs the command.
pub(crate) fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match read(words) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(error) => return complain(&format!("{error}\nrdm check --help lists the options")),
    };
    match guest(&arguments.file) {
        Ok(guest) => ended(check(&arguments, &guest)),
        Err(sentence) => complain(&format!("{}: {sentence}", arguments.file.display())),
    }
}

/// The guest of a file; the error is a sentence.
fn guest(file: &Path) -> Result<Guest, String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes).map(|_| ())
    } else {
        fs::read(file).map(|read| bytes = read)
    };
    read.map_err(|error| format!("cannot be read: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        format!("line {line}: a byte that is no UTF-8 text")
    })?;
    config::read(&text).map_err(|error| error.to_string())
}

fn check(arguments: &Arguments, guest: &Guest) -> io::Result<bool> {
    let source = match Source::read(arguments.dmar.as_deref(), &arguments.root) {
        Ok(source) => source,
        Err(sentence) => return Err(io::Error::other(sentence)),
    };
    let report = Report::new(&source.bytes, source.machine.as_ref());
    complain_of(&report);
    let check = Check::new(guest, &Host::new(&report));
    let name = arguments.file.to_string_lossy();
    let mut out = Vec::new();
    if arguments.json {
        json::write(&check, guest, &name, &mut out)?;
        out.push(b'\n');
    } else {
        text::write(&check, guest, &name, &mut out)?;
    }
    let mut stdout = AutoStream::new(io::stdout(), arguments.colour);
    stdout.write_all(&out)?;
    stdout.flush()?;
    if let Some(svg) = &arguments.svg {
        draw(svg, &check.ours, guest)?;
    }
    Ok(check.ours.is_planned())
}
