//! Devices for somebody else's table: a stand-in at each PCI address on the root bus that the table's RMRRs
//! name.
//!
//! A stand-in is an `edu`, which can do DMA. Where a path goes through a bridge, a root port takes the first
//! hop and the stand-in sits behind it. Where only functions above 0 are named, function 0 gets a filler:
//! nobody looks at the other functions of a slot whose function 0 is absent. What cannot be had is listed
//! with the reason.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use acpi_dmar::{Dmar, ScopeKind, Structure};

use crate::layout::{self, Device, Slot};

/// SeaBIOS finds windows for this many bridges with one device each; it fails somewhere above.
const BRIDGES: usize = 30;

/// A device scope of an RMRR.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Whether a bridge and all below it is meant.
    pub bridge: bool,
    /// PCI segment.
    pub segment: u16,
    /// The bus on which the path begins.
    pub bus: u8,
    /// The slots from there to the device.
    pub path: Vec<Slot>,
}

/// As people write paths: `00:1c.4 -> 00.0`.
impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.segment != 0 {
            write!(f, "{:04x}:", self.segment)?;
        }
        write!(f, "{:02x}:", self.bus)?;
        for (index, slot) in self.path.iter().enumerate() {
            let arrow = if index == 0 { "" } else { " -> " };
            write!(f, "{arrow}{slot}")?;
        }
        Ok(())
    }
}

/// Something a table names that has no stand-in.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Left {
    /// What is named.
    pub scope: String,
    /// Why there is no stand-in.
    pub reason: String,
}

/// The devices for a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// In the order of QEMU's command line.
    pub devices: Vec<Device>,
    /// What is named and has its stand-in.
    pub placed: Vec<String>,
    /// What is named and has none.
    pub left: Vec<Left>,
}

/// What the table's RMRRs name, each once and in order; what cannot be read or is no PCI device is in the
/// second list.
pub fn scopes(table: &Dmar<'_>) -> (BTreeSet<Scope>, Vec<Left>) {
    let mut found = BTreeSet::new();
    let mut left = Vec::new();
    for structure in table.structures() {
        let Ok(Structure::Rmrr(rmrr)) = structure else { continue };
        let region = format!("a scope of the RMRR at {:#x}", rmrr.base());
        for scope in rmrr.scopes() {
            let bridge = match scope {
                Ok(scope) if scope.kind() == ScopeKind::PciEndpoint => false,
                Ok(scope) if scope.kind() == ScopeKind::PciBridge => true,
                Ok(scope) => {
                    let reason = format!("is of kind {:?}, not a PCI device", scope.kind());
                    left.push(Left { scope: region.clone(), reason });
                    continue;
                }
                Err(error) => {
                    left.push(Left { scope: region.clone(), reason: error.to_string() });
                    continue;
                }
            };
            if let Ok(scope) = scope {
                let path = scope.path().map(|hop| Slot::new(hop.device, hop.function)).collect();
                found.insert(Scope { bridge, segment: rmrr.segment(), bus: scope.start_bus(), path });
            }
        }
    }
    (found, left)
}

/// What sits in a slot of the root bus.
#[derive(Default)]
struct Port {
    /// A root port with these functions of its device 0 behind it, instead of a stand-in.
    behind: Option<BTreeSet<u8>>,
}

/// Finds each its place.
pub fn place(scopes: &BTreeSet<Scope>) -> Placement {
    let mut placement = Placement::default();
    let mut slots: BTreeMap<Slot, Port> = BTreeMap::new();
    // Bridges first: who is on the way to another is a bridge, whatever else is said of it.
    let (through, direct): (Vec<&Scope>, Vec<&Scope>) =
        scopes.iter().partition(|scope| scope.bridge || scope.path.len() > 1);
    let mut bridges = 0;
    for scope in through.into_iter().chain(direct) {
        let wanted = match wanted(scope) {
            Ok(wanted) => wanted,
            Err(reason) => {
                placement.left.push(Left { scope: scope.to_string(), reason });
                continue;
            }
        };
        if let Some(function) = wanted.behind {
            if !slots.contains_key(&wanted.slot) && bridges == BRIDGES {
                let reason = format!("is behind one bridge more than the {BRIDGES} that fit");
                placement.left.push(Left { scope: scope.to_string(), reason });
                continue;
            }
            let port = slots.entry(wanted.slot).or_insert_with(|| {
                bridges += 1;
                Port::default()
            });
            port.behind.get_or_insert_default().insert(function);
        } else if slots.get(&wanted.slot).is_some_and(|port| port.behind.is_some()) {
            let reason = "is named as a device and as a bridge; a bridge is put there".into();
            placement.left.push(Left { scope: scope.to_string(), reason });
            continue;
        } else {
            slots.entry(wanted.slot).or_default();
        }
        placement.placed.push(scope.to_string());
    }
    placement.devices = devices(&slots);
    placement.placed.sort();
    placement
}

/// Where a scope's stand-in goes.
struct Wanted {
    /// On the root bus.
    slot: Slot,
    /// The function of device 0 behind the root port in that slot.
    behind: Option<u8>,
}

/// Says why a scope cannot have a stand-in.
fn wanted(scope: &Scope) -> Result<Wanted, String> {
    let (slot, rest) = match scope.path.as_slice() {
        [] => return Err("has no path".into()),
        [slot, rest @ ..] => (*slot, rest),
    };
    if let Some(slot) = scope.path.iter().find(|slot| !slot.exists()) {
        return Err(format!("has {slot} in its path, and there are devices 0 to 1f and functions 0 to 7"));
    }
    if scope.segment != 0 {
        return Err("is in another segment; QEMU has only segment 0".into());
    }
    if scope.bus != 0 {
        return Err("begins on another bus than the root bus, and the firmware numbers those itself".into());
    }
    match (slot.device, slot.function) {
        (0, 0) => return Err("is QEMU's own host bridge".into()),
        (0, _) => {
            return Err("is in the slot of QEMU's own host bridge, which has one function".into());
        }
        (0x1f, 0) => return Err("is QEMU's own ISA bridge".into()),
        (0x1f, 2) => return Err("is QEMU's own SATA controller".into()),
        (0x1f, 3) => return Err("is QEMU's own SMBus controller".into()),
        _ => {}
    }
    match (rest, scope.bridge) {
        ([], false) => Ok(Wanted { slot, behind: None }),
        // All below the bridge is meant, so there is something below it.
        ([], true) => Ok(Wanted { slot, behind: Some(0) }),
        ([second], false) if second.device == 0 => Ok(Wanted { slot, behind: Some(second.function) }),
        ([second], false) => {
            Err(format!("has device {:02x} behind a root port, which has only device 00", second.device))
        }
        _ => Err("is behind more than one bridge".into()),
    }
}

fn devices(slots: &BTreeMap<Slot, Port>) -> Vec<Device> {
    let mut devices = Vec::new();
    // QEMU's own devices in slot 1f include its function 0.
    let with_function_0: BTreeSet<u8> =
        slots.keys().filter(|slot| slot.function == 0).map(|slot| slot.device).chain([0x1f]).collect();
    let crowded = |device: u8| slots.keys().any(|slot| slot.device == device && slot.function != 0);
    let mut filled = BTreeSet::new();
    for (index, (&slot, port)) in slots.iter().enumerate() {
        if !with_function_0.contains(&slot.device) && filled.insert(slot.device) {
            devices.push(filler(Slot::new(slot.device, 0)));
        }
        let Some(behind) = &port.behind else {
            let device = layout::edu(slot);
            devices.push(if slot.function == 0 && crowded(slot.device) {
                multifunction(device)
            } else {
                device
            });
            continue;
        };
        let bus = format!("port{}", index + 1);
        let root_port = Device::at("pcie-root-port", slot).named(&bus).with(format!("chassis={}", index + 1));
        devices.push(if slot.function == 0 && crowded(slot.device) {
            multifunction(root_port)
        } else {
            root_port
        });
        if !behind.contains(&0) {
            devices.push(filler(Slot::new(0, 0)).on(&bus));
        }
        for &function in behind {
            let device = layout::edu(Slot::new(0, function)).on(&bus);
            let crowded = function == 0 && behind.len() > 1;
            devices.push(if crowded { multifunction(device) } else { device });
        }
    }
    devices
}

/// Holds function 0 so that the others are seen; does no DMA.
fn filler(slot: Slot) -> Device {
    multifunction(Device::at("pci-testdev", slot))
}

fn multifunction(device: Device) -> Device {
    device.with("multifunction=on")
}

#[cfg(test)]
mod tests;
