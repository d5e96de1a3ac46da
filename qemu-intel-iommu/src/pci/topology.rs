//! Which functions there are, behind which bridges, and under which id their requests travel.

use alloc::vec::Vec;
use core::fmt;

use pci_types::{HeaderType, PciAddress, PciHeader};
use xen_iommu::{BridgeKind, UpstreamBridge, requester_id};

use super::config::Config;

/// A capability list longer than this has a loop in it: configuration space has room for 48 of them.
const CAPABILITIES: usize = 48;
pub(super) const CAPABILITY_EXPRESS: u8 = 0x10;

/// The device/port type of a PCI Express function (PCI Express base specification, section 7.5.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortType {
    /// An endpoint.
    Endpoint,
    /// A legacy endpoint.
    LegacyEndpoint,
    /// A root port.
    RootPort,
    /// A switch's upstream port.
    Upstream,
    /// A switch's downstream port.
    Downstream,
    /// A PCI Express to PCI or PCI-X bridge.
    ExpressToPci,
    /// A PCI or PCI-X to PCI Express bridge.
    PciToExpress,
    /// An endpoint in the root complex.
    Integrated,
    /// An event collector in the root complex.
    EventCollector,
    /// A reserved type.
    Other(u8),
}

impl PortType {
    fn from_bits(bits: u8) -> Self {
        match bits {
            0x0 => Self::Endpoint,
            0x1 => Self::LegacyEndpoint,
            0x4 => Self::RootPort,
            0x5 => Self::Upstream,
            0x6 => Self::Downstream,
            0x7 => Self::ExpressToPci,
            0x8 => Self::PciToExpress,
            0x9 => Self::Integrated,
            0xa => Self::EventCollector,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for PortType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint => f.write_str("PCIe endpoint"),
            Self::LegacyEndpoint => f.write_str("PCIe legacy endpoint"),
            Self::RootPort => f.write_str("PCIe root port"),
            Self::Upstream => f.write_str("PCIe upstream port"),
            Self::Downstream => f.write_str("PCIe downstream port"),
            Self::ExpressToPci => f.write_str("PCIe to PCI bridge"),
            Self::PciToExpress => f.write_str("PCI to PCIe bridge"),
            Self::Integrated => f.write_str("PCIe root complex endpoint"),
            Self::EventCollector => f.write_str("PCIe event collector"),
            Self::Other(bits) => write!(f, "PCIe type {bits:#x}"),
        }
    }
}

/// The buses behind a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// The bus right behind it.
    pub secondary: u8,
    /// The last bus behind it.
    pub subordinate: u8,
}

/// One function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and interface: 0xBBSSII.
    pub class: u32,
    /// The layout of its header.
    pub header: HeaderType,
    /// The buses behind it, when it is a bridge.
    pub bridge: Option<Bridge>,
    /// The type it has on PCI Express; `None` for conventional PCI.
    pub express: Option<PortType>,
    /// The bridge that it is behind; `None` on a root bus.
    pub parent: Option<PciAddress>,
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:04x}:{:04x} class {:06x}", self.address, self.vendor, self.device, self.class)?;
        if let Some(bridge) = self.bridge {
            write!(f, ", bridge to [{:02x}-{:02x}]", bridge.secondary, bridge.subordinate)?;
        }
        if let HeaderType::Unknown(header) = self.header {
            write!(f, ", header type {header:#x}")?;
        }
        if let Some(express) = self.express {
            write!(f, ", {express}")?;
        }
        Ok(())
    }
}

/// Every function that can be reached, sorted by address. A bus that no bridge leads to is a root bus.
pub(super) fn find(config: &Config) -> Vec<Function> {
    let mut functions = Vec::new();
    for (segment, buses) in config.buses() {
        let mut reached = [false; 256];
        for bus in buses {
            // A bridge leads to higher buses only, so that those of a root bus were marked when their turn comes.
            if reached.get(usize::from(bus)) == Some(&false) {
                find_on_bus(config, segment, bus, None, &mut reached, &mut functions);
            }
        }
    }
    functions.sort_unstable_by_key(|function: &Function| function.address);
    functions
}

fn find_on_bus(
    config: &Config,
    segment: u16,
    bus: u8,
    parent: Option<PciAddress>,
    reached: &mut [bool; 256],
    functions: &mut Vec<Function>,
) {
    match reached.get_mut(usize::from(bus)) {
        Some(reached) if !*reached => *reached = true,
        _ => return,
    }
    for device in 0..32 {
        let first = PciAddress::new(segment, bus, device, 0);
        let multiple = PciHeader::new(first).has_multiple_functions(config);
        for number in 0..if multiple { 8 } else { 1 } {
            let Some(function) = look_at(config, PciAddress::new(segment, bus, device, number), parent)
            else {
                // Without a function 0 there are no others.
                if number == 0 {
                    break;
                }
                continue;
            };
            functions.push(function);
            if let Some(bridge) = function.bridge
                && bridge.secondary > bus
            {
                find_on_bus(config, segment, bridge.secondary, Some(function.address), reached, functions);
            }
        }
    }
}

fn look_at(config: &Config, address: PciAddress, parent: Option<PciAddress>) -> Option<Function> {
    let header = PciHeader::new(address);
    let (vendor, device) = header.id(config);
    if vendor == 0xffff {
        return None;
    }
    let (_, base, sub, interface) = header.revision_and_class(config);
    let kind = header.header_type(config);
    let bridge = (kind == HeaderType::PciPciBridge).then(|| {
        let [_, secondary, subordinate, _] = config.read32(address, 0x18).to_le_bytes();
        Bridge { secondary, subordinate }
    });
    let class = u32::from_be_bytes([0, base, sub, interface]);
    Some(Function {
        address,
        vendor,
        device,
        class,
        header: kind,
        bridge,
        express: express(config, address),
        parent,
    })
}

/// The PCI Express type of the function.
fn express(config: &Config, address: PciAddress) -> Option<PortType> {
    let [_, _, flags, _] =
        config.read32(address, capability(config, address, CAPABILITY_EXPRESS)?).to_le_bytes();
    Some(PortType::from_bits(flags >> 4))
}

/// Where a capability is. `pci_types` walks those of endpoints only, and bridges matter here most.
pub(super) fn capability(config: &Config, address: PciAddress, wanted: u8) -> Option<u16> {
    if !PciHeader::new(address).status(config).has_capability_list() {
        return None;
    }
    let [mut at, ..] = config.read32(address, 0x34).to_le_bytes();
    for _ in 0..CAPABILITIES {
        if at < 0x40 {
            break;
        }
        let offset = u16::from(at & !3);
        let [id, next, ..] = config.read32(address, offset).to_le_bytes();
        if id == wanted {
            return Some(offset);
        }
        at = next;
    }
    None
}

/// The id with which requests of `function` reach the root complex.
pub(super) fn requester(functions: &[Function], function: &Function) -> PciAddress {
    let find = |address: Option<PciAddress>| functions.iter().find(|other| Some(other.address) == address);
    let bridges = core::iter::successors(find(function.parent), |bridge| find(bridge.parent));
    let upstream = bridges.map(|bridge| UpstreamBridge {
        address: bridge.address.into(),
        secondary_bus: bridge.bridge.map_or(bridge.address.bus(), |buses| buses.secondary),
        kind: match bridge.express {
            Some(PortType::ExpressToPci) => BridgeKind::ExpressToPci,
            None | Some(PortType::PciToExpress) => BridgeKind::Pci,
            Some(_) => BridgeKind::PciExpress,
        },
    });
    requester_id(function.address.into(), upstream).into()
}
