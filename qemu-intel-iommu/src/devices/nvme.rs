//! An NVMe controller, as far as its admin queue and Identify (NVM Express base specification 1.4).

use core::fmt;
use core::time::Duration;

use pci_types::PciAddress;

use super::error::DeviceError;
use crate::memory::{Mmio, Shared};
use crate::pci::Pci;
use crate::processor::interrupts;

/// Class code: mass storage, non-volatile memory, NVM Express.
pub const CLASS: u32 = 0x01_08_02;
/// The size of a queue, and of Identify's data, in bytes.
pub const PAGE: u64 = 4096;

/// Register offsets (section 3.1).
mod register {
    /// 64-bit, read only: capabilities.
    pub const CAP: u64 = 0x00;
    /// 32-bit: controller configuration.
    pub const CC: u64 = 0x14;
    /// 32-bit: controller status.
    pub const CSTS: u64 = 0x1c;
    /// 32-bit: admin queue attributes.
    pub const AQA: u64 = 0x24;
    /// 64-bit: admin submission queue base address.
    pub const ASQ: u64 = 0x28;
    /// 64-bit: admin completion queue base address.
    pub const ACQ: u64 = 0x30;
    /// 32-bit: submission queue 0 tail doorbell; completion queue 0's head doorbell follows at the stride
    /// that CAP names.
    pub const DOORBELLS: u64 = 0x1000;
}

const CC_ENABLE: u32 = 1;
/// Entry sizes of 64 and 16 bytes, as powers of two.
const CC_ENTRY_SIZES: u32 = 6 << 16 | 4 << 20;
const CSTS_READY: u32 = 1;
const CSTS_FATAL: u32 = 1 << 1;

/// Entries in each queue.
const ENTRIES: u16 = 16;
const SUBMISSION: u64 = 64;
const COMPLETION: u64 = 16;
const OPCODE_IDENTIFY: u32 = 0x06;
/// Identify: the controller data structure.
const CNS_CONTROLLER: u32 = 1;

/// How often the controller is looked at.
const INTERVAL: Duration = Duration::from_micros(100);
/// For how long it may take to answer.
const PATIENCE: Duration = Duration::from_millis(200);

/// A page that the controller uses: as the processor sees it, and under the address by which the controller
/// asks for it.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// The memory, at least one page.
    pub memory: &'a Shared,
    /// The offset of the page in it: a multiple of the page size.
    pub offset: u64,
    /// The address on the bus.
    pub bus: u64,
}

impl<'a> Page<'a> {
    /// Page number `index` of `memory`, under its physical address.
    pub fn identity(memory: &'a Shared, index: u64) -> Self {
        Self { memory, offset: index * PAGE, bus: memory.start() + index * PAGE }
    }
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// The controller completed it with this status (0: success).
    ///
    /// It does so even when the data could not be written: look at the memory.
    Status(u16),
    /// The completion is of another command: the controller read something else than what was submitted.
    Stray { command: u16, status: u16 },
    /// No completion arrived in memory.
    None,
    /// The controller gave up.
    Fatal,
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "completed with status {status:#x}"),
            Self::Stray { command, status } => {
                write!(f, "a completion of command {command:#x}, status {status:#x}")
            }
            Self::None => f.write_str("no completion"),
            Self::Fatal => f.write_str("the controller reports a fatal error"),
        }
    }
}

/// A controller, disabled or with an admin queue.
pub struct Nvme {
    address: PciAddress,
    registers: Mmio,
    /// Bytes from a submission queue's doorbell to the completion queue's.
    stride: u64,
}

impl fmt::Display for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NVMe controller {}", self.address)
    }
}

/// The admin queue of an enabled controller.
pub struct AdminQueue<'a> {
    controller: &'a Nvme,
    submissions: Page<'a>,
    completions: Page<'a>,
    tail: u16,
    head: u16,
    /// The phase bit of completions of this round.
    phase: u16,
    next: u16,
}

impl Nvme {
    /// The controller at `address`, a bus master, reset.
    ///
    /// # Errors
    /// It is not there, is something else, or does not reset.
    pub fn open(pci: &Pci, address: PciAddress) -> Result<Self, DeviceError> {
        pci.expect(address, |function| function.class == CLASS)?;
        let registers = Mmio::map(pci.memory_bar(address, 0)?)?;
        pci.set_bus_master(address, true);
        let stride = 4 << (registers.read64(register::CAP) >> 32 & 0xf);
        let nvme = Self { address, registers, stride };
        nvme.reset()?;
        Ok(nvme)
    }

    /// Disables the controller, which stops all its accesses to memory.
    ///
    /// # Errors
    /// It stays ready.
    pub fn reset(&self) -> Result<(), DeviceError> {
        self.registers.write32(register::CC, 0);
        self.wait_ready(false, "the controller's reset")
    }

    /// Enables the controller with its admin queues in these two pages, which are cleared.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn enable<'a>(
        &'a self,
        submissions: Page<'a>,
        completions: Page<'a>,
    ) -> Result<AdminQueue<'a>, DeviceError> {
        self.reset()?;
        submissions.memory.fill(submissions.offset, PAGE, 0);
        completions.memory.fill(completions.offset, PAGE, 0);
        let size = u32::from(ENTRIES) - 1;
        self.registers.write32(register::AQA, size << 16 | size);
        self.registers.write64(register::ASQ, submissions.bus);
        self.registers.write64(register::ACQ, completions.bus);
        self.registers.write32(register::CC, CC_ENTRY_SIZES | CC_ENABLE);
        self.wait_ready(true, "the controller's start")?;
        Ok(AdminQueue { controller: self, submissions, completions, tail: 0, head: 0, phase: 1, next: 1 })
    }

    fn wait_ready(&self, ready: bool, what: &'static str) -> Result<(), DeviceError> {
        let is = || (self.registers.read32(register::CSTS) & CSTS_READY != 0) == ready;
        interrupts::wait(PATIENCE, INTERVAL, is).map_err(|error| DeviceError::TimedOut { what, error })
    }

    fn is_fatal(&self) -> bool {
        self.registers.read32(register::CSTS) & CSTS_FATAL != 0
    }
}

impl AdminQueue<'_> {
    /// Has the controller write what it is (4096 bytes) to `bus`, a page's address on the bus, and waits for
    /// the completion.
    ///
    /// Whether the data arrived is to be seen in memory: a blocked write completes with status 0.
    pub fn identify(&mut self, bus: u64) -> Completion {
        let command = self.next;
        // Command 0 is what an all-zero entry looks like, which a blocked read of the queue gives.
        self.next = self.next.checked_add(1).unwrap_or(1);
        let at = self.submissions.offset + u64::from(self.tail) * SUBMISSION;
        let memory = self.submissions.memory;
        memory.fill(at, SUBMISSION, 0);
        memory.write32(at, OPCODE_IDENTIFY | u32::from(command) << 16);
        memory.write64(at + 24, bus);
        memory.write32(at + 40, CNS_CONTROLLER);
        self.tail = (self.tail + 1) % ENTRIES;
        self.controller.registers.write32(register::DOORBELLS, self.tail.into());
        self.completion(command)
    }

    fn completion(&mut self, command: u16) -> Completion {
        let at = self.completions.offset + u64::from(self.head) * COMPLETION;
        let last = || self.completions.memory.read32(at + 12);
        let phase = u32::from(self.phase) << 16;
        if interrupts::wait(PATIENCE, INTERVAL, || last() & 1 << 16 == phase).is_err() {
            return if self.controller.is_fatal() { Completion::Fatal } else { Completion::None };
        }
        let [low, high, status_low, status_high] = last().to_le_bytes();
        let (done, status) =
            (u16::from_le_bytes([low, high]), u16::from_le_bytes([status_low, status_high]) >> 1);
        self.head += 1;
        if self.head == ENTRIES {
            self.head = 0;
            self.phase ^= 1;
        }
        self.controller.registers.write32(register::DOORBELLS + self.controller.stride, self.head.into());
        if done == command { Completion::Status(status) } else { Completion::Stray { command: done, status } }
    }
}

impl Drop for AdminQueue<'_> {
    fn drop(&mut self) {
        // The pages are somebody else's again after this.
        if let Err(error) = self.controller.reset() {
            log::error!("{}: {error}", self.controller);
        }
    }
}
