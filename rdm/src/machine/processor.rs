//! The processor, as `/proc/cpuinfo` has it.

use std::fs;
use std::path::Path;

/// The bits of physical addresses: `address sizes   : 39 bits physical, 48 bits virtual`.
pub(super) fn address_bits(file: &Path) -> Option<u32> {
    let text = fs::read_to_string(file).ok()?;
    let (_, sizes) = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "address sizes").then_some((name, value))
    })?;
    sizes.split_whitespace().next()?.parse().ok()
}
