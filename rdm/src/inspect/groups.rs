//! Which devices must stay together: those that share a region, whose regions overlap or share a page, that are below a bridge whose scope has a
//! region, or whose DMA carries one requester id. What is so from device to device is so for all of them.

use std::collections::{BTreeMap, HashMap};

use acpi_dmar::pci_types::PciAddress;
use p2m::Mfn;

use super::Region;
use crate::device::Device;
use crate::machine::Machine;

/// Why two devices are in one group. Devices and regions by their numbers in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Both use this region.
    SharedRegion(usize),
    /// The first uses the first region, the second the second; they overlap or share a page.
    Overlap(usize, usize),
    /// The second is below the first, a bridge that has a region with all that is below it.
    BelowBridge,
    /// The DMA of both carries this requester id.
    Requester(PciAddress),
}

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

/// Groups `devices`, which are sorted and hold every device of `regions`. Absent devices of a machine make no group.
pub(super) fn groups(devices: &[Device], regions: &[Region], machine: Option<&Machine>) -> Vec<Group> {
    let numbers: HashMap<_, _> =
        devices.iter().enumerate().map(|(number, device)| (device, number)).collect();
    let counts = |number: &usize| {
        machine
            .is_none_or(|machine| devices[*number].address().is_some_and(|address| machine.pci.has(address)))
    };
    let users: Vec<Vec<usize>> = regions
        .iter()
        .map(|region| {
            region.devices.iter().filter_map(|device| numbers.get(device).copied()).filter(&counts).collect()
        })
        .collect();
    let mut union = Union::new(devices.len());
    for (region, users) in users.iter().enumerate() {
        for pair in users.windows(2) {
            union.join(pair[0], pair[1], Reason::SharedRegion(region));
        }
    }
    join_overlaps(regions, &users, &mut union);
    let mut bridges: Vec<_> = regions.iter().flat_map(|region| &region.bridges).collect();
    bridges.sort_unstable();
    bridges.dedup();
    for (number, device) in devices.iter().enumerate() {
        for bridge in device.bridges().filter(|bridge| bridges.binary_search(&bridge).is_ok()) {
            if let Some(&bridge) = numbers.get(&bridge) {
                union.join(bridge, number, Reason::BelowBridge);
            }
        }
    }
    if let Some(machine) = machine {
        let mut first_of = BTreeMap::new();
        for (number, device) in devices.iter().enumerate().filter(|(number, _)| counts(number)) {
            // A bridge shows its own requests under an id that what is below it may have too; it is not given to guests.
            let Some(address) = device.address().filter(|&address| !machine.pci.is_bridge(address)) else {
                continue;
            };
            let requester = machine.pci.requester(address);
            let first = *first_of.entry(requester).or_insert(number);
            union.join(first, number, Reason::Requester(requester));
        }
    }
    union.groups()
}

/// Regions in the order of their pages: each meets the one that reaches furthest so far, or none that came before.
/// A rejected region is never mapped, and one that spans all memory must not join all devices.
fn join_overlaps(regions: &[Region], users: &[Vec<usize>], union: &mut Union) {
    let mut spans: Vec<_> = regions
        .iter()
        .enumerate()
        .filter(|&(number, _)| !users[number].is_empty())
        .filter_map(|(number, region)| Some((region.verdict.pages()?, number)))
        .collect();
    spans.sort_unstable_by_key(|(pages, number)| (pages.start(), pages.end(), *number));
    let mut furthest: Option<(Mfn, usize)> = None;
    for (pages, number) in spans {
        match furthest {
            Some((end, holder)) if pages.start() < end => {
                union.join(users[holder][0], users[number][0], Reason::Overlap(holder, number));
                furthest = Some(if pages.end() > end { (pages.end(), number) } else { (end, holder) });
            }
            _ => furthest = Some((pages.end(), number)),
        }
    }
}

/// Union-find that remembers what joined.
struct Union {
    parents: Vec<usize>,
    links: Vec<Link>,
}

impl Union {
    fn new(count: usize) -> Self {
        Self { parents: (0..count).collect(), links: Vec::new() }
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    fn join(&mut self, first: usize, second: usize, reason: Reason) {
        let (one, other) = (self.root(first), self.root(second));
        if one != other {
            // The lowest stands for all, so that groups come in the order of their first devices.
            self.parents[one.max(other)] = one.min(other);
            self.links.push(Link { first, second, reason });
        }
    }

    fn groups(mut self) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut places = HashMap::new();
        for number in 0..self.parents.len() {
            let root = self.root(number);
            let place = *places.entry(root).or_insert_with(|| {
                groups.push(Group { number: None, devices: Vec::new(), links: Vec::new() });
                groups.len() - 1
            });
            groups[place].devices.push(number);
        }
        for link in std::mem::take(&mut self.links) {
            let root = self.root(link.first);
            groups[places[&root]].links.push(link);
        }
        for (number, group) in (1..).zip(groups.iter_mut().filter(|group| group.devices.len() > 1)) {
            group.number = Some(number);
        }
        groups
    }
}
