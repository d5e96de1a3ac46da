//! What `cargo xtask fuzz` says before it needs a fuzzer.

// Helpers of tests fail tests.
#![allow(missing_docs, clippy::unwrap_used)]

use std::process::{Command, Output};

fn fuzz(words: &[&str]) -> Output {
    // No rustup, and no cargo of a nightly toolchain.
    let folder = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_xtask"))
        .arg("fuzz")
        .args(words)
        .env("PATH", folder.path())
        .env("CARGO", folder.path().join("cargo"))
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn an_unknown_target_gets_a_list_of_targets() {
    let output = fuzz(&["toast"]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("no target \"toast\"") && text.contains("parse, resolve, builder"), "{text}");
}

#[test]
fn every_target_is_in_the_list_and_in_the_library() {
    let output = fuzz(&["--help"]);
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    let listed: Vec<_> = help.rsplit("Targets: ").next().unwrap().trim().split(", ").collect();
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/targets/src/lib.rs");
    let library = std::fs::read_to_string(library).unwrap();
    let table: Vec<_> =
        library.split("    (\"").skip(1).map(|line| line.split('"').next().unwrap()).collect();
    assert_eq!(listed, table);
}

#[test]
fn a_time_that_is_none_is_refused() {
    for words in [&["parse", "0"][..], &["parse", "long"], &["0"], &["parse", "1", "2"]] {
        let output = fuzz(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(stderr(&output).contains("Usage"), "{words:?}");
    }
}

#[test]
fn without_a_nightly_toolchain_the_user_is_told() {
    let output = fuzz(&["parse", "1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("rustup toolchain install nightly"), "{}", stderr(&output));
}
