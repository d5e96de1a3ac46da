//! What `rdm` says beside what a policy answers that is built here, on tables of real machines and on
//! machines made up.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "common/asked.rs"]
mod asked;
#[path = "../../acpi-dmar/tests/common/mod.rs"]
mod corpus;
#[path = "common/machines.rs"]
mod machines;

use std::collections::BTreeSet;

use acpi_dmar::DrhdFlags;
use acpi_dmar::builder::{StructureBuilder, TableBuilder};
use asked::{GUEST, with_policy};
use machines::{Config, Tree};
use proptest::prelude::*;
use rdm::inspect::groups::Group;
use rdm::inspect::sentence::{Sentences, Standing};
use rdm::inspect::{Report, text};
use rdm::machine::Machine;
use xen_iommu::{AssignError, Isolation, Mode, Sbdf};

/// Compares group by group and device by device; how many groups of several devices there are, as reported
/// and as required.
fn compare(bytes: &[u8], machine: Option<&Machine>) -> [usize; 2] {
    let report = Report::new(bytes, machine);
    let sbdf = |device: &usize| Sbdf::from(report.devices[*device].address().unwrap());
    let members = |group: &Group| {
        let addresses = group.devices.iter().filter_map(|device| report.devices[*device].address());
        addresses.map(Sbdf::from).collect::<BTreeSet<_>>()
    };
    let mut counts = [0; 2];
    with_policy(bytes, machine, Isolation::Report, |policy| {
        for group in &report.groups {
            let sentences = Sentences::of(&report, group);
            for &number in &group.devices {
                let (standing, sentence) = sentences.sentence(number);
                if report.function(number).is_none() {
                    assert!(matches!(standing, Standing::Stays | Standing::Unknown), "{sentence}");
                    continue;
                }
                let device = sbdf(&number);
                let mut its = BTreeSet::new();
                policy.for_each_in_group(device, |member, _| {
                    its.insert(member);
                });
                let alone = policy.check_assign(&[device], GUEST, Mode::Strict);
                if let Err(AssignError::Bridge(_)) = alone {
                    assert!(standing == Standing::Stays && group.devices.len() == 1 && its.is_empty());
                    continue;
                }
                assert_eq!(its, members(group), "the group of {device}");
                counts[0] += usize::from(its.len() > 1);
                let all: Vec<_> = its.into_iter().collect();
                let together = policy.check_assign(&all, GUEST, Mode::Strict);
                let expected = match (alone, together) {
                    (Ok(()), _) => Standing::Alone,
                    (_, Ok(())) => Standing::Together,
                    _ => Standing::Refused,
                };
                assert_eq!(standing, expected, "{device} {sentence}: {alone:?} {together:?}");
                assert_eq!(group.links.len(), group.devices.len() - 1, "{:?}", group.links);
                if expected == Standing::Refused {
                    let relaxed = policy.check_assign(&[device], GUEST, Mode::Relaxed);
                    let together_relaxed = policy.check_assign(&all, GUEST, Mode::Relaxed);
                    let (unless, with) =
                        (sentence.contains("unless relaxed"), sentence.contains("unless relaxed and"));
                    assert_eq!(
                        (unless, with),
                        match (relaxed, together_relaxed) {
                            (Ok(()), _) => (true, false),
                            (_, Ok(())) => (true, true),
                            _ => (false, false),
                        },
                        "{device} {sentence}"
                    );
                    let why = match (alone.unwrap_err(), together.unwrap_err()) {
                        (AssignError::Group(_), why) | (why, _) => why,
                    };
                    let why = match why {
                        AssignError::Hardware { error, .. } => error.to_string(),
                        AssignError::NoIommu { state, .. } => state.to_string(),
                        why => why.to_string(),
                    };
                    assert!(sentence.ends_with(&why), "{sentence}");
                }
            }
        }
    });
    let Some(required) = &report.required else { return counts };
    let known: BTreeSet<_> = report.groups.iter().map(&members).collect();
    let mut found = BTreeSet::new();
    with_policy(bytes, machine, Isolation::Require, |policy| {
        let mut all = Vec::new();
        policy.for_each_device(|device, _| all.push(device));
        for device in all {
            let mut its = BTreeSet::new();
            policy.for_each_in_group(device, |member, _| {
                its.insert(member);
            });
            if its.len() > 1 && !known.contains(&its) {
                found.insert(its);
            }
        }
    });
    counts[1] = found.len();
    assert_eq!(required.iter().map(members).collect::<BTreeSet<_>>(), found);
    for group in required {
        assert_eq!(group.links.len(), group.devices.len() - 1, "{:?}", group.links);
    }
    counts
}

#[test]
fn real_tables_are_answered_as_the_policy_answers() {
    let Some(corpus) = corpus::corpus() else { return };
    let groups: usize = corpus.iter().map(|(_, bytes)| compare(bytes, None)[0]).sum();
    assert!(groups > 10, "{groups} devices in groups of several");
}

/// A unit for everything, or for what is named; regions by first page, length, and numbers of paths.
fn table(tree: &Tree, unit: Option<&[usize]>, regions: &[(u64, u64, Vec<usize>)]) -> Vec<u8> {
    let flags = if unit.is_some() { DrhdFlags::empty() } else { DrhdFlags::INCLUDE_PCI_ALL };
    let drhd = StructureBuilder::drhd(flags, 0, 0xfed9_0000);
    let drhd = unit.into_iter().flatten().fold(drhd, |drhd, number| tree.name(drhd, *number));
    let table = TableBuilder::new().host_address_width(39).structure(drhd);
    let rmrr = |(page, length, scopes): &(u64, u64, Vec<usize>)| {
        let (base, end) = (page << 12, (page + length) << 12);
        // One of no length is none at all.
        let rmrr = StructureBuilder::rmrr(0, base, end - 1);
        scopes.iter().fold(rmrr, |rmrr, number| tree.name(rmrr, *number))
    };
    regions.iter().map(rmrr).fold(table, TableBuilder::structure).build()
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

#[test]
fn access_control_ends_where_it_is_said() {
    let mut tree = Tree::default();
    // Below a root port without access control; below one with it, two functions that have none; two that
    // have.
    tree.add(1, 2, false, true);
    tree.add(2, 2, true, false);
    tree.add(3, 2, true, true);
    let (bytes, machine) = (table(&tree, None, &[]), tree.machine());
    assert_eq!(compare(&bytes, Some(&machine)), [0, 2]);
    let report = Report::new(&bytes, Some(&machine));
    let text = text(&report);
    has(&text, "Groups of devices that must stay together: none");
    has(&text, "V1   0000:01:00.0, 0000:01:00.1");
    has(
        &text,
        "nothing isolates 0000:01:00.0 and 0000:01:00.1 from each other: access control ends at 0000:00:01.0",
    );
    has(
        &text,
        "nothing isolates 0000:02:00.0 and 0000:02:00.1 from each other: access control ends at 0000:02:00.0",
    );
    has(&text, "0000:01:00.0 can be passed through alone; no reserved region comes with it.");
    assert!(!text.contains("0000:03:00.1 from each other"), "{text}");
}

#[test]
fn physical_functions_go_without_virtual_ones_and_these_while_the_host_has_it() {
    let mut tree = Tree::default();
    tree.add(1, 5, true, true);
    tree.add(2, 5, true, false);
    let machine = tree.machine();
    let bytes = table(&tree, None, &[]);
    compare(&bytes, Some(&machine));
    let text = text(&Report::new(&bytes, Some(&machine)));
    has(
        &text,
        "0000:01:00.0 cannot be passed through: 0000:01:00.0 has a virtual function 0000:01:01.0, which is with d0: disable its virtual functions first.",
    );
    has(
        &text,
        "0000:01:01.1 can be passed through alone; no reserved region comes with it; only while its physical function 0000:01:00.0 is the host's.",
    );
    has(
        &text,
        "0000:02:00.0 can be passed through alone; no reserved region comes with it; only while its virtual functions are disabled.",
    );
}

#[test]
fn what_headers_do_not_show_is_not_made_up() {
    let mut tree = Tree::default();
    tree.add(1, 3, false, false);
    tree.add(2, 2, false, false);
    let bytes = table(&tree, None, &[]);
    let (seen, hidden) = (tree.machine(), tree.headers());
    assert_eq!(
        Report::new(&bytes, Some(&seen)).groups.iter().filter(|group| group.devices.len() > 1).count(),
        1
    );
    let report = Report::new(&bytes, Some(&hidden));
    assert!(report.groups.iter().all(|group| group.devices.len() == 1) && report.required.is_none());
    let text = text(&report);
    assert!(text.contains("Of config space no more than headers is shown"), "{text}");
    assert!(!text.contains("isolation is required"), "{text}");
    has(&text, "0000:01:00.0 is a bridge, which stays with the hardware domain.");
}

#[test]
fn windows_reject_regions_on_the_machine_and_alone() {
    use xen_iommu::region::forbidden::{Bar, Window};
    let mut tree = Tree::default();
    tree.add(1, 0, false, false);
    tree.put(0, &[(2, 0)], Config::new(0x02_0000, machines::INTEGRATED));
    let bytes = table(&tree, None, &[(0xfed90, 1, vec![0]), (0xe0000, 1, vec![0]), (0xd0000, 2, vec![0])]);
    let mut machine = tree.machine();
    let device = Sbdf::new(0, 0, 2, 0);
    machine.windows = vec![
        Window::ConfigSpace { base: 0xe000_0000, limit: 0xefff_ffff },
        Window::Bar(Bar { device, base: 0xd000_1000, limit: 0xd000_10ff }),
    ];
    compare(&bytes, Some(&machine));
    let unit = "rejected: it is over the registers of the remapping unit at 0xfed90000";
    let on_machine = text(&Report::new(&bytes, Some(&machine)));
    has(&on_machine, &format!("R1   [0xfed90000, 0xfed90fff]  4 KiB  {unit}"));
    has(
        &on_machine,
        "R2   [0xe0000000, 0xe0000fff]  4 KiB  rejected: it is over the memory-mapped configuration space at 0xe0000000",
    );
    has(
        &on_machine,
        "R3   [0xd0000000, 0xd0001fff]  8 KiB  rejected: it is over a window of 0000:00:02.0, 0xd0001000 to 0xd00010ff",
    );
    let alone = text(&Report::new(&bytes, None));
    has(&alone, &format!("R1   [0xfed90000, 0xfed90fff]  4 KiB  {unit}"));
    has(&alone, "R2   [0xe0000000, 0xe0000fff]  4 KiB  accepted");
}

#[test]
fn an_absent_device_joins_nobody() {
    let mut tree = Tree::default();
    (1..4).for_each(|slot| tree.add(slot, 0, false, false));
    // The second region, which meets both others, is a device's that is not there.
    let bytes = table(&tree, None, &[(0x80, 2, vec![0]), (0x81, 3, vec![1]), (0x83, 2, vec![2])]);
    let mut there = tree.clone();
    there.remove(1);
    assert_eq!(compare(&bytes, Some(&tree.machine())), [3, 0]);
    assert_eq!(compare(&bytes, Some(&there.machine())), [0, 0]);
}

#[test]
fn without_a_unit_there_is_no_iommu() {
    let mut tree = Tree::default();
    tree.add(1, 0, false, false);
    let bytes = TableBuilder::new().build();
    let machine = tree.machine();
    compare(&bytes, Some(&machine));
    let text = text(&Report::new(&bytes, Some(&machine)));
    has(
        &text,
        "No device can be passed through: the IOMMU cannot be used: the DMAR names no remapping unit.",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 100 } else { 1000 }))]

    #[test]
    fn machines_are_answered_as_the_policy_answers(
        slots in prop::collection::vec((0_u8..7, any::<bool>(), any::<bool>()), 1..6),
        regions in prop::collection::vec(
            (0x80_u64..0x90, 0_u64..4, prop::collection::vec(any::<prop::sample::Index>(), 0..4)), 0..6),
        unit in prop::option::weighted(0.2, prop::collection::vec(any::<prop::sample::Index>(), 0..6)),
        taken in any::<u8>(),
    ) {
        let mut tree = Tree::default();
        for (slot, (kind, acs, option)) in (1..).zip(slots) {
            tree.add(slot, kind, acs, option);
        }
        // Some that are named are not there.
        let mut there = tree.clone();
        if taken < 64 {
            there.remove(taken.into());
        }
        let numbers = |all: Vec<prop::sample::Index>| all.iter().map(|one| one.index(tree.paths.len())).collect::<Vec<_>>();
        let unit = unit.map(&numbers);
        let regions: Vec<_> = regions.into_iter().map(|(page, length, scopes)| (page, length, numbers(scopes))).collect();
        let bytes = table(&tree, unit.as_deref(), &regions);
        compare(&bytes, Some(&there.machine()));
        compare(&bytes, Some(&there.headers()));
        compare(&bytes, None);
    }
}
