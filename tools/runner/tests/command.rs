//! The `runner boot` command as a user meets it: what it prints, what it exits with, and that QEMU never
//! outlives it.

#![cfg(unix)]
// Helpers of tests fail tests.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, clippy::string_slice)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use runner::qemu;
use tempfile::TempDir;

const HELD: &str = "echo 'INFO  vtd: on'; echo 'STEP  one: first'; echo 'PASS  one: seen'; echo 'DONE  passed=1 failed=0'; exit 33";

/// `runner boot` with a script in QEMU's place, and a folder of its own for its files.
struct Boot {
    command: Command,
    folder: TempDir,
}

impl Boot {
    fn new(script: &str) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command
            .args(["boot", "--qemu"])
            .arg(tests.join("fake-qemu.sh"))
            // Nobody looks into it.
            .arg("--image")
            .arg(tests.join("fake-qemu.sh"))
            .env("FAKE_QEMU", script)
            .env("CARGO_TARGET_DIR", folder.path())
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null());
        Self { command, folder }
    }

    fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    fn output(mut self) -> Output {
        self.command.output().unwrap()
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_boot_is_shown_with_command_steps_and_summary() {
    let output = Boot::new(HELD).output();
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    for part in [
        "fake-qemu.sh \\\n",
        "-acpitable file=",
        "INFO  vtd: on",
        "one  first",
        "  ✓ seen",
        "The one step held",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn colour_and_signs_follow_the_terminal() {
    let text = stdout(&Boot::new(HELD).args(&["--color", "always"]).output());
    assert!(text.contains("\x1b[32m✓\x1b[0m"), "{text:?}");
    let text = stdout(&Boot::new(HELD).env("LC_ALL", "C").output());
    assert!(text.is_ascii() && text.contains("ok   seen"), "{text}");
}

#[test]
fn what_does_not_hold_exits_1_and_says_so() {
    let failed = "echo 'STEP one: x'; echo 'FAIL one: it did not'; echo 'DONE passed=0 failed=1'; exit 35";
    for (script, part) in [
        (failed, "failed: one"),
        ("exit 0", "status 0"),
        ("echo 'PANIC no'; exit 37", "crashed"),
        ("echo 'odd device' >&2; exit 1", "odd device"),
    ] {
        let output = Boot::new(script).output();
        assert_eq!(output.status.code(), Some(1), "{script}");
        assert!(stdout(&output).contains(part), "{script}: {}", stdout(&output));
    }
    let output = Boot::new("exec sleep 600").args(&["--time-limit", "0.2"]).output();
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("did not end within 0.2 s"));
}

#[test]
fn json_says_the_same() {
    let script = "echo SeaBIOS; echo 'WARN  a: b'; echo 'STEP one: first'; echo 'PASS one: seen'; echo 'STEP two: x'; echo 'TRAP 6'; exit 37";
    let boot = Boot::new(script);
    let file = boot.folder.path().join("boot.json");
    let output = boot.args(&["--json", file.to_str().unwrap()]);
    let Boot { mut command, folder } = output;
    assert_eq!(command.output().unwrap().status.code(), Some(1));
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<_> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["command", "log", "log", "step", "log", "step", "summary"]);
    assert!(lines[0]["argv"].as_array().unwrap().len() > 20);
    assert_eq!((&lines[1]["level"], &lines[1]["text"]), (&serde_json::Value::Null, &"SeaBIOS".into()));
    assert_eq!((&lines[2]["level"], &lines[2]["target"]), (&"WARN".into(), &"a".into()));
    assert_eq!((&lines[3]["name"], &lines[3]["title"]), (&"one".into(), &"first".into()));
    assert_eq!((&lines[3]["verdict"], &lines[3]["detail"]), (&"pass".into(), &"seen".into()));
    assert_eq!(lines[4]["level"], "TRAP");
    assert_eq!(lines[5]["verdict"], "unfinished");
    assert_eq!((&lines[6]["verdict"], &lines[6]["status"]), (&"broken".into(), &37.into()));
    assert!(lines[6]["problem"].as_str().unwrap().contains("TRAP"));
    drop(folder);
    // '-' is standard output, and nothing else is there.
    let output = Boot::new(HELD).args(&["--json", "-"]).output();
    assert!(stdout(&output).lines().all(|line| line.starts_with("{\"kind\":")));
}

#[test]
fn steps_are_listed_and_an_unknown_one_is_not_broken() {
    // As the image does: the steps when asked for them, else a run that fails when told to.
    let image = "case \"$*\" in
        *list-steps*) echo 'LIST one: first'; echo 'LIST two: second'; echo 'DONE passed=0 failed=0'; exit 33;;
        *break=two*) echo 'STEP two: x'; echo 'FAIL two: spoilt'; echo 'DONE passed=0 failed=1'; exit 35;;
        esac; exit 99";
    let output = Boot::new(image).args(&["--list-steps"]).output();
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).lines().any(|line| line.starts_with("two ") && line.ends_with("second")));
    assert_eq!(Boot::new(image).args(&["--break", "two"]).output().status.code(), Some(1));
    let output = Boot::new(image).args(&["--break", "three"]).output();
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("no step \"three\"") && text.contains("one") && text.contains("second"), "{text}");
}

#[test]
fn wrong_use_is_explained() {
    let output = Boot::new(HELD).args(&["--brake", "x"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--brake") && stderr(&output).contains("--help"));
    let output = Boot::new(HELD).args(&["--dmar", "/nowhere/dmar"]).output();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/nowhere/dmar"));
    let output = Boot::new(HELD).args(&["--dmar", "/dev/null"]).output();
    assert!(stderr(&output).contains("not a DMAR table: it is empty"), "{}", stderr(&output));
    let output = Boot::new(HELD).args(&["--help"]).output();
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("--dmar FILE"));
}

/// Whether a process runs; a zombie that nobody has waited for does not.
fn runs(id: u32) -> bool {
    if cfg!(target_os = "linux") {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        return status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'));
    }
    let output = Command::new("ps").args(["-o", "stat=", "-p", &id.to_string()]).output().unwrap();
    let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    !state.is_empty() && !state.starts_with('Z')
}

fn gone_soon(id: u32) -> bool {
    let started = Instant::now();
    while runs(id) {
        if started.elapsed() > Duration::from_secs(10) {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Boots in the background and waits for the line in which QEMU's place-holder says its process id.
fn in_the_background(script: &str) -> (Child, BufReader<std::process::ChildStdout>, u32, TempDir) {
    let Boot { mut command, folder } = Boot::new(script);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let id = loop {
        line.clear();
        assert_ne!(out.read_line(&mut line).unwrap(), 0, "no process id");
        if let Some(id) = line.trim().strip_prefix("PID ") {
            break id.parse().unwrap();
        }
    };
    assert!(runs(id));
    (child, out, id, folder)
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

#[test]
fn a_signal_ends_qemu_and_the_summary_says_so() {
    for (name, code) in [("-INT", 130), ("-TERM", 143), ("-HUP", 129)] {
        let (mut child, out, id, _folder) = in_the_background("echo PID $$; exec sleep 600");
        signal(&child, name);
        let rest: String = out.lines().map(|line| line.unwrap() + "\n").collect();
        assert_eq!(child.wait().unwrap().code(), Some(code), "{name}: {rest}");
        assert!(rest.contains(&format!("Interrupted by SIG{}", &name[1..])), "{rest}");
        assert!(gone_soon(id), "{name}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn not_even_sigkill_leaves_qemu_behind() {
    let (mut child, _out, id, _folder) = in_the_background("echo PID $$; exec sleep 600");
    signal(&child, "-KILL");
    child.wait().unwrap();
    assert!(gone_soon(id));
}

#[test]
fn a_reader_that_goes_away_ends_qemu() {
    let (mut child, out, id, _folder) = in_the_background("echo PID $$; exec yes");
    drop(out);
    assert_ne!(child.wait().unwrap().code(), Some(0));
    assert!(gone_soon(id));
}

#[test]
#[cfg(target_os = "linux")]
fn the_real_qemu_goes_too() {
    let Some(qemu) = qemu::find() else {
        eprintln!("skipped: no {}", qemu::PROGRAM);
        return;
    };
    // With its processor stopped, it runs until it is ended.
    let script = format!("echo PID $$; exec {} -display none -nodefaults -serial stdio -S", qemu.display());
    for name in ["-TERM", "-KILL"] {
        let (mut child, _out, id, _folder) = in_the_background(&script);
        // Long enough to be QEMU rather than the shell.
        let started = Instant::now();
        while !std::fs::read_link(format!("/proc/{id}/exe")).is_ok_and(|exe| exe.ends_with(qemu::PROGRAM)) {
            assert!(started.elapsed() < Duration::from_secs(10), "QEMU does not start");
            thread::sleep(Duration::from_millis(10));
        }
        thread::sleep(Duration::from_millis(200));
        assert!(runs(id), "QEMU ended by itself");
        signal(&child, name);
        child.wait().unwrap();
        assert!(gone_soon(id), "{name}");
    }
}
