//! The PCI functions of the machine, and what drivers do to their configuration space.

mod bars;
pub mod config;
mod error;
mod function;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::mem::MaybeUninit;
use core::ops::Range;

use pci_types::capability::{MsiCapability, PciCapability, TriggerMode};
use pci_types::{CommandRegister, EndpointHeader, HeaderType, PciAddress, PciHeader};
use xen_iommu::pci::{BusRange, Topology};
use xen_iommu::{Arena, OutOfMemory};

use crate::memory::MapError;
use crate::processor::interrupts::Vector;
pub use bars::KnownBar;
use bars::bar_offset;
use config::{Config, Window};
pub use error::{BarIndex, PciError};
pub use function::Function;
pub use xen_iommu::pci::PortType;

/// The PCI functions and the way to their registers.
pub struct Pci {
    config: &'static Config,
    topology: Topology<'static>,
    functions: Vec<Function>,
    bars: Vec<KnownBar>,
}

/// Why PCI cannot be used.
#[derive(Debug)]
pub enum NoPci {
    /// A window cannot be mapped.
    Map(MapError),
    /// The buses find no place.
    Memory(OutOfMemory),
}

impl fmt::Display for NoPci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Map(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl Pci {
    /// Finds every function that can be reached through `windows`, or through ports when there are none,
    /// after it has switched on what access control there is.
    ///
    /// # Errors
    /// [`NoPci`].
    pub fn find(windows: &[Window]) -> Result<Self, NoPci> {
        let config: &'static Config = Box::leak(Box::new(Config::new(windows).map_err(NoPci::Map)?));
        let ranges: Vec<BusRange> = config
            .buses()
            .into_iter()
            .map(|(segment, buses)| BusRange { segment, first: *buses.start(), last: *buses.end() })
            .collect();
        let memory = vec![MaybeUninit::uninit(); Topology::memory(&ranges)];
        let mut arena = Arena::new(Box::leak(memory.into_boxed_slice()));
        let topology = Topology::read(config, &ranges, &mut arena).map_err(NoPci::Memory)?;
        topology.enable_acs(config, &mut |function, enabled| {
            let is_on = if enabled.isolates() { "on" } else { "not on in full" };
            log::info!(target: "pci", "{function}: access control is {is_on}");
        });
        let mut this = Self { config, topology, functions: Vec::new(), bars: Vec::new() };
        this.find_again();
        Ok(this)
    }

    /// Looks again for functions, after some have come or gone.
    pub fn find_again(&mut self) {
        let mut found = Vec::new();
        self.topology.functions(self.config, &mut |function| {
            found.push(Function::read(function, self.config));
        });
        found.sort_unstable_by_key(|function: &Function| function.address);
        let was_there = |function: PciAddress| self.functions.iter().any(|old| old.address == function);
        let is_there = |function: PciAddress| found.iter().any(|new| new.address == function);
        self.bars.retain(|bar| is_there(bar.function));
        for new in found.iter().filter(|new| !was_there(new.address)) {
            KnownBar::of(new.address, self.config, &mut self.bars);
        }
        self.functions = found;
    }

    /// Looks again where `bridge` leads, and for functions.
    pub fn find_behind(&mut self, bridge: PciAddress) {
        self.topology.update(bridge.into(), self.config);
        self.find_again();
    }

    /// The memory BARs of the functions, and their sizes.
    pub fn bars(&self) -> &[KnownBar] {
        &self.bars
    }

    /// Switches the power of a port's slot, and its light with it (PCI Express base specification 5.0,
    /// 7.5.3.10).
    ///
    /// # Errors
    /// The port is no port of PCI Express.
    pub fn set_slot_power(&self, port: PciAddress, on: bool) -> Result<(), PciError> {
        let express = self.express_capability(port).ok_or(PciError::NoSlot(port))?;
        // Attention indicator off; power indicator on or off; power controller on (0) or off (1). The status
        // above is left alone by zeros.
        let control = 0b11 << 6 | if on { 0b01 << 8 } else { 0b11 << 8 | 1 << 10 };
        self.config.write32(port, express + 0x18, control);
        Ok(())
    }

    /// Gives the memory BAR `index` of a function behind `bridge` the start of the bridge's window, and lets
    /// both answer. For functions that came after the firmware, one to a bridge.
    ///
    /// # Errors
    /// The bridge has no window.
    pub fn place_behind(
        &self,
        bridge: PciAddress,
        address: PciAddress,
        index: BarIndex,
    ) -> Result<(), PciError> {
        let bar = self.bar(address, index)?;
        // Memory base and limit (PCI-to-PCI bridge architecture 1.2, 3.2.5.8): their upper 12 bits are those
        // of the addresses.
        let window = self.config.read32(bridge, 0x20);
        let (base, limit) = ((window & 0xfff0) << 16, window & 0xfff0_0000);
        if base == 0 || base > limit {
            return Err(PciError::NoBar { address, index });
        }
        bar.set_base(base.into(), self.config);
        self.set_bus_master(bridge, true);
        self.set_bus_master(address, true);
        Ok(())
    }

    /// Where a function's PCI Express capability is. `pci_types` walks those of endpoints only.
    fn express_capability(&self, address: PciAddress) -> Option<u16> {
        if !PciHeader::new(address).status(self.config).has_capability_list() {
            return None;
        }
        let [mut at, ..] = self.config.read32(address, 0x34).to_le_bytes();
        // A list longer than configuration space has room for is a loop.
        for _ in 0..48 {
            let offset = u16::from(at & !3);
            let [id, next, ..] = self.config.read32(address, offset).to_le_bytes();
            if offset < 0x40 || id == 0x10 {
                return (offset >= 0x40).then_some(offset);
            }
            at = next;
        }
        None
    }

    /// Access to configuration space.
    pub fn config(&self) -> &'static Config {
        self.config
    }

    /// Every function, sorted by address.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The function at `address`.
    ///
    /// # Errors
    /// There is none.
    pub fn function(&self, address: PciAddress) -> Result<&Function, PciError> {
        self.functions.iter().find(|function| function.address == address).ok_or(PciError::Absent(address))
    }

    /// The function at `address`, for a driver that drives what `is_driven` says.
    ///
    /// # Errors
    /// There is none, or it is something else.
    pub fn expect(
        &self,
        address: PciAddress,
        is_driven: impl FnOnce(&Function) -> bool,
    ) -> Result<(), PciError> {
        let function = self.function(address)?;
        if is_driven(function) {
            return Ok(());
        }
        Err(PciError::NotThis { address, ids: function.ids(), class: function.class })
    }

    /// The functions with these ids.
    pub fn with_ids(&self, ids: (u16, u16)) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(move |function| function.ids() == ids)
    }

    /// Lets the function master the bus and answer to its memory and port addresses, or keeps it from
    /// mastering.
    pub fn set_bus_master(&self, address: PciAddress, on: bool) {
        if on {
            let answers = CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE;
            PciHeader::new(address).update_command(self.config, |command| command | answers);
        }
        self.config.set_bus_master(address, on);
    }

    /// The physical addresses of the memory BAR `index`, as the firmware assigned them.
    ///
    /// # Errors
    /// The register is none of memory, or was not assigned.
    pub fn memory_bar(&self, address: PciAddress, index: BarIndex) -> Result<Range<u64>, PciError> {
        let bar = self.bar(address, index)?;
        let base = bar.base(self.config).ok_or(PciError::NoBar { address, index })?;
        Ok(base..base + bar.size)
    }

    /// Moves the memory BAR `index` to `base`, a multiple of its size, and returns where it was.
    ///
    /// # Errors
    /// As for [`memory_bar`](Self::memory_bar).
    pub fn move_bar(&self, address: PciAddress, index: BarIndex, base: u64) -> Result<u64, PciError> {
        let before = self.memory_bar(address, index)?.start;
        self.bar(address, index)?.set_base(base, self.config);
        Ok(before)
    }

    fn bar(&self, address: PciAddress, index: BarIndex) -> Result<&KnownBar, PciError> {
        let mut known = self.bars.iter();
        let bar = known.find(|bar| bar.function == address && bar.index == index);
        bar.ok_or(PciError::NoBar { address, index })
    }

    /// The first port of the port BAR `index`, as the firmware assigned it.
    ///
    /// # Errors
    /// The register is none of ports, or was not assigned.
    pub fn port_bar(&self, address: PciAddress, index: BarIndex) -> Result<u16, PciError> {
        let none = PciError::NoBar { address, index };
        let value = self.config.read32(address, bar_offset(index).ok_or(none)?);
        let port = u16::try_from(value & !0b11).map_err(|_| none)?;
        if value & 1 == 0 || port == 0 { Err(none) } else { Ok(port) }
    }

    /// Lets the function raise its message-signalled interrupt with `vector`.
    ///
    /// # Errors
    /// It has none.
    pub fn enable_msi(&self, address: PciAddress, vector: Vector) -> Result<(), PciError> {
        let capability = self.msi(address)?;
        let message = vector.message();
        // The trigger mode's bits are those of the data: edge is none of them.
        capability.set_message_info_lapic(message.address, vector.number(), TriggerMode::Edge, self.config);
        capability.set_enabled(true, self.config);
        Ok(())
    }

    fn msi(&self, address: PciAddress) -> Result<MsiCapability, PciError> {
        let header = PciHeader::new(address);
        if header.header_type(self.config) != HeaderType::Endpoint {
            return Err(PciError::NoMsi(address));
        }
        let header = EndpointHeader::from_header(header, self.config).ok_or(PciError::NoMsi(address))?;
        // A list longer than configuration space has room for is a loop.
        let found = header.capabilities(self.config).take(48).find_map(|capability| match capability {
            PciCapability::Msi(msi) => Some(msi),
            _ => None,
        });
        found.ok_or(PciError::NoMsi(address))
    }
}
