//! `--json` beside a second, naive reading of the same bytes, for every table of the corpus.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../../acpi-dmar/tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;

use rdm::inspect::{Report, json};
use serde_json::{Value, json};

fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    (0..width).rev().fold(0, |value, index| value << 8 | u64::from(bytes[at + index]))
}

fn naive_scopes(bytes: &[u8], mut at: usize, end: usize) -> Vec<Value> {
    let kinds = ["", "endpoint", "bridge", "ioapic", "hpet", "namespace"];
    let mut scopes = Vec::new();
    while at < end {
        let length = bytes[at + 1] as usize;
        let path: Vec<_> =
            (at + 6..at + length).step_by(2).map(|hop| json!([bytes[hop], bytes[hop + 1]])).collect();
        let mut scope = json!({"kind": kinds[bytes[at] as usize], "id": bytes[at + 4], "bus": bytes[at + 5], "path": path});
        if bytes[at + 2] != 0 {
            scope["flags"] = bytes[at + 2].into();
        }
        scopes.push(scope);
        at += length;
    }
    scopes
}

/// The table by offsets, with no check at all: real tables are right.
fn naive_structures(bytes: &[u8]) -> Vec<Value> {
    let mut structures = Vec::new();
    let mut at = 48;
    while at < bytes.len() {
        let length = number(bytes, at + 2, 2) as usize;
        let (segment, end) = (number(bytes, at + 6, 2), at + length);
        let scopes = |from: usize| naive_scopes(bytes, at + from, end);
        structures.push(match bytes[at] {
            0 => json!({"kind": "drhd", "at": at, "length": length, "segment": segment, "address": number(bytes, at + 8, 8),
                "flags": bytes[at + 4], "size": bytes[at + 5], "scopes": scopes(16)}),
            1 => json!({"kind": "rmrr", "at": at, "length": length, "segment": segment, "base": number(bytes, at + 8, 8),
                "limit": number(bytes, at + 16, 8), "scopes": scopes(24)}),
            2 => json!({"kind": "atsr", "at": at, "length": length, "segment": segment, "flags": bytes[at + 4], "scopes": scopes(8)}),
            3 => json!({"kind": "rhsa", "at": at, "length": length, "address": number(bytes, at + 8, 8),
                "domain": number(bytes, at + 16, 4), "scopes": []}),
            4 => {
                let name: Vec<u8> = bytes[at + 8..end].iter().copied().take_while(|&byte| byte != 0).collect();
                json!({"kind": "andd", "at": at, "length": length, "number": bytes[at + 7],
                    "name": String::from_utf8(name).unwrap(), "scopes": []})
            }
            5 => json!({"kind": "satc", "at": at, "length": length, "segment": segment, "flags": bytes[at + 4], "scopes": scopes(8)}),
            6 => json!({"kind": "sidp", "at": at, "length": length, "segment": segment, "scopes": scopes(8)}),
            kind => json!({"kind": format!("unknown({kind})"), "at": at, "length": length, "scopes": []}),
        });
        at = end;
    }
    structures
}

type Name = String;
/// First and last.
type Pages = (u64, u64);

/// Whether the table alone says where the device is.
fn is_placed(scope: &Value) -> bool {
    scope["kind"] != "bridge" && scope["path"].as_array().unwrap().len() == 1
}

/// What no table can place.
fn naive_unplaced(structures: &[Value]) -> BTreeSet<Name> {
    let rmrrs = structures.iter().filter(|structure| structure["kind"] == "rmrr");
    let scopes = rmrrs.flat_map(|rmrr| {
        let scopes = rmrr["scopes"].as_array().unwrap().iter().filter(|scope| !is_placed(scope));
        scopes.map(|scope| json!([rmrr["segment"], scope["bus"], scope["path"]]).to_string())
    });
    scopes.collect()
}

/// Joins until nothing joins any more: slow, and plainly right.
fn naive_groups(structures: &[Value]) -> BTreeSet<BTreeSet<Name>> {
    let mut sets: Vec<(Vec<Pages>, BTreeSet<Name>)> = Vec::new();
    for rmrr in structures.iter().filter(|structure| structure["kind"] == "rmrr") {
        let pages = (rmrr["base"].as_u64().unwrap() >> 12, rmrr["limit"].as_u64().unwrap() >> 12);
        let names = rmrr["scopes"].as_array().unwrap().iter().filter(|scope| is_placed(scope));
        let names: BTreeSet<_> =
            names.map(|scope| json!([rmrr["segment"], scope["bus"], scope["path"]]).to_string()).collect();
        // A region that nobody has joins nobody.
        if !names.is_empty() {
            sets.push((vec![pages], names));
        }
    }
    'again: loop {
        for one in 0..sets.len() {
            for other in 0..one {
                let meet = |a: &Pages, b: &Pages| a.0 <= b.1 && b.0 <= a.1;
                let shared = sets[one].0.iter().any(|a| sets[other].0.iter().any(|b| meet(a, b)));
                if shared || !sets[one].1.is_disjoint(&sets[other].1) {
                    let (pages, names) = sets.remove(one);
                    sets[other].0.extend(pages);
                    sets[other].1.extend(names);
                    continue 'again;
                }
            }
        }
        break;
    }
    let unplaced = naive_unplaced(structures).into_iter().map(|name| BTreeSet::from([name]));
    sets.into_iter().map(|(_, names)| names).filter(|names| !names.is_empty()).chain(unplaced).collect()
}

#[test]
fn every_real_table_is_as_a_naive_reading_has_it() {
    let Some(corpus) = common::corpus() else { return };
    let mut several = 0;
    for (path, bytes) in &corpus {
        let mut line = Vec::new();
        json::write(&Report::new(bytes, None), &path.to_string_lossy(), &mut line).unwrap();
        let read: Value = serde_json::from_slice(&line).unwrap();
        let naive = naive_structures(bytes);
        assert_eq!(read["structures"], Value::Array(naive.clone()), "{}", path.display());
        assert_eq!(read["length"], bytes.len());
        assert_eq!(read["width"], u64::from(bytes[36]) + 1);
        assert_eq!(read["flags"], bytes[37]);
        assert_eq!(read["errors"], json!([]));
        assert_eq!(read["file"], path.to_string_lossy().as_ref());
        let keys: Vec<_> = read.as_object().unwrap().keys().collect();
        let unplaced = read["unplaced"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert_eq!(keys.len(), 7 + usize::from(!unplaced.is_empty()), "{keys:?}");
        assert_eq!(unplaced.iter().map(ToString::to_string).collect::<BTreeSet<_>>(), naive_unplaced(&naive));
        let groups: BTreeSet<BTreeSet<_>> = read["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| group.as_array().unwrap().iter().map(ToString::to_string).collect())
            .collect();
        several += groups.iter().filter(|group| group.len() > 1).count();
        assert_eq!(groups, naive_groups(&naive), "{}", path.display());
    }
    assert!(several > 10, "{several} groups of several devices");
}
