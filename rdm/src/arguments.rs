//! The options of `rdm inspect`.

use std::ffi::OsString;
use std::path::PathBuf;

use anstream::ColorChoice;
use lexopt::ValueExt;
use lexopt::prelude::{Long, Short, Value};

/// The help text.
pub(crate) const HELP: &str = "\
Says what DMAR tables hold: the IOMMU units, the reserved regions with their verdicts, which devices must stay together
and why, and for each device whether it can be passed through.

Usage: rdm inspect [OPTIONS] [FILE...]

  FILE                a table's bytes, such as a copy of /sys/firmware/acpi/tables/DMAR; '-' is standard input.
                      With no file: the running machine's table, judged on its PCI tree and memory map (needs root)

  --json              one JSON object a line for each file
  --svg OUT           draw it too: regions on an address axis, devices, groups; for one table
  --root DIR          look for the machine's /sys below this folder: a copy of another machine's
  --color WHEN        auto, always or never; NO_COLOR in the environment means never
  -h, --help          this text

Exit status: 0 all were read; 1 some table has errors or could not be read; 2 wrong usage.";

/// The options, read.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) json: bool,
    pub(crate) svg: Option<PathBuf>,
    pub(crate) root: PathBuf,
    pub(crate) colour: ColorChoice,
    pub(crate) help: bool,
}

/// Reads the words after `inspect`.
pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, lexopt::Error> {
    let mut arguments = Arguments {
        files: Vec::new(),
        json: false,
        svg: None,
        root: "/".into(),
        colour: ColorChoice::Auto,
        help: false,
    };
    let mut root = None;
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("json") => arguments.json = true,
            Long("svg") => arguments.svg = Some(parser.value()?.into()),
            Long("root") => root = Some(PathBuf::from(parser.value()?)),
            Long("color" | "colour") => arguments.colour = colour(&parser.value()?.string()?)?,
            Short('h') | Long("help") => arguments.help = true,
            Value(file) => arguments.files.push(file.into()),
            other => return Err(other.unexpected()),
        }
    }
    if arguments.files.len() > 1 && arguments.svg.is_some() {
        return Err(format!("--svg draws one table, and there are {} files", arguments.files.len()).into());
    }
    if let Some(root) = root {
        if !arguments.files.is_empty() {
            return Err("--root is a machine, and files are judged without one: leave out one of them".into());
        }
        arguments.root = root;
    }
    Ok(arguments)
}

pub(crate) fn colour(word: &str) -> Result<ColorChoice, String> {
    match word {
        "auto" => Ok(ColorChoice::Auto),
        "always" => Ok(ColorChoice::Always),
        "never" => Ok(ColorChoice::Never),
        _ => Err(format!("--color {word}: it is auto, always or never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        read(line.split_whitespace().map(OsString::from)).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_of_the_help_is_known() {
        let options = HELP.lines().filter_map(|line| line.trim_start().strip_prefix("--"));
        let mut count = 0;
        for option in options {
            let name = option.split_whitespace().next().unwrap();
            assert!(
                ["", " always"].iter().any(|value| parse(&format!("--{name}{value}")).is_ok()),
                "--{name}"
            );
            count += 1;
        }
        assert_eq!(count, 4);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (line, part) in [
            ("--svg x a b", "2 files"),
            ("--root x a", "leave out one"),
            ("--color no", "auto, always"),
            ("--unknown", "unknown"),
            ("--svg", "missing argument"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
        let arguments = parse("a - b --json").unwrap();
        assert_eq!(arguments.files.len(), 3);
        assert!(arguments.json);
    }
}
