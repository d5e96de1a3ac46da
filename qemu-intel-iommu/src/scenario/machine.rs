//! Is this the machine that the other steps expect?

use alloc::format;
use alloc::vec::Vec;

use pci_types::PciAddress;

use super::{Outcome, ensure};
use crate::devices::{edu, nvme, uhci};
use crate::machine::{Machine, address};
use crate::memory::{self, MemoryKind, paging};
use crate::pci::PortType;

/// Where the edu devices are: a region of its own, two that share one, two behind the PCI Express to PCI bridge.
pub const EDUS: [(u8, u8); 5] = [(0, 3), (0, 4), (0, 5), (1, 1), (1, 2)];

/// Compares the machine with what the steps need.
pub fn check(machine: &mut Machine) -> Outcome {
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
        info.map.kind_at(top) == Some(MemoryKind::Reserved)
            && paging::access(top) == Some(paging::Access::Memory),
        "the firmware keeps no memory at {top:#x}, right above usable RAM"
    );

    let pci = &machine.pci;
    let mut edus: Vec<PciAddress> =
        pci.with_ids(edu::IDS.0, edu::IDS.1).map(|function| function.address).collect();
    if machine.options.broken("machine") {
        edus.pop();
    }
    let expected: Vec<PciAddress> = EDUS.iter().map(|(bus, device)| address(*bus, *device, 0)).collect();
    ensure!(edus == expected, "edu devices at {edus:?} instead of {expected:?}");

    let bridge = pci.function(address(0, 6, 0)).map_err(super::text)?;
    ensure!(
        bridge.express == Some(PortType::ExpressToPci)
            && bridge.bridge.is_some_and(|bridge| bridge.secondary == 1),
        "{bridge} instead of a PCI Express to PCI bridge to bus 1"
    );
    for behind in [address(1, 1, 0), address(1, 2, 0)] {
        let requester = pci.requester(behind).map_err(super::text)?;
        ensure!(requester == address(1, 0, 0), "{behind} makes requests as {requester}");
    }
    for (place, class) in [(address(0, 7, 0), nvme::CLASS), (address(0, 0x1d, 0), uhci::CLASS)] {
        let function = pci.function(place).map_err(super::text)?;
        ensure!(function.class == class, "{function} instead of class {class:06x}");
    }
    let dmars = machine.tables.dmars.len();
    Ok(format!(
        "{} MiB usable, reserved memory from {top:#x} on, {} functions, {} DMAR table{}",
        usable >> 20,
        pci.functions().len(),
        dmars,
        if dmars == 1 { "" } else { "s" }
    ))
}
