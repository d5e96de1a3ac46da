//! The command as it is called: output, errors, exit codes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};

fn good() -> Vec<u8> {
    TableBuilder::new()
        .structure(StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_0000))
        .structure(
            StructureBuilder::rmrr(0, 0xf_0000, 0xf_ffff).scope(ScopeBuilder::endpoint(0, &[(0x14, 0)])),
        )
        .build()
}

fn rdm() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdm"));
    command.env_remove("CLICOLOR_FORCE");
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn usage_errors_say_what_to_do_and_exit_2() {
    for words in [&["inspect", "--frob"][..], &["inspekt"], &[], &["inspect", "--svg", "x", "a", "b"]] {
        let (code, out, error) = run(rdm().args(words));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{words:?}");
        assert!(error.starts_with("error: ") && (error.contains("rdm inspect")), "{error}");
    }
    for words in [&["inspect", "--help"][..], &["help"], &["-h"]] {
        let (code, out, error) = run(rdm().args(words));
        assert_eq!((code, error.as_str()), (Some(0), ""), "{words:?}");
        assert!(out.contains("Usage: rdm inspect"));
    }
}

#[test]
fn exit_codes_tell_good_tables_from_bad_and_every_file_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let (right, mut damaged) = (file("right", &good()), good());
    damaged[60] ^= 1;
    let damaged = file("damaged", &damaged);
    let short = file("short", b"DMAR");
    let absent = folder.path().join("absent");
    let (code, out, error) = run(rdm().args(["inspect", "--json"]).arg(&right));
    assert_eq!((code, out.lines().count(), error.as_str()), (Some(0), 1, ""));
    let all = [&damaged, &absent, &short, &right];
    let (code, out, error) = run(rdm().args(["inspect", "--json"]).args(all));
    assert_eq!((code, error.as_str()), (Some(1), ""));
    let lines: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let files: Vec<_> = lines.iter().map(|line| line["file"].as_str().unwrap()).collect();
    assert_eq!(files, all.map(|path| path.to_str().unwrap()));
    let errors: Vec<_> = lines.iter().map(|line| line["errors"].as_array().unwrap().len()).collect();
    assert_eq!(errors, [1, 1, 1, 0]);
    assert_eq!(lines[0]["structures"].as_array().unwrap().len(), 2);
    assert!(lines[2]["length"].is_null() && lines[2]["groups"].as_array().unwrap().is_empty());

    let (code, out, error) = run(rdm().arg("inspect").args(all));
    assert_eq!(code, Some(1));
    assert!(error.contains("absent: cannot be read: No such file"), "{error}");
    assert!(
        out.contains("error: 4 bytes are too few for a DMAR header of 48")
            && out.contains("Reserved regions")
    );
    assert!(!out.contains('\u{1b}'), "no colours into a pipe");
}

#[test]
fn standard_input_and_endless_files_are_read_as_far_as_the_header_says() {
    let mut child =
        rdm().args(["inspect", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut bytes = good();
    bytes.extend_from_slice(&[0xff; 1000]);
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    if Path::new("/dev/zero").exists() {
        let (code, out, _) = run(rdm().args(["inspect", "/dev/zero"]));
        assert_eq!(code, Some(1));
        assert!(out.contains("the signature is"), "{out}");
    }
}

#[test]
fn thousands_of_files_are_one_line_each_and_a_closed_pipe_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..3000).map(|number| folder.path().join(format!("{number}"))).collect();
    names.iter().for_each(|name| fs::write(name, good()).unwrap());
    let (code, out, error) = run(rdm().args(["inspect", "--json"]).args(&names));
    assert_eq!((code, out.lines().count(), error.as_str()), (Some(0), 3000, ""));
    let mut child =
        rdm().args(["inspect"]).args(&names).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn a_machine_is_read_from_its_sys_folder() {
    let root = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let inspect = || run(rdm().args(["inspect", "--root"]).arg(root.path()));
    let (code, out, error) = inspect();
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("firmware tells of no IOMMU"), "{error}");
    assert!(error.contains("VT-d is switched off in its firmware setup"), "{error}");

    write("sys/firmware/acpi/tables/DMAR", &good());
    let (code, out, _) = inspect();
    assert_eq!(code, Some(0));
    assert!(out.contains("Judged by the table alone"), "{out}");

    let mut config = [0; 64];
    config[..12].copy_from_slice(&[0x86, 0x80, 0x31, 0x1e, 0, 0, 0, 0, 4, 0x30, 3, 0x0c]);
    write("sys/bus/pci/devices/0000:00:14.0/config", &config);
    write("usr/share/misc/pci.ids", b"8086  Intel Corporation\n\t1e31  xHCI\n");
    let (_, out, _) = inspect();
    assert!(out.contains("0000:00:14.0 (Intel Corporation xHCI) can be passed through alone"), "{out}");
    assert!(out.contains("its memory map (/sys/firmware/memmap) is not shown"), "{out}");

    for (name, value) in [("start", "0xf0000\n"), ("end", "0xfffff\n"), ("type", "System RAM\n")] {
        write(&format!("sys/firmware/memmap/0/{name}"), value.as_bytes());
    }
    // Another device's window, where the region is; it counts while that decodes.
    let mut other = config;
    for (command, is_over) in [(0, false), (2, true)] {
        other[4] = command;
        write("sys/bus/pci/devices/0000:00:15.0/config", &other);
        write(
            "sys/bus/pci/devices/0000:00:15.0/resource",
            b"0x00000000000f8000 0x00000000000f8fff 0x0000000000040200\n",
        );
        let (_, out, _) = inspect();
        assert_eq!(
            out.contains("rejected: it is over a window of 0000:00:15.0, 0xf8000 to 0xf8fff"),
            is_over,
            "{out}"
        );
    }
    fs::remove_dir_all(root.path().join("sys/bus/pci/devices/0000:00:15.0")).unwrap();
    let drawing = root.path().join("drawing.svg");
    let (code, out, _) = run(rdm().args(["inspect", "--root"]).arg(root.path()).arg("--svg").arg(&drawing));
    assert_eq!(code, Some(0));
    assert!(out.contains("in RAM: accepted if the hypervisor can take its frames"), "{out}");
    assert!(fs::read_to_string(drawing).unwrap().contains("<svg"));
}
