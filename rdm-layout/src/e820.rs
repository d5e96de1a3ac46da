//! The memory map that `XENMEM_set_memory_map` takes, made of a layout.

use p2m::GfnRange;
pub use xen_abi::E820Entry;
pub use xen_abi::memory::{E820_ACPI as ACPI, E820_NVS as NVS, E820_RAM as RAM, E820_RESERVED as RESERVED};

use crate::frames::{Bounds, range};
use crate::list::{Full, List};

/// Most entries that are taken: libxl's `E820MAX`, and the kernel's E820_X_MAX. Xen's XENMEM_set_memory_map
/// refuses more than it has room for with -EINVAL.
pub const E820_MAX: usize = 128;

/// The entry of `frames`. A range beyond all addresses is cut off there.
fn entry(frames: GfnRange, kind: u32) -> E820Entry {
    let bytes = |frame: u64| frame.saturating_mul(1 << p2m::PAGE_SHIFT);
    let addr = bytes(frames.low());
    E820Entry { addr, size: bytes(frames.high()).saturating_sub(addr), kind }
}

/// The byte behind an entry's last one.
fn end(entry: &E820Entry) -> u64 {
    entry.addr.saturating_add(entry.size)
}

fn frames(entry: &E820Entry) -> GfnRange {
    range(entry.addr >> p2m::PAGE_SHIFT, end(entry) >> p2m::PAGE_SHIFT)
}

/// Writes the map: `reserved` are ranges by address, `others` ranges with their types in any order, overlapping
/// where their type is the same; the rest of `ram`, from `from` on, is RAM.
pub(crate) fn write(
    map: &mut List<'_, E820Entry>,
    reserved: impl Iterator<Item = GfnRange>,
    others: impl Iterator<Item = (GfnRange, u32)>,
    ram: &[GfnRange],
    from: u64,
) -> Result<(), Full> {
    map.clear();
    for frames in reserved {
        append(map, frames, RESERVED)?;
    }
    for (frames, kind) in others.filter(|(frames, _)| !frames.is_empty()) {
        // There are few of them.
        let entry = entry(frames, kind);
        let place = map.items().partition_point(|before| before.addr <= entry.addr);
        map.push(entry)?;
        if let Some(behind) = map.items_mut().get_mut(place..) {
            behind.rotate_right(1);
        }
    }
    // They go to the end of the memory, and from there to their places among the RAM, which is written from
    // the start on.
    let mut specials = map.move_to_end();
    let mut next = map.take_first(&mut specials);
    // Where the RAM that is not in the map yet starts at the earliest.
    let mut start = from;
    for ram in ram {
        start = start.max(ram.low());
        while let Some(special) = next.filter(|special| frames(special).low() < ram.high()) {
            append(map, range(start, frames(&special).low()), RAM)?;
            append(map, frames(&special), special.kind)?;
            start = start.max(frames(&special).high());
            next = map.take_first(&mut specials);
        }
        append(map, range(start, ram.high()), RAM)?;
    }
    while let Some(special) = next {
        append(map, frames(&special), special.kind)?;
        next = map.take_first(&mut specials);
    }
    Ok(())
}

/// Adds an entry: to the last one where they are of a type and touch or overlap.
fn append(map: &mut List<'_, E820Entry>, frames: GfnRange, kind: u32) -> Result<(), Full> {
    if frames.is_empty() {
        return Ok(());
    }
    let entry = entry(frames, kind);
    match map.items_mut().last_mut() {
        Some(last) if last.kind == kind && last.addr <= entry.addr && entry.addr <= end(last) => {
            last.size = end(&entry).max(end(last)).saturating_sub(last.addr);
            Ok(())
        }
        _ => map.push(entry),
    }
}
