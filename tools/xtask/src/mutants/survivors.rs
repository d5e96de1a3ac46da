//! The survivors that are accepted, each with its reason: `tools/mutants/survivors.toml`.
//!
//! ```toml
//! [[survivor]]
//! file = "p2m/src/holes.rs"
//! mutant = "replace > with >= in largest_hole"
//! line = "holes(space, within, rules).reduce(|best, hole| …)"
//! reason = "equivalent: …"
//! ```
//! A mutant is known by its file, what it changes and the line of code, so that other lines may come and go.

use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::list::Mutant;
use super::results::Fate;

/// The list.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Survivors {
    #[serde(default)]
    survivor: Vec<Survivor>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Survivor {
    file: String,
    mutant: String,
    line: String,
    reason: String,
}

impl Survivor {
    fn is(&self, mutant: &Mutant) -> bool {
        self.file == mutant.file && self.mutant == mutant.what() && self.line.trim() == mutant.line
    }
}

impl Survivors {
    /// Reads the list.
    ///
    /// # Errors
    /// When it is not such a list, or an entry has no reason.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path);
        let text = text.map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|reason| format!("{}: {reason}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let list: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        match list.survivor.iter().find(|survivor| survivor.reason.trim().is_empty()) {
            None => Ok(list),
            Some(survivor) => Err(format!("no reason is given for: {}", survivor.mutant)),
        }
    }

    /// Why this one may survive.
    pub(crate) fn reason(&self, mutant: &Mutant) -> Option<&str> {
        self.survivor.iter().find(|survivor| survivor.is(mutant)).map(|survivor| &*survivor.reason)
    }

    /// What is wrong with the list: entries for mutants that are not there, or that are noticed.
    pub(crate) fn complaints(&self, all: &[Mutant], fate: &dyn Fn(&Mutant) -> Option<Fate>) -> Vec<String> {
        let complaint = |survivor: &Survivor| {
            let mut fates = all.iter().filter(|mutant| survivor.is(mutant)).map(fate).peekable();
            let what = format!("{}: {} ({})", survivor.file, survivor.mutant, survivor.line);
            if fates.peek().is_none() {
                return Some(format!("there is no such mutant any more: {what}"));
            }
            let noticed = |fate: Option<Fate>| fate.is_some_and(|fate| fate != Fate::Survived);
            fates.all(noticed).then(|| format!("it does not survive any more: {what}"))
        };
        self.survivor.iter().filter_map(complaint).collect()
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::super::list::example;
    use super::*;

    const LIST: &str = "[[survivor]]\nfile = \"a.rs\"\nmutant = \"replace + with - in toast\"\nline = \"butter + jam\"\nreason = \"tastes the same\"\n";

    #[test]
    fn a_survivor_is_known_wherever_its_line_is() {
        let list = Survivors::parse(LIST).unwrap();
        assert_eq!(list.reason(&example("a.rs", 3)), Some("tastes the same"));
        assert_eq!(list.reason(&example("a.rs", 30)), Some("tastes the same"));
        assert_eq!(list.reason(&example("b.rs", 3)), None);
        let other = Mutant { line: "butter + honey".into(), ..example("a.rs", 3) };
        assert_eq!(list.reason(&other), None);
    }

    #[test]
    fn the_list_does_not_outlive_its_mutants() {
        let list = Survivors::parse(LIST).unwrap();
        let fate = |fate: Option<Fate>| list.complaints(&[example("a.rs", 3)], &|_| fate);
        assert!(fate(Some(Fate::Survived)).is_empty() && fate(None).is_empty());
        assert!(fate(Some(Fate::Caught))[0].contains("does not survive any more: a.rs"));
        assert!(list.complaints(&[example("b.rs", 3)], &|_| None)[0].contains("no such mutant any more"));
        // Two in one line, of which one survives.
        let both = [example("a.rs", 3), example("a.rs", 4)];
        let one =
            |mutant: &Mutant| Some(if mutant.name.contains(":3:") { Fate::Caught } else { Fate::Survived });
        assert!(list.complaints(&both, &one).is_empty());
    }

    #[test]
    fn an_entry_has_a_reason_and_nothing_unknown() {
        assert!(Survivors::parse("").unwrap().survivor.is_empty());
        let text = LIST.replace("tastes the same", " ");
        assert!(Survivors::parse(&text).unwrap_err().contains("no reason"));
        assert!(Survivors::parse(&LIST.replace("reason", "because")).is_err());
    }
}
