//! Names of PCI devices, from the pci.ids file that distributions install.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where distributions put the file.
const PLACES: [&str; 3] = ["usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids", "usr/share/pci.ids"];

/// The names of vendors and devices.
#[derive(Debug, Default)]
pub struct Names {
    vendors: BTreeMap<u16, String>,
    devices: BTreeMap<(u16, u16), String>,
}

impl Names {
    /// The first of the usual files below `root`; no names if there is none.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let file = PLACES.iter().find_map(|place| fs::read(root.join(place)).ok());
        file.map(|bytes| Self::parse(&String::from_utf8_lossy(&bytes))).unwrap_or_default()
    }

    /// Reads the format of pci.ids: `vvvv Vendor`, and below it `<tab>dddd Device`; subsystems (two tabs) and
    /// classes (from `C `) are passed over.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut names = Self::default();
        let mut vendor = None;
        for line in text.lines() {
            if let Some(line) = line.strip_prefix('\t') {
                if let (Some(vendor), Some((device, name))) = (vendor, entry(line)) {
                    names.devices.insert((vendor, device), name.into());
                }
            } else if !line.starts_with('#') && !line.is_empty() {
                // Classes come after the vendors, and their lines are no entries.
                vendor = entry(line).map(|(vendor, name)| {
                    names.vendors.insert(vendor, name.into());
                    vendor
                });
            }
        }
        names
    }

    /// Vendor and device, as far as they have names.
    #[must_use]
    pub fn of(&self, vendor: u16, device: u16) -> Option<String> {
        let maker = self.vendors.get(&vendor)?;
        Some(match self.devices.get(&(vendor, device)) {
            Some(name) => format!("{maker} {name}"),
            None => format!("{maker} device {device:04x}"),
        })
    }
}

/// `dddd  Name`
fn entry(line: &str) -> Option<(u16, &str)> {
    let (number, name) = line.split_once("  ")?;
    if number.len() != 4 {
        return None;
    }
    Some((u16::from_str_radix(number, 16).ok()?, name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_and_devices_have_names() {
        let names = Names::parse(
            "# a comment\n8086  Intel Corporation\n\t0166  Ivy Bridge Graphics\n\t\t1043 1517  Zenbook\n1234  Other\n\t0166  Thing\n\nC 03  Display\n\t00  VGA\n",
        );
        assert_eq!(names.of(0x8086, 0x166).unwrap(), "Intel Corporation Ivy Bridge Graphics");
        assert_eq!(names.of(0x1234, 0x166).unwrap(), "Other Thing");
        assert_eq!(names.of(0x8086, 1).unwrap(), "Intel Corporation device 0001");
        assert_eq!(names.of(3, 0), None);
        assert_eq!(names.devices.len(), 2);
    }
}
