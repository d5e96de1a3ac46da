//! The mutants, as cargo-mutants lists them.

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use serde::Deserialize;

use crate::{cargo, root};

/// A small change of the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mutant {
    /// As cargo-mutants calls it: `file:line:column: what is changed`.
    pub(crate) name: String,
    /// From the checkout on.
    pub(crate) file: String,
    pub(crate) package: String,
    /// The line that it begins in, without blanks around.
    pub(crate) line: String,
}

impl Mutant {
    /// What is changed, without where.
    pub(crate) fn what(&self) -> &str {
        self.name.split_once(": ").map_or(&self.name, |(_, what)| what)
    }
}

/// What is used of cargo-mutants' own list.
#[derive(Deserialize)]
struct Listed {
    name: String,
    file: String,
    package: String,
    span: Span,
}

#[derive(Deserialize)]
struct Span {
    start: Position,
}

#[derive(Deserialize)]
struct Position {
    line: usize,
}

/// All mutants of these packages.
pub(crate) fn of_packages(packages: &[&str]) -> Result<Vec<Mutant>, String> {
    let mut command = cargo();
    command.args(["mutants", "--list", "--json", "--no-config"]).stderr(Stdio::inherit());
    for package in packages {
        command.args(["--package", package]);
    }
    let output = command.output().map_err(|error| format!("cannot start cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo mutants --list failed ({})", output.status));
    }
    parse(&output.stdout, &|file| {
        let path = root().join(file);
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    })
}

fn parse(text: &[u8], read: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<Mutant>, String> {
    let listed: Vec<Listed> = serde_json::from_slice(text)
        .map_err(|error| format!("the list of cargo-mutants cannot be read: {error}"))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut mutants = Vec::new();
    for Listed { name, file, package, span } in listed {
        if !files.contains_key(&file) {
            let lines = read(&file)?.lines().map(|line| line.trim().to_owned()).collect();
            files.insert(file.clone(), lines);
        }
        let line = files.get(&file).and_then(|lines| lines.get(span.start.line.checked_sub(1)?));
        let line = line.cloned().unwrap_or_default();
        mutants.push(Mutant { name, file, package, line });
    }
    Ok(mutants)
}

/// Made up.
#[cfg(test)]
pub(crate) fn example(file: &str, line: usize) -> Mutant {
    Mutant {
        name: format!("{file}:{line}:9: replace + with - in toast"),
        file: file.to_owned(),
        package: "p2m".to_owned(),
        line: "butter + jam".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    // A test that fails ends in a panic.
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_list_is_read_with_the_lines_of_the_code() {
        let text = br#"[{"name": "p2m/src/a.rs:2:5: replace f -> a::b with c: d", "file": "p2m/src/a.rs", "package": "p2m",
            "genre": "FnValue", "span": {"start": {"line": 2, "column": 5}, "end": {"line": 2, "column": 9}}}]"#;
        let mutants = parse(text, &|_| Ok("fn f() {\n    1 + 2\n}\n".into())).unwrap();
        assert_eq!(mutants.len(), 1);
        assert_eq!((&*mutants[0].line, mutants[0].what()), ("1 + 2", "replace f -> a::b with c: d"));
        assert!(parse(text, &|_| Err("gone".into())).is_err());
        assert!(parse(b"none", &|_| Ok(String::new())).unwrap_err().contains("cannot be read"));
    }
}
