//! For a device, one plain sentence on whether it can be passed through and with whom.

use acpi_dmar::verdict::Verdict;

use super::groups::{Group, Reason};
use super::{Region, Report};
use crate::device::Device;
use crate::machine::pci::Class;

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

/// What can be done with the device of number `device` in `group`, and why.
#[must_use]
pub fn sentence(report: &Report<'_>, group: &Group, number: usize) -> (Standing, String) {
    let device = &report.devices[number];
    if report.is_present(device) == Some(false) {
        return (Standing::Stays, format!("is not present{}", regions_wait(report, device)));
    }
    if report.unit_of(device).is_none() {
        return (
            Standing::Refused,
            "cannot be passed through: no IOMMU unit of the table translates its DMA".into(),
        );
    }
    if let Some((region, why)) = rejected(report, group, number) {
        return (
            Standing::Refused,
            format!("cannot be passed through, unless relaxed: region {region} {why}"),
        );
    }
    let others: Vec<_> = group.devices.iter().filter(|&&other| other != number).collect();
    let given = given(report, group);
    if report
        .machine
        .is_some_and(|machine| device.address().is_some_and(|address| machine.pci.is_bridge(address)))
    {
        return (Standing::Stays, "is a bridge and stays with the host".into());
    }
    let hint = hint(report, device);
    if others.is_empty() {
        return (Standing::Alone, format!("can be passed through alone{given}{hint}"));
    }
    let names: Vec<_> = others.iter().map(|&&other| report.devices[other].to_string()).collect();
    (Standing::Together, format!("can be passed through only together with {}{given}{hint}", list(&names)))
}

/// Why two devices are in one group, as a sentence.
#[must_use]
pub fn reason(report: &Report<'_>, link: &super::groups::Link) -> String {
    let (first, second) = (&report.devices[link.first], &report.devices[link.second]);
    match link.reason {
        Reason::SharedRegion(region) => format!("{first} and {second} both use {}", region_name(region)),
        Reason::Overlap(one, other) => {
            let bytes = |region: &Region| (region.base, region.limit);
            let ((base, limit), (other_base, other_limit)) =
                (bytes(&report.regions[one]), bytes(&report.regions[other]));
            let how =
                if base <= other_limit && other_base <= limit { "overlaps" } else { "shares a page with" };
            format!(
                "{}, which {first} uses, {how} {}, which {second} uses",
                region_name(one),
                region_name(other)
            )
        }
        Reason::BelowBridge => {
            format!("{second} is below the bridge {first}, whose region is for all below it")
        }
        Reason::Requester(id) => format!("the DMA of {first} and {second} carries one requester id, {id}"),
    }
}

/// `R1` for the first region.
#[must_use]
pub fn region_name(number: usize) -> String {
    format!("R{}", number + 1)
}

/// The first region of the group that stands in the way, and why.
fn rejected(report: &Report<'_>, group: &Group, number: usize) -> Option<(String, String)> {
    let own = std::iter::once(&number);
    own.chain(&group.devices).find_map(|&member| {
        report.regions_of(&report.devices[member]).find_map(|(index, region)| match region.verdict {
            Verdict::Rejected(why) if member == number => {
                Some((region_name(index), format!("is rejected, as {why}")))
            }
            Verdict::Rejected(why) => {
                Some((region_name(index), format!("of {} is rejected, as {why}", report.devices[member])))
            }
            _ => None,
        })
    })
}

/// What a guest is given with the group.
fn given(report: &Report<'_>, group: &Group) -> String {
    let mut regions: Vec<_> = group
        .devices
        .iter()
        .flat_map(|&member| report.regions_of(&report.devices[member]))
        .filter(|(_, region)| region.verdict.pages().is_some())
        .map(|(index, _)| index)
        .collect();
    regions.sort_unstable();
    regions.dedup();
    if regions.is_empty() {
        return "; it has no reserved region".into();
    }
    let names: Vec<_> = regions.into_iter().map(region_name).collect();
    format!("; the guest gets {} mapped 1:1", list(&names))
}

fn regions_wait(report: &Report<'_>, device: &Device) -> String {
    let names: Vec<_> = report.regions_of(device).map(|(index, _)| region_name(index)).collect();
    if names.is_empty() { String::new() } else { format!("; {} is kept for it", list(&names)) }
}

/// What the device's class says of its region.
fn hint(report: &Report<'_>, device: &Device) -> &'static str {
    let class = report.machine.zip(device.address()).map(|(machine, address)| machine.pci.class(address));
    if report.regions_of(device).next().is_none() {
        return "";
    }
    match class {
        Some(Class::Usb) => {
            " (a USB controller: firmware uses such memory for its own keyboard and mouse until the OS takes over)"
        }
        Some(Class::Display) => " (a display controller: such memory is what it shows pictures from)",
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
