//! What was found at boot.

use crate::acpi::Tables;
use crate::boot::command_line::Options;
use crate::memory::{self, FrameCounts};
use crate::pci::Pci;

/// The machine as it was found. Memory is reached through [`memory`].
pub struct Inventory {
    /// The command line.
    pub options: Options<'static>,
    /// ACPI tables.
    pub tables: Tables,
    /// PCI functions.
    pub pci: Pci,
    /// The frames before the first step.
    pub frames: FrameCounts,
}

impl Inventory {
    /// Says what was found, one line each.
    pub fn report(&self) {
        let info = memory::start_info();
        log::info!(target: "boot", "command line: {}", self.options);
        for range in info.map.ranges() {
            log::info!(target: "memory", "{range}");
        }
        for module in &info.modules {
            log::info!(target: "memory", "module [{:#x},{:#x})", module.start, module.end);
        }
        let (image, frames) = (memory::image().all, memory::frames().counts());
        log::info!(target: "memory", "image [{:#x},{:#x}), {frames}", image.start, image.end);
        for table in &self.tables.tables {
            log::info!(target: "acpi", "{table}");
        }
        let way = if self.pci.config().is_express() { "MCFG" } else { "ports" };
        log::info!(target: "pci", "{} functions, found through {way}", self.pci.functions().len());
        for function in self.pci.functions() {
            log::info!(target: "pci", "{function}");
        }
        for bar in self.pci.bars() {
            if let Some(bar) = bar.decoded(self.pci.config()) {
                log::debug!(target: "pci", "{} decodes [{:#x},{:#x}]", bar.device, bar.base, bar.limit);
            }
        }
    }
}
