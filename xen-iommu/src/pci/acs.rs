//! Access Control Services: whether a function sends what it is given upstream, where the remapping unit sees
//! it, or straight to its neighbours.
//!
//! PCI Express base specification 5.0, 6.12 and 7.7.8. Without them two functions below one switch, or of one
//! device, reach each other without the unit, and nothing keeps one from using the other's requester id.

use acpi_dmar::pci_types::ConfigRegionAccess;
use bitflags::bitflags;

use crate::pci::acs_parts::{Part, part};
use crate::pci::config::{EXTENDED_ACS, Space};
use crate::pci::port::PortType;
use crate::platform::Sbdf;

bitflags! {
    /// The controls of the capability, as in its capability and its control register (7.7.8.2 and 7.7.8.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Controls: u16 {
        /// SV: a requester id that is not of the buses below a port is refused.
        const SOURCE_VALIDATION = 1;
        /// TB: requests with translated addresses are refused.
        const TRANSLATION_BLOCKING = 1 << 1;
        /// RR: requests to a peer go upstream.
        const REQUEST_REDIRECT = 1 << 2;
        /// CR: completions to a peer go upstream.
        const COMPLETION_REDIRECT = 1 << 3;
        /// UF: what comes back redirected goes on upstream.
        const UPSTREAM_FORWARDING = 1 << 4;
        /// EC: a vector says which peers may be reached.
        const EGRESS_CONTROL = 1 << 5;
        /// DT: translated requests to a peer go straight there.
        const DIRECT_TRANSLATED = 1 << 6;
        /// What isolates: SV, RR, CR and UF. Those that the hardware has nothing to control for hold anyway
        /// (6.12.1).
        const ISOLATION = 0x1d;
    }
}

/// What [`enable`] found, and left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enabled {
    /// What the hardware can control.
    pub offered: Controls,
    /// What is on now, as read back.
    pub on: Controls,
}

impl Enabled {
    /// Whether all is on that isolates and that the hardware can control.
    #[must_use]
    pub fn isolates(self) -> bool {
        self.on.contains(self.offered & Controls::ISOLATION)
    }
}

/// MPC, the register of an Intel PCH's root port that makes it check requester ids as source validation does
/// (bit 26, IRBNCE).
const PCH_PORT_CONFIGURATION: u16 = 0xd8;
const PCH_CHECK_BUS_NUMBERS: u32 = 1 << 26;

/// Where the registers are: the capability's and the control register, both 16 bits in use.
#[derive(Clone, Copy)]
struct Registers {
    capability: u16,
    wide: bool,
}

impl Registers {
    fn find<A: ConfigRegionAccess>(space: &Space<'_, A>, part: Option<Part>) -> Option<Self> {
        let capability = space.extended_capability(EXTENDED_ACS)?.checked_add(4)?;
        Some(Self { capability, wide: part == Some(Part::WideRegisters) })
    }

    fn read<A: ConfigRegionAccess>(self, space: &Space<'_, A>) -> Enabled {
        let first = space.read(self.capability);
        let control = if self.wide { space.read(self.control()) as u16 } else { (first >> 16) as u16 };
        Enabled {
            offered: Controls::from_bits_truncate(first as u16),
            on: Controls::from_bits_truncate(control),
        }
    }

    /// Where a wide control register is.
    const fn control(self) -> u16 {
        self.capability.saturating_add(4)
    }

    /// Sets control bits, and leaves those that are set already.
    fn set<A: ConfigRegionAccess>(self, space: &Space<'_, A>, controls: Controls) {
        let (offset, shift) = if self.wide { (self.control(), 0) } else { (self.capability, 16) };
        space.write(offset, space.read(offset) | u32::from(controls.bits()) << shift);
    }
}

/// Switches on source validation, request and completion redirect and upstream forwarding where `function`
/// offers them, as Xen and Linux do, and says what is on then. The root ports of older Intel PCHs have a bit
/// of their own for source validation only. `None` where there is nothing to switch on.
///
/// To be called before devices are described, and for a bridge or device that was added or has been reset.
pub fn enable(function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Enabled> {
    let space = Space::new(function, pci);
    if !space.present() {
        return None;
    }
    let part = part(space.id(), space.express().map(|express| express.port));
    if part == Some(Part::PchPort) {
        let before = space.read(PCH_PORT_CONFIGURATION);
        space.write(PCH_PORT_CONFIGURATION, before | PCH_CHECK_BUS_NUMBERS);
        let set = space.read(PCH_PORT_CONFIGURATION) & PCH_CHECK_BUS_NUMBERS != 0;
        let on = if set { Controls::SOURCE_VALIDATION } else { Controls::empty() };
        return Some(Enabled { offered: Controls::SOURCE_VALIDATION, on });
    }
    let registers = Registers::find(&space, part)?;
    let found = registers.read(&space);
    if !found.isolates() {
        registers.set(&space, found.offered & Controls::ISOLATION);
    }
    Some(registers.read(&space))
}

/// Whether `function` sends all that it is given upstream, and vouches for the ids of what is below it.
/// `multifunction` says whether its device has other functions; `peers_closed` whether an Intel PCH was told
/// to stop its root ports' peers.
pub(crate) fn isolates(
    function: Sbdf,
    multifunction: bool,
    peers_closed: bool,
    pci: &impl ConfigRegionAccess,
) -> bool {
    let space = Space::new(function, pci);
    let port = space.express().map(|express| express.port);
    let part = part(space.id(), port);
    let controls_are_on = || Registers::find(&space, part).is_some_and(|found| found.read(&space).isolates());
    match (part, port) {
        (Some(Part::Apart), _) => true,
        (Some(Part::PchPort), _) => {
            peers_closed && space.read(PCH_PORT_CONFIGURATION) & PCH_CHECK_BUS_NUMBERS != 0
        }
        // Everybody on a conventional bus hears everything, and 6.12 keeps bridges to and from it, and event
        // collectors, out of it.
        (_, None | Some(PortType::PciToExpress | PortType::ExpressToPci | PortType::EventCollector)) => false,
        // Ports that lead down need it in any case (6.12.1.1).
        (_, Some(PortType::RootPort | PortType::Downstream)) => controls_are_on(),
        // The others as one of several functions only (6.12.1.2 and 6.12.1.3).
        (
            _,
            Some(PortType::Endpoint | PortType::LegacyEndpoint | PortType::Upstream | PortType::Integrated),
        ) => !multifunction || controls_are_on(),
        (_, Some(PortType::Other(_))) => false,
    }
}

/// The registers by which an Intel PCH before the 100 series keeps its root ports from reaching each other
/// (Red Hat bug 1037684; "Chipset Configuration Registers" in the data sheets of the 5 to 9 series). They are
/// memory, so that reading and writing them is the hypervisor's to do:
///
/// 1. [`find`](Self::find) them;
/// 2. unless [`closed`](Self::closed), write [`close`](Self::close) of the decode register back;
/// 3. say so to [`Topology::set_pch_peers_closed`](crate::pci::Topology::set_pch_peers_closed).
///
/// Source validation is a bit of each port, which [`enable`] sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PchPeers {
    /// Physical address of BSPR, 32 bits: what the board has strapped.
    pub strap: u64,
    /// Physical address of UPDCR, 32 bits: which ports' addresses are decoded for their peers.
    pub decode: u64,
}

impl PchPeers {
    /// Peers' posted and non-posted cycles are disallowed.
    const STRAPPED: u32 = 3 << 8;
    const DECODED: u32 = 0x3f;

    /// The registers of the PCH that `root_port` is part of, where they are enabled: its LPC bridge, device
    /// 31 on the same bus, tells.
    #[must_use]
    pub fn find(root_port: Sbdf, pci: &impl ConfigRegionAccess) -> Option<Self> {
        let port = Space::new(root_port, pci);
        let kind = port.express().map(|express| express.port);
        if part(port.id(), kind) != Some(Part::PchPort) {
            return None;
        }
        let lpc = Space::new(Sbdf::new(root_port.segment(), root_port.bus(), 31, 0), pci);
        // RCBA: bits 31:14 are the address, bit 0 enables it.
        let base = lpc.read(0xf0);
        if lpc.id().0 != port.id().0 || lpc.read(0x08) >> 16 != 0x0601 || base & 1 == 0 {
            return None;
        }
        let base = u64::from(base & !0x3fff);
        Some(Self { strap: base.saturating_add(0x1104), decode: base.saturating_add(0x1014) })
    }

    /// Whether the ports are kept apart, by the values of the two registers.
    #[must_use]
    pub const fn closed(strap: u32, decode: u32) -> bool {
        strap & Self::STRAPPED == Self::STRAPPED || decode & Self::DECODED == 0
    }

    /// What to write to the decode register that now holds `decode`.
    #[must_use]
    pub const fn close(decode: u32) -> u32 {
        decode & !Self::DECODED
    }
}
