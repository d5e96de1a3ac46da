//! The PCI functions of a machine, from `/sys/bus/pci/devices`: a copy of their config space, on which the
//! library's walk of PCI works.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress, PciHeader};
use xen_iommu::Arena;
use xen_iommu::pci::{BusRange, Function, Topology};

/// Who is not root is shown so much of a function's config space: its header, and none of its capabilities.
const HEADER: usize = 64;

/// The functions that are there, each with the start of its config space. What is beyond that answers all
/// ones, as do functions that are not there.
#[derive(Debug, Default)]
pub struct PciTree {
    functions: RefCell<BTreeMap<PciAddress, Vec<u8>>>,
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
        Ok(Self::of(functions))
    }

    /// Functions with the config space given.
    pub fn of(functions: impl IntoIterator<Item = (PciAddress, Vec<u8>)>) -> Self {
        Self { functions: RefCell::new(functions.into_iter().collect()) }
    }

    /// The addresses of all functions, lowest first.
    pub fn addresses(&self) -> impl Iterator<Item = PciAddress> {
        let all: Vec<_> = self.functions.borrow().keys().copied().collect();
        all.into_iter()
    }

    /// Whether the system shows a function at `address`; a virtual one is shown, and answers no config read.
    #[must_use]
    pub fn has(&self, address: PciAddress) -> bool {
        self.functions.borrow().contains_key(&address)
    }

    /// A copy of a function's config space, as far as it is shown.
    #[must_use]
    pub fn config(&self, address: PciAddress) -> Option<Vec<u8>> {
        self.functions.borrow().get(&address).cloned()
    }

    /// Vendor and device id.
    #[must_use]
    pub fn id(&self, address: PciAddress) -> (u16, u16) {
        PciHeader::new(address).id(self)
    }

    /// Whether capabilities can be read: those who are not root are shown headers alone.
    #[must_use]
    pub fn has_capabilities(&self) -> bool {
        self.functions.borrow().values().all(|config| config.len() > HEADER)
    }

    /// For each segment that has a function, the buses from the first to the last that have one.
    #[must_use]
    pub fn bus_ranges(&self) -> Vec<BusRange> {
        let mut ranges: Vec<BusRange> = Vec::new();
        for address in self.addresses() {
            let (segment, bus) = (address.segment(), address.bus());
            match ranges.last_mut() {
                Some(range) if range.segment == segment => range.last = bus,
                _ => ranges.push(BusRange { segment, first: bus, last: bus }),
            }
        }
        ranges
    }

    /// The functions as the policy sees them. Access control is switched on where it is offered, as a
    /// hypervisor does; on a copy. Where [capabilities](Self::has_capabilities) are not shown, what they
    /// would say is not made up: each function has its own requester id and no more, and is alone. Root ports
    /// of older Intel PCHs count as open to each other: what closes them is in registers that are memory.
    #[must_use]
    pub fn functions(&self) -> Vec<Function> {
        let copy = Self { functions: self.functions.clone() };
        let ranges = copy.bus_ranges();
        let mut memory: Vec<u8> = Vec::with_capacity(Topology::memory(&ranges));
        let mut functions = Vec::new();
        // There is as much memory as it asks for.
        if let Ok(topology) = Topology::read(&copy, &ranges, &mut Arena::new(memory.spare_capacity_mut())) {
            topology.enable_acs(&copy, &mut |_, _| {});
            topology.functions(&copy, &mut |function| functions.push(function));
        }
        if !self.has_capabilities() {
            for function in &mut functions {
                *function = Function { role: function.role, class: function.class, ..function.sbdf.into() };
            }
        }
        functions
    }
}

#[expect(
    unsafe_code,
    reason = "the trait's functions are unsafe for those who touch hardware; these touch a copy"
)]
impl ConfigRegionAccess for PciTree {
    // SAFETY: any address and offset will do: this is a copy.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let functions = self.functions.borrow();
        let bytes = functions.get(&address).and_then(|config| config.get(offset.into()..)?.first_chunk());
        bytes.map_or(u32::MAX, |bytes| u32::from_le_bytes(*bytes))
    }

    // SAFETY: any address and offset will do: this is a copy.
    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        let mut functions = self.functions.borrow_mut();
        let config = functions.get_mut(&address);
        if let Some(bytes) = config.and_then(|config| config.get_mut(offset.into()..)?.first_chunk_mut()) {
            *bytes = value.to_le_bytes();
        }
    }
}

/// `0000:00:1d.0`
pub(super) fn address(name: &str) -> Option<PciAddress> {
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
