//! The memory map that `XENMEM_set_memory_map` takes: plain types with the fields of Xen's `struct e820entry`
//! (`xen/include/asm-x86/e820.h`), and how one is made of a layout.

use p2m::GfnRange;

use crate::frames::{Bounds, range};
use crate::list::{Full, List};

/// Most entries that are taken: libxl's `E820MAX`, and the kernel's E820_X_MAX. Xen's XENMEM_set_memory_map
/// refuses more than it has room for with -EINVAL.
pub const E820_MAX: usize = 128;
/// RAM.
pub const RAM: u32 = 1;
/// Reserved.
pub const RESERVED: u32 = 2;
/// ACPI tables, RAM once they are read.
pub const ACPI: u32 = 3;
/// ACPI memory that must be kept.
pub const NVS: u32 = 4;

/// An entry of the memory map. For the hypercall the fields go one after the other, 20 bytes in all: C's
/// struct is packed, this is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct E820Entry {
    /// Its first byte.
    pub addr: u64,
    /// How many bytes.
    pub size: u64,
    /// [`RAM`], [`RESERVED`] and so on.
    pub kind: u32,
}

impl E820Entry {
    /// The entry of `frames`. A range beyond all addresses is cut off there.
    pub(crate) fn new(frames: GfnRange, kind: u32) -> Self {
        let bytes = |frame: u64| frame.saturating_mul(1 << p2m::PAGE_SHIFT);
        let addr = bytes(frames.low());
        Self { addr, size: bytes(frames.high()).saturating_sub(addr), kind }
    }

    /// The byte behind its last one.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.addr.saturating_add(self.size)
    }

    fn frames(&self) -> GfnRange {
        range(self.addr >> p2m::PAGE_SHIFT, self.end() >> p2m::PAGE_SHIFT)
    }
}

/// Writes the map: `special` are ranges with their types in any order, overlapping where their type is the
/// same; the rest of `ram`, from `from` on, is RAM.
pub(crate) fn write(
    map: &mut List<'_, E820Entry>,
    special: impl Iterator<Item = (GfnRange, u32)>,
    ram: &[GfnRange],
    from: u64,
) -> Result<(), Full> {
    map.clear();
    for (frames, kind) in special.filter(|(frames, _)| !frames.is_empty()) {
        append(map, frames, kind)?;
    }
    map.items_mut().sort_unstable_by_key(|entry| entry.addr);
    // They go to the end of the memory, and from there to their places among the RAM, which is written from
    // the start on.
    let mut specials = map.move_to_end();
    let mut next = map.take_first(&mut specials);
    // Where the RAM that is not in the map yet starts at the earliest.
    let mut start = from;
    for ram in ram {
        start = start.max(ram.low());
        while let Some(special) = next.filter(|special| special.frames().low() < ram.high()) {
            append(map, range(start, special.frames().low()), RAM)?;
            append(map, special.frames(), special.kind)?;
            start = start.max(special.frames().high());
            next = map.take_first(&mut specials);
        }
        append(map, range(start, ram.high()), RAM)?;
    }
    while let Some(special) = next {
        append(map, special.frames(), special.kind)?;
        next = map.take_first(&mut specials);
    }
    Ok(())
}

/// Adds an entry: to the last one where they are of a type and touch or overlap.
fn append(map: &mut List<'_, E820Entry>, frames: GfnRange, kind: u32) -> Result<(), Full> {
    if frames.is_empty() {
        return Ok(());
    }
    let entry = E820Entry::new(frames, kind);
    match map.items_mut().last_mut() {
        Some(last) if last.kind == kind && last.addr <= entry.addr && entry.addr <= last.end() => {
            last.size = entry.end().max(last.end()).saturating_sub(last.addr);
            Ok(())
        }
        _ => map.push(entry),
    }
}
