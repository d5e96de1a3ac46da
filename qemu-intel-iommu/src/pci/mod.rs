//! The PCI functions of the machine, and what drivers do to their configuration space.

pub mod config;
mod error;
mod function;
mod walk;

use alloc::vec::Vec;
use core::ops::Range;

use pci_types::capability::{MsiCapability, PciCapability, TriggerMode};
use pci_types::{CommandRegister, EndpointHeader, HeaderType, PciAddress, PciHeader};
use xen_iommu::Source;

use crate::memory::MapError;
use crate::processor::interrupts::Vector;
use config::{Config, Window};
pub use error::{BarIndex, PciError};
pub use function::{Function, PortType};

/// The PCI functions and the way to their registers.
pub struct Pci {
    config: Config,
    functions: Vec<Function>,
}

impl Pci {
    /// Finds every function that can be reached through `windows`, or through ports when there are none.
    ///
    /// # Errors
    /// A window cannot be mapped.
    pub fn find(windows: &[Window]) -> Result<Self, MapError> {
        let config = Config::new(windows)?;
        let functions = walk::find(&config);
        Ok(Self { config, functions })
    }

    /// Looks again for functions, after some have come or gone.
    pub fn find_again(&mut self) {
        self.functions = walk::find(&self.config);
    }

    /// Switches the power of a port's slot, and its light with it (PCI Express base specification 5.0,
    /// 7.5.3.10).
    ///
    /// # Errors
    /// The port is no port of PCI Express.
    pub fn set_slot_power(&self, port: PciAddress, on: bool) -> Result<(), PciError> {
        let express = walk::express_capability(&self.config, port);
        let express = express.ok_or(PciError::NoSlot(port))?;
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
        let none = PciError::NoBar { address, index };
        let at = bar_offset(index).ok_or(none)?;
        // Memory base and limit (PCI-to-PCI bridge architecture 1.2, 3.2.5.8): their upper 12 bits are those
        // of the addresses.
        let window = self.config.read32(bridge, 0x20);
        let (base, limit) = ((window & 0xfff0) << 16, window & 0xfff0_0000);
        if base == 0 || base > limit {
            return Err(none);
        }
        self.config.write32(address, at, base);
        self.set_bus_master(bridge, true);
        self.set_bus_master(address, true);
        Ok(())
    }

    /// Access to configuration space, for whoever resolves device scopes.
    pub fn config(&self) -> &Config {
        &self.config
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

    /// The id with which requests of `address` reach the root complex: see [`walk::requester`].
    ///
    /// # Errors
    /// There is no such function.
    pub fn requester(&self, address: PciAddress) -> Result<PciAddress, PciError> {
        self.function(address).map(|function| walk::requester(&self.functions, function))
    }

    /// The ids with which its DMA comes, as the policy wants to know them; its own if there is no such
    /// function.
    pub fn source(&self, address: PciAddress) -> Source {
        match self.function(address) {
            Ok(function) => walk::source(&self.config, &self.functions, function),
            Err(_) => Source { id: address.into(), phantom_stride: 0 },
        }
    }

    /// Whether the function may master the bus.
    pub fn is_bus_master(&self, address: PciAddress) -> bool {
        PciHeader::new(address).command(&self.config).contains(CommandRegister::BUS_MASTER_ENABLE)
    }

    /// Lets the function master the bus and answer to its memory and port addresses, or keeps it from
    /// mastering.
    pub fn set_bus_master(&self, address: PciAddress, on: bool) {
        PciHeader::new(address).update_command(&self.config, |command| {
            let answering = command | CommandRegister::MEMORY_ENABLE | CommandRegister::IO_ENABLE;
            if on {
                answering | CommandRegister::BUS_MASTER_ENABLE
            } else {
                command & !CommandRegister::BUS_MASTER_ENABLE
            }
        });
    }

    /// The physical addresses of the memory BAR `index`, as the firmware assigned them.
    ///
    /// The function does not answer to memory accesses while its size is measured.
    ///
    /// # Errors
    /// The register is none of memory, or was not assigned.
    pub fn memory_bar(&self, address: PciAddress, index: BarIndex) -> Result<Range<u64>, PciError> {
        let none = PciError::NoBar { address, index };
        let at = bar_offset(index).ok_or(none)?;
        let low = self.config.read32(address, at);
        let wide = match low & 0b111 {
            0b000 => false,
            0b100 if index < 5 => true,
            _ => return Err(none),
        };
        let high = if wide { self.config.read32(address, at + 4) } else { 0 };
        let base = u64::from(low & !0xf) | u64::from(high) << 32;

        let mut header = PciHeader::new(address);
        let command = header.command(&self.config);
        header.update_command(&self.config, |command| command & !CommandRegister::MEMORY_ENABLE);
        self.config.write32(address, at, u32::MAX);
        let mut mask = u64::from(self.config.read32(address, at) & !0xf) | 0xffff_ffff_0000_0000;
        self.config.write32(address, at, low);
        if wide {
            self.config.write32(address, at + 4, u32::MAX);
            mask = mask & 0xffff_ffff | u64::from(self.config.read32(address, at + 4)) << 32;
            self.config.write32(address, at + 4, high);
        }
        header.update_command(&self.config, |_| command);

        let size = mask.wrapping_neg();
        if base == 0 || mask & 0xffff_ffff == 0 && !wide || size == 0 {
            return Err(none);
        }
        Ok(base..base.checked_add(size).ok_or(none)?)
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
        capability.set_message_info_lapic(message.address, vector.number(), TriggerMode::Edge, &self.config);
        capability.set_enabled(true, &self.config);
        Ok(())
    }

    fn msi(&self, address: PciAddress) -> Result<MsiCapability, PciError> {
        let header = PciHeader::new(address);
        if header.header_type(&self.config) != HeaderType::Endpoint {
            return Err(PciError::NoMsi(address));
        }
        let header = EndpointHeader::from_header(header, &self.config).ok_or(PciError::NoMsi(address))?;
        // A list longer than configuration space has room for is a loop.
        let found = header.capabilities(&self.config).take(48).find_map(|capability| match capability {
            PciCapability::Msi(msi) => Some(msi),
            _ => None,
        });
        found.ok_or(PciError::NoMsi(address))
    }
}

fn bar_offset(index: BarIndex) -> Option<u16> {
    (index < 6).then(|| 0x10 + u16::from(index) * 4)
}
