//! The PCI functions of a machine, from `/sys/bus/pci/devices`: their config space, the bridges above them, and their requester ids.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress, PciHeader, PciPciBridgeHeader};
use xen_iommu::{BridgeKind, DeviceClass, Sbdf, UpstreamBridge, requester_id};

/// The base class of bridges (PCI Code and ID Assignment Specification 1.11, section 1).
const CLASS_BRIDGE: u8 = 0x06;

/// The functions that are there, each with the start of its config space: 64 bytes for everybody, all of it for root.
#[derive(Debug, Default)]
pub struct PciTree {
    functions: BTreeMap<PciAddress, Vec<u8>>,
}

impl PciTree {
    /// Reads every function below `folder`; none if there is no such folder.
    pub(super) fn read(folder: &Path) -> io::Result<Self> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut functions = BTreeMap::new();
        for entry in entries {
            let entry = entry?;
            let Some(address) = entry.file_name().to_str().and_then(address) else { continue };
            // A function that goes away while we look is not there.
            if let Ok(config) = fs::read(entry.path().join("config")) {
                functions.insert(address, config);
            }
        }
        Ok(Self { functions })
    }

    /// Functions with the config space given.
    pub fn of(functions: impl IntoIterator<Item = (PciAddress, Vec<u8>)>) -> Self {
        Self { functions: functions.into_iter().collect() }
    }

    /// The addresses of all functions, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = PciAddress> + '_ {
        self.functions.keys().copied()
    }

    /// Whether there is a function at `address`.
    #[must_use]
    pub fn has(&self, address: PciAddress) -> bool {
        self.functions.contains_key(&address)
    }

    /// Vendor and device id.
    #[must_use]
    pub fn id(&self, address: PciAddress) -> (u16, u16) {
        PciHeader::new(address).id(self)
    }

    /// What the function is, as far as its regions are concerned.
    #[must_use]
    pub fn class(&self, address: PciAddress) -> DeviceClass {
        DeviceClass::read(address.into(), self)
    }

    /// Whether the function is a bridge of any kind; one to another bus, or to what is no PCI bus.
    #[must_use]
    pub fn is_bridge(&self, address: PciAddress) -> bool {
        let (_, base, ..) = PciHeader::new(address).revision_and_class(self);
        base == CLASS_BRIDGE
    }

    /// The requester id that the function's DMA carries.
    #[must_use]
    pub fn requester(&self, address: PciAddress) -> PciAddress {
        let source = requester_id(Sbdf::from(address), self.above(address));
        PciAddress::new(source.segment(), source.bus(), source.device(), source.function())
    }

    /// The bridges above a function, nearest first.
    fn above(&self, address: PciAddress) -> Vec<UpstreamBridge> {
        let mut bridges: Vec<_> = self
            .addresses()
            .filter(|bridge| bridge.segment() == address.segment())
            .filter_map(|bridge| {
                let header = PciPciBridgeHeader::from_header(PciHeader::new(bridge), self)?;
                let (secondary, subordinate) =
                    (header.secondary_bus_number(self), header.subordinate_bus_number(self));
                let holds = bridge.bus() < secondary && (secondary..=subordinate).contains(&address.bus());
                holds.then(|| UpstreamBridge {
                    address: bridge.into(),
                    secondary_bus: secondary,
                    kind: BridgeKind::read(bridge.into(), self),
                })
            })
            .collect();
        bridges.sort_unstable_by_key(|bridge| std::cmp::Reverse(bridge.secondary_bus));
        bridges
    }

    fn dword(&self, address: PciAddress, offset: u16) -> u32 {
        let bytes =
            self.functions.get(&address).and_then(|config| config.get(offset.into()..)?.first_chunk());
        bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
    }
}

#[expect(
    unsafe_code,
    reason = "the trait's functions are unsafe for those who read hardware; these read a copy"
)]
impl ConfigRegionAccess for PciTree {
    // SAFETY: any address and offset will do: this is a copy.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.dword(address, offset)
    }

    // SAFETY: any address and offset will do: this is a copy.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// `0000:00:1d.0`
fn address(name: &str) -> Option<PciAddress> {
    let (segment, rest) = name.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (device, function) = rest.split_once('.')?;
    let hex = |digits: &str| u16::from_str_radix(digits, 16).ok();
    let byte = |digits: &str, most: u8| {
        hex(digits).and_then(|value| u8::try_from(value).ok()).filter(|&value| value <= most)
    };
    Some(PciAddress::new(hex(segment)?, byte(bus, 255)?, byte(device, 31)?, byte(function, 7)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_are_addresses() {
        assert_eq!(address("0001:02:1d.7"), Some(PciAddress::new(1, 2, 0x1d, 7)));
        // Volume management devices have segments of five digits, which no DMAR can name.
        for wrong in ["10000:00:01.0", "0000:00:20.0", "0000:00:01.8", "pci", "0000:00:01"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }
}
