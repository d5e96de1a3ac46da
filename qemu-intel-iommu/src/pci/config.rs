//! PCI configuration space: through MCFG's windows, or ports 0xcf8 and 0xcfc where there is none.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ops::{Range, RangeInclusive};

use pci_types::{CommandRegister, ConfigRegionAccess, PciAddress, PciHeader};
use spin::mutex::TicketMutex;
use x86::io::{inl, outl};

use crate::memory::{MapError, Mmio};

const PORT_ADDRESS: u16 = 0xcf8;
const PORT_DATA: u16 = 0xcfc;
/// Configuration space of one bus in a window, in bytes.
const BUS: u64 = 1 << 20;

/// A configuration window (PCI firmware specification 3.3, table 4-3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The physical address of bus 0's registers, even when the first bus is another.
    pub base: u64,
    /// The segment group.
    pub segment: u16,
    /// The buses.
    pub buses: RangeInclusive<u8>,
}

impl Window {
    /// The physical addresses of its buses' registers.
    fn memory(&self) -> Range<u64> {
        let bus = |number: u64| self.base + number * BUS;
        bus((*self.buses.start()).into())..bus(u64::from(*self.buses.end()) + 1)
    }
}

/// Access to configuration space.
pub struct Config {
    windows: Vec<(Window, Mmio)>,
}

/// The two ports are one register: the address, then the data.
static PORTS: TicketMutex<()> = TicketMutex::new(());

impl Config {
    /// Access through `windows`, or for segment 0 through ports when there are none.
    ///
    /// # Errors
    /// A window cannot be mapped.
    pub fn new(windows: &[Window]) -> Result<Self, MapError> {
        let map = |window: &Window| Ok((window.clone(), Mmio::map(window.memory())?));
        Ok(Self { windows: windows.iter().map(map).collect::<Result<_, _>>()? })
    }

    /// The buses that can be reached: segment and range.
    pub fn buses(&self) -> Vec<(u16, RangeInclusive<u8>)> {
        if self.windows.is_empty() {
            return alloc::vec![(0, 0..=u8::MAX)];
        }
        self.windows.iter().map(|(window, _)| (window.segment, window.buses.clone())).collect()
    }

    /// The memory of the windows: the first byte's address and the last's.
    pub fn memory(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.windows.iter().map(|(window, _)| {
            let range = window.memory();
            (range.start, range.end - 1)
        })
    }

    /// Whether the windows of MCFG are used.
    pub fn is_express(&self) -> bool {
        !self.windows.is_empty()
    }

    /// Reads the 32-bit register at `offset` (a multiple of 4). A function that is not there reads as all
    /// ones.
    pub fn read32(&self, address: PciAddress, offset: u16) -> u32 {
        if self.windows.is_empty() {
            return match port_address(address, offset) {
                Some(register) => {
                    let _held = PORTS.lock();
                    // SAFETY: configuration mechanism 1, one at a time; reads of PCI configuration space have
                    // no side effects.
                    unsafe {
                        outl(PORT_ADDRESS, register);
                        inl(PORT_DATA)
                    }
                }
                None => u32::MAX,
            };
        }
        self.place(address, offset).map_or(u32::MAX, |(window, at)| window.read32(at))
    }

    /// Writes the 32-bit register at `offset` (a multiple of 4).
    pub(super) fn write32(&self, address: PciAddress, offset: u16, value: u32) {
        if self.windows.is_empty() {
            if let Some(register) = port_address(address, offset) {
                let _held = PORTS.lock();
                // SAFETY: configuration mechanism 1, one at a time; what is written is the business of this
                // module's parent.
                unsafe {
                    outl(PORT_ADDRESS, register);
                    outl(PORT_DATA, value);
                }
            }
        } else if let Some((window, at)) = self.place(address, offset) {
            window.write32(at, value);
        }
    }

    /// Whether the function may master the bus.
    pub fn is_bus_master(&self, address: PciAddress) -> bool {
        PciHeader::new(address).command(self).contains(CommandRegister::BUS_MASTER_ENABLE)
    }

    /// Lets the function master the bus, or keeps it from that.
    pub fn set_bus_master(&self, address: PciAddress, on: bool) {
        PciHeader::new(address).update_command(self, |mut command| {
            command.set(CommandRegister::BUS_MASTER_ENABLE, on);
            command
        });
    }

    fn place(&self, address: PciAddress, offset: u16) -> Option<(Mmio, u64)> {
        if offset >= 0x1000 {
            return None;
        }
        let covers =
            |window: &Window| window.segment == address.segment() && window.buses.contains(&address.bus());
        let (window, registers) = self.windows.iter().find(|(window, _)| covers(window))?;
        let bus = u64::from(address.bus() - window.buses.start());
        let slot = u64::from(address.device()) << 15 | u64::from(address.function()) << 12;
        Some((*registers, bus * BUS + slot + u64::from(offset & !3)))
    }
}

/// The value for port 0xcf8; `None` for what configuration mechanism 1 cannot reach.
fn port_address(address: PciAddress, offset: u16) -> Option<u32> {
    if address.segment() != 0 || offset >= 0x100 {
        return None;
    }
    let slot = u32::from(address.bus()) << 16
        | u32::from(address.device()) << 11
        | u32::from(address.function()) << 8;
    Some(1 << 31 | slot | u32::from(offset & 0xfc))
}

impl ConfigRegionAccess for Config {
    // SAFETY: any address will do; an offset outside configuration space reads as all ones and is not
    // written.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        self.read32(address, offset)
    }

    // SAFETY: any address will do; an offset outside configuration space reads as all ones and is not
    // written.
    unsafe fn write(&self, address: PciAddress, offset: u16, value: u32) {
        self.write32(address, offset, value);
    }
}
