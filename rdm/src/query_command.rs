//! `rdm query`: options, and the answer as words or JSON.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use lexopt::ValueExt;
use lexopt::prelude::{Long, Short};
use rdm::query::{Answer, Query, device, devices, memory_map};
use serde_json::json;
use xen_iommu::Sbdf;
use xen_iommu::abi::Errno;

use crate::complain;

const HELP: &str = "\
Says what a hypervisor answers a toolstack that asks for reserved regions (XENMEM_reserved_device_memory_map),
by the code that answers there.

Usage: rdm query [OPTIONS] (--all | --device SBDF)

  --all                every region
  --device SBDF        those of a device: [SEGMENT:]BUS:DEVICE.FUNCTION, in hexadecimal
  --dmar FILE          the DMAR table; without one there is a unit, and its table has no region
  --rmrr STRING        the value of rmrr=; several add up
  --devices LIST       the functions that are there, with commas between; a bridge with the buses below it:
                       00:02.0,00:1c.0=3-5,03:00.0
  --memory-map FILE    the memory map: FIRST-LAST KIND a line, as Linux's and Xen's logs show it; without
                       one all memory counts as reserved
  --nr N               room for so many entries; without it there is room for all
  --compat             a 32-bit caller asks
  --json               one JSON object: rc, nr_entries, entries ([start_pfn, nr_pages] each), log
  -h, --help           this text

Exit status: 0 it was answered, be it by an error number; 1 a file could not be read; 2 wrong usage.";

/// The options, read.
#[derive(Default)]
struct Arguments {
    dmar: Option<PathBuf>,
    memory_map: Option<PathBuf>,
    query: Query,
    json: bool,
    help: bool,
}

/// Runs the command.
pub(crate) fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments = match read(words) {
        Ok(arguments) => arguments,
        Err(error) => return complain(&format!("{error}\nrdm query --help lists the options")),
    };
    if arguments.help {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    if let Err(sentence) = arguments.read_files() {
        eprintln!("error: {sentence}");
        return ExitCode::FAILURE;
    }
    match show(&arguments.query.ask(), arguments.json) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

fn read(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, lexopt::Error> {
    let mut arguments = Arguments::default();
    arguments.query.nr_entries = u32::MAX;
    let (mut all, mut of): (bool, Option<Sbdf>) = (false, None);
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("all") => all = true,
            Long("device") => of = Some(device(&parser.value()?.string()?)?),
            Long("dmar") => arguments.dmar = Some(parser.value()?.into()),
            Long("rmrr") => arguments.query.rmrr.push(parser.value()?.string()?),
            Long("devices") => arguments.query.pci = devices(&parser.value()?.string()?)?,
            Long("memory-map") => arguments.memory_map = Some(parser.value()?.into()),
            Long("nr") => arguments.query.nr_entries = parser.value()?.parse()?,
            Long("compat") => arguments.query.compat = true,
            Long("json") => arguments.json = true,
            Short('h') | Long("help") => arguments.help = true,
            other => return Err(other.unexpected()),
        }
    }
    if all == of.is_some() && !arguments.help {
        return Err("either --all or --device says what is asked".into());
    }
    arguments.query.device = of;
    Ok(arguments)
}

impl Arguments {
    fn read_files(&mut self) -> Result<(), String> {
        let cannot = |path: &Path, error: io::Error| format!("{}: cannot be read: {error}", path.display());
        if let Some(path) = &self.dmar {
            self.query.dmar = Some(fs::read(path).map_err(|error| cannot(path, error))?);
        }
        if let Some(path) = &self.memory_map {
            let text = fs::read_to_string(path).map_err(|error| cannot(path, error))?;
            let map = memory_map(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            self.query.memory = Some(map);
        }
        Ok(())
    }
}

fn show(answer: &Answer, as_json: bool) -> io::Result<()> {
    let Answer { result, nr_entries, entries, log } = answer;
    let mut out = io::stdout().lock();
    if as_json {
        let rc = result.map_or_else(Errno::result, |()| 0);
        let words = json!({ "rc": rc, "nr_entries": nr_entries, "entries": entries, "log": log });
        return writeln!(out, "{words}");
    }
    for line in log {
        writeln!(out, "{line}")?;
    }
    for (start, pages) in entries {
        writeln!(out, "frames {start:#x} to {:#x}: {pages} pages", start + pages.saturating_sub(1))?;
    }
    match result {
        Ok(()) => writeln!(out, "0, {nr_entries} entries"),
        Err(errno) => writeln!(out, "{} ({errno}), nr_entries is {nr_entries}", errno.result()),
    }
}
