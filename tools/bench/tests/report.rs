//! The whole of it, as it is run: rows that callgrind has counted.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Stdio};

use serde_json::Value;

fn rows() -> Option<Vec<Value>> {
    let valgrind =
        Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !valgrind.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no valgrind");
        return None;
    }
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).args(["dmar", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

#[test]
fn callgrind_counts_each_case_and_the_same_each_time() {
    let Some(first) = rows() else { return };
    assert_eq!(rows().unwrap(), first);
    let count = |case: &str| {
        let row = first.iter().find(|row| row["case"].as_str().unwrap().starts_with(case));
        row.unwrap_or_else(|| panic!("{case} is not among {first:?}"))["instructions"].as_u64().unwrap()
    };
    // Each of 200 bytes is looked at, even by vector instructions of 32 bytes; the measuring itself is not
    // counted.
    assert!((200 / 32..100_000).contains(&count("checksum alone: 200 bytes")));
    assert!(count("checksum alone: 64 KiB") > count("checksum alone: 200 bytes"));
    assert!(count("parse and visit: 200 bytes") > count("checksum alone: 200 bytes"));
    assert_eq!(
        count("reading beyond the checksum: 200 bytes"),
        count("parse and visit: 200 bytes") - count("checksum alone: 200 bytes")
    );
    for row in &first {
        assert_eq!(row["area"], "dmar");
        assert!(row.get("peer").is_none());
        assert_eq!(row.get("bound").is_some(), row["case"].as_str().unwrap().contains("beyond"), "{row}");
    }
}
