//! A UHCI controller as the firmware left it (Universal Host Controller Interface 1.1): running, and reading
//! its schedule from memory.
#![allow(unsafe_code)]

use core::fmt;
use core::time::Duration;

use pci_types::PciAddress;

use super::error::DeviceError;
use super::ports::Ports;
use crate::pci::Pci;
use crate::processor::interrupts;

/// Class code: serial bus, USB, UHCI.
pub const CLASS: u32 = 0x0c_03_00;

/// Register offsets (section 2.1).
mod register {
    /// 16-bit: USB command.
    pub const USBCMD: u16 = 0x00;
    /// 16-bit: USB status.
    pub const USBSTS: u16 = 0x02;
    /// 16-bit: frame number.
    pub const FRNUM: u16 = 0x06;
    /// 32-bit: frame list base address.
    pub const FRBASEADD: u16 = 0x08;
}

const PORTS: u16 = 0x14;
const COMMAND_RUN: u16 = 1;
/// Status: a host system error, such as a memory access that failed; and a bad schedule.
const STATUS_SYSTEM_ERROR: u16 = 1 << 3;
const STATUS_PROCESS_ERROR: u16 = 1 << 4;
const STATUS_HALTED: u16 = 1 << 5;

/// A controller.
#[derive(Debug)]
pub struct Uhci {
    address: PciAddress,
    ports: Ports,
}

impl fmt::Display for Uhci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UHCI controller {}", self.address)
    }
}

impl Uhci {
    /// The controller at `address`. Nothing about it is changed: the firmware may have left it running.
    ///
    /// # Errors
    /// It is not there, or is something else.
    pub fn open(pci: &Pci, address: PciAddress) -> Result<Self, DeviceError> {
        pci.expect(address, |function| function.class == CLASS)?;
        let first = pci.port_bar(address, 4)?;
        // SAFETY: the function is a UHCI controller, whose BAR 4 names its ports; no other driver here uses
        // them.
        let ports = unsafe { Ports::new(first, PORTS) };
        Ok(Self { address, ports })
    }

    /// Whether it walks its schedule.
    pub fn is_running(&self) -> bool {
        self.ports.read16(register::USBCMD) & COMMAND_RUN != 0
            && self.ports.read16(register::USBSTS) & STATUS_HALTED == 0
    }

    /// Whether it found its schedule broken, or could not read it.
    pub fn has_failed(&self) -> bool {
        self.ports.read16(register::USBSTS) & (STATUS_SYSTEM_ERROR | STATUS_PROCESS_ERROR) != 0
    }

    /// The physical address of its frame list, which is a page.
    pub fn frame_list(&self) -> u64 {
        u64::from(self.ports.read32(register::FRBASEADD) & !0xfff)
    }

    /// The number of the current frame, of a millisecond each (0 to 2047).
    pub fn frame_number(&self) -> u16 {
        self.ports.read16(register::FRNUM) & 0x7ff
    }

    /// How many frames passed while halting for `time` (less than 2 s).
    pub fn frames_in(&self, time: Duration) -> u16 {
        let before = self.frame_number();
        interrupts::sleep(time);
        self.frame_number().wrapping_sub(before) & 0x7ff
    }

    /// Stops it.
    ///
    /// # Errors
    /// It runs on.
    pub fn stop(&self) -> Result<(), DeviceError> {
        self.ports.write16(register::USBCMD, self.ports.read16(register::USBCMD) & !COMMAND_RUN);
        let halted = || self.ports.read16(register::USBSTS) & STATUS_HALTED != 0;
        interrupts::wait(Duration::from_millis(20), Duration::from_millis(1), halted)
            .map_err(|error| DeviceError::TimedOut { what: "the end of the UHCI's schedule", error })
    }
}
