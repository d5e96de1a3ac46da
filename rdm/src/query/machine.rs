//! A machine in words: its functions as a list, its memory map as a log shows it.

use acpi_dmar::pci_types::PciAddress;
use xen_iommu::Sbdf;
use xen_iommu::region::memory::{MemoryKind, MemoryRegion};

use crate::machine::PciTree;

/// Reads `[SEGMENT:]BUS:DEVICE.FUNCTION`, in hexadecimal.
///
/// # Errors
/// A sentence.
pub fn device(word: &str) -> Result<Sbdf, String> {
    let wrong = || format!("{word:?} is no device: it is [SEGMENT:]BUS:DEVICE.FUNCTION, in hexadecimal");
    let (place, function) = word.trim().rsplit_once('.').ok_or_else(wrong)?;
    let mut parts: Vec<&str> = place.split(':').collect();
    if parts.len() == 2 {
        parts.insert(0, "0");
    }
    let [segment, bus, device] = parts[..] else { return Err(wrong()) };
    let number = |digits: &str, most: u16| {
        u16::from_str_radix(digits, 16).ok().filter(|number| *number <= most).ok_or_else(wrong)
    };
    let byte = |digits, most| number(digits, most).map(|number| number.to_le_bytes()[0]);
    Ok(Sbdf::new(number(segment, u16::MAX)?, byte(bus, 0xff)?, byte(device, 0x1f)?, byte(function, 7)?))
}

/// Reads the functions that are there: devices with commas between, a bridge with the buses below it behind
/// an equals sign (`00:1c.0=3-5`, or `=3` for one).
///
/// # Errors
/// A sentence.
pub fn devices(list: &str) -> Result<PciTree, String> {
    let words = list.split(',').map(str::trim).filter(|word| !word.is_empty());
    let functions: Result<Vec<_>, String> = words.map(function).collect();
    Ok(PciTree::of(functions?))
}

/// An address, and the header that its configuration space begins with (PCI 3.0, 6.1 and PCI-to-PCI bridge
/// 1.2, 3.2).
fn function(word: &str) -> Result<(PciAddress, Vec<u8>), String> {
    let (name, buses) = word.split_once('=').map_or((word, None), |(name, buses)| (name, Some(buses)));
    let mut header = vec![0; 64];
    header[..4].copy_from_slice(&0x1234_8086_u32.to_le_bytes());
    if let Some(buses) = buses {
        let (first, last) = buses.split_once('-').unwrap_or((buses, buses));
        let bus = |digits: &str| {
            u8::from_str_radix(digits.trim(), 16)
                .map_err(|_| format!("{word:?}: the buses below a bridge are FIRST-LAST, in hexadecimal"))
        };
        header[0x0a..0x0c].copy_from_slice(&[0x04, 0x06]);
        header[0x0e] = 1;
        header[0x19..0x1b].copy_from_slice(&[bus(first)?, bus(last)?]);
    }
    Ok((device(name)?.into(), header))
}

/// Reads a memory map: a line for each range, with its first address, its last, and what it is, as Linux
/// (`/proc/iomem`, `BIOS-e820:`) and Xen (`(usable)`) show it. Empty lines, and those behind a `#`, do not
/// count, nor do those of `/proc/iomem` that are indented.
///
/// # Errors
/// A sentence.
pub fn memory_map(text: &str) -> Result<Vec<MemoryRegion>, String> {
    let mut regions = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let is_below = line.starts_with(' ') && line.contains(" : ");
        if is_below || line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let range =
            line.split_once("[mem ").or_else(|| line.split_once('[')).map_or(line, |(_, range)| range);
        let words = range.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let number_of = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
        let mut numbers = words.map_while(number_of);
        let (Some(start), Some(last)) = (numbers.next(), numbers.next()) else {
            return Err(format!("line {number} begins with no range of addresses: {line:?}"));
        };
        let words = line.to_lowercase();
        let is = |names: &[&str]| names.iter().any(|name| words.contains(name));
        let kind = if is(&["usable", "system ram"]) && !words.contains("unusable") {
            MemoryKind::Ram
        } else if words.contains("reserved") {
            MemoryKind::Reserved
        } else {
            MemoryKind::Other
        };
        regions.push(MemoryRegion { start, end: last.saturating_add(1), kind });
    }
    Ok(regions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_with_and_without_a_segment() {
        assert_eq!(device("0:2.0"), Ok(Sbdf::new(0, 0, 2, 0)));
        assert_eq!(device("0001:fe:1f.7"), Ok(Sbdf::new(1, 0xfe, 0x1f, 7)));
        for wrong in ["", "0:2", "0:20.0", "0:2.8", "100:0.0", "1:2:3:4.5", "0:g.0", "10000:0:0.0"] {
            assert!(device(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_list_has_functions_and_bridges() {
        let tree = devices("00:02.0, 00:1c.0=3-5,3:0.0").unwrap();
        let all: Vec<Sbdf> = tree.addresses().map(Sbdf::from).collect();
        assert_eq!(all, [Sbdf::new(0, 0, 2, 0), Sbdf::new(0, 0, 0x1c, 0), Sbdf::new(0, 3, 0, 0)]);
        assert!(devices("00:1c.0=x").is_err());
        assert!(devices("").unwrap().addresses().next().is_none());
    }

    #[test]
    fn a_memory_map_is_read_as_logs_show_it() {
        let text = "# a comment\n\n00000000-0009fbff : System RAM\n  00001000-00001fff : Kernel code\n\
                    (XEN)  [00000000000f0000, 00000000000fffff] (reserved)\n";
        let rest =
            "BIOS-e820: [mem 0x100000-0x1fffff] usable\n200000-2fffff ACPI NVS\n300000-3fffff unusable\n";
        let text = [text, rest].concat();
        assert!(memory_map("usable").is_err_and(|error| error.starts_with("line 1 begins with no range")));
        let region = |start, end, kind| MemoryRegion { start, end, kind };
        assert_eq!(
            memory_map(&text).unwrap(),
            [
                region(0, 0x9_fc00, MemoryKind::Ram),
                region(0xf_0000, 0x10_0000, MemoryKind::Reserved),
                region(0x10_0000, 0x20_0000, MemoryKind::Ram),
                region(0x20_0000, 0x30_0000, MemoryKind::Other),
                region(0x30_0000, 0x40_0000, MemoryKind::Other),
            ]
        );
    }
}
