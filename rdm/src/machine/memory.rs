//! The memory map in `/sys/firmware/memmap`: a folder for each entry, with `start`, `end` (inclusive) and
//! `type`.

use std::fs;
use std::path::Path;

use xen_iommu::region::memory::{MemoryKind, MemoryRegion};

/// `None` if there is no map, or an entry that cannot be read: part of a map would give wrong verdicts.
pub(super) fn read(folder: &Path) -> Option<Vec<MemoryRegion>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).ok()? {
        let entry = entry.ok()?.path();
        let text = |name: &str| fs::read_to_string(entry.join(name)).ok();
        let number = |name: &str| {
            let text = text(name)?;
            u64::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
        };
        let kind = match text("type")?.trim() {
            "System RAM" => MemoryKind::Ram,
            "Reserved" | "reserved" => MemoryKind::Reserved,
            _ => MemoryKind::Other,
        };
        entries.push(MemoryRegion { start: number("start")?, end: number("end")?.saturating_add(1), kind });
    }
    (!entries.is_empty()).then_some(entries)
}
