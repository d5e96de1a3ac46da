//! The options of `runner boot`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::ValueExt;
use lexopt::prelude::{Long, Short};
use runner::plan::Options;
use runner::record::Level;
use runner::run::TIME_LIMIT;
use runner::show::Colour;

/// The help text, from which `cargo xtask` knows the options too.
pub(crate) const HELP: &str = include_str!("boot.txt");

/// The options, read.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) options: Options,
    pub(crate) json: Option<PathBuf>,
    pub(crate) colour: Colour,
    pub(crate) dry_run: bool,
    pub(crate) time_limit: Duration,
    pub(crate) qemu: Option<PathBuf>,
    pub(crate) bochs: Option<PathBuf>,
    pub(crate) image: Option<PathBuf>,
    pub(crate) help: bool,
}

/// Reads the words after `boot`.
pub(crate) fn read(words: impl IntoIterator<Item = OsString>) -> Result<Arguments, lexopt::Error> {
    let mut arguments = Arguments {
        options: Options::default(),
        json: None,
        colour: Colour::Auto,
        dry_run: false,
        time_limit: TIME_LIMIT,
        qemu: None,
        bochs: None,
        image: None,
        help: false,
    };
    let options = &mut arguments.options;
    let mut parser = lexopt::Parser::from_args(words);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("dmar") => options.dmar = Some(parser.value()?.into()),
            Long("rmrr") => options.rmrr.push(parser.value()?.string()?),
            Long("break") => options.break_step = Some(parser.value()?.string()?),
            Long("omit") => match parser.value()?.string()?.as_str() {
                "uhci" => options.omit_uhci = true,
                other => return Err(format!("--omit {other}: only uhci can be left out").into()),
            },
            Long("log") => options.log = Some(level(&parser.value()?.string()?)?),
            Long("append") => options.append.push(parser.value()?.string()?),
            Long("memory") => options.memory = Some(memory(&parser.value()?.string()?)?),
            Long("scenario") => options.scenario = Some(parser.value()?.string()?),
            Long("firmware") => options.firmware = parser.value()?.parse()?,
            Long("list-steps") => options.list_steps = true,
            Long("json") => arguments.json = Some(parser.value()?.into()),
            Long("color" | "colour") => arguments.colour = colour(&parser.value()?.string()?)?,
            Long("dry-run") => arguments.dry_run = true,
            Long("time-limit") => arguments.time_limit = seconds(&parser.value()?.string()?)?,
            Long("qemu") => arguments.qemu = Some(parser.value()?.into()),
            Long("bochs") => arguments.bochs = Some(parser.value()?.into()),
            Long("image") => arguments.image = Some(parser.value()?.into()),
            Short('h') | Long("help") => arguments.help = true,
            other => return Err(other.unexpected()),
        }
    }
    if options.dmar.is_some() && options.firmware != Default::default() {
        return Err("--dmar gives the firmware's table, so there is no --firmware beside it".into());
    }
    if options.memory.is_some() && options.scenario.as_deref() != Some("memory") {
        return Err("--memory moves what other scenarios look for; it goes with --scenario memory".into());
    }
    if options.list_steps && options.break_step.is_some() {
        return Err("--list-steps does no step, so there is none to --break".into());
    }
    Ok(arguments)
}

fn level(word: &str) -> Result<Level, String> {
    Level::ALL
        .into_iter()
        .find(|level| level.word().eq_ignore_ascii_case(word))
        .ok_or_else(|| format!("--log {word}: the levels are error, warn, info, debug and trace"))
}

fn colour(word: &str) -> Result<Colour, String> {
    match word {
        "auto" => Ok(Colour::Auto),
        "always" => Ok(Colour::Always),
        "never" => Ok(Colour::Never),
        _ => Err(format!("--color {word}: it is auto, always or never")),
    }
}

fn memory(word: &str) -> Result<u32, String> {
    let mib = word.parse().ok().filter(|mib| (128..=1 << 20).contains(mib));
    mib.ok_or_else(|| format!("--memory {word}: it is MiB, 128 to 1048576"))
}

fn seconds(word: &str) -> Result<Duration, String> {
    let seconds: f64 = word.parse().map_err(|_| format!("--time-limit {word}: not a number of seconds"))?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(limit) if !limit.is_zero() && limit <= Duration::from_secs(3600) => Ok(limit),
        _ => Err(format!("--time-limit {word}: more than 0 and at most 3600 seconds")),
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
            let value = ["", " 1", " uhci", " info", " good", " always", " 512 --scenario memory"];
            let known = value.iter().any(|value| parse(&format!("--{name}{value}")).is_ok());
            assert!(known, "--{name}");
            count += 1;
        }
        assert_eq!(count, 17);
    }

    #[test]
    fn values_are_checked() {
        for (line, part) in [
            ("--omit nvme", "only uhci"),
            ("--log loud", "the levels are"),
            ("--color no", "auto, always"),
            ("--time-limit soon", "not a number"),
            ("--time-limit 0", "more than 0"),
            ("--time-limit nan", "more than 0"),
            ("--memory 12 --scenario memory", "128 to"),
            ("--memory 512", "goes with"),
            ("--firmware odd", "there are good"),
            ("--dmar x --firmware none", "--firmware"),
            ("--list-steps --break x", "--break"),
            ("--unknown", "unknown"),
            ("stray", "stray"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn several_values_add_up() {
        let arguments = parse("--rmrr 1=00:03.0 --rmrr=2=00:04.0 --time-limit 1.5 --dry-run").unwrap();
        assert_eq!(arguments.options.rmrr, ["1=00:03.0", "2=00:04.0"]);
        assert_eq!(arguments.time_limit, Duration::from_millis(1500));
        assert!(arguments.dry_run);
    }
}
