//! What was measured, as a table to read or as a JSON object a line.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub(crate) struct Row {
    /// The part that was measured.
    pub(crate) area: String,
    /// What was done. Rows of one name did the same work.
    pub(crate) case: String,
    /// Instructions in all.
    pub(crate) instructions: u64,
    /// The crate whose code was measured, where it is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) peer: Option<String>,
    /// The most instructions it may take, each unit where there is a unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bound: Option<f64>,
    /// What there are several of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unit: Option<String>,
    /// How many of the unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) units: Option<u64>,
    /// Instructions each unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) per: Option<f64>,
    /// Bytes of memory that are in use when it is done, where that is a target, and how many may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bound: Option<u64>,
    /// What else is to be known: table frames that it took, what the count is made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Row {
    pub(crate) fn new(area: &str, case: &str) -> Self {
        Self { area: area.into(), case: case.into(), ..Self::default() }
    }

    /// It was the code of this crate.
    pub(crate) fn peer(self, name: &str) -> Self {
        Self { peer: Some(name.into()), ..self }
    }

    /// The target, in instructions each unit where there is a unit.
    pub(crate) fn bound(self, bound: f64) -> Self {
        Self { bound: Some(bound), ..self }
    }

    /// It did `units` of these.
    pub(crate) fn each(self, unit: &str, units: u64) -> Self {
        Self { unit: Some(unit.into()), units: Some(units), ..self }
    }

    /// It leaves `bytes` of memory in use, of which there may be `bound`.
    pub(crate) fn memory(self, bytes: u64, bound: u64) -> Self {
        Self { memory: Some(bytes), memory_bound: Some(bound), ..self }
    }

    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: Some(note.into()), ..self }
    }

    /// A row that says what `self` takes beyond `other`.
    pub(crate) fn beyond(&self, other: &Self, case: &str) -> Self {
        let instructions = self.instructions.saturating_sub(other.instructions);
        Self { case: case.into(), instructions, ..self.clone() }
    }

    /// Fills in what follows from the count.
    pub(crate) fn settled(self) -> Self {
        let per = self.units.filter(|units| *units > 0).map(|units| self.instructions as f64 / units as f64);
        Self { per, ..self }
    }

    /// Whether it keeps its bound, where it has one.
    pub(crate) fn met(&self) -> Option<bool> {
        self.bound.map(|bound| self.per.unwrap_or(self.instructions as f64) <= bound)
    }

    /// The count as a person reads it.
    fn figure(&self) -> String {
        match (self.per, &self.unit) {
            (Some(per), Some(unit)) => format!("{}/{unit}", decimal(per)),
            _ => thousands(self.instructions),
        }
    }
}

/// The rows as JSON, an object a line.
pub(crate) fn json(rows: &[Row]) -> String {
    let line = |row: &Row| serde_json::to_string(row).map(|line| line + "\n");
    rows.iter().filter_map(|row| line(row).ok()).collect()
}

/// The rows as a table: a line for each case, with the figures of other crates beside ours.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut peers: Vec<&str> = Vec::new();
    for peer in rows.iter().filter_map(|row| row.peer.as_deref()) {
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    let mut header = vec!["case".to_owned(), "instructions".to_owned()];
    header.extend(peers.iter().map(|peer| (*peer).to_owned()));
    header.extend(["bound", "", "note"].map(str::to_owned));
    let mut lines = vec![header];
    let mut cases: Vec<&str> = Vec::new();
    for row in rows {
        if !cases.contains(&row.case.as_str()) {
            cases.push(&row.case);
        }
    }
    for case in cases {
        let of = |peer: Option<&str>| rows.iter().find(|row| row.case == case && row.peer.as_deref() == peer);
        let ours = of(None);
        let mut line = vec![case.to_owned(), ours.map(Row::figure).unwrap_or_default()];
        line.extend(peers.iter().map(|peer| of(Some(peer)).map(Row::figure).unwrap_or_default()));
        let bound = ours.and_then(|row| Some((row.bound?, row.unit.as_deref())));
        line.push(match bound {
            Some((bound, Some(unit))) => format!("{}/{unit}", decimal(bound)),
            Some((bound, None)) => decimal(bound),
            None => String::new(),
        });
        line.push(
            match ours.and_then(Row::met) {
                Some(true) => "met",
                Some(false) => "over",
                None => "",
            }
            .to_owned(),
        );
        line.push(ours.map(remarks).unwrap_or_default());
        lines.push(line);
    }
    aligned(&lines)
}

/// The memory and the note.
fn remarks(row: &Row) -> String {
    let memory = row.memory.zip(row.memory_bound).map(|(bytes, bound)| {
        let mib = |bytes: u64| decimal(bytes as f64 / f64::from(1 << 20));
        let met = if bytes <= bound { "met" } else { "over" };
        format!("memory in all: {} MiB, bound {} MiB, {met}", mib(bytes), mib(bound))
    });
    memory.into_iter().chain(row.note.clone()).collect::<Vec<_>>().join("; ")
}

/// Columns of the width of their widest cell; the first and the last to the left, the others to the right. A
/// column without content is left out.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = || lines.iter().filter_map(move |line| line.get(column));
        let empty = cells().skip(1).all(String::is_empty);
        if empty { 0 } else { cells().map(|cell| cell.chars().count()).max().unwrap_or_default() }
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut out = String::new();
        for (column, (cell, width)) in
            line.iter().zip(&widths).enumerate().filter(|(_, (_, width))| **width > 0)
        {
            let gap = if out.is_empty() { "" } else { "  " };
            let _ = match column {
                0 => write!(out, "{cell:<width$}"),
                last if last + 1 == columns => write!(out, "{gap}{cell}"),
                _ => write!(out, "{gap}{cell:>width$}"),
            };
        }
        text.push_str(out.trim_end());
        text.push('\n');
    }
    text
}

/// A number with at most two places, and none where they say little.
fn decimal(number: f64) -> String {
    if number.fract() == 0.0 || number >= 1000.0 {
        thousands(number.round() as u64)
    } else {
        format!("{number:.2}")
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Row, json, table, thousands};

    fn rows() -> Vec<Row> {
        let count = |row: Row, instructions| Row { instructions, ..row }.settled();
        vec![
            count(Row::new("p2m", "map").each("page", 16384).bound(8.0), 131_073),
            count(Row::new("p2m", "map").each("page", 16384).peer("x86_64"), 1_638_400),
            count(Row::new("p2m", "look up").bound(30.0).note("one page"), 29),
            count(Row::new("p2m", "zero a frame"), 240),
        ]
    }

    #[test]
    fn json_rows_have_what_readers_count_on() {
        let text = json(&rows());
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(objects.len(), 4);
        for object in &objects {
            assert!(object["area"].is_string() && object["case"].is_string(), "{object}");
            assert!(object["instructions"].is_u64(), "{object}");
        }
        let has = |key: &str| objects.iter().map(|object| object.get(key).is_some()).collect::<Vec<_>>();
        assert_eq!(has("peer"), [false, true, false, false], "only where it is someone else's code");
        assert_eq!(has("bound"), [true, false, true, false], "only where there is a target");
        assert_eq!(objects[1]["peer"], "x86_64");
        assert_eq!(objects[1]["per"], 100.0);
    }

    #[test]
    fn a_bound_is_on_the_unit_where_there_is_one() {
        let rows = rows();
        assert_eq!(rows[0].met(), Some(false), "8 a page are 131,072");
        assert_eq!(Row { instructions: 131_072, ..rows[0].clone() }.settled().met(), Some(true));
        assert_eq!(rows[2].met(), Some(true));
        assert_eq!(rows[3].met(), None);
    }

    #[test]
    fn the_table_has_peers_beside_and_says_what_is_over() {
        let text = table(&rows());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "the two rows of one case are one line:\n{text}");
        assert!(lines[0].contains("x86_64"));
        assert!(lines[1].contains(" 8.00/page") && lines[1].contains(" 100/page"), "{text}");
        assert!(lines[1].ends_with("8/page  over"), "{text}");
        assert!(lines[2].contains(" 30   met  one page"), "{text}");
    }

    #[test]
    fn memory_has_a_bound_of_its_own() {
        let row = Row::new("policy", "make places").memory(25 << 20, 24 << 20).note("all of them");
        assert!(
            table(std::slice::from_ref(&row))
                .ends_with("memory in all: 25 MiB, bound 24 MiB, over; all of them\n")
        );
        let value: Value = serde_json::from_str(&json(&[row])).unwrap();
        assert_eq!(value["memory"], 25 << 20);
        assert_eq!(value["memory_bound"], 24 << 20);
    }

    #[test]
    fn what_is_beyond_another_row_keeps_unit_and_bound() {
        let [all, less, ..] = &rows()[..] else { panic!() };
        let row = less.beyond(all, "rest");
        assert_eq!((row.case.as_str(), row.instructions, row.units), ("rest", 1_507_327, Some(16384)));
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(thousands)[..]);
    }
}
