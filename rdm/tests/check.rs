//! `rdm check`: an xl.cfg, read and judged.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "../../acpi-dmar/tests/common/mod.rs"]
mod corpus;
#[path = "common/golden.rs"]
mod kept;

use std::fs;
use std::process::{Command, Output};

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use kept::golden;
use p2m::Gfn;
use proptest::prelude::*;
use rdm::guest::config::read;
use rdm::guest::syntax::{Config, Value};
use rdm::guest::{Guest, GuestFirmware};
use rdm_layout::Policy;
use rdm_layout::xen::Strategy as RdmStrategy;

fn table() -> Vec<u8> {
    let usb = |function| ScopeBuilder::endpoint(0, &[(0x14, function)]);
    let all = TableBuilder::new().host_address_width(39).structure(StructureBuilder::drhd(
        DrhdFlags::INCLUDE_PCI_ALL,
        0,
        0xfed9_0000,
    ));
    let rmrr = |base, limit| StructureBuilder::rmrr(0, base, limit);
    let all = all.structure(rmrr(0x7b80_0000, 0x7b8f_ffff).scope(usb(0)));
    let all = all.structure(rmrr(0x8b80_0000, 0x8fff_ffff).scope(ScopeBuilder::endpoint(0, &[(2, 0)])));
    let all = all.structure(rmrr(0xfd00_0000, 0xfd00_ffff).scope(ScopeBuilder::endpoint(0, &[(3, 0)])));
    let all = all.structure(rmrr(0x9100_0000, 0x9100_0fff).scope(usb(1)).scope(usb(2)));
    all.structure(rmrr(0x1_4000_0000, 0x1_4000_ffff).scope(ScopeBuilder::endpoint(0, &[(4, 0)]))).build()
}

fn check(config: &str, options: &[&str]) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    file("dmar", &table());
    file("guest.cfg", config.as_bytes());
    let mut command = Command::new(env!("CARGO_BIN_EXE_rdm"));
    command.current_dir(folder.path()).args(["check", "--dmar", "dmar", "guest.cfg"]).args(options);
    let Output { status, stdout, stderr } = command.env_remove("CLICOLOR_FORCE").output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn libxl_as_it_is_and_the_planner_side_by_side() {
    let config =
        "type = \"hvm\"\nmemory = 4096\nbios = \"ovmf\"\npci = [ '00:14.0,rdm_policy=strict', '00:02.0' ]\n";
    let (code, out, error) = check(config, &[]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    golden("check.txt", &out);
}

/// One region each, as libxl, Xen and hvmloader take it, and as the planner does.
#[test]
fn each_way_to_fail_has_its_words() {
    for (pci, memory, outcome, words, planned) in [
        ("00:14.0,rdm_policy=strict", 1024, "kept", "kept free", true),
        (
            "00:14.0,rdm_policy=strict",
            4096,
            "fails",
            "RDM conflict (strict): RAM lies there, and libxl moves it above its boundary of 2048 MiB alone",
            true,
        ),
        ("00:14.0", 4096, "lost", "libxl warns and goes on (relaxed)", true),
        ("00:02.0,rdm_policy=strict", 4096, "kept", "kept free", true),
        (
            "00:03.0,rdm_policy=strict",
            1024,
            "fails",
            "hvmloader has its hvmloader's dynamic area there",
            true,
        ),
        (
            "00:14.1,rdm_policy=strict",
            1024,
            "fails",
            "Xen refuses its device (EPERM), as the table names 2 devices",
            true,
        ),
        ("00:14.1", 1024, "kept", "Xen warns that 2 devices share it", true),
        ("00:04.0,rdm_policy=strict", 8192, "fails", "RAM lies there, up to 0x20f800000", true),
        ("00:04.0,rdm_policy=strict", 2048, "kept", "kept free", true),
    ] {
        let config = format!("type='hvm'; memory={memory}; firmware='uefi'\npci=['{pci}']");
        let (code, out, _) = check(&config, &["--json"]);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        let libxl = &object["libxl"];
        assert_eq!(libxl["outcome"], outcome, "{pci}: {out}");
        assert!(libxl["regions"][0]["sentence"].as_str().unwrap().contains(words), "{pci}: {libxl}");
        assert_eq!((code, &object["ours"]["planned"]), (Some(i32::from(!planned)), &planned.into()), "{pci}");
    }
    // A direct boot has no hvmloader.
    let (code, out, _) = check("type='pvh'\nmemory=1024\npci=['00:03.0,rdm_policy=strict']", &["--json"]);
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &object["libxl"]["outcome"]), (Some(0), &"kept".into()));
    assert!(object["two_range"].is_null());
}

#[test]
fn every_setting_that_counts_is_read() {
    let guest = read(
        "# all of them\nname = \"guest\"; type = \"hvm\"\nmemory = 0x400 # hexadecimal\nmaxmem = \"2048\"\n\
         disk = [ 'phy:/dev/sda,hda,w', [ \"nested\", 1, ], ]\npci = [ '01:00.0,permissive=1',\n\n  # a comment in a list\n  \
         \"0001:02:1f.7@1e,rdm_policy=relaxed\" ]\npci += [ 'bdf=00:02.0,rdm_policy=strict,vslot=3' ]\n\
         rdm = \"strategy=host, policy=strict\"\nrdm_mem_boundary = 1024\nmmio_hole=01000\nbios = 'ovmf'\ndevice_model_version=\"qemu-xen\"",
    )
    .unwrap();
    assert_eq!((guest.memory, guest.firmware), ((2048 - 8) * 256, GuestFirmware::Ovmf));
    assert_eq!((guest.policy, guest.strategy), (Policy::Strict, RdmStrategy::Host));
    assert_eq!((guest.boundary, guest.hole), (Gfn::new(1024 * 256), Gfn::new((4096 - 512) * 256)));
    let devices: Vec<_> =
        guest.devices.iter().map(|device| (device.address.to_string(), device.policy)).collect();
    let expected = [
        ("0000:01:00.0", None),
        ("0001:02:1f.7", Some(Policy::Relaxed)),
        ("0000:00:02.0", Some(Policy::Strict)),
    ];
    assert_eq!(devices, expected.map(|(address, policy)| (address.to_string(), policy)));
    assert!(guest.remarks.iter().any(|remark| remark.contains("drops all of rdm=")), "{:?}", guest.remarks);
    let plain = read("builder = 'hvm'\nmemory = 4\nvga = 'none'").unwrap();
    assert_eq!(plain, Guest { policy: Policy::Relaxed, ..Guest::new(1024) });
    for (lines, mib) in [
        ("stdvga = 1", 16),
        ("vga = 'qxl'", 128),
        ("vga = 'stdvga'\nvideoram = 32", 32),
        ("device_model_version = 'qemu-xen-traditional'", 4),
    ] {
        let guest = read(&format!("type = 'hvm'\nmemory = 512\n{lines}")).unwrap();
        assert_eq!(guest.memory, (512 - mib) * 256, "{lines}");
        assert!(guest.remarks[0].starts_with(&format!("{mib} MiB of its memory")));
    }
    for (line, firmware) in [
        ("firmware = 'bios'", GuestFirmware::Bios),
        ("firmware = 'uefi'", GuestFirmware::Ovmf),
        ("firmware = '/usr/share/x.bin'", GuestFirmware::Bios),
        ("bios = 'rombios'\ndevice_model_version = 'qemu-xen-traditional'", GuestFirmware::Bios),
    ] {
        assert_eq!(read(&format!("type = 'hvm'\nmemory = 64\n{line}")).unwrap().firmware, firmware, "{line}");
    }
    // Of a name that is set twice the last counts.
    assert_eq!(read("memory=4\ntype='pvh'\nmemory=8").unwrap().memory, 8 * 256);
}

#[test]
fn errors_have_line_value_and_rule() {
    let head = "type = \"hvm\"\nmemory = 512\n";
    for (text, line, part) in [
        ("memory = 4", 1, "type: it is missing"),
        ("type = 'pv'\nmemory = 4", 1, "type = \"pv\": a PV guest"),
        ("type = 'vm'\nmemory = 4", 1, "hvm, pvh or pv"),
        ("builder = 'generic'\nmemory = 4", 1, "nothing to lay out"),
        ("type = 'hvm'", 1, "memory: it is missing"),
        ("type = 'hvm'\n\nmemory = 0", 3, "memory = \"0\""),
        ("type = 'hvm'\nmemory = -4", 2, "a value is a number"),
        ("type = 'hvm'\nmemory = 09", 2, "it is a number"),
        ("type = 'hvm'\nmemory = 99999999999999999999", 2, "64 bits"),
        ("type = 'hvm'\nmemory = 9999999999999", 2, "no more than there are addresses"),
        ("type = 'hvm'\nmemory = [4]", 2, "not a list"),
        ("type = 'hvm'\nmemory = 8\nmaxmem = 4", 3, "not less than memory, which is 8"),
        ("@pci = ['00:22.0']", 3, "pci: \"00:22.0\": a device number is 0 to 1f"),
        ("@pci = [ '00:02.0',\n'00:02.0' ]", 4, "named twice"),
        ("@pci = '00:02.0'", 3, "a list in brackets"),
        ("@pci = [['00:02.0']]", 3, "not of lists"),
        ("@pci = [ '00:02.0'\n\n'00:03.0' ]", 5, "between the items of a list comes a comma"),
        ("@pci = [ '00:02.0',", 3, "no ] at its end"),
        ("@pci = [ '00:02.0 ]", 3, "no closing quote"),
        ("@pci = [ '00:02.0,rdm_policy=private' ]", 3, "xl knows strict and relaxed alone"),
        ("@pci = [ 'rdm_policy=strict' ]", 3, "names no device"),
        ("@pci = [ '00:02.0@20' ]", 3, "a slot is 0 to 1f"),
        ("@rdm = 'strategy=none'", 3, "its strategy is host"),
        ("@rdm = 'host'", 3, "strategy=host and policy"),
        ("@rdm = 'policy=loose'", 3, "strict or relaxed"),
        ("@mmio_hole = 128", 3, "256 to 3840 MiB"),
        ("@bios = 'efi'", 3, "seabios, rombios or ovmf"),
        ("@firmware = 'efi'", 3, "a file's path"),
        ("@bios = 'ovmf'\ndevice_model_version = 'qemu-xen-traditional'", 3, "rombios alone"),
        ("@device_model_version = 'qemu'", 3, "qemu-xen-traditional"),
        ("@vga = 'vmware'", 3, "a display is stdvga"),
        ("@videoram = 4", 3, "not less than the 8 of its display"),
        ("type = 'hvm'\nmemory = 8", 2, "which leaves nothing"),
        ("@vcpus 4", 3, "behind a name comes ="),
        ("@vcpus = ", 3, "a value is a number"),
        ("@vcpus = 4 5", 3, "behind its value comes"),
        ("@= 4", 3, "a line is NAME = VALUE"),
        ("@name = \"a\\q\"", 3, "after a backslash"),
        ("@name = \"a\\x9z\"", 3, "two hexadecimal digits"),
        ("@vcpus += [4]\nvcpus += 3", 4, "a list is added to a list"),
    ] {
        let text = text.strip_prefix('@').map_or_else(|| text.to_string(), |rest| format!("{head}{rest}"));
        let error = read(&text).unwrap_err();
        assert_eq!(error.line, line, "{text}: {error}");
        assert!(error.to_string().contains(part), "{text}: {error}");
    }
    let deep = read(&format!("a = {}", "[".repeat(1 << 20))).unwrap_err();
    assert!(deep.to_string().contains("at most 8 deep"), "{deep}");
    let (code, out, error) = check("type='hvm'\nmemory=0", &[]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(error.starts_with("error: guest.cfg: line 2: memory = \"0\""), "{error}");
    for (options, part) in
        [(&["x"][..], "unexpected"), (&["--root", "x"], "leave out one"), (&["--frob"], "frob")]
    {
        let (code, _, error) = check("", options);
        assert_eq!(code, Some(2));
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn strings_have_their_escapes() {
    let config = Config::read("a = \"x\\ty\\x41\\\\\\\"'\"\nb='\"'\na += 'z'").unwrap();
    let text = |name: &str| match &config.get(name).unwrap().value {
        Value::Atom(atom) => atom.text.clone(),
        Value::List(_) => panic!(),
    };
    assert_eq!((text("a"), text("b")), ("x\tyA\\\"'z".to_string(), "\"".to_string()));
}

/// What works as things are is planned for hvmloader too, at the same ends of RAM; and the other way round
/// nothing that a table holds is in the way of a direct boot.
#[test]
fn real_tables_are_planned_where_libxl_keeps_their_regions() {
    use rdm::check::{Check, Outcome};
    use rdm::guest::Assigned;
    use rdm::inspect::Report;
    use rdm::plan::host::Host;
    let Some(corpus) = corpus::corpus() else { return };
    let mut counts = [0; 3];
    for (path, bytes) in &corpus {
        let report = Report::new(bytes, None);
        let host = Host::new(&report);
        for address in report.devices.iter().filter_map(|device| device.address()) {
            for policy in [Policy::Strict, Policy::Relaxed] {
                let devices = vec![Assigned { address, policy: Some(policy) }];
                let guest = Guest { devices, ..Guest::new(4 << 18) };
                let check = Check::new(&guest, &host);
                let two_range = check.two_range.as_ref().unwrap();
                match check.outcome() {
                    Outcome::Kept => {
                        let layout = two_range.layout.as_ref().unwrap();
                        let ends = (layout.lowmem_end >> 12, layout.highmem_end >> 12);
                        let theirs = (check.ends.lowmem_end.raw(), check.ends.highmem_end.raw());
                        assert!(two_range.is_planned(), "{}: {:?}", path.display(), two_range.failure);
                        assert_eq!(ends, theirs, "{}", path.display());
                        counts[0] += 1;
                    }
                    Outcome::Lost => {
                        assert_eq!(policy, Policy::Relaxed);
                        counts[1] += 1;
                    }
                    Outcome::Fails => counts[2] += 1,
                }
                let direct = Check::new(&Guest { firmware: GuestFirmware::Direct, ..guest }, &host);
                assert!(direct.ours.is_planned() && direct.two_range.is_none());
            }
        }
    }
    assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Whatever a file holds, it is read or refused with one of its lines.
    #[test]
    fn no_text_makes_a_panic(text in r#"([a-z]{1,3}|type|memory|pci|rdm|=|\+=|\[|\]|'|"|,|#|;|\n| |\\|hvm|00:02.0|[0-9]{1,3}|x|é){0,40}"#) {
        let lines = text.matches('\n').count() + 1;
        if let Err(error) = read(&text) {
            prop_assert!((1..=lines).contains(&error.line), "{}", error);
        }
    }
}
