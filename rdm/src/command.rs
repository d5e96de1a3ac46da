//! `rdm inspect`: from files to reports, one after the other.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use anstream::AutoStream;
use rdm::inspect::{Report, json, picture, text};
use rdm::machine::table_path;

use crate::arguments::{self, Arguments, HELP};
use crate::complain;
use crate::progress::Progress;
use crate::table::{machine_at, no_table, read, read_table};

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
        let machine = machine_at(&arguments.root);
        return match read(&path) {
            Ok(bytes) => output.show(&path.to_string_lossy(), &Report::new(&bytes, machine.as_ref())),
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
