//! What the firmware left: its table, its groups, and a USB controller that runs.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use xen_iommu::{Isolation, Link, Sbdf};

use super::dma::sentences;
use super::world::World;
use crate::check::{ensure, text};
use crate::devices::uhci::Uhci;
use crate::host::UHCI;
use crate::scenario::layout::{BEHIND, NVME, OWN, SHARED, SOUTH_BRIDGE};
use crate::scenario::step::{Context, Outcome};

/// The regions of the machine's DMAR: first and last byte.
const REGIONS: [(u64, u64); 5] = [
    (0x0ffe_4000, 0x0ffe_5fff),
    (0x0ffe_8000, 0x0ffe_9fff),
    (0x0ffe_c000, 0x0ffe_cfff),
    (0x0ffd_8000, 0x0ffe_1fff),
    (0x000e_8000, 0x000e_ffff),
];

/// The region of the command line.
const OPTION_REGION: (u64, u64) = (0x0fff_4000, 0x0fff_5fff);

/// Each entry of the table accepted, and its regions registered.
pub fn table(world: &mut World) -> Outcome {
    let mut facts: Vec<_> = world.host.facts.iter().filter(|fact| fact.origin.starts_with("DMAR")).collect();
    if world.broken("table") {
        facts.pop();
    }
    let bad: Vec<String> = facts.iter().filter(|fact| fact.is_bad).map(|fact| fact.verdict.clone()).collect();
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    let found: Vec<(u64, u64)> = facts.iter().filter_map(|fact| fact.bytes).collect();
    ensure!(found == REGIONS, "the regions are {found:x?} instead of {REGIONS:x?}");
    Ok(format!("{} entries, {} regions, all accepted", facts.len(), found.len()))
}

/// The region of the command line is registered for its device.
pub fn option(world: &mut World) -> Outcome {
    let device = if world.broken("rmrr-option") { OWN } else { NVME };
    let regions: Vec<_> = world.host.policy.registry().regions_of(device).collect();
    let found = regions.iter().any(|region| {
        let range = region.range();
        let bytes = (range.start().address(), range.end().address().and_then(|end| end.checked_sub(1)));
        bytes == (Some(OPTION_REGION.0), Some(OPTION_REGION.1))
            && matches!(region.origin(), xen_iommu::region::record::Origin::Option { .. })
    });
    ensure!(found, "the regions of {device} are {regions:?}");
    Ok(format!("{device} has region [{:#x}, {:#x}] by rmrr=", OPTION_REGION.0, OPTION_REGION.1))
}

/// The group of the sharing pair, that behind the bridge, and nobody else together; where isolation is
/// required also those that the machine's south bridge is made of.
pub fn groups(world: &mut World) -> Outcome {
    let policy = &world.host.policy;
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for device in world.devices() {
        policy.for_each_in_group(device, |member, link| {
            if let Some(link) = link.filter(|_| device < member) {
                reasons.push(format!("{device} and {member}: {link}"));
            }
            if device < member {
                found.push((device, member, link));
            }
        });
    }
    for reason in &reasons {
        log::info!(target: "policy", "{reason}");
    }
    if world.broken("groups") {
        found.pop();
    }
    let is_expected = |(device, member, link): &(Sbdf, Sbdf, Option<Link>)| match link {
        Some(Link::SharedRegion(_)) => [*device, *member] == SHARED,
        Some(Link::RequesterId(_)) => [*device, *member] == BEHIND,
        Some(Link::NotIsolated(at)) => {
            policy.isolation() == Isolation::Require
                && SOUTH_BRIDGE.contains(device)
                && *at == SOUTH_BRIDGE[0]
        }
        _ => false,
    };
    let of_bridge = SOUTH_BRIDGE.len() * (SOUTH_BRIDGE.len() - 1) / 2;
    let count = 2 + if policy.isolation() == Isolation::Require { of_bridge } else { 0 };
    ensure!(found.len() == count && found.iter().all(is_expected), "the groups are {found:?}");
    Ok(reasons.join("; "))
}

/// The controller goes on in memory that only its regions map.
pub fn firmware_dma(world: &mut World) -> Outcome {
    ensure!(world.host.translates, "translation is off");
    let uhci = Uhci::open(&world.inventory.pci, UHCI.into()).map_err(text)?;
    // Faults that go on would fill the unit's one record, and hide those that later steps look for.
    world.maps_uhci_again = world.broken("firmware-dma") || world.options().omits_uhci();
    if world.broken("firmware-dma") {
        world.host.leave_out(UHCI)?;
    }
    let mut faults = world.faults();
    ensure!(uhci.is_running() || !faults.is_empty(), "the firmware's USB controller is stopped");
    let frames = uhci.frames_in(Duration::from_millis(20));
    faults.extend(world.faults());
    ensure!(faults.is_empty(), "{} with {frames} USB frames: {}", in_words(faults.len()), sentences(&faults));
    ensure!(
        uhci.is_running() && !uhci.has_failed() && frames >= 18,
        "it went on for {frames} USB frames only"
    );
    Ok(format!("{frames} USB frames in 20 ms from its list at {:#x}, no fault", uhci.frame_list()))
}

fn in_words(faults: usize) -> String {
    if faults == 1 { String::from("a fault") } else { format!("{faults} faults") }
}
