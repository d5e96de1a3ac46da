//! The walk of PCI: which functions there are, behind which bridges, and under which ids their requests
//! travel.
//!
//! How they are found is known to this file only: the rest asks [`find`], [`express_capability`],
//! [`requester`] and [`source`].

use alloc::vec::Vec;

use pci_types::{HeaderType, PciAddress, PciHeader};
use xen_iommu::{BridgeKind, Source, UpstreamBridge, phantom_functions, requester_id};

use super::config::Config;
use super::function::{Bridge, Function, PortType};

/// A capability list longer than this has a loop in it: configuration space has room for 48 of them.
const CAPABILITIES: usize = 48;
const CAPABILITY_EXPRESS: u8 = 0x10;

/// Every function that can be reached, sorted by address. A bus that no bridge leads to is a root bus.
pub(super) fn find(config: &Config) -> Vec<Function> {
    let mut functions = Vec::new();
    for (segment, buses) in config.buses() {
        let mut reached = [false; 256];
        for bus in buses {
            // A bridge leads to higher buses only, so that those of a root bus were marked when their turn
            // comes.
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
    let [_, _, flags, _] = config.read32(address, express_capability(config, address)?).to_le_bytes();
    Some(PortType::from_bits(flags >> 4))
}

/// Where the function's PCI Express capability is.
pub(super) fn express_capability(config: &Config, address: PciAddress) -> Option<u16> {
    capability(config, address, CAPABILITY_EXPRESS)
}

/// Where a capability is. `pci_types` walks those of endpoints only, and bridges matter here most.
fn capability(config: &Config, address: PciAddress, wanted: u8) -> Option<u16> {
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

/// All ids under which the DMA of `function` comes. A bridge that puts its own id in place of the function's
/// knows no phantom functions.
pub(super) fn source(config: &Config, functions: &[Function], function: &Function) -> Source {
    let id = requester(functions, function);
    let phantoms = phantom_functions(function.address.into(), config).filter(|_| id == function.address);
    let phantom_stride = phantoms.and_then(|ids| u8::try_from(ids.stride).ok()).unwrap_or(0);
    Source { id: id.into(), phantom_stride }
}
