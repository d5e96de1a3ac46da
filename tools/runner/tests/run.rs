//! What a run makes of whatever QEMU does, with scripts in QEMU's place.

#![cfg(unix)]
// Helpers of tests fail tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::string_slice)]

use std::time::{Duration, Instant};

use runner::emulator::Emulator;
use runner::qemu::Invocation;
use runner::run::{Ending, Report, Run, StepVerdict, Verdict};

const LIMIT: Duration = Duration::from_secs(20);

fn run_for(script: &str, limit: Duration) -> Report {
    run_on(Emulator::Qemu, script, limit)
}

fn run_on(emulator: Emulator, script: &str, limit: Duration) -> Report {
    let invocation =
        Invocation { emulator, program: "sh".into(), arguments: vec!["-c".into(), script.into()] };
    Run::start(&invocation, limit).unwrap().finish(|_| ()).unwrap()
}

fn run(script: &str) -> Report {
    run_for(script, LIMIT)
}

fn broken(script: &str) -> String {
    match run(script).verdict() {
        Verdict::Broken(sentence) => sentence,
        other => panic!("{script}: {other:?}"),
    }
}

#[test]
fn a_boot_that_holds() {
    let report = run(
        "echo 'INFO  a: b'; echo 'STEP  one: first'; echo 'PASS  one: seen'; echo 'DONE  passed=1 failed=0'; exit 33",
    );
    assert_eq!(report.verdict(), Verdict::Held);
    assert_eq!(report.ending, Ending::Status(33));
    assert_eq!(report.steps.len(), 1);
    assert_eq!((report.steps[0].title.as_str(), report.steps[0].detail.as_str()), ("first", "seen"));
    assert_eq!(report.records.len(), 4);
}

#[test]
fn a_boot_with_a_failed_step() {
    let report = run(
        "echo 'STEP one: x'; echo 'PASS one: x'; echo 'STEP two: y'; echo 'FAIL two: no'; echo 'DONE passed=1 failed=1'; exit 35",
    );
    assert_eq!(report.verdict(), Verdict::StepsFailed(vec!["two".into()]));
    assert_eq!(report.steps_that(StepVerdict::Passed), ["one"]);
}

#[test]
fn without_its_last_line_no_status_is_success() {
    let sentence = broken("echo 'STEP one: x'; echo 'PASS one: x'; exit 33");
    assert!(sentence.contains("without a DONE line"), "{sentence}");
    assert!(broken("exit 33").contains("without a DONE line"));
    assert!(broken("echo 'DONE passed=0 failed=0'; exit 33").contains("without a single step"));
}

#[test]
fn status_0_is_no_success() {
    let sentence = broken("echo 'STEP one: x'; echo 'PASS one: x'; echo 'DONE passed=1 failed=0'; exit 0");
    assert!(sentence.contains("status 0") && sentence.contains("after step one"), "{sentence}");
    let sentence = broken("echo 'STEP one: x'; exit 0");
    assert!(sentence.contains("in step one"), "{sentence}");
}

#[test]
fn a_log_that_contradicts_itself_is_no_success() {
    for (script, part) in [
        ("echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=2 failed=0'; exit 33", "shows 1 steps"),
        ("echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=1 failed=0'; exit 35", "0 steps failed"),
        ("echo 'STEP a: x'; echo 'FAIL a: x'; echo 'DONE passed=0 failed=1'; exit 33", "1 steps failed"),
        ("echo 'STEP a: x'; echo 'DONE passed=0 failed=0'; exit 33", "no verdict"),
        ("echo 'PASS a: x'; echo 'DONE passed=1 failed=0'; exit 33", "not under way"),
        (
            "echo 'STEP a: x'; echo 'PASS a: x'; echo 'FAIL a: x'; echo 'DONE passed=1 failed=0'; exit 33",
            "not under way",
        ),
        (
            "echo 'ERROR b: no scenario'; echo 'DONE passed=0 failed=1'; exit 35",
            "last error was: no scenario",
        ),
    ] {
        let sentence = broken(script);
        assert!(sentence.contains(part), "{script}: {sentence}");
    }
}

#[test]
fn a_crash_is_told_in_its_own_words() {
    let sentence = broken("echo 'STEP a: x'; echo 'PANIC at here: why'; echo 'PANIC again'; exit 37");
    assert!(sentence.contains("in step a") && sentence.contains("at here: why"), "{sentence}");
    assert!(broken("echo 'TRAP 14 page fault'; exit 37").contains("page fault"));
    assert!(broken("exit 37").contains("no line of the log says why"));
    // A crash spoils a run whatever its status.
    let held =
        "echo 'STEP a: x'; echo 'PASS a: x'; echo 'PANIC late'; echo 'DONE passed=1 failed=0'; exit 33";
    assert!(broken(held).contains("late"));
}

#[test]
fn qemus_own_complaint_is_passed_on() {
    let report = run("echo 'qemu: no such device' >&2; exit 1");
    assert_eq!(report.stderr.trim(), "qemu: no such device");
    assert!(matches!(report.verdict(), Verdict::Broken(sentence) if sentence.contains("no such device")));
    assert!(broken("exit 99").contains("status 99"));
    assert!(broken("kill -SEGV $$").contains("SIGSEGV"));
}

#[test]
fn of_bochs_the_log_says_it_all() {
    let bochs = |script: &str| run_on(Emulator::Bochs, script, LIMIT);
    let held = bochs(
        "echo ====; echo 'Next at t=0'; echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=1 failed=0'; exit 1",
    );
    assert_eq!(held.verdict(), Verdict::Held);
    // Its own words are no part of the log.
    assert_eq!(held.records.len(), 3);
    let failed = bochs("echo 'STEP a: x'; echo 'FAIL a: x'; echo 'DONE passed=0 failed=1'; exit 1");
    assert_eq!(failed.verdict(), Verdict::StepsFailed(vec!["a".into()]));
    for (script, parts) in [
        ("echo 'STEP a: x'; echo 'PASS a: x'; exit 1", ["after step a", "Bochs ended with status 1"]),
        (
            "echo 'STEP a: x'; printf '[CPU0 ] shutdown\\n====\\n' >&2; exit 1",
            ["in step a", "[CPU0 ] shutdown"],
        ),
        ("echo 'STEP a: x'; echo 'PANIC why'; exit 1", ["crashed in step a", "why"]),
        ("echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=1 failed=0'; exit 0", ["Bochs", "status 0"]),
        (
            "echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=2 failed=0'; exit 1",
            ["shows 1 steps", "2 and 0"],
        ),
    ] {
        let Verdict::Broken(sentence) = bochs(script).verdict() else { panic!("{script}") };
        assert!(parts.iter().all(|part| sentence.contains(part)), "{script}: {sentence}");
    }
}

#[test]
fn time_is_bounded() {
    for script in ["echo 'STEP slow: x'; exec sleep 60", "exec yes", "exec >&- 2>&-; exec sleep 60"] {
        let started = Instant::now();
        let report = run_for(script, Duration::from_millis(300));
        assert!(started.elapsed() < Duration::from_secs(10), "{script}");
        let Verdict::Broken(sentence) = report.verdict() else { panic!("{script}") };
        // `yes` may reach the limit of the log before that of the time.
        assert!(sentence.contains("within 0.3 s") || sentence.contains("MiB"), "{script}: {sentence}");
    }
}

#[test]
fn what_qemu_leaves_behind_does_not_hold_us_up() {
    let started = Instant::now();
    let report = run("sleep 20 & echo 'STEP a: x'; echo 'PASS a: x'; echo 'DONE passed=1 failed=0'; exit 33");
    assert_eq!(report.verdict(), Verdict::Held);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_log_without_line_ends_is_bounded_too() {
    let report = run("head -c 1000000 /dev/zero | tr '\\0' x; exit 33");
    assert!(matches!(report.verdict(), Verdict::Broken(_)));
    assert!(report.records.iter().all(|record| record.to_string().len() <= 16 << 10));
}

#[test]
fn the_listing_needs_a_boot_that_ends_well() {
    let report =
        run("echo 'LIST  a-b: first'; echo 'LIST  c: second'; echo 'DONE passed=0 failed=0'; exit 33");
    assert_eq!(report.listing().unwrap(), [("a-b".into(), "first".into()), ("c".into(), "second".into())]);
    assert!(run("echo 'LIST a: x'; exit 37").listing().is_err());
    assert!(run("exit 33").listing().unwrap_err().contains("named none"));
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let invocation =
        Invocation { emulator: Emulator::Qemu, program: "/nowhere/qemu".into(), arguments: Vec::new() };
    assert!(Run::start(&invocation, LIMIT).is_err());
}

#[test]
fn dropping_a_run_ends_qemu() {
    let invocation =
        Invocation { emulator: Emulator::Qemu, program: "sleep".into(), arguments: vec!["600".into()] };
    let run = Run::start(&invocation, LIMIT).unwrap();
    let id = run.id();
    drop(run);
    // Waited for, so not even a zombie answers.
    let there = std::process::Command::new("kill").args(["-0", &id.to_string()]).output().unwrap();
    assert!(!there.status.success());
}
