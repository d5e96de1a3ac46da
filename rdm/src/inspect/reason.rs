//! Why the devices of a group are in it, in sentences.

use std::collections::{BTreeMap, BTreeSet};

use xen_iommu::Link as Reason;

use super::Report;
use super::groups::{Group, Link};
use super::sentence::{list, region_name};

/// A sentence for each region, pair of regions, requester id, and place where access control ends.
#[must_use]
pub fn reasons(report: &Report<'_>, group: &Group) -> Vec<String> {
    let mut told = BTreeSet::new();
    let mut by_id: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    let mut by_place: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    let mut sentences = Vec::new();
    for link in &group.links {
        let Link { first, second, reason } = *link;
        match reason {
            Reason::SharedRegion(region) => {
                let Some(region) = report.region_of_name(region) else { continue };
                if told.insert(region) {
                    let uses =
                        |device: &&usize| report.regions_of(**device).any(|(number, _)| number == region);
                    let users = names(report, group.devices.iter().filter(uses));
                    sentences.push(format!("{users} use {}", region_name(region)));
                }
            }
            Reason::Overlap(one, other) => {
                let (Some(one), Some(other)) = (report.region_of_name(one), report.region_of_name(other))
                else {
                    continue;
                };
                let (a, b) = (&report.regions[one], &report.regions[other]);
                let overlap = a.base <= b.limit && b.base <= a.limit;
                let how = if overlap { "overlaps" } else { "shares a page with" };
                let (one, other) = (region_name(one), region_name(other));
                let (first, second) = (&report.devices[first], &report.devices[second]);
                sentences.push(format!("{one}, which {first} uses, {how} {other}, which {second} uses"));
            }
            Reason::RequesterId(id) => by_id.entry(id).or_default().extend([first, second]),
            Reason::NotIsolated(at) => by_place.entry(at).or_default().extend([first, second]),
            // In the policy's words.
            other => sentences.push(format!("{}: {other}", names(report, [first, second].iter()))),
        }
    }
    for (id, devices) in by_id {
        sentences
            .push(format!("the DMA of {} may carry one requester id, {id}", names(report, devices.iter())));
    }
    for (at, devices) in by_place {
        let devices = names(report, devices.iter());
        sentences.push(format!("nothing isolates {devices} from each other: access control ends at {at}"));
    }
    sentences
}

fn names<'d>(report: &Report<'_>, devices: impl Iterator<Item = &'d usize>) -> String {
    let names: Vec<_> = devices.map(|&device| report.devices[device].to_string()).collect();
    list(&names)
}
