//! `rdm inspect`: from files to reports, one after the other.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use acpi_dmar::HEADER_LENGTH;
use anstream::AutoStream;
use rdm::inspect::{Report, json, picture, text};
use rdm::machine::{Machine, table_path};
use xen_iommu::region::iommu_state::IommuState;

use crate::arguments::{self, Arguments, HELP};
use crate::complain;
use crate::progress::Progress;

/// More than any firmware could mean: a table with a longer length is read so far.
const MOST: u64 = 64 << 20;

/// Runs the command.
pub(crate) fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match arguments::read(words) {
        Ok(arguments) => arguments,
        Err(error) => return complain(&format!("{error}\nrdm inspect --help lists the options")),
    };
    if arguments.help {
        println!("{HELP}");
        return ExitCode::SUCCESS;
    }
    match inspect(&arguments) {
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

/// True if every table was read without error.
fn inspect(arguments: &Arguments) -> io::Result<bool> {
    let mut output = Output {
        out: AutoStream::new(io::stdout(), arguments.colour),
        json: arguments.json,
        svg: arguments.svg.as_deref(),
        files: 0,
    };
    if arguments.files.is_empty() {
        let path = table_path(&arguments.root);
        let machine = match Machine::read(&arguments.root) {
            Ok(machine) => machine,
            Err(error) => {
                eprintln!(
                    "warning: this machine's PCI tree cannot be read ({error}); the table is judged alone"
                );
                Machine::default()
            }
        };
        let machine = Some(&machine).filter(|machine| machine.pci.addresses().next().is_some());
        return match read(&path) {
            Ok(bytes) => output.show(&path.to_string_lossy(), &Report::new(&bytes, machine)),
            Err(error) => output.unreadable(&path.to_string_lossy(), &no_table(&error)),
        };
    }
    let progress = Progress::new(arguments.files.len());
    let mut all_good = true;
    for file in &arguments.files {
        let name = file.to_string_lossy();
        progress.at(&name);
        let bytes = if file == Path::new("-") { read_table(io::stdin().lock()) } else { read(file) };
        all_good &= progress.aside(|| match bytes {
            Ok(bytes) => output.show(&name, &Report::new(&bytes, None)),
            Err(error) => output.unreadable(&name, &format!("cannot be read: {error}")),
        })?;
        progress.done();
    }
    Ok(all_good)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    read_table(File::open(file)?)
}

/// As much as the table's header says, so that an endless file ends too.
fn read_table(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(HEADER_LENGTH as u64).read_to_end(&mut bytes)?;
    if let Some(length) = bytes.get(4..8).and_then(|field| field.first_chunk())
        && bytes.starts_with(&acpi_dmar::SIGNATURE)
    {
        let length = u64::from(u32::from_le_bytes(*length)).min(MOST);
        from.take(length.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What it means that the machine's table cannot be read, and what to do.
fn no_table(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!(
            "{}: the machine has no Intel one, VT-d is switched off in its firmware setup, or this is not Linux; to read another machine's table, give its \
             file",
            IommuState::Absent
        ),
        ErrorKind::PermissionDenied => "it is for root alone: try again with sudo".into(),
        _ => format!("cannot be read: {error}"),
    }
}

struct Output<'a> {
    out: AutoStream<io::Stdout>,
    json: bool,
    svg: Option<&'a Path>,
    /// How many files were shown.
    files: usize,
}

impl Output<'_> {
    /// Shows a report; true if the table has no errors.
    fn show(&mut self, file: &str, report: &Report<'_>) -> io::Result<bool> {
        if self.json {
            // One write a line, so that who reads the other end of a pipe never sees half of one.
            let mut line = Vec::new();
            json::write(report, file, &mut line)?;
            line.push(b'\n');
            self.out.write_all(&line)?;
        } else {
            let mut words = Vec::new();
            if self.files > 0 {
                words.push(b'\n');
            }
            text::write(report, file, &mut words)?;
            self.out.write_all(&words)?;
        }
        self.out.flush()?;
        self.files += 1;
        if let Some(svg) = self.svg {
            let name: Cow<'_, str> = svg.to_string_lossy();
            fs::write(svg, picture::draw(report, file).to_string()).map_err(|error| {
                io::Error::new(error.kind(), format!("{name} cannot be written: {error}"))
            })?;
        }
        Ok(report.errors.is_empty())
    }

    /// Shows that a file cannot be read.
    fn unreadable(&mut self, file: &str, error: &str) -> io::Result<bool> {
        if self.json {
            self.show(file, &Report::unreadable(error.into()))?;
        } else {
            eprintln!("error: {file}: {error}");
        }
        Ok(false)
    }
}
