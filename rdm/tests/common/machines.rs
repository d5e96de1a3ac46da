//! Machines for tests: functions with the capabilities that matter, and the paths by which tables name them.

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder};
use acpi_dmar::pci_types::PciAddress;
use rdm::machine::{Machine, PciTree};

const ACS: u16 = 0xd;
const SR_IOV: u16 = 0x10;

/// A port type of PCI Express (7.5.3.2); none for conventional PCI.
pub(crate) const ENDPOINT: Option<u8> = Some(0);
pub(crate) const ROOT_PORT: Option<u8> = Some(4);
pub(crate) const EXPRESS_TO_PCI: Option<u8> = Some(7);
pub(crate) const INTEGRATED: Option<u8> = Some(9);

/// A function's config space.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    bytes: Vec<u8>,
    extended: usize,
}

impl Config {
    pub(crate) fn new(class: u32, port: Option<u8>) -> Self {
        let mut bytes = vec![0; 4096];
        bytes[..4].copy_from_slice(&0x1234_8086_u32.to_le_bytes());
        bytes[8..12].copy_from_slice(&(class << 8).to_le_bytes());
        if let Some(port) = port {
            bytes[6] = 0x10;
            bytes[0x34] = 0x40;
            bytes[0x40..0x44].copy_from_slice(&[0x10, 0, port << 4 | 2, 0]);
        }
        Self { bytes, extended: 0x100 }
    }

    pub(crate) fn bridge(port: Option<u8>, secondary: u8, subordinate: u8) -> Self {
        let mut config = Self::new(0x06_0400, port);
        config.bytes[0xe] = 1;
        config.bytes[0x19] = secondary;
        config.bytes[0x1a] = subordinate;
        config
    }

    pub(crate) fn multifunction(mut self, is: bool) -> Self {
        self.bytes[0xe] |= u8::from(is) << 7;
        self
    }

    fn with_extended(mut self, id: u16, body: &[u8]) -> Self {
        let at = self.extended;
        if at > 0x100 {
            let next = u16::try_from(at).unwrap() << 4 | 1;
            self.bytes[at - 0x3e..at - 0x3c].copy_from_slice(&next.to_le_bytes());
        }
        self.bytes[at..at + 2].copy_from_slice(&id.to_le_bytes());
        self.bytes[at + 2] = 1;
        self.bytes[at + 4..at + 4 + body.len()].copy_from_slice(body);
        self.extended = at + 0x40;
        self
    }

    /// Offers what isolates, as yet switched off.
    pub(crate) fn acs(self, is: bool) -> Self {
        if is { self.with_extended(ACS, &[0x1d, 0, 0, 0]) } else { self }
    }

    /// Has two virtual functions, eight function numbers further.
    pub(crate) fn sr_iov(self, enabled: bool) -> Self {
        let mut body = [0; 0x14];
        body[4] = u8::from(enabled);
        // InitialVFs, TotalVFs, NumVFs, then offset and stride.
        (body[8], body[0xa], body[0xc]) = (2, 2, 2 * u8::from(enabled));
        (body[0x10], body[0x12]) = (8, 1);
        self.with_extended(SR_IOV, &body)
    }

    /// As who is not root is shown it.
    pub(crate) fn header(self) -> Vec<u8> {
        self.bytes[..64].to_vec()
    }
}

/// Functions, and what a table can name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    functions: Vec<(PciAddress, Config)>,
    /// Paths from bus 0, and whether they end at a bridge.
    pub(crate) paths: Vec<(Vec<(u8, u8)>, bool)>,
    last_bus: u8,
}

impl Tree {
    pub(crate) fn put(&mut self, bus: u8, path: &[(u8, u8)], config: Config) {
        let (device, function) = path[path.len() - 1];
        self.paths.push((path.to_vec(), config.bytes[0xe] & 0x7f == 1));
        self.functions.push((PciAddress::new(0, bus, device, function), config));
    }

    /// Puts something into a slot of bus 0: see the arms.
    pub(crate) fn add(&mut self, slot: u8, kind: u8, acs: bool, option: bool) {
        let bus = self.last_bus + 1;
        let nic = |port| Config::new(0x02_0000, port);
        match kind {
            0 => self.put(0, &[(slot, 0)], Config::new(0x0c_0330, INTEGRATED).acs(acs)),
            1 => {
                for function in 0..3 {
                    self.put(0, &[(slot, function)], nic(INTEGRATED).multifunction(true).acs(acs));
                }
            }
            2 => {
                self.put(0, &[(slot, 0)], Config::bridge(ROOT_PORT, bus, bus).acs(acs));
                for function in 0..2 {
                    let config = nic(ENDPOINT).multifunction(true).acs(option);
                    self.put(bus, &[(slot, 0), (0, function)], config);
                }
                self.last_bus += 1;
            }
            3 => {
                self.put(0, &[(slot, 0)], Config::bridge(ROOT_PORT, bus, bus + 1).acs(acs));
                self.put(bus, &[(slot, 0), (0, 0)], Config::bridge(EXPRESS_TO_PCI, bus + 1, bus + 1));
                for device in [0, 3] {
                    self.put(bus + 1, &[(slot, 0), (0, 0), (device, 0)], nic(None));
                }
                self.last_bus += 2;
            }
            4 => {
                self.put(0, &[(slot, 0)], Config::bridge(None, bus, bus));
                self.put(bus, &[(slot, 0), (5, 0)], nic(None));
                self.last_bus += 1;
            }
            5 => {
                self.put(0, &[(slot, 0)], Config::bridge(ROOT_PORT, bus, bus).acs(acs));
                self.put(bus, &[(slot, 0), (0, 0)], nic(ENDPOINT).acs(acs).sr_iov(option));
                self.last_bus += 1;
            }
            _ => self.put(0, &[(slot, 0)], Config::new(0x06_0000, None)),
        }
    }

    /// Takes a function away; tables name it still.
    pub(crate) fn remove(&mut self, number: usize) {
        let number = number % self.functions.len();
        self.functions.remove(number);
    }

    pub(crate) fn machine(&self) -> Machine {
        let functions = self.functions.iter().cloned();
        Machine {
            pci: PciTree::of(functions.map(|(address, config)| (address, config.bytes))),
            ..Machine::default()
        }
    }

    /// As who is not root is shown it.
    pub(crate) fn headers(&self) -> Machine {
        let functions = self.functions.iter().cloned();
        let pci = PciTree::of(functions.map(|(address, config)| (address, config.header())));
        Machine { pci, ..self.machine() }
    }

    /// Adds a scope for a path of the tree to a structure.
    pub(crate) fn name(&self, structure: StructureBuilder, number: usize) -> StructureBuilder {
        let (path, is_bridge) = &self.paths[number % self.paths.len()];
        let scope = if *is_bridge { ScopeBuilder::bridge(0, path) } else { ScopeBuilder::endpoint(0, path) };
        structure.scope(scope)
    }
}
