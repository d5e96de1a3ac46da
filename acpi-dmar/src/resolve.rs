//! Where a device scope ends up on this machine's buses (VT-d 8.3.1).
//!
//! A path names a device by the ports on the way to it, because bus numbers below a bridge are the system's
//! choice: each hop but the last is a bridge, whose secondary bus the next hop is on. [`resolve`] follows it
//! with config reads. A path of one hop needs none: [`static_address`].

use pci_types::{ConfigRegionAccess, HeaderType, PciAddress, PciHeader, PciPciBridgeHeader};

use crate::{Andd, DeviceScope, Dmar, Hop, ScopeKind};

/// What a scope names on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved<'a> {
    /// One PCI function. The bridges on the way to it are there; it may be absent itself, and come.
    Endpoint {
        /// The function.
        address: PciAddress,
        /// Whether it answers.
        present: bool,
    },
    /// The scope says a bridge, and ends at this function, which is there and is none: nothing is below it.
    NotABridge(PciAddress),
    /// A bridge, which is there, and every device on the buses below it.
    Bridge {
        /// The bridge itself, whose DMA is meant too.
        address: PciAddress,
        /// The buses below it.
        buses: Buses,
    },
    /// An I/O APIC.
    IoApic {
        /// Its id in the MADT.
        id: u8,
        /// The requester id of its interrupts. A function need not be seen there.
        address: PciAddress,
    },
    /// A HPET timer block.
    Hpet {
        /// Its number in the HPET table.
        number: u8,
        /// The requester id of its interrupts. A function need not be seen there.
        address: PciAddress,
    },
    /// A device of the ACPI namespace.
    Namespace {
        /// Its declaration, with its name.
        andd: Andd<'a>,
        /// The PCI function or requester id it has, where the scope's path gives one. Firmware often hides
        /// the function's config space.
        address: Option<PciAddress>,
        /// Whether config space shows a function at `address`.
        present: bool,
    },
}

impl Resolved<'_> {
    /// The PCI function or requester id that the scope ends at, where there is one.
    #[must_use]
    pub const fn address(&self) -> Option<PciAddress> {
        match *self {
            Self::Endpoint { address, .. }
            | Self::NotABridge(address)
            | Self::Bridge { address, .. }
            | Self::IoApic { address, .. }
            | Self::Hpet { address, .. } => Some(address),
            Self::Namespace { address, .. } => address,
        }
    }

    /// True if DMA of the function at `address` is covered: it is the device itself, or it is below the
    /// bridge.
    #[must_use]
    pub fn covers(&self, address: PciAddress) -> bool {
        match self {
            Self::Bridge { address: bridge, buses } => {
                *bridge == address || (bridge.segment() == address.segment() && buses.contains(address.bus()))
            }
            _ => self.address() == Some(address),
        }
    }
}

/// The buses below a bridge: secondary to subordinate, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buses {
    /// The bus right below the bridge.
    pub secondary: u8,
    /// The last bus below it, inclusive.
    pub subordinate: u8,
}

impl Buses {
    /// True if `bus` is one of them.
    #[must_use]
    pub const fn contains(self, bus: u8) -> bool {
        self.secondary <= bus && bus <= self.subordinate
    }
}

/// Why a scope does not name a device of this machine. [`ResolveError::is_absence`] tells devices that may
/// still come from wrong tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// No function answers at this hop: the bridge that the scope names, or one on the way to its device, is
    /// not there (yet).
    #[error("no PCI function at {0}")]
    NotPresent(PciAddress),
    /// The path goes through this function, but it is no bridge.
    #[error("the PCI function at {0} is no bridge")]
    NotABridge(PciAddress),
    /// The bridge leads to its own bus or back up, so its numbers are wrong and following them might never
    /// end.
    #[error("the bridge at {bridge} has secondary bus {secondary:#04x}, which is not below its own bus")]
    Loop {
        /// The bridge.
        bridge: PciAddress,
        /// Its secondary bus.
        secondary: u8,
    },
    /// The bridge has no buses: not set up so far, or subordinate below secondary.
    #[error(
        "the bridge at {bridge} has no bus below it (secondary {secondary:#04x}, subordinate {subordinate:#04x})"
    )]
    BadBus {
        /// The bridge.
        bridge: PciAddress,
        /// Its secondary bus.
        secondary: u8,
        /// Its subordinate bus.
        subordinate: u8,
    },
    /// The scope has no path, so it names no function.
    #[error("the scope has no path")]
    NoPath,
    /// A hop that no bus can have: device above 31 or function above 7.
    #[error("hop {index} of the path is {hop}, which no bus can have")]
    BadHop {
        /// Which hop, from 0.
        index: usize,
        /// What the table says.
        hop: Hop,
    },
    /// The scope names an ACPI device that no ANDD structure declares.
    #[error("no ANDD structure declares ACPI device {number}")]
    NoAndd {
        /// The ACPI device number.
        number: u8,
        /// The function that the scope's path gives all the same.
        address: Option<PciAddress>,
    },
    /// The scope is of a reserved kind, so its path may mean anything.
    #[error("the scope is of the reserved kind {0}")]
    UnknownKind(u8),
}

impl ResolveError {
    /// True if the table may be right and the device is only absent so far: hot-plugged, hidden, or below a
    /// bridge that is not set up yet.
    #[must_use]
    pub const fn is_absence(&self) -> bool {
        matches!(self, Self::NotPresent(_) | Self::BadBus { secondary: 0, .. })
    }
}

/// Finds the device that `scope`, of a structure with `segment`, names. `dmar` is asked for the ANDD
/// structures that namespace scopes refer to.
///
/// `access` must answer all ones for functions, and segments, that are not there; only offsets 0 to 0x1b of
/// valid addresses are read.
///
/// An endpoint scope that ends at a bridge is the bridge's function alone.
///
/// # Errors
///
/// Names the hop that is absent or wrong, and what is wrong with it.
pub fn resolve<'a>(
    segment: u16,
    scope: &DeviceScope<'_>,
    dmar: &Dmar<'a>,
    access: &impl ConfigRegionAccess,
) -> Result<Resolved<'a>, ResolveError> {
    match scope.kind() {
        ScopeKind::PciEndpoint => {
            let address = address(segment, scope, access)?;
            Ok(Resolved::Endpoint { address, present: present(address, access) })
        }
        ScopeKind::PciBridge => {
            let address = address(segment, scope, access)?;
            match buses_below(address, access) {
                Ok(buses) => Ok(Resolved::Bridge { address, buses }),
                Err(ResolveError::NotABridge(_)) if is_other_bridge(address, access) => {
                    Ok(Resolved::Endpoint { address, present: true })
                }
                Err(ResolveError::NotABridge(_)) => Ok(Resolved::NotABridge(address)),
                Err(error) => Err(error),
            }
        }
        ScopeKind::IoApic => {
            Ok(Resolved::IoApic { id: scope.enumeration_id(), address: address(segment, scope, access)? })
        }
        ScopeKind::Hpet => {
            Ok(Resolved::Hpet { number: scope.enumeration_id(), address: address(segment, scope, access)? })
        }
        ScopeKind::AcpiNamespace => {
            let number = scope.enumeration_id();
            let address = match address(segment, scope, access) {
                Err(ResolveError::NoPath) => None,
                other => Some(other?),
            };
            let andd = dmar.namespace_device(number).ok_or(ResolveError::NoAndd { number, address })?;
            let present = address.is_some_and(|address| present(address, access));
            Ok(Resolved::Namespace { andd, address, present })
        }
        ScopeKind::Unknown(raw) => Err(ResolveError::UnknownKind(raw)),
    }
}

/// The function that the path of `scope` ends at, whether or not one answers there; the bridges on the way to
/// it must be there.
///
/// # Errors
///
/// As for [`resolve`], but only of bridges on the way, and nothing about kinds.
pub fn address(
    segment: u16,
    scope: &DeviceScope<'_>,
    access: &impl ConfigRegionAccess,
) -> Result<PciAddress, ResolveError> {
    let mut bus = scope.start_bus();
    let mut path = scope.path().enumerate().peekable();
    while let Some((index, hop)) = path.next() {
        let address = function(segment, bus, index, hop)?;
        if path.peek().is_none() {
            return Ok(address);
        }
        bus = buses_below(address, access)?.secondary;
    }
    Err(ResolveError::NoPath)
}

/// The function that a path of a single hop ends at, which no bus numbering can change: what can be said of a
/// scope without a machine. `None` for longer paths, paths without a hop, and hops that no bus can have.
#[must_use]
pub fn static_address(segment: u16, scope: &DeviceScope<'_>) -> Option<PciAddress> {
    let mut path = scope.path();
    match (path.next(), path.next()) {
        (Some(hop), None) => function(segment, scope.start_bus(), 0, hop).ok(),
        _ => None,
    }
}

/// Checks before `PciAddress::new`, which panics on what a bus cannot have.
fn function(segment: u16, bus: u8, index: usize, hop: Hop) -> Result<PciAddress, ResolveError> {
    if hop.is_valid() {
        Ok(PciAddress::new(segment, bus, hop.device, hop.function))
    } else {
        Err(ResolveError::BadHop { index, hop })
    }
}

/// Whether a function answers at `address`.
#[must_use]
pub fn present(address: PciAddress, access: &impl ConfigRegionAccess) -> bool {
    // All ones is what nobody answers; some bridges answer zeros then, and neither is a vendor.
    !matches!(PciHeader::new(address).id(access).0, 0 | 0xffff)
}

/// A bridge of class 06/80 has an endpoint's header and no buses below it: the non-transparent bridges of
/// servers, which tables list as bridges.
fn is_other_bridge(address: PciAddress, access: &impl ConfigRegionAccess) -> bool {
    let header = PciHeader::new(address);
    let (_, base, sub, _) = header.revision_and_class(access);
    (base, sub) == (0x06, 0x80) && header.header_type(access) == HeaderType::Endpoint
}

/// The buses below the bridge at `address`, which can only be higher than its own.
fn buses_below(address: PciAddress, access: &impl ConfigRegionAccess) -> Result<Buses, ResolveError> {
    if !present(address, access) {
        return Err(ResolveError::NotPresent(address));
    }
    let Some(bridge) = PciPciBridgeHeader::from_header(PciHeader::new(address), access) else {
        // One that goes while it is read answers all ones, which is no kind of function.
        let is_there = present(address, access);
        return Err(if is_there { ResolveError::NotABridge } else { ResolveError::NotPresent }(address));
    };
    let (secondary, subordinate) =
        (bridge.secondary_bus_number(access), bridge.subordinate_bus_number(access));
    // Nor is a bus below it to be named by all ones.
    if subordinate == 0xff && !present(address, access) {
        return Err(ResolveError::NotPresent(address));
    }
    if secondary == 0 || subordinate < secondary {
        Err(ResolveError::BadBus { bridge: address, secondary, subordinate })
    } else if secondary <= address.bus() {
        Err(ResolveError::Loop { bridge: address, secondary })
    } else {
        Ok(Buses { secondary, subordinate })
    }
}
