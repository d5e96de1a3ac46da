//! The layout that steps are written for: where QEMU's command line puts devices and the firmware's tables
//! put regions (the runner of boots makes them so), and the step that looks whether it is so.

use alloc::format;
use alloc::vec::Vec;

use pci_types::PciAddress;
use xen_iommu::Sbdf;

use super::step::{Context, Outcome, Step};
use crate::check::{counted, ensure, text};
use crate::devices::{edu, nvme, uhci};
use crate::host::UHCI;
use crate::inventory::Inventory;
use crate::memory::{self, MemoryKind, PageUse, paging};
use crate::pci::PortType;

/// The edu device with a region of its own.
pub const OWN: Sbdf = Sbdf::new(0, 0, 3, 0);
pub const OWN_REGION: u64 = 0x0ffe_4000;
/// Two that share one.
pub const SHARED: [Sbdf; 2] = [Sbdf::new(0, 0, 4, 0), Sbdf::new(0, 0, 5, 0)];
pub const SHARED_REGION: u64 = 0x0ffe_8000;
/// Two behind the PCI Express to PCI bridge, of which the first has a region.
pub const BEHIND: [Sbdf; 2] = [Sbdf::new(0, 1, 1, 0), Sbdf::new(0, 1, 2, 0)];
pub const BEHIND_REGION: u64 = 0x0ffe_c000;
/// The bridge, and the id that it gives to what is behind it.
const BRIDGE: Sbdf = Sbdf::new(0, 0, 6, 0);
pub const BRIDGE_ID: Sbdf = Sbdf::new(0, 1, 0, 0);
/// The NVMe controller, whose region the command line adds.
pub const NVME: Sbdf = Sbdf::new(0, 0, 7, 0);
/// The functions of the south bridge, one device without access control: LPC, SATA, SMBus.
pub const SOUTH_BRIDGE: [Sbdf; 3] =
    [Sbdf::new(0, 0, 0x1f, 0), Sbdf::new(0, 0, 0x1f, 2), Sbdf::new(0, 0, 0x1f, 3)];
/// Every edu device.
pub const EDUS: [Sbdf; 5] = [OWN, SHARED[0], SHARED[1], BEHIND[0], BEHIND[1]];

/// The step's name and title; what it runs on depends on the scenario.
pub const fn step<C>(run: fn(&mut C) -> Outcome) -> Step<C> {
    let title = "memory map and PCI devices are those of the machine that the steps need";
    Step { name: "machine", title, run }
}

/// Compares what was found with what the steps need.
pub fn check(inventory: &Inventory) -> Outcome {
    let info = memory::start_info();
    let mut end = 0;
    for range in info.map.ranges() {
        ensure!(range.range.start >= end, "{range} overlaps the range before it, which ends at {end:#x}");
        end = range.range.end;
    }
    let usable: u64 = info.map.usable_pages().map(|range| range.end - range.start).sum();
    ensure!(usable >= 64 << 20, "only {usable:#x} bytes of usable RAM");
    let top = info.map.usable_pages().map(|range| range.end).filter(|end| *end <= 1 << 32).max().unwrap_or(0);
    ensure!(
        info.map.kind_at(top) == Some(MemoryKind::Reserved) && paging::page_use(top) == Some(PageUse::Memory),
        "the firmware keeps no memory at {top:#x}, right above usable RAM"
    );

    let pci = &inventory.pci;
    let mut edus: Vec<PciAddress> = pci.with_ids(edu::IDS).map(|function| function.address).collect();
    if inventory.broken("machine") {
        edus.pop();
    }
    let expected: Vec<PciAddress> = EDUS.iter().map(|edu| PciAddress::from(*edu)).collect();
    ensure!(edus == expected, "edu devices at {edus:?} instead of {expected:?}");

    let bridge = pci.function(BRIDGE.into()).map_err(text)?;
    ensure!(
        bridge.express == Some(PortType::ExpressToPci)
            && bridge.bridge.is_some_and(|bridge| bridge.secondary == 1),
        "{bridge} instead of a PCI Express to PCI bridge to bus 1"
    );
    for behind in BEHIND {
        let function = pci.function(behind.into()).map_err(text)?;
        ensure!(
            function.policy.ids.contains(BRIDGE_ID),
            "{function} instead of one that requests as {BRIDGE_ID}"
        );
    }
    for (place, class) in [(NVME, nvme::CLASS), (UHCI, uhci::CLASS)] {
        let function = pci.function(place.into()).map_err(text)?;
        ensure!(function.class == class, "{function} instead of class {class:06x}");
    }
    Ok(format!(
        "{} MiB usable, reserved memory from {top:#x} on, {} functions, {}",
        usable >> 20,
        pci.functions().len(),
        counted(inventory.tables.dmars.len(), "DMAR table")
    ))
}
