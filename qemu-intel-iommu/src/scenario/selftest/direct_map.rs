//! What the processor's own tables say, read entry by entry from CR3 on: the banks of memory and nothing
//! beyond.
#![allow(unsafe_code)]

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use x86::controlregs;

use crate::check::ensure;
use crate::inventory::Inventory;
use crate::memory::map::LOW_END;
use crate::memory::{self, FRAME};
use crate::scenario::step::{Context, Outcome};

/// Bits of an entry (Intel SDM volume 3, table 4-15 and on).
const PRESENT: u64 = 1;
const UNCACHED: u64 = 1 << 3 | 1 << 4;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Pages that are mapped.
#[derive(Default)]
struct Walked {
    /// Cached ones that follow each other, in order.
    memory: Vec<Range<u64>>,
    /// Pages of 4 KiB, 2 MiB and 1 GiB among them.
    pages: [u64; 3],
    uncached: u64,
    /// The first that leads elsewhere than to itself.
    stray: Option<u64>,
}

/// Compares them with the boot loader's memory map.
pub fn check(inventory: &mut Inventory) -> Outcome {
    let image = memory::image();
    // Whole pages that are memory: the first MiB but for page 0, and what the boot loader's map names; in
    // order, and joined.
    let mut banks: Vec<Range<u64>> = Vec::new();
    for bank in core::iter::once(FRAME..LOW_END).chain(memory::start_info().map.memory()) {
        add(&mut banks, bank);
    }
    let mut expected: Vec<Range<u64>> = Vec::new();
    for bank in banks {
        for part in [bank.start..bank.end.min(image.guard.start), bank.start.max(image.guard.end)..bank.end] {
            if part.start < part.end {
                add(&mut expected, part);
            }
        }
    }
    if inventory.broken("direct-map")
        && let Some(last) = expected.last_mut()
    {
        last.end -= FRAME;
    }
    let mut walked = Walked::default();
    // SAFETY: reading CR3 changes nothing.
    walk(unsafe { controlregs::cr3() } & ADDRESS, 3, 0, &mut walked);
    ensure!(walked.stray.is_none(), "the page at {:#x?} leads elsewhere", walked.stray);
    ensure!(
        walked.memory == expected,
        "cached memory is {:#x?} by the tables and {expected:#x?} by the map",
        walked.memory
    );
    let [small, large, huge] = walked.pages;
    let bytes: u64 = expected.iter().map(|range| range.end - range.start).sum();
    ensure!(
        small < 2 * 512 * expected.len() as u64 + 512,
        "{small} pages of 4 KiB are more than the ends of the banks need"
    );
    Ok(format!(
        "{} MiB in {huge} pages of 1 GiB, {large} of 2 MiB and {small} of 4 KiB; {} uncached",
        bytes >> 20,
        walked.uncached
    ))
}

/// Adds a range that does not begin before the last one; what they share counts once.
fn add(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

fn walk(table: u64, level: u32, base: u64, walked: &mut Walked) {
    let shift = 12 + 9 * level;
    for index in 0..512 {
        let place = memory::phys_to_ptr(table + index * 8).cast::<u64>();
        // SAFETY: a table of the processor's own, which are memory and mapped one to one; they change only
        // under this processor.
        let entry = unsafe { place.read_volatile() };
        let address = base + (index << shift);
        if entry & PRESENT == 0 {
            continue;
        }
        if level > 0 && entry & LARGE == 0 {
            walk(entry & ADDRESS, level - 1, address, walked);
            continue;
        }
        // In a large page's entry, bit 12 is no part of the address.
        if entry & ADDRESS & !((1 << shift) - 1) != address {
            walked.stray = walked.stray.or(Some(address));
        }
        if entry & UNCACHED != 0 {
            walked.uncached += 1;
        } else {
            if let Some(pages) = walked.pages.get_mut(level as usize) {
                *pages += 1;
            }
            add(&mut walked.memory, address..address + (1 << shift));
        }
    }
}
