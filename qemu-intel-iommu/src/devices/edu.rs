//! QEMU's edu device (docs/specs/edu): a DMA engine between memory and a page of its own.
//!
//! A transfer takes it 100 ms.

use core::fmt;
use core::time::Duration;

use pci_types::PciAddress;

use super::error::DeviceError;
use crate::memory::Mmio;
use crate::pci::Pci;
use crate::processor::interrupts::{self, Vector};

/// Vendor and device id.
pub const IDS: (u16, u16) = (0x1234, 0x11e8);
/// The most bytes of a transfer. The device's buffer has one more, but QEMU 7.2 takes a transfer up to the
/// buffer's end for one beyond it, and aborts.
pub const LONGEST: u64 = 4095;

/// Register offsets.
mod register {
    /// 32-bit, read only: 0xRRrr00ed with major and minor version.
    pub const IDENTIFICATION: u64 = 0x00;
    /// 32-bit: reads as the complement of what was written.
    pub const LIVENESS: u64 = 0x04;
    /// 32-bit, read only: why an interrupt was raised.
    pub const INTERRUPT_STATUS: u64 = 0x24;
    /// 32-bit, write only: bits to clear in the interrupt status.
    pub const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
    /// 64-bit: where a transfer reads.
    pub const DMA_SOURCE: u64 = 0x80;
    /// 64-bit: where a transfer writes.
    pub const DMA_DESTINATION: u64 = 0x88;
    /// 64-bit: bytes to transfer.
    pub const DMA_COUNT: u64 = 0x90;
    /// 64-bit: begins a transfer; bit 0 reads as 1 until it has ended.
    pub const DMA_COMMAND: u64 = 0x98;
}

/// The device's buffer in the address space of its DMA engine.
const BUFFER_START: u64 = 0x4_0000;
/// The interrupt status of a transfer that ended.
const INTERRUPT_DMA: u32 = 0x100;
const COMMAND_RUN: u64 = 1;
const COMMAND_TO_MEMORY: u64 = 1 << 1;
const COMMAND_INTERRUPT: u64 = 1 << 2;

/// More than a transfer takes.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long to halt between two looks at a transfer.
const INTERVAL: Duration = Duration::from_millis(1);

/// Which way to transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From memory to the device's buffer.
    FromMemory,
    /// From the device's buffer to memory.
    ToMemory,
}

/// An edu device.
#[derive(Debug)]
pub struct Edu {
    address: PciAddress,
    registers: Mmio,
    vector: Vector,
    /// Interrupts that arrived before the transfer that runs.
    seen: u64,
}

impl fmt::Display for Edu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "edu {}", self.address)
    }
}

impl Edu {
    /// The device at `address`: mapped, checked to be alive, a bus master, its interrupts going to a vector
    /// of its own.
    ///
    /// # Errors
    /// It is not there, is something else, or does not behave.
    pub fn open(pci: &Pci, address: PciAddress) -> Result<Self, DeviceError> {
        pci.expect(address, |function| function.ids() == IDS)?;
        let registers = Mmio::map(pci.memory_bar(address, 0)?)?;
        pci.set_bus_master(address, true);

        let identification = registers.read32(register::IDENTIFICATION);
        if identification & 0xff != 0xed {
            return Err(DeviceError::Register { name: "edu's identification", value: identification.into() });
        }
        registers.write32(register::LIVENESS, 0x1234_5678);
        let alive = registers.read32(register::LIVENESS);
        if alive != !0x1234_5678 {
            return Err(DeviceError::Register { name: "edu's liveness", value: alive.into() });
        }
        let vector = Vector::allocate().ok_or(DeviceError::NoVector)?;
        pci.enable_msi(address, vector)?;
        Ok(Self { address, registers, vector, seen: vector.count() })
    }

    /// How many interrupts it has raised.
    pub fn interrupts(&self) -> u64 {
        self.vector.count()
    }

    /// Transfers `len` bytes (1 to [`LONGEST`]) between the start of its buffer and `bus` as the device sees
    /// memory, and waits for the interrupt at the end. The device cannot tell whether the other side took
    /// part: a transfer that was blocked ends in the same way.
    ///
    /// # Errors
    /// No interrupt arrived, or the length is none that it can do.
    pub fn transfer(&mut self, direction: Direction, bus: u64, len: u64) -> Result<(), DeviceError> {
        self.start(direction, bus, len)?;
        self.finish()
    }

    /// Begins a transfer; [`finish`](Self::finish) ends it. See [`transfer`](Self::transfer).
    ///
    /// # Errors
    /// The length is none that it can do, or a transfer is under way.
    pub fn start(&mut self, direction: Direction, bus: u64, len: u64) -> Result<(), DeviceError> {
        self.command(direction, bus, len, COMMAND_INTERRUPT)
    }

    /// As [`start`](Self::start), but the device stays silent at the end.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_silently(&mut self, direction: Direction, bus: u64, len: u64) -> Result<(), DeviceError> {
        self.command(direction, bus, len, 0)
    }

    /// As [`transfer`](Self::transfer), without the interrupt: for a device that may not master the bus,
    /// whose interrupts do not arrive either.
    ///
    /// # Errors
    /// As [`start`](Self::start), or it does not end.
    pub fn transfer_silently(&mut self, direction: Direction, bus: u64, len: u64) -> Result<(), DeviceError> {
        self.start_silently(direction, bus, len)?;
        interrupts::wait(PATIENCE, INTERVAL, || !self.is_busy())
            .map_err(|error| DeviceError::TimedOut { what: "the end of edu's transfer", error })
    }

    /// Waits for the interrupt at the end of the transfer, and acknowledges it.
    ///
    /// # Errors
    /// It did not arrive.
    pub fn finish(&mut self) -> Result<(), DeviceError> {
        let arrived = self.vector.wait(self.seen, PATIENCE);
        let status = self.registers.read32(register::INTERRUPT_STATUS);
        self.registers.write32(register::INTERRUPT_ACKNOWLEDGE, status);
        arrived.map_err(|error| DeviceError::TimedOut {
            what: "edu's interrupt at the end of a transfer",
            error,
        })?;
        if status & INTERRUPT_DMA == 0 {
            return Err(DeviceError::Register { name: "edu's interrupt status", value: status.into() });
        }
        Ok(())
    }

    /// Whether a transfer is under way.
    pub fn is_busy(&self) -> bool {
        self.registers.read64(register::DMA_COMMAND) & COMMAND_RUN != 0
    }

    fn command(
        &mut self,
        direction: Direction,
        bus: u64,
        len: u64,
        interrupt: u64,
    ) -> Result<(), DeviceError> {
        if len == 0 || len > LONGEST {
            return Err(DeviceError::Length(len));
        }
        if self.is_busy() {
            let value = self.registers.read64(register::DMA_COMMAND);
            return Err(DeviceError::Register { name: "edu's DMA command", value });
        }
        let (source, destination, way) = match direction {
            Direction::FromMemory => (bus, BUFFER_START, 0),
            Direction::ToMemory => (BUFFER_START, bus, COMMAND_TO_MEMORY),
        };
        self.seen = self.vector.count();
        self.registers.write64(register::DMA_SOURCE, source);
        self.registers.write64(register::DMA_DESTINATION, destination);
        self.registers.write64(register::DMA_COUNT, len);
        self.registers.write64(register::DMA_COMMAND, COMMAND_RUN | way | interrupt);
        Ok(())
    }
}
