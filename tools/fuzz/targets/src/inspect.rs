//! Any table as `rdm inspect` shows it.

use std::io::sink;

use rdm::inspect::{Report, json, picture, text};
use rdm::machine::{Machine, Names, PciTree};

use crate::machine::split;

/// Takes the bytes for a table and a machine, and shows the table as text, JSON and a picture, with and without the machine.
pub fn inspect(data: &[u8]) {
    show(&Report::new(data, None));
    let mut data = data.to_vec();
    let Some((table, made_up)) = split(&mut data) else { return };
    show(&Report::new(table, None));
    let machine = Machine {
        pci: PciTree::of(made_up.config_spaces()),
        // No entry is no map.
        memory: (!made_up.memory.is_empty()).then_some(made_up.memory),
        windows: Vec::new(),
        names: Names::parse("8086  <Intel> & sons\n\t1234  Device \"with\" \u{1} marks\n"),
    };
    show(&Report::new(table, Some(&machine)));
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

/// Each device is in one group; devices that share a region, or whose regions overlap, are in one.
fn check_groups(report: &Report<'_>) {
    let mut group_of = vec![None; report.devices.len()];
    for (number, group) in report.groups.iter().enumerate() {
        assert_eq!(group.links.len() + 1, group.devices.len());
        for device in &group.devices {
            assert_eq!(group_of[*device].replace(number), None, "a device in two groups");
        }
    }
    assert!(group_of.iter().all(Option::is_some), "a device in no group");
    let counts = |device: &usize| report.is_present(&report.devices[*device]) != Some(false);
    // The group of each region that is mapped, by its first device that counts.
    let mut mapped = Vec::new();
    for region in &report.regions {
        let users = region.devices.iter().map(|device| report.devices.binary_search(device).unwrap());
        let users: Vec<_> = users.filter(counts).collect();
        assert!(
            users.windows(2).all(|pair| group_of[pair[0]] == group_of[pair[1]]),
            "a region in two groups"
        );
        if let (Some(pages), Some(user)) = (region.verdict.pages(), users.first()) {
            mapped.push((pages, group_of[*user]));
        }
    }
    // Each pair: not for thousands.
    for (index, (pages, group)) in mapped.iter().take(64).enumerate() {
        for (other, its_group) in &mapped[..index] {
            assert!(!pages.overlaps(other) || group == its_group, "overlapping regions in two groups");
        }
    }
}
