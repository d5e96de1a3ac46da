//! What follows from tables: verdicts, groups, and the sentences for people, with and without a machine.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::PciAddress;
use proptest::prelude::*;
use rdm::inspect::{Report, json, picture, text};
use rdm::machine::{Machine, Names, PciTree};
use xen_iommu::region::memory::{MemoryKind, MemoryRegion};

fn table(structures: impl IntoIterator<Item = StructureBuilder>) -> Vec<u8> {
    let all = StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_0000);
    let table = TableBuilder::new().host_address_width(39).structure(all);
    structures.into_iter().fold(table, TableBuilder::structure).build()
}

fn rmrr(base: u64, limit: u64, devices: &[(u8, u8)]) -> StructureBuilder {
    let scope = |&hop: &(u8, u8)| ScopeBuilder::endpoint(0, &[hop]);
    devices.iter().map(scope).fold(StructureBuilder::rmrr(0, base, limit), StructureBuilder::scope)
}

fn text(report: &Report<'_>) -> String {
    let mut out = anstream::StripStream::new(Vec::new());
    text::write(report, "table", &mut out).unwrap();
    String::from_utf8(out.into_inner()).unwrap()
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|found| found.trim() == line), "no line {line:?} in\n{text}");
}

/// The last hops of each group's devices.
fn groups(report: &Report<'_>) -> Vec<Vec<u8>> {
    let hop = |&device: &usize| report.devices[device].path.last().unwrap().device;
    report.groups.iter().map(|group| group.devices.iter().map(hop).collect()).collect()
}

#[test]
fn what_is_shared_overlaps_or_is_on_one_page_is_together() {
    let bytes = table([
        rmrr(0x1000, 0x1fff, &[(1, 0), (2, 0)]),
        rmrr(0x5000, 0x6fff, &[(2, 0)]),
        rmrr(0x6000, 0x8000, &[(3, 0)]),
        rmrr(0x8800, 0x8fff, &[(4, 0)]),
        rmrr(0x9000, 0x9fff, &[(5, 0)]),
    ]);
    let report = Report::new(&bytes, None);
    assert_eq!(groups(&report), [vec![1, 2, 3, 4], vec![5]]);
    let text = text(&report);
    has(&text, "0000:00:01.0 and 0000:00:02.0 use R1");
    has(&text, "R2, which 0000:00:02.0 uses, overlaps R3, which 0000:00:03.0 uses");
    has(&text, "R3, which 0000:00:03.0 uses, shares a page with R4, which 0000:00:04.0 uses");
    has(&text, "R4   [0x8800, 0x8fff]  2 KiB  repaired: base widened to its page's start");
    has(
        &text,
        "0000:00:04.0 can be passed through only together with 0000:00:01.0, 0000:00:02.0 and 0000:00:03.0; the guest gets R1, R2, R3 and R4 mapped 1:1.",
    );
    has(&text, "0000:00:05.0 can be passed through alone; the guest gets R5 mapped 1:1.");
}

#[test]
fn a_long_region_joins_what_lies_inside_it_one_after_the_other() {
    let bytes = table([
        rmrr(0x1000, 0xffff, &[(1, 0)]),
        rmrr(0x2000, 0x2fff, &[(2, 0)]),
        rmrr(0xf000, 0xffff, &[(3, 0)]),
        rmrr(0x1_0000, 0x1_0fff, &[(4, 0)]),
    ]);
    assert_eq!(groups(&Report::new(&bytes, None)), [vec![1, 2, 3], vec![4]]);
}

#[test]
fn rejected_regions_refuse_their_devices_and_their_group() {
    let bytes = table([
        rmrr(0x2000, 0x1fff, &[(1, 0), (2, 0)]),
        rmrr(1 << 40, (1 << 40) + 0xfff, &[(3, 0)]),
        StructureBuilder::rmrr(0, 0x5000, 0x5fff),
        rmrr(0x7000, 0x7fff, &[(4, 0)]),
        rmrr(0x7000, 0x1_ffff_ffff_ffff, &[(5, 0)]),
    ]);
    let text = text(&Report::new(&bytes, None));
    has(&text, "R1   [0x2000, 0x1fff]  no size  rejected: its base 0x2000 is above its limit 0x1fff");
    has(&text, "R3   [0x5000, 0x5fff]  4 KiB  rejected: no device scope names a device for it");
    has(
        &text,
        "0000:00:03.0 cannot be passed through, unless relaxed: region [0x10000000000, 0x10000000fff] of 0000:00:03.0 was rejected: its limit 0x10000000fff is beyond the host address width of 39 bits.",
    );
    has(&text, "0000:00:04.0 can be passed through alone; the guest gets R4 mapped 1:1.");
    assert!(!text.contains("R5, which"), "a rejected region joins nobody: {text}");
    let shared = table([rmrr(0x9000, 0x8fff, &[(1, 0)]), rmrr(0x7000, 0x7fff, &[(1, 0), (2, 0)])]);
    has(
        &self::text(&Report::new(&shared, None)),
        "0000:00:02.0 cannot be passed through, unless relaxed: it must stay together with 0000:00:01.0, and region [0x9000, 0x8fff] of 0000:00:01.0 was rejected: its base 0x9000 is above its limit 0x8fff.",
    );
}

#[test]
fn what_a_table_names_by_bridges_it_cannot_place() {
    let bytes = table([
        StructureBuilder::rmrr(0, 0x1000, 0x1fff).scope(ScopeBuilder::bridge(0, &[(0x1c, 0)])),
        StructureBuilder::rmrr(0, 0x8000, 0x8fff)
            .scope(ScopeBuilder::endpoint(0, &[(0x1c, 0), (3, 0)]))
            .scope(ScopeBuilder::endpoint(0, &[(4, 0)])),
        rmrr(0x1800, 0x2fff, &[(5, 0)]),
    ]);
    let report = Report::new(&bytes, None);
    assert_eq!(groups(&report), [vec![4], vec![5], vec![0x1c], vec![3]]);
    let text = text(&report);
    has(&text, "0000:00:1c.0 is a bridge: what is below it shows on its machine alone; R1 is kept for it.");
    has(
        &text,
        "0000:00:1c.0/03.0 is below a bridge: which function it is shows on its machine alone; R2 is kept for it.",
    );
    has(
        &text,
        "0000:00:04.0 can be passed through alone; the guest gets R2 mapped 1:1; with 0000:00:1c.0/03.0 too, where that is there.",
    );
    has(
        &text,
        "0000:00:05.0 can be passed through alone; the guest gets R3 mapped 1:1; with what is below 0000:00:1c.0 too, where that is there.",
    );
    let mut object = Vec::new();
    json::write(&report, "table", &mut object).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&object).unwrap();
    assert_eq!(object["unplaced"], serde_json::json!([[0, 0, [[0x1c, 0]]], [0, 0, [[0x1c, 0], [3, 0]]]]));
}

#[test]
fn a_device_that_no_unit_translates_cannot_go() {
    let unit = StructureBuilder::drhd(DrhdFlags::empty(), 0, 0xfed9_0000)
        .scope(ScopeBuilder::endpoint(0, &[(2, 0)]))
        .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]));
    let below =
        StructureBuilder::rmrr(0, 0xa000, 0xafff).scope(ScopeBuilder::endpoint(0, &[(0x1c, 0), (1, 0)]));
    let bytes = TableBuilder::new()
        .structure(unit)
        .structure(rmrr(0x1000, 0x1fff, &[(2, 0)]))
        .structure(rmrr(0x3000, 0x3fff, &[(3, 0)]))
        .structure(below)
        .build();
    let text = text(&Report::new(&bytes, None));
    has(&text, "0000:00:02.0 can be passed through alone; the guest gets R1 mapped 1:1.");
    has(
        &text,
        "0000:00:03.0 cannot be passed through: no remapping unit translates the DMA of 0000:00:03.0.",
    );
    has(
        &text,
        "0000:00:1c.0/01.0 is below a bridge: which function it is shows on its machine alone; R3 is kept for it.",
    );
}

#[test]
fn damage_is_told_and_costs_no_more_than_what_it_hits() {
    let mut bytes = table([rmrr(0x1000, 0x1fff, &[(1, 0)]), rmrr(0x3000, 0x3fff, &[(2, 0)])]);
    // The scope of the first RMRR, which is 16 bytes of DRHD and 24 of fields after the header.
    bytes[48 + 16 + 24 + 1] = 0;
    let report = Report::new(&bytes, None);
    assert_eq!(report.errors.len(), 2, "{:?}", report.errors);
    // The policy works with no such table: it says why, and what it would be without that.
    has(
        &self::text(&report),
        "No device can be passed through: the IOMMU cannot be used: no DMAR can be read: the bytes sum to 0xf8 modulo 256 and not to 0: the checksum is wrong.",
    );
    has(
        &self::text(&report),
        "0000:00:02.0 cannot be passed through: the IOMMU cannot be used: no DMAR can be read: the bytes sum to 0xf8 modulo 256 and not to 0: the checksum is wrong.",
    );
    let sum = bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let mut mended = bytes.clone();
    mended[9] = mended[9].wrapping_sub(sum);
    let mended = Report::new(&mended, None);
    assert_eq!(mended.errors.len(), 1, "{:?}", mended.errors);
    assert!(report.errors[0].contains("checksum"), "{:?}", report.errors);
    assert!(
        report.errors[1].contains("0x58") && report.errors[1].contains("length of 0"),
        "{:?}",
        report.errors
    );
    let text = text(&mended);
    has(&text, "error: at offset 0x58: endpoint scope has a length of 0, less than its fields' 6");
    has(&text, "0000:00:02.0 can be passed through alone; the guest gets R2 mapped 1:1.");
}

/// A function's first 64 bytes, and a PCI Express capability where there is a port type.
fn config(class: u32, buses: Option<(u8, u8)>, port: Option<u8>) -> Vec<u8> {
    let mut bytes = vec![0; 256];
    bytes[..4].copy_from_slice(&0x0166_8086_u32.to_le_bytes());
    bytes[8..12].copy_from_slice(&(class << 8).to_le_bytes());
    if let Some((secondary, subordinate)) = buses {
        bytes[0xe] = 1;
        bytes[0x19] = secondary;
        bytes[0x1a] = subordinate;
    }
    if let Some(port) = port {
        bytes[6] = 0x10;
        bytes[0x34] = 0x40;
        bytes[0x40..0x44].copy_from_slice(&[0x10, 0, port << 4, 0]);
    }
    bytes
}

fn machine() -> Machine {
    let at = |bus, device| PciAddress::new(0, bus, device, 0);
    let memory = |start, end, kind| MemoryRegion { start, end, kind };
    Machine {
        pci: PciTree::of([
            (at(0, 2), config(0x03_0000, None, None)),
            (at(0, 0x14), config(0x0c_0330, None, None)),
            (at(0, 0x1c), config(0x06_0400, Some((1, 2)), Some(4))),
            (at(1, 0), config(0x06_0400, Some((2, 2)), Some(7))),
            (at(2, 3), config(0x02_0000, None, None)),
            (at(2, 4), config(0x02_0000, None, None)),
        ]),
        memory: Some(vec![
            memory(0, 0x9_f000, MemoryKind::Ram),
            memory(0xf_0000, 0x10_0000, MemoryKind::Reserved),
            memory(0x10_0000, 0x8000_0000, MemoryKind::Ram),
        ]),
        names: Names::parse("8086  Intel Corporation\n\t0166  Graphics\n"),
        ..Machine::default()
    }
}

#[test]
fn on_a_machine_paths_are_followed_and_memory_is_known() {
    let bytes = table([
        rmrr(0x7fff_f000, 0x8000_0fff, &[(2, 0)]),
        rmrr(0xf_0000, 0xf_ffff, &[(0x14, 0), (0x15, 0)]),
        StructureBuilder::rmrr(0, 0xf_3000, 0xf_3fff)
            .scope(ScopeBuilder::endpoint(0, &[(0x1c, 0), (0, 0), (3, 0)])),
        rmrr(0xf_3000, 0xf_3fff, &[(0x16, 0)]),
    ]);
    let machine = machine();
    let report = Report::new(&bytes, Some(&machine));
    let text = text(&report);
    has(
        &text,
        "R1   [0x7ffff000, 0x80000fff]  8 KiB  in RAM: accepted if the hypervisor can take its frames out of its allocator, else rejected; memory that the map does not know taken as reserved",
    );
    has(&text, "R4   [0xf3000, 0xf3fff]  4 KiB  dormant: no device of it is present");
    has(&text, "G1   0000:00:14.0, 0000:02:03.0, 0000:02:04.0");
    has(&text, "the DMA of 0000:02:03.0 and 0000:02:04.0 may carry one requester id, 0000:02:00.0");
    has(
        &text,
        "0000:00:02.0 (Intel Corporation Graphics) can be passed through alone; the guest gets R1 mapped 1:1 (a display controller: such memory is what it shows pictures from).",
    );
    has(&text, "0000:00:15.0 is not present; R2 is kept for it.");
    has(
        &text,
        "0000:00:1c.0 (Intel Corporation Graphics) is a bridge, which stays with the hardware domain.",
    );
    assert_eq!(picture_titles(&report), 4 + 3 + 3);
}

/// How many things of the drawing say what they are: regions, and the devices in frames.
#[test]
fn text_and_picture_grow_as_their_table_does() {
    let lengths = |count: u8| {
        let shared = (0..count).map(|number| {
            let base = 0x1000_0000 + u64::from(number) * 0x1000;
            StructureBuilder::rmrr(0, base, base + 0xfff)
                .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]))
                .scope(ScopeBuilder::endpoint(1, &[(number, 0)]))
        });
        let below = (0..count).map(|number| ScopeBuilder::endpoint(0, &[(0x1c, 0), (number, 0)]));
        let below = below.fold(StructureBuilder::rmrr(0, 0x1000, 0x1fff), StructureBuilder::scope);
        let bytes = table(shared.chain([below]));
        let report = Report::new(&bytes, None);
        (text(&report).len(), picture::draw(&report, "table").to_string().len())
    };
    let (some, more) = (lengths(32), lengths(128));
    assert!(more.0 < 5 * some.0 && more.1 < 5 * some.1, "{some:?} bytes for 32 regions, {more:?} for 128");
}

fn picture_titles(report: &Report<'_>) -> usize {
    let drawing = picture::draw(report, "table <&> \"quoted\" \u{1}").to_string();
    let document = roxmltree::Document::parse(&drawing).unwrap_or_else(|error| panic!("{error}\n{drawing}"));
    document.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "title"))).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    /// Regions of any bounds, with and without a machine: every rendering comes to its end, and is well
    /// formed.
    #[test]
    fn any_regions_can_be_shown(
        regions in prop::collection::vec((any::<u64>(), any::<u64>(), 0_u32..64, prop::collection::vec((0_u8..34, 0_u8..9), 0..4)), 0..12),
        with_machine: bool,
    ) {
        let bytes = table(regions.into_iter().map(|(base, length, shift, devices)| {
            rmrr(base >> (shift / 2), (base >> (shift / 2)).wrapping_add(length >> shift), &devices)
        }));
        let machine = machine();
        let report = Report::new(&bytes, with_machine.then_some(&machine));
        prop_assert!(report.errors.is_empty());
        let members: usize = report.groups.iter().map(|group| group.devices.len()).sum();
        prop_assert_eq!(members, report.devices.len());
        for group in &report.groups {
            prop_assert_eq!(group.links.len(), group.devices.len() - 1);
        }
        prop_assert!(text(&report).lines().count() > 4);
        picture_titles(&report);
        json::write(&report, "table", std::io::sink()).unwrap();
    }

    /// Bytes that are no table, or a damaged one.
    #[test]
    fn any_bytes_can_be_shown(mut bytes in prop::collection::vec(any::<u8>(), 0..400), headed: bool) {
        if headed && bytes.len() >= 48 {
            bytes[..8].copy_from_slice(b"DMAR\x80\x01\0\0");
            for at in (48..bytes.len().saturating_sub(4)).step_by(40) {
                let kind = bytes[at] & 7;
                bytes[at..at + 4].copy_from_slice(&[kind, 0, 40, 0]);
            }
        }
        let report = Report::new(&bytes, None);
        prop_assert!(!report.errors.is_empty() || report.dmar.is_some());
        text(&report);
        picture_titles(&report);
        json::write(&report, "table", std::io::sink()).unwrap();
    }
}
