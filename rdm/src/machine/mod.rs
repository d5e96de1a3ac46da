//! The running machine as Linux shows it below `/sys`, or a copy of that of another machine.

mod memory;
mod names;
pub mod pci;
mod processor;
mod windows;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use acpi_dmar::pci_types::PciAddress;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::memory::MemoryRegion;

pub use names::Names;
pub use pci::PciTree;

/// What is known of a machine beside its DMAR.
#[derive(Debug, Default)]
pub struct Machine {
    /// Its PCI functions.
    pub pci: PciTree,
    /// Its memory map as firmware gave it (`/sys/firmware/memmap`); `None` where the kernel does not show it.
    pub memory: Option<Vec<MemoryRegion>>,
    /// What decodes as something else than memory, beside the units' registers: BARs and configuration space,
    /// as far as they are shown.
    pub windows: Vec<Window>,
    /// The memory BARs of each function, with their numbers (6 is the ROM's), as far as they are shown.
    pub bars: BTreeMap<PciAddress, Vec<(u8, rdm_layout::Bar)>>,
    /// Bits of the processor's physical addresses, where `/proc/cpuinfo` says it.
    pub address_bits: Option<u32>,
    /// The first bytes of Intel graphics' OpRegion, as its driver shows them.
    pub op_region: Option<Vec<u8>>,
    /// The names of devices, from pci.ids; empty where that is not installed.
    pub names: Names,
}

impl Machine {
    /// Reads what there is below `root`, which is `/` for the running machine. What is not there is left out.
    ///
    /// # Errors
    /// Those of reading the PCI tree, other than its absence.
    pub fn read(root: &Path) -> io::Result<Self> {
        let devices = root.join("sys/bus/pci/devices");
        Ok(Self {
            pci: PciTree::read(&devices)?,
            windows: windows::read(&devices, &root.join("sys/firmware/acpi/tables/MCFG")),
            bars: windows::bar_sizes(&devices),
            address_bits: processor::address_bits(&root.join("proc/cpuinfo")),
            op_region: fs::read(root.join("sys/kernel/debug/dri/0/i915_opregion")).ok(),
            memory: memory::read(&root.join("sys/firmware/memmap")),
            names: Names::read(root),
        })
    }
}

/// Where Linux shows the table.
#[must_use]
pub fn table_path(root: &Path) -> PathBuf {
    root.join("sys/firmware/acpi/tables/DMAR")
}
