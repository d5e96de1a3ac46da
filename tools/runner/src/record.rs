//! The hypervisor's serial log, one record a line.
//!
//! The image writes UTF-8 lines that begin with an upper-case word; what begins with none of these words (the
//! firmware's own output, a line cut short by a crash) is kept as it came.

use std::fmt;

/// How grave a log line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is wrong, and what was asked for was not done.
    Error,
    /// Something is odd, and the line says what was done about it.
    Warn,
    /// What a reader wants to know of a run that goes well.
    Info,
    /// What helps to find out why.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Every level, the gravest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word in the log.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Warn => "WARN",
            Self::Info => "INFO",
            Self::Debug => "DEBUG",
            Self::Trace => "TRACE",
        }
    }
}

/// One line of the serial log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// `LEVEL target: text`.
    Log {
        /// How grave it is.
        level: Level,
        /// The part that speaks; empty when the line names none.
        target: String,
        /// What it says.
        text: String,
    },
    /// `LIST name: title`, an answer to `list-steps`.
    List {
        /// The step's name.
        name: String,
        /// What the step shows, in a sentence.
        title: String,
    },
    /// `STEP name: title`: a step begins.
    Step {
        /// The step's name.
        name: String,
        /// What the step shows, in a sentence.
        title: String,
    },
    /// `PASS name: detail`: the step held.
    Pass {
        /// The step's name.
        name: String,
        /// What was seen.
        detail: String,
    },
    /// `FAIL name: detail`: the step did not hold.
    Fail {
        /// The step's name.
        name: String,
        /// What was wrong.
        detail: String,
    },
    /// `DONE passed=N failed=M`: the run came to its end.
    Done {
        /// How many steps held.
        passed: u32,
        /// How many did not.
        failed: u32,
    },
    /// `PANIC text`: the hypervisor gave up.
    Panic(String),
    /// `TRAP text`: an exception that nobody handles.
    Trap(String),
    /// Anything else.
    Raw(String),
}

impl Record {
    /// Reads one line, without its line end. Never fails: a line that has no meaning is [`Record::Raw`].
    pub fn parse(line: &[u8]) -> Self {
        let line = printable(&String::from_utf8_lossy(line));
        Self::meaning(&line).unwrap_or(Self::Raw(line))
    }

    fn meaning(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim_start();
        if let Some(level) = Level::ALL.into_iter().find(|level| level.word() == word) {
            let (target, text) = split_target(rest);
            return Some(Self::Log { level, target: target.to_owned(), text: text.to_owned() });
        }
        match word {
            "PANIC" => Some(Self::Panic(rest.to_owned())),
            "TRAP" => Some(Self::Trap(rest.to_owned())),
            "DONE" => {
                let (passed, failed) = rest.split_once(' ')?;
                Some(Self::Done {
                    passed: passed.strip_prefix("passed=")?.parse().ok()?,
                    failed: failed.trim().strip_prefix("failed=")?.parse().ok()?,
                })
            }
            "LIST" | "STEP" | "PASS" | "FAIL" => {
                let (name, text) = rest.split_once(':').unwrap_or((rest, ""));
                if !is_step_name(name) {
                    return None;
                }
                let (name, text) = (name.to_owned(), text.trim().to_owned());
                Some(match word {
                    "LIST" => Self::List { name, title: text },
                    "STEP" => Self::Step { name, title: text },
                    "PASS" => Self::Pass { name, detail: text },
                    _ => Self::Fail { name, detail: text },
                })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log { level, target, text } if target.is_empty() => write!(f, "{:<5} {text}", level.word()),
            Self::Log { level, target, text } => write!(f, "{:<5} {target}: {text}", level.word()),
            Self::List { name, title } => write!(f, "LIST  {name}: {title}"),
            Self::Step { name, title } => write!(f, "STEP  {name}: {title}"),
            Self::Pass { name, detail } => write!(f, "PASS  {name}: {detail}"),
            Self::Fail { name, detail } => write!(f, "FAIL  {name}: {detail}"),
            Self::Done { passed, failed } => write!(f, "DONE  passed={passed} failed={failed}"),
            Self::Panic(text) => write!(f, "PANIC {text}"),
            Self::Trap(text) => write!(f, "TRAP  {text}"),
            Self::Raw(text) => f.write_str(text),
        }
    }
}

/// Whether `name` can be a step's name: lower-case words and numbers, joined by '-'.
pub fn is_step_name(name: &str) -> bool {
    name.split('-').all(|word| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}

/// A target has no spaces and ends in ": ", or in ':' at the end of the line; `::` within it is a module
/// path.
fn split_target(rest: &str) -> (&str, &str) {
    let split = rest.split_once(": ").or_else(|| rest.strip_suffix(':').map(|target| (target, "")));
    match split {
        Some((target, text)) if !target.is_empty() && !target.contains(' ') => (target, text.trim_end()),
        _ => ("", rest.trim_end()),
    }
}

/// What a guest prints goes to somebody's terminal: control characters must not act on it.
fn printable(line: &str) -> String {
    line.trim_end_matches(['\r', '\n'])
        .chars()
        .map(|c| if c.is_control() && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(level: Level, target: &str, text: &str) -> Record {
        Record::Log { level, target: target.into(), text: text.into() }
    }

    #[test]
    fn log_lines_have_level_target_and_text() {
        assert_eq!(Record::parse(b"INFO  vtd: translation on"), log(Level::Info, "vtd", "translation on"));
        assert_eq!(Record::parse(b"ERROR a::b: x: y\r"), log(Level::Error, "a::b", "x: y"));
        assert_eq!(Record::parse(b"TRACE table:"), log(Level::Trace, "table", ""));
        assert_eq!(
            Record::parse(b"WARN  two words: no target"),
            log(Level::Warn, "", "two words: no target")
        );
        assert_eq!(Record::parse(b"DEBUG"), log(Level::Debug, "", ""));
    }

    #[test]
    fn steps_carry_name_and_text() {
        let (name, text) = ("own-region".to_owned(), "the DMA arrives: 00:03.0".to_owned());
        let line = |word: &str| format!("{word}  {name}: {text}").into_bytes();
        assert_eq!(Record::parse(&line("STEP")), Record::Step { name: name.clone(), title: text.clone() });
        assert_eq!(Record::parse(&line("LIST")), Record::List { name: name.clone(), title: text.clone() });
        assert_eq!(Record::parse(&line("PASS")), Record::Pass { name: name.clone(), detail: text.clone() });
        assert_eq!(Record::parse(&line("FAIL")), Record::Fail { name: name.clone(), detail: text.clone() });
        assert_eq!(
            Record::parse(b"PASS own-region"),
            Record::Pass { name: name.clone(), detail: String::new() }
        );
    }

    #[test]
    fn the_end_is_counted() {
        assert_eq!(Record::parse(b"DONE  passed=12 failed=1"), Record::Done { passed: 12, failed: 1 });
        for broken in
            ["DONE", "DONE  passed=12", "DONE  passed=-1 failed=0", "DONE  passed=1 failed=99999999999"]
        {
            assert_eq!(Record::parse(broken.as_bytes()), Record::Raw(broken.into()));
        }
    }

    #[test]
    fn a_crash_is_told_apart() {
        assert_eq!(Record::parse(b"PANIC at main.rs:3: no"), Record::Panic("at main.rs:3: no".into()));
        assert_eq!(Record::parse(b"TRAP  14 page fault"), Record::Trap("14 page fault".into()));
    }

    #[test]
    fn what_has_no_meaning_is_kept() {
        for line in [
            "",
            "SeaBIOS (version 1.16.2)",
            "STEP  Not A Name: x",
            "STEP  a--b: x",
            "STEP",
            "INFORM x: y",
            " INFO x: y",
        ] {
            assert_eq!(Record::parse(line.as_bytes()), Record::Raw(line.into()));
        }
    }

    #[test]
    fn a_guest_cannot_drive_the_terminal() {
        let Record::Raw(text) = Record::parse(b"\x1b[2J\x07 caf\xe9\ttab") else { panic!("raw") };
        assert_eq!(text, "\u{fffd}[2J\u{fffd} caf\u{fffd}\ttab");
    }

    #[test]
    fn every_record_reads_back_as_itself() {
        for line in [
            "INFO  vtd: on",
            "WARN  odd",
            "LIST  a: b",
            "STEP  a-1: b",
            "PASS  a: b",
            "FAIL  a: b",
            "DONE  passed=1 failed=2",
            "PANIC x",
            "TRAP  y",
            "anything",
        ] {
            let record = Record::parse(line.as_bytes());
            assert_eq!(record.to_string(), line);
            assert_eq!(Record::parse(record.to_string().as_bytes()), record);
        }
    }
}
