//! The words behind a verb, held against its help text, so that a wrong one is refused before anything is
//! built or installed.
//!
//! The text is the one place that says which options there are: a line that begins with `-` has one, its
//! other spelling behind a comma or as `(or --spelling)`, and the name of its value in capitals where it
//! takes one.

use std::ffi::OsString;

/// A help text.
#[derive(Clone, Copy)]
pub(crate) struct Usage(pub(crate) &'static str);

/// What the words say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    /// Whether help is asked for; then nothing else counts.
    pub(crate) help: bool,
    /// Each option as it was spelled, with its value.
    options: Vec<(String, Option<String>)>,
    /// What is no option.
    pub(crate) others: Vec<String>,
}

impl Words {
    /// Whether this option is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|(its, _)| its == name)
    }

    /// How many options there are.
    pub(crate) fn count(&self) -> usize {
        self.options.len()
    }

    /// The last value of this option.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        let mut options = self.options.iter().rev();
        options.find(|(its, _)| its == name).and_then(|(_, value)| value.as_deref())
    }

    /// The same as a number; what it was read with is a number already.
    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.value(name).and_then(|value| value.parse().ok())
    }
}

/// An option of a help text.
struct Known<'t> {
    names: Vec<&'t str>,
    /// The name of its value.
    value: Option<&'t str>,
}

impl Usage {
    /// Reads the words.
    ///
    /// # Errors
    /// An option that the text does not have, a value that is missing or too much, or one that is no number
    /// where the text asks for one.
    pub(crate) fn read(self, words: &[OsString]) -> Result<Words, String> {
        let known = self.options();
        let mut read = Words::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let word = word.to_string_lossy();
            if !word.starts_with('-') || word == "-" {
                read.others.push(word.into_owned());
                continue;
            }
            let (name, given) = match word.split_once('=') {
                Some((name, value)) if word.starts_with("--") => (name, Some(value.to_owned())),
                _ => (&*word, None),
            };
            let Some(option) = known.iter().find(|option| option.names.contains(&name)) else {
                return Err(format!("there is no option {name}\n\n{}", self.0.trim_end()));
            };
            if matches!(name, "-h" | "--help") {
                read.help = true;
            }
            let value = match (option.value, given) {
                (None, None) => None,
                (None, Some(_)) => return Err(format!("{name} takes no value")),
                (Some(_), Some(value)) => Some(value),
                (Some(kind), None) => {
                    let next = words.next().ok_or_else(|| format!("{name} needs a value: {name} {kind}"))?;
                    Some(next.to_string_lossy().into_owned())
                }
            };
            if let (Some(kind), Some(value)) = (option.value, &value)
                && !fits(kind, value)
            {
                return Err(format!("{name} {value}: {value:?} is no {kind}"));
            }
            read.options.push((name.to_owned(), value));
        }
        Ok(read)
    }

    /// The same where only options may stand.
    pub(crate) fn read_options(self, words: &[OsString]) -> Result<Words, String> {
        let read = self.read(words)?;
        match read.others.first() {
            Some(word) if !read.help => {
                Err(format!("{word:?} is no option of this command\n\n{}", self.0.trim_end()))
            }
            _ => Ok(read),
        }
    }

    /// Whether a line of the text begins with this word, as it does for areas and the like.
    pub(crate) fn lists(self, word: &str) -> bool {
        let mut lines = self.0.lines().filter_map(|line| line.strip_prefix("  "));
        lines.any(|line| !word.is_empty() && line.split(' ').next() == Some(word))
    }

    fn options(self) -> Vec<Known<'static>> {
        let lines = self.0.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        lines.map(known).collect()
    }
}

fn known(line: &str) -> Known<'_> {
    let mut option = Known { names: Vec::new(), value: None };
    let head = line.split("  ").next().unwrap_or_default();
    for word in head.split([' ', ',']).filter(|word| !word.is_empty()) {
        if word.starts_with('-') {
            option.names.push(word);
        } else {
            option.value = Some(word);
        }
    }
    option.names.extend(line.split("(or ").skip(1).filter_map(|rest| rest.split(')').next()));
    option
}

/// Whether a value is what its name in the text asks for.
fn fits(kind: &str, value: &str) -> bool {
    match kind {
        "N" | "MIB" => value.parse::<u64>().is_ok(),
        "SECS" => value.parse::<f64>().is_ok(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    const USAGE: Usage = Usage(
        "Usage: cargo xtask toast [SIDE...] [OPTION...]

Sides:
  upper     the one that is seen

      --slices N      so many
  --to FILE           (or --into) put it there
  --firmness soft     how it is to be
  --dry               without butter
  -h, --help          this text
",
    );

    fn read(line: &str) -> Result<Words, String> {
        USAGE.read(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_read_with_their_values() {
        let words = read("upper --slices 3 --to=a=b --dry --slices 4 -").unwrap();
        assert_eq!((words.number("--slices"), words.value("--to")), (Some(4), Some("a=b")));
        assert!(words.has("--dry") && !words.help);
        assert_eq!(words.others, ["upper", "-"]);
        assert_eq!(read("--into --dry").unwrap().value("--into"), Some("--dry"));
        assert!(read("-h").unwrap().help && read("--help --dry").unwrap().help);
    }

    #[test]
    fn what_the_text_does_not_have_is_refused() {
        for (line, part) in [
            ("--slice 3", "there is no option --slice\n\nUsage"),
            ("-x", "there is no option -x"),
            ("--slices", "needs a value: --slices N"),
            ("--slices=many", "\"many\" is no N"),
            ("--dry=3", "takes no value"),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn other_words_are_refused_where_there_are_none() {
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        assert!(USAGE.read_options(&words("upper")).unwrap_err().contains("\"upper\" is no option"));
        assert!(USAGE.read_options(&words("upper --help")).unwrap().help);
        assert!(USAGE.lists("upper") && !USAGE.lists("lower") && !USAGE.lists(""));
    }
}
