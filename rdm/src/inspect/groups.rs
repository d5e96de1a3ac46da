//! The policy's groups, by the numbers that a report has for devices.

use xen_iommu::Link as Reason;
use xen_iommu::Sbdf;

use super::policy::Members;

/// Two devices that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// One.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Why.
    pub reason: Reason,
}

/// Devices that belong together, as few as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Counted from 1 among those of more than one device.
    pub number: Option<usize>,
    /// By number, lowest first.
    pub devices: Vec<usize>,
    /// What holds them together: one link less than there are devices.
    pub links: Vec<Link>,
}

/// The groups that `all` are, in the order of their first devices; a device that is in none, as bridges are
/// and what is not there, has one to itself.
pub(super) fn groups(count: usize, all: &[Members], number_of: impl Fn(Sbdf) -> Option<usize>) -> Vec<Group> {
    let mut of_first: Vec<Option<Group>> = (0..count).map(alone).map(Some).collect();
    for members in all {
        let group = Group {
            number: None,
            devices: members.devices.iter().filter_map(|device| number_of(*device)).collect(),
            links: members
                .links
                .iter()
                .filter_map(|(first, second, reason)| {
                    Some(Link { first: number_of(*first)?, second: number_of(*second)?, reason: *reason })
                })
                .collect(),
        };
        group.devices.iter().for_each(|device| of_first[*device] = None);
        if let Some(&first) = group.devices.first() {
            of_first[first] = Some(group);
        }
    }
    let mut groups: Vec<_> = of_first.into_iter().flatten().collect();
    count_up(&mut groups);
    groups
}

/// Those of `required` that are more than one device and that are not in `known` too.
pub(super) fn further(required: Vec<Group>, known: &[Group]) -> Vec<Group> {
    let is_known = |group: &Group| known.iter().any(|other| other.devices == group.devices);
    let mut further: Vec<_> =
        required.into_iter().filter(|group| group.devices.len() > 1 && !is_known(group)).collect();
    count_up(&mut further);
    further
}

fn count_up(groups: &mut [Group]) {
    for (number, group) in (1..).zip(groups.iter_mut().filter(|group| group.devices.len() > 1)) {
        group.number = Some(number);
    }
}

fn alone(device: usize) -> Group {
    Group { number: None, devices: vec![device], links: Vec::new() }
}
