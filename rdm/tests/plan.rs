//! `rdm plan`: what it says of a guest, on made-up tables and on real ones.
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
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::PciAddress;
use kept::golden;
use proptest::prelude::*;
use rdm::guest::{Assigned, Guest, GuestFirmware};
use rdm::inspect::Report;
use rdm::plan::host::Host;
use rdm::plan::{Planned, json, picture, text, xl};
use rdm_layout::Policy;
use rdm_layout::xen::Strategy as RdmStrategy;

/// A laptop's: USB below 1 MiB and below 2 GiB, graphics above.
fn table() -> Vec<u8> {
    let usb = || ScopeBuilder::endpoint(0, &[(0x14, 0)]);
    TableBuilder::new()
        .host_address_width(39)
        .structure(StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_0000))
        .structure(StructureBuilder::rmrr(0, 0x7b80_0000, 0x7b8f_ffff).scope(usb()))
        .structure(
            StructureBuilder::rmrr(0, 0x8b80_0000, 0x8fff_ffff).scope(ScopeBuilder::endpoint(0, &[(2, 0)])),
        )
        .structure(StructureBuilder::rmrr(0, 0xed000, 0xeffff).scope(ScopeBuilder::endpoint(0, &[(0x1d, 0)])))
        .build()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.path("dmar"), table()).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What `rdm` says to words in which `DMAR` is the table.
    fn rdm(&self, words: &str) -> (Option<i32>, String, String) {
        let table = self.path("dmar");
        let words = words
            .split_whitespace()
            .map(|word| if word == "DMAR" { table.as_path() } else { Path::new(word) });
        run(Command::new(env!("CARGO_BIN_EXE_rdm")).args(words))
    }
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.env_remove("CLICOLOR_FORCE").output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn a_guest_is_shown_as_a_table_and_a_drawing() {
    let words = "plan --dmar DMAR --memory 4G --pci 00:14.0 --pci 0000:00:02.0,rdm_policy=private --bar 256M,64,pref --bar 16M --firmware ovmf";
    let (code, out, error) = Folder::new().rdm(words);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    golden("plan.txt", &out);
}

#[test]
fn what_is_in_the_way_is_named_and_shown_where_it_would_be() {
    let folder = Folder::new();
    let (code, out, error) = folder.rdm("plan --dmar DMAR --memory 2G --strategy host");
    assert_eq!((code, error.as_str()), (Some(1), ""));
    golden("no-plan.txt", &out);
    let (_, out, _) = folder.rdm("plan --dmar DMAR --memory 2G --strategy host --color always");
    let red = "\u{1b}[31m";
    assert!(out.contains(&format!("{red}no plan: there is no layout: R3 ")), "{out}");
    assert!(out.contains(&format!("{red}in the way: it meets")));
    let (_, out, _) = folder.rdm("plan --dmar DMAR --memory 2G --strategy host --firmware ovmf --two-range");
    assert!(out.contains("note: With RAM in several ranges there is a plan."), "{out}");
    // Relaxed, it is given up by name.
    let (code, out, _) =
        folder.rdm("plan --dmar DMAR --memory 2G --pci 00:1d.0,rdm_policy=relaxed --color always");
    assert_eq!(code, Some(0));
    assert!(
        out.contains(&format!(
            "{red}given up: it meets what lies fast at frame 0xed (BIOS); what lies there"
        )),
        "{out}"
    );
}

#[test]
fn lines_for_xl_say_what_it_can_and_what_it_cannot() {
    let folder = Folder::new();
    let (code, out, error) = folder.rdm(
        "plan --dmar DMAR --memory 4G --xl --firmware ovmf --pci 00:14.0 --pci 00:02.0,rdm_policy=relaxed",
    );
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let expected = "type = \"hvm\"\nmemory = 4096\nbios = \"ovmf\"\npci = [\n    \"0000:00:14.0,rdm_policy=strict\",\n    \
                    \"0000:00:02.0,rdm_policy=relaxed\",\n]\n# so that RAM ends below a region that lies under 2 GiB\n\
                    rdm_mem_boundary = 1975\n";
    assert_eq!(out, expected);
    let (_, out, _) = folder.rdm(
        "plan --dmar DMAR --memory 1G --xl --strategy host --policy private --pci 00:14.0 --firmware ovmf",
    );
    assert!(
        out.contains("rdm = \"strategy=host\"\n") && out.contains("# xl knows no private regions"),
        "{out}"
    );
    assert!(out.contains("# not with libxl as it is: RAM lies at R3"), "{out}");
    assert!(!out.contains("rdm_mem_boundary"), "{out}");
    let (_, out, _) = folder.rdm("plan --dmar DMAR --memory 1048577K --xl --firmware none");
    assert!(out.is_empty(), "1048577K is no whole page");
    let (_, out, _) = folder.rdm("plan --dmar DMAR --memory 1048580K --xl --firmware none");
    assert!(
        out.starts_with(
            "type = \"pvh\"\n# xl counts memory in MiB: of 1048580 KiB the rest is left out\nmemory = 1024\n"
        ),
        "{out}"
    );
    assert!(!out.contains("bios"));
    let (code, out, error) = folder.rdm("plan --dmar DMAR --memory 1G --xl --strategy host");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.starts_with("error: no plan: there is no layout: R3 [0xed000, 0xeffff] meets"), "{error}");
}

/// The lines are read as the guest that they are of, and libxl then does as the plan for two ranges does.
#[test]
fn lines_for_xl_are_read_back() {
    let folder = Folder::new();
    let words = "--dmar DMAR --memory 4G --xl --pci 00:14.0 --pci 00:02.0";
    let (_, lines, _) = folder.rdm(&format!("plan {words}"));
    let config = folder.path("guest.cfg");
    fs::write(&config, &lines).unwrap();
    let (code, out, _) = folder.rdm(&format!("check --json --dmar DMAR {}", config.display()));
    assert_eq!(code, Some(0));
    let check: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(check["libxl"]["outcome"], "kept", "{out}");
    assert_eq!(check["libxl"]["lowmem_end"], 0x7b80_0000);
}

#[test]
fn one_object_says_all_and_the_plan_in_it_is_read_back() {
    use serde::de::DeserializeSeed;
    let folder = Folder::new();
    let (code, out, _) =
        folder.rdm("plan --dmar DMAR --memory 4G --pci 00:14.0 --pci 00:02.0 --bar 16M --json");
    assert_eq!((code, out.lines().count()), (Some(0), 1));
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(object["planned"], true);
    assert_eq!(object["regions"][0]["start"], 0x7b80_0000);
    assert_eq!(object["regions"][0]["end"], 0x7b90_0000);
    assert_eq!(object["regions"][1]["verdict"], "moved-around");
    assert_eq!(object["bars"][0]["address"], 0xfb00_0000_u64);
    assert!(object["error"].is_null());
    let (mut regions, mut ram) = ([rdm_layout::RegionPlan::default(); 4], [p2m::GfnRange::default(); 32]);
    let (mut bars, mut modules) =
        ([rdm_layout::BarPlan::default(); 4], [rdm_layout::ModulePlan::default(); 8]);
    let (mut e820, mut unallocated) = ([rdm_layout::E820Entry::default(); 64], [p2m::GfnRange::default(); 4]);
    let mut storage = rdm_layout::Storage {
        taken: &mut [],
        regions: &mut regions,
        bars: &mut bars,
        modules: &mut modules,
        ram: &mut ram,
        e820: &mut e820,
        unallocated: &mut unallocated,
    };
    let plan = rdm_layout::PlanSeed(&mut storage).deserialize(&object["plan"]).unwrap();
    assert_eq!((plan.version, plan.ram_frames()), (rdm_layout::VERSION, 1 << 20));
    let (code, out, _) = folder.rdm("plan --dmar DMAR --memory 1G --strategy host --json");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &object["planned"], &object["plan"]),
        (Some(1), &false.into(), &serde_json::Value::Null)
    );
    assert!(object["error"].as_str().unwrap().contains("R3 [0xed000, 0xeffff]"));
    assert!(object["map"].as_array().unwrap().iter().any(|row| row["kind"] == "conflict"));
}

#[test]
fn wrong_words_are_refused_with_the_rule() {
    let folder = Folder::new();
    for (words, part) in [
        ("", "--memory is missing"),
        ("--memory", "missing argument"),
        ("--memory 0", "whole pages"),
        ("--memory 4g+", "a size is a number"),
        ("--memory +4G", "a size is a number"),
        ("--memory 5K", "whole pages"),
        ("--memory 99999999T", "64 bits"),
        ("--memory 1G --pci 00:20.0", "a device number is 0 to 1f"),
        ("--memory 1G --pci 00:02.8", "a function is 0 to 7"),
        ("--memory 1G --pci 100:02.0", "a bus is 0 to ff"),
        ("--memory 1G --pci 00:02.*", "one by one"),
        ("--memory 1G --pci 10000:00:02.0", "a segment is 0 to ffff"),
        ("--memory 1G --pci 00:02", "[SEGMENT:]BUS:DEVICE.FUNCTION"),
        ("--memory 1G --pci 00:02.0,rdm_policy=loose", "strict, relaxed or private"),
        ("--memory 1G --pci 00:02.0,rdm_polcy=strict", "a pci entry has"),
        ("--memory 1G --pci 00:02.0 --pci 0:2.0", "named twice"),
        ("--memory 1G --strategy all", "devices or host"),
        ("--memory 1G --policy no", "strict, relaxed or private"),
        ("--memory 1G --bar 3M", "power of two"),
        ("--memory 1G --bar 4G", "2 GiB at most"),
        ("--memory 1G --bar 4K,16", "32 or 64"),
        ("--memory 1G --firmware uefi", "bios, ovmf or none"),
        ("--memory 1G --json --xl", "leave out one"),
        ("--memory 1G --root x --dmar y", "leave out one"),
        ("--memory 1G --frob", "frob"),
        ("--memory 1G x", "unexpected"),
    ] {
        let (code, out, error) = folder.rdm(&format!("plan {words}"));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{words}");
        assert!(error.starts_with("error: ") && error.contains(part), "{words}: {error}");
    }
    let (code, out, error) = folder.rdm("plan --help");
    assert_eq!((code, error.as_str()), (Some(0), ""));
    for option in [
        "dmar",
        "root",
        "memory",
        "pci",
        "strategy",
        "policy",
        "bar",
        "firmware",
        "two-range",
        "json",
        "xl",
        "svg",
    ] {
        assert!(out.contains(&format!("--{option}")), "{option}");
    }
    let (code, _, error) = folder.rdm("plan --memory 1G --dmar /nonexistent");
    assert_eq!(code, Some(1));
    assert!(error.contains("/nonexistent: cannot be read"), "{error}");
}

#[test]
fn the_machine_gives_bars_and_the_width_of_addresses() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("sys/firmware/acpi/tables/DMAR", &table());
    let mut config = [0; 64];
    config[..12].copy_from_slice(&[0x86, 0x80, 0x31, 0x1e, 0, 0, 0, 0, 4, 0x30, 3, 0x0c]);
    write("sys/bus/pci/devices/0000:00:14.0/config", &config);
    let resource = "0xf7400000 0xf77fffff 0x140204\n0x0 0x0 0x0\n0xe0000000 0xefffffff 0x14220c\n0x0 0x0 0x0\n0xf000 0xf03f 0x40101\n0x0 0x0 0x0\n0xf0000000 0xf001ffff 0x46200\n";
    write("sys/bus/pci/devices/0000:00:14.0/resource", resource.as_bytes());
    write("proc/cpuinfo", b"processor\t: 0\naddress sizes\t: 36 bits physical, 48 bits virtual\n");
    let words = format!("plan --memory 4G --pci 00:14.0 --pci 00:09.0 --root {}", folder.0.path().display());
    let (code, out, error) = folder.rdm(&words);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    assert!(out.contains("addresses of 36 bits"), "{out}");
    assert!(out.contains("BAR 0 of 0000:00:14.0, 4 MiB, 64 bits: [0xfb"), "{out}");
    assert!(
        out.contains("BAR 2 of 0000:00:14.0, 256 MiB, 64 bits, prefetchable: [0xff0000000, 0xfffffffff]"),
        "{out}"
    );
    assert!(out.contains("BAR ROM of 0000:00:14.0, 128 KiB, 32 bits, prefetchable: [0xf"), "{out}");
    assert!(out.contains("note: 0000:00:09.0 is not there."), "{out}");
    // Without a table there is nothing to plan with.
    fs::remove_file(folder.path("sys/firmware/acpi/tables/DMAR")).unwrap();
    let (code, _, error) = folder.rdm(&words);
    assert_eq!(code, Some(1));
    assert!(error.contains("firmware tells of no IOMMU"), "{error}");
}

/// A laptop's graphics: stolen memory in the region of the table, OpRegion in ACPI's memory.
#[test]
fn graphics_have_their_memory_and_registers() {
    let folder = Folder::new();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    write("sys/firmware/acpi/tables/DMAR", &table());
    let mut config = [0; 256];
    config[..12].copy_from_slice(&[0x86, 0x80, 0x16, 0x59, 0, 0, 0, 0, 2, 0, 0, 3]);
    config[0x50..0x52].copy_from_slice(&0x02c1_u16.to_le_bytes());
    config[0x5c..0x60].copy_from_slice(&0x8c00_0001_u32.to_le_bytes());
    config[0xfc..].copy_from_slice(&0x7a5e_9018_u32.to_le_bytes());
    let device = "sys/bus/pci/devices/0000:00:02.0/config";
    write(device, &config);
    let plan = |more: &str| {
        let root = folder.0.path().display();
        folder.rdm(&format!("plan --memory 4G --pci 00:02.0 --firmware ovmf --root {root} {more}"))
    };
    let (code, out, _) = plan("");
    assert_eq!(code, Some(0));
    assert!(out.contains("Graphics: 0000:00:02.0, Skylake to Comet Lake"), "{out}");
    assert!(
        out.contains(
            "  stolen memory [0x8c000000, 0x8fffffff], 64 MiB: at the host's addresses, in a region"
        ),
        "{out}"
    );
    assert!(
        out.contains("  OpRegion [0x7a5e9000, 0x7a5ebfff], 12 KiB: the guest has memory of its own at [0xfc"),
        "{out}"
    );
    assert!(!out.contains("note:"), "{out}");
    let (_, out, _) = plan("--policy private");
    assert!(out.contains("note: 0000:00:02.0 is graphics: it goes on using what firmware left"), "{out}");
    let (_, out, _) = plan("--json");
    let object: serde_json::Value = serde_json::from_str(&out).unwrap();
    let registers = &object["graphics"][0]["registers"];
    assert_eq!((&registers[1]["name"], &registers[1]["value"]), (&"BDSM".into(), &0x8c00_0001_u32.into()));
    let map = object["map"].as_array().unwrap();
    let module = map.iter().find(|row| row["name"] == "OpRegion").unwrap();
    assert_eq!(registers[2]["value"], module["start"].as_u64().unwrap() + 0x18);
    // What its driver shows of the OpRegion says where the VBT is.
    let mut shown = vec![0; 8192];
    shown[..16].copy_from_slice(b"IntelGraphicsMem");
    (shown[0x10], shown[0x17], shown[0x58]) = (8, 2, 4);
    shown[0x3ba..0x3be].copy_from_slice(&0x7a5e_f000_u32.to_le_bytes());
    shown[0x3c2..0x3c4].copy_from_slice(&0x2400_u16.to_le_bytes());
    write("sys/kernel/debug/dri/0/i915_opregion", &shown);
    let (_, out, _) = plan("");
    assert!(out.contains("  VBT [0x7a5ef000, 0x7a5f1fff], 12 KiB: the guest has memory of its own"), "{out}");
    assert!(out.contains("; RVDA in its OpRegion is 0xfc"), "{out}");
    // Stolen memory that no region covers goes into the guest; a region that is lost takes it along.
    config[0x5c..0x60].copy_from_slice(&0x9c00_0001_u32.to_le_bytes());
    write(device, &config);
    let (_, out, _) = plan("");
    assert!(out.contains("64 MiB: the guest has memory of its own at [0xc0000000, 0xc3ffffff]"), "{out}");
    assert!(out.contains("the guest reads GGC 0x2c1, BDSM 0xc0000000, ASLS 0xfc"), "{out}");
    // Who is not root is shown no more than the header.
    write(device, &config[..64]);
    let (_, out, _) = plan("");
    assert!(!out.contains("Graphics"), "{out}");
}

#[test]
fn a_drawing_is_well_formed_and_has_every_region() {
    let folder = Folder::new();
    for (words, code) in [("--strategy host", 1), ("--strategy host --policy relaxed", 0)] {
        let drawing = folder.path("drawing.svg");
        let (status, _, error) =
            folder.rdm(&format!("plan --dmar DMAR --memory 4G {words} --svg {}", drawing.display()));
        assert_eq!((status, error.as_str()), (Some(code), ""));
        let text = fs::read_to_string(drawing).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        let words: String =
            document.descendants().filter_map(|node| node.text()).collect::<Vec<_>>().join("\n");
        for region in ["R1 [0x7b800000, 0x7b8fffff] 1 MiB", "R2 [0x8b800000", "R3 [0xed000"] {
            assert!(words.contains(region), "{words}");
        }
        assert!(text.contains("#b91c1c"), "what conflicts is red");
    }
    // The README's.
    let drawing = folder.path("plan.svg");
    let devices = "--pci 00:14.0 --pci 00:02.0 --pci 00:1d.0,rdm_policy=relaxed --bar 256M,64,pref --bar 16M";
    folder.rdm(&format!("plan --dmar DMAR --memory 4G {devices} --svg {}", drawing.display()));
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/plan.svg");
    assert!(fs::read(drawing).unwrap() == fs::read(kept).unwrap(), "docs/plan.svg is drawn otherwise now");
    let (code, _, error) = folder.rdm("plan --dmar DMAR --memory 4G --svg /nonexistent/x");
    assert_eq!(code, Some(1));
    assert!(error.contains("cannot be written"), "{error}");
}

/// A plan for each device of each real table, under each policy, in every form; and what must hold of it.
#[test]
fn every_device_of_every_real_table() {
    let Some(corpus) = corpus::corpus() else { return };
    let mut planned_all = 0;
    for (path, bytes) in &corpus {
        let name = path.display();
        let report = Report::new(bytes, None);
        let host = Host::new(&report);
        let devices: Vec<PciAddress> = report.devices.iter().filter_map(|device| device.address()).collect();
        let mut guests: Vec<(Vec<Assigned>, RdmStrategy)> = devices
            .iter()
            .map(|&address| (vec![Assigned { address, policy: None }], RdmStrategy::Devices))
            .collect();
        guests.push((Vec::new(), RdmStrategy::Host));
        for (devices, strategy) in guests {
            for policy in [Policy::Strict, Policy::Relaxed, Policy::Private] {
                for (firmware, two_range) in [
                    (GuestFirmware::Bios, true),
                    (GuestFirmware::Ovmf, false),
                    (GuestFirmware::Direct, false),
                ] {
                    let devices = devices.clone();
                    let guest =
                        Guest { devices, strategy, policy, firmware, two_range, ..Guest::new(4 << 18) };
                    let planned = Planned::new(&guest, &host);
                    assert!(
                        planned.is_planned()
                            || policy != Policy::Relaxed && (two_range || firmware == GuestFirmware::Ovmf),
                        "{name}"
                    );
                    planned_all += usize::from(planned.is_planned());
                    let map = &planned.layout.as_ref().unwrap().map;
                    assert!(
                        map.windows(2).all(|pair| pair[0].frames.end() <= pair[1].frames.start()),
                        "{name}: {map:?}"
                    );
                    let mut out = Vec::new();
                    text::write(&planned, &guest, &mut out).unwrap();
                    json::write(&planned, &guest, &mut out).unwrap();
                    xl::write(&planned, &guest, &mut out).unwrap();
                    let text = String::from_utf8(out).unwrap();
                    for region in &planned.regions {
                        assert!(text.contains(&format!("{} ", region.name)), "{name}");
                    }
                    if two_range && policy == Policy::Strict {
                        roxmltree::Document::parse(&picture::draw(&planned, &guest).to_string()).unwrap();
                    }
                }
            }
        }
    }
    assert!(planned_all > 2000, "{planned_all}");
}

/// Regions mostly where they are, and anywhere.
fn region() -> impl Strategy<Value = (u64, u64, u8)> {
    let base = prop_oneof![3 => 0x2000_0000_u64..0xe000_0000, 1 => 0_u64..0x20_0000, 1 => any::<u64>()];
    let length = prop_oneof![3 => 0_u64..0x80_0000, 1 => any::<u64>()];
    (base, length, 1_u8..5)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    /// Whatever a table holds and a guest asks for, there is a plan or a sentence, and all of it can be shown.
    #[test]
    fn anything_can_be_shown(
        regions in prop::collection::vec(region(), 0..24),
        memory in prop_oneof![4 => 1_u64..1 << 24, 1 => 1_u64..=1 << 40],
        width in 30_u8..=64,
        kinds in (0_usize..3, 0_usize..3, any::<bool>(), any::<bool>()),
        bars in prop::collection::vec((4_u32..40, any::<bool>()), 0..6),
    ) {
        let rmrr = |(base, length, slot): &(u64, u64, u8)| {
            let limit = base.saturating_add(*length);
            StructureBuilder::rmrr(0, *base, limit).scope(ScopeBuilder::endpoint(0, &[(*slot, 0)]))
        };
        let table = TableBuilder::new().host_address_width(width);
        let bytes = regions.iter().map(rmrr).fold(table, TableBuilder::structure).build();
        let report = Report::new(&bytes, None);
        let (policy, firmware, two_range, is_host) = kinds;
        let assigned = |slot| Assigned { address: PciAddress::new(0, 0, slot, 0), policy: None };
        let bar = |&(order, is_64bit): &(u32, bool)| rdm_layout::Bar {
            bytes: 1 << if is_64bit { order } else { order.min(31) },
            is_64bit,
            prefetchable: is_64bit,
        };
        let guest = Guest {
            devices: (1..4).map(assigned).collect(),
            strategy: if is_host { RdmStrategy::Host } else { RdmStrategy::Devices },
            policy: [Policy::Strict, Policy::Relaxed, Policy::Private][policy],
            firmware: [GuestFirmware::Bios, GuestFirmware::Ovmf, GuestFirmware::Direct][firmware],
            bars: bars.iter().map(bar).collect(),
            two_range,
            ..Guest::new(memory)
        };
        let planned = Planned::new(&guest, &Host::new(&report));
        let mut out = Vec::new();
        text::write(&planned, &guest, &mut out).unwrap();
        xl::write(&planned, &guest, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        prop_assert_eq!(text.contains("no plan: "), !planned.is_planned());
        let mut object = Vec::new();
        json::write(&planned, &guest, &mut object).unwrap();
        let object: serde_json::Value = serde_json::from_slice(&object).unwrap();
        prop_assert_eq!(object["plan"].is_null(), !planned.is_planned());
        roxmltree::Document::parse(&picture::draw(&planned, &guest).to_string()).unwrap();
    }
}
