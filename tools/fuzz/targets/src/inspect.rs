//! Any table as `rdm inspect` shows it.

use std::io::sink;

use rdm::inspect::{Report, json, picture, text};
use rdm::machine::{Machine, Names, PciTree};

use crate::machine::split;

/// Takes the bytes for a table and a machine, and shows the table as text, JSON and a picture, with and
/// without the machine; with the machine also with its checksum put right, as the policy works with no other.
pub fn inspect(data: &[u8]) {
    show(&Report::new(data, None));
    let mut data = data.to_vec();
    let Some((table, made_up)) = split(&mut data) else { return };
    show(&Report::new(table, None));
    let machine = Machine {
        pci: PciTree::of(made_up.config_spaces()),
        // No entry is no map.
        memory: (!made_up.memory.is_empty()).then_some(made_up.memory),
        names: Names::parse("8086  <Intel> & sons\n\t1234  Device \"with\" \u{1} marks\n"),
        ..Machine::default()
    };
    show(&Report::new(table, Some(&machine)));
    let mut table = table.to_vec();
    let sum = table.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = table.get_mut(9) {
        *checksum = checksum.wrapping_sub(sum);
    }
    show(&Report::new(&table, Some(&machine)));
}

fn show(report: &Report<'_>) {
    check_groups(report);
    // A file may have any name.
    let file = "/sys/<firmware>&\u{7}\".dmar";
    text::write(report, file, &mut sink()).unwrap();
    let mut object = Vec::new();
    json::write(report, file, &mut object).unwrap();
    let object: serde_json::Value = serde_json::from_slice(&object).unwrap();
    assert_eq!(object["groups"].as_array().map(Vec::len), Some(report.groups.len()));
    let picture = picture::draw(report, file).to_string();
    if let Err(error) = roxmltree::Document::parse(&picture) {
        panic!("the picture is no XML: {error}");
    }
}

/// Each device is in one group; devices that are there and share a region that is mapped, or whose regions
/// overlap, are in one. Bridges are by themselves.
fn check_groups(report: &Report<'_>) {
    let mut group_of = vec![None; report.devices.len()];
    for (number, group) in report.groups.iter().enumerate() {
        assert_eq!(group.links.len() + 1, group.devices.len());
        for device in &group.devices {
            assert_eq!(group_of[*device].replace(number), None, "a device in two groups");
        }
    }
    assert!(group_of.iter().all(Option::is_some), "a device in no group");
    // The group of each region that is mapped, by its users.
    let mut mapped: Vec<_> = report.regions.iter().map(|region| (region.verdict.pages(), None)).collect();
    for (device, its_group) in group_of.iter().enumerate() {
        let Some(function) = report.function(device) else { continue };
        if !function.role.is_device() {
            assert_eq!(report.groups[its_group.unwrap()].devices, [device], "a bridge in a group");
            continue;
        }
        for (region, _) in report.regions_of(device) {
            if let (Some(_), group) = &mut mapped[region] {
                assert!(group.is_none() || group == its_group, "a region in two groups");
                *group = *its_group;
            }
        }
    }
    // Each pair: not for thousands.
    mapped.retain(|(pages, group)| pages.is_some() && group.is_some());
    for (index, (pages, group)) in mapped.iter().take(64).enumerate() {
        for (other, its_group) in &mapped[..index] {
            let overlap = pages.zip(*other).is_some_and(|(pages, other)| pages.overlaps(&other));
            assert!(!overlap || group == its_group, "overlapping regions in two groups");
        }
    }
    check_required(report);
}

/// What is together where isolation is only reported stays so where it is required.
fn check_required(report: &Report<'_>) {
    for group in report.required.iter().flatten() {
        assert!(group.devices.len() > 1 && group.links.len() + 1 == group.devices.len());
        for known in report.groups.iter().filter(|known| known.devices.len() > 1) {
            let inside = known.devices.iter().filter(|device| group.devices.contains(device)).count();
            assert!(inside == 0 || inside == known.devices.len(), "a group torn apart");
        }
    }
}
