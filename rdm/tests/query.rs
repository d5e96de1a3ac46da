//! `rdm query` as it is called, beside what real Xen answered.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::process::Command;

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use serde_json::{Value, json};

fn query(words: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rdm")).arg("query").args(words).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn answer(words: &[&str]) -> Value {
    let (code, out, err) = query(&[words, &["--json"]].concat());
    assert_eq!((code, err.as_str()), (Some(0), ""), "{words:?}");
    serde_json::from_str(&out).unwrap()
}

/// The answer without its log.
fn told(words: &[&str]) -> Value {
    let mut answer = answer(words);
    answer.as_object_mut().unwrap().remove("log").unwrap();
    answer
}

fn rmrr(base: u64, limit: u64, device: u8) -> StructureBuilder {
    StructureBuilder::rmrr(0, base, limit).scope(ScopeBuilder::endpoint(0, &[(device, 0)]))
}

/// A folder with a table of two regions, and one with a memory map.
fn files(structures: impl IntoIterator<Item = StructureBuilder>) -> (tempfile::TempDir, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let (table, map) = (folder.path().join("dmar"), folder.path().join("map"));
    let units = TableBuilder::new().host_address_width(39).structure(StructureBuilder::drhd(
        DrhdFlags::INCLUDE_PCI_ALL,
        0,
        0xfed9_0000,
    ));
    fs::write(&table, structures.into_iter().fold(units, TableBuilder::structure).build()).unwrap();
    fs::write(&map, "0-7ffdffff usable\n7ffe0000-7fffffff reserved\n").unwrap();
    let name = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
    (folder, name(table), name(map))
}

#[test]
fn the_option_and_the_table_are_answered_lowest_first() {
    let (_folder, table, map) = files([rmrr(0x7ffe_4000, 0x7ffe_4fff, 3), rmrr(0x7ffe_0000, 0x7ffe_1fff, 2)]);
    let machine = ["--dmar", &table, "--memory-map", &map, "--rmrr", "7ffe8-7ffe9=0:2.0"];
    let ask = |words: &[&str]| told(&[&machine[..], words].concat());
    let all = json!([[0x7ffe0, 2], [0x7ffe4, 1], [0x7ffe8, 2]]);
    assert_eq!(ask(&["--all"]), json!({ "rc": 0, "nr_entries": 3, "entries": all }));
    assert_eq!(ask(&["--all", "--compat"]), json!({ "rc": 0, "nr_entries": 3, "entries": all }));
    let of_2 = json!({ "rc": 0, "nr_entries": 2, "entries": [[0x7ffe0, 2], [0x7ffe8, 2]] });
    assert_eq!(ask(&["--device", "0000:00:02.0"]), of_2);
    assert_eq!(ask(&["--device", "0:4.0", "--nr", "0"]), json!({ "rc": 0, "nr_entries": 0, "entries": [] }));
    // Too little room: -ENOBUFS, as many as fit, how many there are.
    for room in 0..3 {
        let fits: Vec<_> = all.as_array().unwrap().iter().take(room).collect();
        let answered = ask(&["--all", "--nr", &room.to_string()]);
        assert_eq!(answered, json!({ "rc": -105, "nr_entries": 3, "entries": fits }));
    }
    let log = answer(&[&machine[..], &["--all"]].concat())["log"].as_array().unwrap().len();
    assert_eq!(log, 3);
}

#[test]
fn a_32_bit_caller_gets_erange_at_the_entry_that_does_not_fit() {
    let words = ["--rmrr", "7ffe0=0:2.0;100000000=0:2.0", "--all"];
    let fits = told(&words);
    assert_eq!(fits, json!({ "rc": 0, "nr_entries": 2, "entries": [[0x7ffe0, 1], [0x1_0000_0000_u64, 1]] }));
    let compat = [&words[..], &["--compat"]].concat();
    assert_eq!(told(&compat), json!({ "rc": -34, "nr_entries": 1, "entries": [[0x7ffe0, 1]] }));
    // With no room for it, it only counts.
    let short = [&compat[..], &["--nr", "1"]].concat();
    assert_eq!(told(&short), json!({ "rc": -105, "nr_entries": 2, "entries": [[0x7ffe0, 1]] }));
}

#[test]
fn the_log_has_a_verdict_on_each_and_what_is_wrong() {
    let (_folder, table, map) = files([rmrr(0x7ffe_0000, 0x7ffd_ffff, 2)]);
    let words = ["--dmar", &table, "--memory-map", &map, "--rmrr", "7ffe8=0:2.0;x=0:3.0", "--all"];
    let answered = answer(&words);
    assert_eq!(answered["entries"], json!([[0x7ffe8, 1]]));
    let log: Vec<_> = answered["log"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[0].starts_with("[0x7ffe0000, 0x7ffdffff] (DMAR offset 0x"), "{log:?}");
    assert!(log[1].starts_with("[0x7ffe8000, 0x7ffe8fff] (rmrr= character 1)"), "{log:?}");
    assert!(log[2].starts_with("rmrr=: "), "{log:?}");
    // Without --json the same in words.
    let (code, out, _) = query(&words);
    assert_eq!(code, Some(0));
    assert!(out.ends_with("frames 0x7ffe8 to 0x7ffe8: 1 pages\n0, 1 entries\n"), "{out}");
    let (_, out, _) = query(&[&words[..], &["--nr", "0"]].concat());
    assert!(out.ends_with("-105 (ENOBUFS), nr_entries is 1\n"), "{out}");
}

#[test]
fn a_bridges_scope_is_below_the_bridge_that_is_there() {
    let scope = ScopeBuilder::bridge(0, &[(0x1c, 0)]);
    let (_folder, table, _) = files([StructureBuilder::rmrr(0, 0x7ffe_0000, 0x7ffe_0fff).scope(scope)]);
    let one = json!({ "rc": 0, "nr_entries": 1, "entries": [[0x7ffe0, 1]] });
    let none = json!({ "rc": 0, "nr_entries": 0, "entries": [] });
    let with = ["--dmar", &table, "--devices", "0:1c.0=3-5,4:0.0", "--device"];
    assert_eq!(told(&[&with[..], &["4:0.0"]].concat()), one);
    assert_eq!(told(&[&with[..], &["6:0.0"]].concat()), none);
    assert_eq!(told(&["--dmar", &table, "--device", "4:0.0"]), none);
}

#[test]
fn without_a_unit_the_answer_is_empty_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("dmar");
    for bytes in [TableBuilder::new().structure(rmrr(0x1000, 0x1fff, 2)).build(), vec![1, 2, 3]] {
        fs::write(&table, bytes).unwrap();
        let answered = answer(&["--dmar", table.to_str().unwrap(), "--rmrr", "7ffe8=0:2.0", "--all"]);
        assert_eq!((&answered["rc"], &answered["nr_entries"]), (&json!(0), &json!(0)));
        assert!(!answered["log"].as_array().unwrap().last().unwrap().as_str().unwrap().is_empty());
    }
}

#[test]
fn wrong_usage_and_files_that_are_not_there() {
    for words in [
        &[][..],
        &["--all", "--device", "0:2.0"],
        &["--device", "2.0"],
        &["--all", "--nr", "-1"],
        &["--all", "--nr", "4294967296"],
        &["--all", "--devices", "0:1c.0=x"],
        &["--all", "more"],
    ] {
        let (code, out, err) = query(words);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{words:?}");
        assert!(err.starts_with("error: ") && err.contains("rdm query --help"), "{err}");
    }
    for option in ["--dmar", "--memory-map"] {
        let (code, _, err) = query(&["--all", option, "/nonexistent"]);
        assert_eq!(code, Some(1));
        assert!(err.starts_with("error: /nonexistent: cannot be read"), "{err}");
    }
    let (code, help, _) = query(&["--help"]);
    assert!(code == Some(0) && help.contains("--memory-map FILE"), "{help}");
}
