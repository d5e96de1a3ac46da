//! The memory map as `XENMEM_set_memory_map` takes it: plain types with the layout of Xen's `public/xen.h` and `arch-x86/xen.h`, and how
//! one is made of a layout.

use p2m::GfnRange;

use crate::frames::{Bounds, range};
use crate::list::{Full, List};

/// Most entries that Xen takes (`E820_X_MAX` in `xen/include/asm-x86/e820.h`; 128 is what every version takes of a toolstack).
pub const E820_MAX: usize = 128;
/// RAM.
pub const RAM: u32 = 1;
/// Reserved.
pub const RESERVED: u32 = 2;
/// ACPI tables, RAM once they are read.
pub const ACPI: u32 = 3;
/// ACPI memory that must be kept.
pub const NVS: u32 = 4;

/// An entry of the memory map (`struct e820entry`; the C layout is packed, 20 bytes).
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

/// Writes the map: `special` are ranges with their types in any order, overlapping where their type is the same; the rest of `ram`, from
/// `from` on, is RAM.
pub(crate) fn write(
    map: &mut List<'_, E820Entry>,
    special: impl Iterator<Item = (GfnRange, u32)>,
    ram: &[GfnRange],
    from: u64,
) -> Result<(), Full> {
    map.clear();
    for (frames, kind) in special.filter(|(frames, _)| !frames.is_empty()) {
        map.push(E820Entry::new(frames, kind))?;
    }
    merge(map);
    // The special entries are sorted and do not overlap; RAM goes behind them in the list and is sorted in at the end.
    let specials = map.items().len();
    let mut next = 0;
    for ram in ram {
        let mut start = ram.low().max(from);
        while let Some(special) = map.items().get(..specials).and_then(|items| items.get(next)).copied() {
            let special = special.frames();
            if special.low() >= ram.high() {
                break;
            }
            if special.high() > start {
                push(map, range(start, special.low()))?;
                start = special.high();
            }
            if special.high() > ram.high() {
                break;
            }
            next = next.saturating_add(1);
        }
        push(map, range(start, ram.high()))?;
    }
    merge(map);
    Ok(())
}

fn push(map: &mut List<'_, E820Entry>, ram: GfnRange) -> Result<(), Full> {
    if ram.is_empty() { Ok(()) } else { map.push(E820Entry::new(ram, RAM)) }
}

/// Sorts, and makes one of entries of a type that touch or overlap.
fn merge(map: &mut List<'_, E820Entry>) {
    map.items_mut().sort_unstable_by_key(|entry| (entry.addr, entry.size));
    let mut kept = 0_usize;
    for index in 0..map.items().len() {
        let Some(entry) = map.items().get(index).copied() else { break };
        let last = kept.checked_sub(1).and_then(|last| map.items_mut().get_mut(last));
        match last {
            Some(last) if last.kind == entry.kind && entry.addr <= last.end() => {
                last.size = entry.end().max(last.end()).saturating_sub(last.addr);
            }
            _ => {
                if let Some(place) = map.items_mut().get_mut(kept) {
                    *place = entry;
                }
                kept = kept.saturating_add(1);
            }
        }
    }
    map.truncate(kept);
}
