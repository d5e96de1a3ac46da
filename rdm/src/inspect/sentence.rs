//! For a device, one plain sentence on whether it can be passed through and with whom.

use std::collections::{BTreeMap, BTreeSet};

use acpi_dmar::pci_types::PciAddress;
use xen_iommu::DeviceClass;
use xen_iommu::region::verdict::{Rejection, Verdict};

use super::Report;
use super::groups::{Group, Reason};
use crate::device::Device;

/// How a device stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// By itself.
    Alone,
    /// Only with the rest of its group.
    Together,
    /// Not, or only where its owner takes the risk.
    Refused,
    /// It stays with the host: a bridge, or a device that is not there.
    Stays,
}

/// More of the others are counted, not named.
const NAMED: usize = 4;

/// The sentences of a group's devices.
#[derive(Debug)]
pub struct Sentences<'r> {
    report: &'r Report<'r>,
    group: &'r Group,
    /// What a guest is given with the group.
    given: String,
    /// The first rejected region, with its device.
    rejected: Option<(usize, usize, Rejection)>,
}

impl<'r> Sentences<'r> {
    /// Of the devices in `group`.
    #[must_use]
    pub fn of(report: &'r Report<'_>, group: &'r Group) -> Self {
        let mut regions: Vec<_> = group
            .devices
            .iter()
            .flat_map(|&device| report.regions_of(device))
            .filter(|(_, region)| region.verdict.pages().is_some())
            .map(|(number, _)| number)
            .collect();
        regions.sort_unstable();
        regions.dedup();
        let names: Vec<_> = regions.into_iter().map(region_name).collect();
        let given = match names.len() {
            0 => "; no reserved region comes with it".into(),
            1..=NAMED => format!("; the guest gets {} mapped 1:1", list(&names)),
            count => format!("; the guest gets {count} regions mapped 1:1"),
        };
        let rejected = group.devices.iter().find_map(|&device| Some((device, rejected(report, device)?)));
        let rejected = rejected.map(|(device, (region, why))| (device, region, why));
        Self { report, group, given, rejected }
    }

    /// What can be done with the device of number `number`, which is in the group, and why.
    #[must_use]
    pub fn sentence(&self, number: usize) -> (Standing, String) {
        let report = self.report;
        let device = &report.devices[number];
        if report.is_present(device) == Some(false) {
            return (Standing::Stays, format!("is not present{}", regions_wait(report, number)));
        }
        if self.is_bridge(device) {
            return (Standing::Stays, "is a bridge and stays with the host".into());
        }
        if report.unit_of(number).is_none() {
            let why = "no IOMMU unit of the table translates its DMA";
            return (Standing::Refused, format!("cannot be passed through: {why}"));
        }
        if let Some((region, why)) = rejected(report, number) {
            let region = region_name(region);
            let sentence =
                format!("cannot be passed through, unless relaxed: {region} is rejected, as {why}");
            return (Standing::Refused, sentence);
        }
        if let Some((other, region, why)) = &self.rejected {
            let (other, region) = (&report.devices[*other], region_name(*region));
            let sentence = format!(
                "cannot be passed through, unless relaxed: it must stay together with {other}, whose {region} is rejected, as {why}"
            );
            return (Standing::Refused, sentence);
        }
        let (given, hint) = (&self.given, hint(report, number));
        let others: Vec<_> = self.group.devices.iter().filter(|&&other| other != number).collect();
        match others.len() {
            0 => (Standing::Alone, format!("can be passed through alone{given}{hint}")),
            1..=NAMED => {
                let names: Vec<_> = others.iter().map(|&&other| report.devices[other].to_string()).collect();
                let names = list(&names);
                (Standing::Together, format!("can be passed through only together with {names}{given}{hint}"))
            }
            count => {
                let group = group_name(self.group);
                let others = format!("the other {count} devices of {group}");
                (
                    Standing::Together,
                    format!("can be passed through only together with {others}{given}{hint}"),
                )
            }
        }
    }

    fn is_bridge(&self, device: &Device) -> bool {
        let known = self.report.machine.zip(device.address());
        known.is_some_and(|(machine, address)| machine.pci.is_bridge(address))
    }
}

/// Why the devices of a group are in it, a sentence for each region, pair of regions, bridge and requester id.
#[must_use]
pub fn reasons(report: &Report<'_>, group: &Group) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut requesters: BTreeMap<PciAddress, Vec<usize>> = BTreeMap::new();
    let mut sentences = Vec::new();
    for link in &group.links {
        let (first, second) = (&report.devices[link.first], &report.devices[link.second]);
        match link.reason {
            Reason::SharedRegion(region) => {
                if told.insert(region) {
                    // Those that the table names; what is below a bridge is told of by itself.
                    let named = report.regions[region].devices.iter();
                    let mut users: Vec<_> = named
                        .filter_map(|device| report.devices.binary_search(device).ok())
                        .filter(|device| group.devices.binary_search(device).is_ok())
                        .collect();
                    users.sort_unstable();
                    let users: Vec<_> =
                        users.into_iter().map(|device| report.devices[device].to_string()).collect();
                    sentences.push(format!("{} use {}", list(&users), region_name(region)));
                }
            }
            Reason::Overlap(one, other) => {
                let (a, b) = (&report.regions[one], &report.regions[other]);
                let overlap = a.base <= b.limit && b.base <= a.limit;
                let how = if overlap { "overlaps" } else { "shares a page with" };
                let (one, other) = (region_name(one), region_name(other));
                sentences.push(format!("{one}, which {first} uses, {how} {other}, which {second} uses"));
            }
            Reason::BelowBridge => {
                sentences
                    .push(format!("{second} is below the bridge {first}, whose region is for all below it"));
            }
            Reason::Requester(id) => {
                requesters.entry(id).or_insert_with(|| vec![link.first]).push(link.second)
            }
        }
    }
    for (id, devices) in requesters {
        let names: Vec<_> = devices.iter().map(|&device| report.devices[device].to_string()).collect();
        sentences.push(format!("the DMA of {} carries one requester id, {id}", list(&names)));
    }
    sentences
}

/// `G1` for the first group of several devices.
#[must_use]
pub fn group_name(group: &Group) -> String {
    group.number.map(|number| format!("G{number}")).unwrap_or_default()
}

/// `R1` for the first region.
#[must_use]
pub fn region_name(number: usize) -> String {
    format!("R{}", number + 1)
}

/// The first region of a device that is rejected, and why.
fn rejected(report: &Report<'_>, device: usize) -> Option<(usize, Rejection)> {
    report.regions_of(device).find_map(|(number, region)| match region.verdict {
        Verdict::Rejected(why) => Some((number, why)),
        _ => None,
    })
}

fn regions_wait(report: &Report<'_>, device: usize) -> String {
    let names: Vec<_> = report.regions_of(device).map(|(index, _)| region_name(index)).collect();
    if names.is_empty() { String::new() } else { format!("; {} is kept for it", list(&names)) }
}

/// What the device's class says of its region.
fn hint(report: &Report<'_>, number: usize) -> &'static str {
    let device = &report.devices[number];
    let class = report.machine.zip(device.address()).map(|(machine, address)| machine.pci.class(address));
    if report.regions_of(number).next().is_none() {
        return "";
    }
    match class {
        Some(DeviceClass::Usb) => {
            " (a USB controller: firmware uses such memory for its own keyboard and mouse until the OS takes over)"
        }
        Some(DeviceClass::Graphics) => " (a display controller: such memory is what it shows pictures from)",
        _ => "",
    }
}

/// `a`, `a and b`, `a, b and c`.
fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
