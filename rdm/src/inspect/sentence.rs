//! For a device, one plain sentence on whether it can be passed through and with whom: the policy's answer,
//! in its words where it refuses.

use std::collections::BTreeSet;

use xen_iommu::pci::Role;
use xen_iommu::{AssignError, DeviceClass};

use super::groups::Group;
use super::{Answers, Report};
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
    /// Nobody can say: which function it is, or what that is, is not known.
    Unknown,
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
    /// What may belong to the group too, by the table alone.
    perhaps: String,
}

impl<'r> Sentences<'r> {
    /// Of the devices in `group`.
    #[must_use]
    pub fn of(report: &'r Report<'_>, group: &'r Group) -> Self {
        let regions: BTreeSet<_> = group
            .devices
            .iter()
            .flat_map(|&device| report.regions_of(device))
            .filter(|(_, region)| region.verdict.pages().is_some())
            .map(|(number, _)| number)
            .collect();
        let names: Vec<_> = regions.iter().map(|region| region_name(*region)).collect();
        let given = match names.len() {
            0 => "; no reserved region comes with it".into(),
            1..=NAMED => format!("; the guest gets {} mapped 1:1", list(&names)),
            count => format!("; the guest gets {count} regions mapped 1:1"),
        };
        Self { report, group, given, perhaps: perhaps(report, &regions) }
    }

    /// What can be done with the device of number `number`, which is in the group, and why.
    #[must_use]
    pub fn sentence(&self, number: usize) -> (Standing, String) {
        let report = self.report;
        let Some(answers) = report.answers(number) else { return unknown(report, number) };
        if let Err(error @ AssignError::Bridge(device)) = answers.alone {
            // It says of the device what we say of it.
            let words = error.to_string();
            let words = words.strip_prefix(&format!("{device} ")).unwrap_or(&words);
            return (Standing::Stays, words.into());
        }
        let end = || {
            format!(
                "{}{}{}{}",
                self.given,
                self.perhaps,
                role_condition(report, number),
                hint(report, number)
            )
        };
        let others = self.others(number);
        match *answers {
            Answers { alone: Ok(()), .. } => {
                (Standing::Alone, format!("can be passed through alone{}", end()))
            }
            Answers { together: Ok(()), .. } => {
                (Standing::Together, format!("can be passed through only together with {others}{}", end()))
            }
            Answers { alone: Err(alone), together: Err(together), alone_relaxed, together_relaxed } => {
                let why = match alone {
                    AssignError::Group(_) => {
                        format!("it must stay together with {others}, and {}", words(&together))
                    }
                    _ => words(&alone),
                };
                let unless = match (alone_relaxed, together_relaxed) {
                    (Ok(()), _) => ", unless relaxed".into(),
                    (_, Ok(())) => format!(", unless relaxed and together with {others}"),
                    _ => String::new(),
                };
                (Standing::Refused, format!("cannot be passed through{unless}: {why}"))
            }
        }
    }

    /// The rest of the group.
    fn others(&self, number: usize) -> String {
        let others = self.group.devices.iter().filter(|&&other| other != number);
        match others.clone().count() {
            count @ 0..=NAMED => {
                let names: Vec<_> = others.map(|&other| self.report.devices[other].to_string()).collect();
                if count == 0 { "nobody".into() } else { list(&names) }
            }
            count => format!("the other {count} devices of {}", group_name(self.group)),
        }
    }
}

/// The policy's words; where it names the device before a cause that stands for itself, those of the cause.
fn words(error: &AssignError) -> String {
    match error {
        AssignError::Hardware { error, .. } => error.to_string(),
        AssignError::NoIommu { state, .. } => state.to_string(),
        _ => error.to_string(),
    }
}

/// Of a device that the policy does not know.
fn unknown(report: &Report<'_>, number: usize) -> (Standing, String) {
    let device = &report.devices[number];
    let names: Vec<_> = report.regions_of(number).map(|(index, _)| region_name(index)).collect();
    let kept = match names.len() {
        0 => String::new(),
        1 => format!("; {} is kept for it", list(&names)),
        _ => format!("; {} are kept for it", list(&names)),
    };
    let is_shown = |device: &Device| {
        report.machine.zip(device.address()).is_some_and(|(machine, address)| machine.pci.has(address))
    };
    if is_shown(device) {
        let why = "answers no config read: a virtual function does so, and what its physical one says is for root to read";
        (Standing::Unknown, format!("{why}{kept}"))
    } else if report.machine.is_some() {
        (Standing::Stays, format!("is not present{kept}"))
    } else if device.path.iter().any(|hop| !hop.is_valid()) {
        (Standing::Stays, format!("cannot be there, as no bus can have it{kept}"))
    } else if report.regions_of(number).any(|(_, region)| region.bridges.contains(device)) {
        (Standing::Unknown, format!("is a bridge: what is below it shows on its machine alone{kept}"))
    } else {
        (
            Standing::Unknown,
            format!("is below a bridge: which function it is shows on its machine alone{kept}"),
        )
    }
}

/// Those that the table cannot place, and whose regions meet these: they are in the group where they are
/// there.
fn perhaps(report: &Report<'_>, regions: &BTreeSet<usize>) -> String {
    if report.machine.is_some() {
        return String::new();
    }
    let pages: Vec<_> = regions.iter().filter_map(|region| report.regions[*region].verdict.pages()).collect();
    let mut names = BTreeSet::new();
    for region in &report.regions {
        let meets =
            region.verdict.pages().is_some_and(|range| pages.iter().any(|other| other.overlaps(&range)));
        for device in region.devices.iter().filter(|_| meets) {
            let number = report.devices.binary_search(device).ok();
            if number.is_some_and(|number| report.function(number).is_none()) {
                names.insert((device, region.bridges.contains(device)));
            }
        }
    }
    let count = names.len();
    let names: Vec<_> = names
        .into_iter()
        .map(
            |(device, is_bridge)| {
                if is_bridge { format!("what is below {device}") } else { device.to_string() }
            },
        )
        .collect();
    match count {
        0 => String::new(),
        1 => format!("; with {} too, where that is there", list(&names)),
        2..=NAMED => format!("; with {} too, where they are there", list(&names)),
        _ => format!("; with {count} others that the table cannot place too, where they are there"),
    }
}

/// What a device's virtual or physical functions make of it.
fn role_condition(report: &Report<'_>, number: usize) -> String {
    match report.function(number).map(|function| function.role) {
        Some(Role::Physical) => "; only while its virtual functions are disabled".into(),
        Some(Role::Virtual { physical }) => {
            format!("; only while its physical function {physical} is the host's")
        }
        _ => String::new(),
    }
}

/// What the device's class says of its region.
fn hint(report: &Report<'_>, number: usize) -> &'static str {
    if report.machine.is_none() || report.regions_of(number).next().is_none() {
        return "";
    }
    match report.function(number).map(|function| function.class) {
        Some(DeviceClass::Usb) => {
            " (a USB controller: firmware uses such memory for its own keyboard and mouse until the OS takes over)"
        }
        Some(DeviceClass::Graphics) => " (a display controller: such memory is what it shows pictures from)",
        _ => "",
    }
}

/// `G1` for the first group of several devices.
#[must_use]
pub fn group_name(group: &Group) -> String {
    group.number.map(|number| format!("G{number}")).unwrap_or_default()
}

/// `V1` for the first of the groups that VFIO's way makes.
#[must_use]
pub fn required_name(group: &Group) -> String {
    group.number.map(|number| format!("V{number}")).unwrap_or_default()
}

/// `R1` for the first region.
#[must_use]
pub fn region_name(number: usize) -> String {
    format!("R{}", number + 1)
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn list(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
