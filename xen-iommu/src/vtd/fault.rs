//! Faults: reading the fault recording registers in full, and saying what they say (§7).

use core::fmt;

use p2m::PAGE_SHIFT;

use crate::platform::Sbdf;
use crate::vtd::attach::requester;
use crate::vtd::registers::{
    Capability, FAULT_RECORD_CLEAR, FEADDR, FECTL, FECTL_MASK, FEDATA, FEUADDR, FSTS, FaultRecord,
    FaultStatus, Registers,
};

/// What a request that failed was about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A write to memory.
    Write,
    /// A read of memory.
    Read,
    /// A read and write in one (atomic operation).
    Atomic,
    /// A request for a page.
    PageRequest,
}

/// A fault that a unit recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The unit's register base.
    pub unit: u64,
    /// The requester; its segment is the unit's.
    pub source: Sbdf,
    /// What it did.
    pub operation: Operation,
    /// The address as the device gave it, down to its page; for a fault of interrupt remapping the
    /// interrupt's index.
    pub address: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a request was refused: the codes of §7.1.3 that legacy mode and interrupt remapping know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reason(pub u8);

impl Reason {
    /// The bus has no context table.
    pub const ROOT_NOT_PRESENT: Self = Self(0x1);
    /// The device has no context entry.
    pub const CONTEXT_NOT_PRESENT: Self = Self(0x2);
    /// The context entry asks for what the unit cannot do.
    pub const CONTEXT_INVALID: Self = Self(0x3);
    /// The address is wider than the table.
    pub const BEYOND_WIDTH: Self = Self(0x4);
    /// The page may not be written.
    pub const NO_WRITE: Self = Self(0x5);
    /// The page may not be read.
    pub const NO_READ: Self = Self(0x6);
    /// A second-stage table cannot be read.
    pub const TABLE_UNREADABLE: Self = Self(0x7);
    /// The root table cannot be read.
    pub const ROOT_UNREADABLE: Self = Self(0x8);
    /// A context table cannot be read.
    pub const CONTEXT_UNREADABLE: Self = Self(0x9);
    /// Reserved bits of a root entry are set.
    pub const ROOT_RESERVED: Self = Self(0xa);
    /// Reserved bits of a context entry are set.
    pub const CONTEXT_RESERVED: Self = Self(0xb);
    /// Reserved bits of a second-stage entry are set.
    pub const ENTRY_RESERVED: Self = Self(0xc);
    /// The device used its own TLB and may not.
    pub const TRANSLATED_BLOCKED: Self = Self(0xd);

    /// Whether interrupt remapping refused it; then `address` is an index.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        matches!(self.0, 0x20..=0x2f)
    }

    /// The reason in words; `None` for a code that legacy mode does not have.
    #[must_use]
    pub const fn text(self) -> Option<&'static str> {
        Some(match self.0 {
            0x1 => "its bus has no context table",
            0x2 => "it has no context entry",
            0x3 => "its context entry asks for what the unit cannot do",
            0x4 => "the address is wider than its table",
            0x5 => "the page is not mapped for writing",
            0x6 => "the page is not mapped for reading",
            0x7 => "a second-stage table cannot be read",
            0x8 => "the root table cannot be read",
            0x9 => "the context table cannot be read",
            0xa => "the root entry has reserved bits set",
            0xb => "the context entry has reserved bits set",
            0xc => "a second-stage entry has reserved bits set",
            0xd => "its context entry blocks translated and translation requests",
            0x20 => "the interrupt request has reserved bits set",
            0x21 => "the interrupt index lies beyond the table",
            0x22 => "the interrupt's entry is not present",
            0x23 => "the interrupt remapping table cannot be read",
            0x24 => "the interrupt's entry has reserved bits set",
            0x25 => "interrupts in compatibility format are blocked",
            0x26 => "the interrupt's entry is another requester's",
            _ => return None,
        })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} (fault reason {:#x})", self.0),
            None => write!(f, "fault reason {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_interrupt() {
            return write!(f, "interrupt {} of {} was blocked: {}", self.address, self.source, self.reason);
        }
        let what = match self.operation {
            Operation::Write => "a write",
            Operation::Read => "a read",
            Operation::Atomic => "an atomic operation",
            Operation::PageRequest => "a page request",
        };
        write!(f, "{what} by {} at {:#x} was blocked: {}", self.source, self.address, self.reason)
    }
}

/// What a look at a unit's fault registers found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSummary {
    /// Faults read.
    pub faults: u32,
    /// Whether the unit had more than its registers hold, so that some are not known.
    pub overflow: bool,
}

impl FaultSummary {
    /// Of two units together.
    #[must_use]
    pub(crate) fn and(self, other: Self) -> Self {
        Self { faults: self.faults.saturating_add(other.faults), overflow: self.overflow | other.overflow }
    }
}

/// Reads and frees all fault recording registers, oldest first, then clears the overflow (§7.2.1): in the
/// other order, a fault that comes in between would set the overflow again for registers that are already
/// read.
pub(crate) fn read_all<R: Registers>(
    registers: &R,
    capability: Capability,
    unit: u64,
    segment: u16,
    report: &mut dyn FnMut(&Fault),
) -> FaultSummary {
    let status = FaultStatus::from_bits_retain(registers.read32(FSTS));
    let mut summary = FaultSummary { faults: 0, overflow: status.contains(FaultStatus::OVERFLOW) };
    if !status.intersects(FaultStatus::PENDING.union(FaultStatus::OVERFLOW)) {
        return summary;
    }
    let count = u32::from(capability.fault_registers()).saturating_add(1);
    let mut index = u32::from(status.index());
    // Each register once: a device that faults on and on does not keep us here.
    for _ in 0..count {
        if index >= count {
            index = 0;
        }
        let offset = (u32::from(capability.fault_offset()) << 4).saturating_add(index << 4);
        let (upper, top) = (offset.saturating_add(8), offset.saturating_add(12));
        // F first: while it is set, hardware leaves the rest alone (§11.4.7.6).
        let record = FaultRecord::from_bits(registers.read64(upper));
        if record.fault() {
            let address = registers.read64(offset);
            registers.write32(top, FAULT_RECORD_CLEAR);
            summary.faults = summary.faults.saturating_add(1);
            report(&decode(unit, segment, record, address));
        }
        index = index.saturating_add(1);
    }
    if summary.overflow {
        registers.write32(FSTS, FaultStatus::OVERFLOW.bits());
    }
    summary
}

fn decode(unit: u64, segment: u16, record: FaultRecord, low: u64) -> Fault {
    let reason = Reason(record.reason());
    Fault {
        unit,
        source: requester(segment, record.source_id()),
        operation: match (record.type1(), record.type2()) {
            (false, false) => Operation::Write,
            (false, true) => Operation::PageRequest,
            (true, false) => Operation::Read,
            (true, true) => Operation::Atomic,
        },
        address: if reason.is_interrupt() { low >> 48 } else { low >> PAGE_SHIFT << PAGE_SHIFT },
        reason,
    }
}

/// Drops the faults and errors that somebody before has left, and masks their fault event.
pub(crate) fn discard<R: Registers>(registers: &R, capability: Capability) {
    set_event(registers, None);
    read_all(registers, capability, 0, 0, &mut |_| ());
    registers.write32(FSTS, FaultStatus::OVERFLOW.union(FaultStatus::QUEUE_ERRORS).bits());
}

/// Sends the unit's fault event as this message (an MSI's address and data), or masks it.
pub(crate) fn set_event<R: Registers>(registers: &R, message: Option<(u64, u32)>) {
    registers.write32(FECTL, FECTL_MASK);
    if let Some((address, data)) = message {
        registers.write32(FEDATA, data);
        registers.write32(FEADDR, (address & 0xffff_ffff) as u32);
        registers.write32(FEUADDR, (address >> 32) as u32);
        registers.write32(FECTL, 0);
    }
}

/// Lets so many reports through in a time, and counts those that it held back: a device that faults on and on
/// must not drown the log.
#[derive(Clone, Copy, Debug)]
pub struct RateLimit {
    burst: u32,
    interval: u64,
    started: u64,
    passed: u32,
    held_back: u64,
}

/// Whether to report something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Yes; and so many were held back since the last one that passed.
    Report {
        /// How many.
        held_back: u64,
    },
    /// No.
    HoldBack,
}

impl RateLimit {
    /// Lets `burst` reports through in each `interval` of the caller's clock.
    #[must_use]
    pub const fn new(burst: u32, interval: u64) -> Self {
        Self { burst, interval, started: 0, passed: 0, held_back: 0 }
    }

    /// Whether to report something at the time `now`.
    pub fn pass(&mut self, now: u64) -> Pass {
        // A clock that was set back starts a new interval, too.
        if now.wrapping_sub(self.started) >= self.interval {
            self.started = now;
            self.passed = 0;
        }
        if self.passed < self.burst {
            self.passed = self.passed.saturating_add(1);
            return Pass::Report { held_back: core::mem::take(&mut self.held_back) };
        }
        self.held_back = self.held_back.saturating_add(1);
        Pass::HoldBack
    }
}
