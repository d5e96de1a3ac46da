//! What decodes as something else than memory: BARs, from the files `resource` and `config` of each function,
//! and configuration space, from MCFG.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use acpi_dmar::pci_types::PciAddress;
use xen_iommu::Sbdf;
use xen_iommu::region::forbidden::{Bar, Window};

use super::pci;

/// The first lines of `resource` are the BARs; what follows is the ROM, what virtual functions have, and what
/// a bridge forwards.
const BARS: usize = 6;
/// Linux' `IORESOURCE_MEM` in the flags of a line.
const MEMORY: u64 = 0x200;
/// `IORESOURCE_PREFETCH`, `IORESOURCE_MEM_64`, and `IORESOURCE_ROM_SHADOW` of a ROM.
const PREFETCHABLE: u64 = 0x2000;
const WIDE: u64 = 0x10_0000;
const SHADOW: u64 = 1 << 1;
/// In the command register: memory accesses are decoded (PCI Local Bus Specification 3.0, 6.2.2).
const DECODES: u8 = 1 << 1;

/// All that can be read; what cannot is left out, as one who is not root is shown no addresses.
pub(super) fn read(devices: &Path, mcfg: &Path) -> Vec<Window> {
    let mut windows: Vec<_> = fs::read(mcfg).map(|table| config_space(&table)).unwrap_or_default();
    for entry in fs::read_dir(devices).into_iter().flatten().flatten() {
        let Some(address) = entry.file_name().to_str().and_then(pci::address) else { continue };
        let file = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
        let (config, resources) = (file("config"), file("resource"));
        // A virtual function shows no vendor, and has no bit of its own: it decodes as long as it is there
        // (SR-IOV 1.1, 3.4.1.3).
        let decodes =
            config.starts_with(&[0xff, 0xff]) || config.get(4).is_some_and(|low| low & DECODES != 0);
        if decodes {
            windows.extend(bars(address.into(), &String::from_utf8_lossy(&resources)).map(Window::Bar));
        }
    }
    windows
}

/// The memory BARs of every function, with the numbers of their lines.
pub(super) fn bar_sizes(devices: &Path) -> BTreeMap<PciAddress, Vec<(u8, rdm_layout::Bar)>> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(devices).into_iter().flatten().flatten() {
        let Some(address) = entry.file_name().to_str().and_then(pci::address) else { continue };
        let text = fs::read_to_string(entry.path().join("resource")).unwrap_or_default();
        let lines = (0..).zip(text.lines().take(BARS + 1));
        let bars: Vec<_> = lines.filter_map(|(number, line)| Some((number, size(line)?))).collect();
        all.insert(address, bars);
    }
    all
}

/// The BAR of a line.
fn size(line: &str) -> Option<rdm_layout::Bar> {
    let mut numbers =
        line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let (base, limit, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let bytes = limit.checked_sub(base)?.checked_add(1)?;
    // A ROM's copy in RAM is no BAR.
    let is_bar = flags & MEMORY != 0 && flags & SHADOW == 0 && bytes.is_power_of_two() && limit != 0;
    is_bar.then_some(rdm_layout::Bar {
        bytes,
        is_64bit: flags & WIDE != 0,
        prefetchable: flags & PREFETCHABLE != 0,
    })
}

/// The lines are `start end flags`, the end inclusive; one that is not in use is all zeros.
fn bars(device: Sbdf, resources: &str) -> impl Iterator<Item = Bar> {
    resources.lines().take(BARS).filter_map(move |line| {
        let mut numbers =
            line.split_whitespace().map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
        let (base, limit, flags) = (numbers.next()??, numbers.next()??, numbers.next()??);
        (flags & MEMORY != 0 && base != 0 && base <= limit).then_some(Bar { device, base, limit })
    })
}

/// The ranges of an MCFG (PCI Firmware Specification 3.2, 4.1.2): entries of 16 bytes behind a header of 36
/// and 8 reserved bytes.
fn config_space(table: &[u8]) -> Vec<Window> {
    let entries = table.get(44..).unwrap_or_default().as_chunks::<16>().0;
    let window = |entry: &[u8; 16]| {
        let (base, [_, _, first, last, ..]) =
            (u64::from_le_bytes(*entry.first_chunk()?), *entry.last_chunk::<8>()?);
        // The address is that of bus 0, whether or not it is one of them; a bus has 1 MiB.
        let bus = |number: u64| base.checked_add(number << 20);
        (first <= last).then_some(())?;
        Some(Window::ConfigSpace {
            base: bus(first.into())?,
            limit: bus(u64::from(last) + 1)?.checked_sub(1)?,
        })
    };
    if table.starts_with(b"MCFG") { entries.iter().filter_map(window).collect() } else { Vec::new() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    const DEVICE: Sbdf = Sbdf::new(0, 0, 2, 0);

    #[test]
    fn memory_bars_are_windows_and_nothing_else_is() {
        let line = |start: u64, end: u64, flags: u64| format!("{start:#018x} {end:#018x} {flags:#018x}\n");
        let resources: String = [
            line(0xf740_0000, 0xf77f_ffff, 0x14_0204),
            line(0, 0, 0),
            line(0xf000, 0xf03f, 0x4_0101),
            line(0, 0xfff, 0x200),
            "rubbish\n".into(),
            line(0xe000_0000, 0xefff_ffff, 0x14_220c),
            line(0xc_0000, 0xd_ffff, 0x212),
        ]
        .concat();
        let found: Vec<_> = bars(DEVICE, &resources).map(|bar| (bar.base, bar.limit)).collect();
        assert_eq!(found, [(0xf740_0000, 0xf77f_ffff), (0xe000_0000, 0xefff_ffff)]);
    }

    #[test]
    fn sizes_of_bars_come_with_their_kind() {
        let size = |line| size(line).map(|bar| (bar.bytes, bar.is_64bit, bar.prefetchable));
        assert_eq!(size("0xf7400000 0xf77fffff 0x140204"), Some((4 << 20, true, false)));
        assert_eq!(size("0xe0000000 0xefffffff 0x14220c"), Some((256 << 20, true, true)));
        assert_eq!(size("0x0 0xfff 0x200"), Some((4096, false, false)), "one without an address has a size");
        for none in [
            "0x0 0x0 0x0",
            "0xf000 0xf03f 0x40101",
            "0xc0000 0xdffff 0x212",
            "0x1000 0x3fff 0x200",
            "rubbish",
        ] {
            assert_eq!(size(none), None, "{none}");
        }
    }

    #[test]
    fn configuration_space_is_where_mcfg_says() {
        let mut table = b"MCFG".to_vec();
        table.resize(44, 0);
        for (base, first, last) in
            [(0xe000_0000_u64, 0, 0xff), (0x8000_0000, 2, 3), (0, 3, 2), (u64::MAX, 0, 1)]
        {
            table.extend(base.to_le_bytes());
            table.extend([0, 0, first, last, 0, 0, 0, 0]);
        }
        table.push(1);
        let window = |base, limit| Window::ConfigSpace { base, limit };
        assert_eq!(
            config_space(&table),
            [window(0xe000_0000, 0xefff_ffff), window(0x8020_0000, 0x803f_ffff)]
        );
        assert_eq!(config_space(&table[..50]), []);
        table[0] = b'X';
        assert_eq!(config_space(&table), []);
    }
}
