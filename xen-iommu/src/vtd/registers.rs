//! The registers of a remapping unit, as the VT-d specification (D51397, revisions 4 and 5, chapter 11) lays
//! them out.

use core::sync::atomic::AtomicU64;

use bitfield_struct::bitfield;
use bitflags::bitflags;

/// Access to one unit's registers, which the hypervisor has mapped uncached, and the two things about the
/// machine that go with it.
pub trait Registers {
    /// Reads the 32-bit register at `offset` bytes from the unit's base; `offset` is a multiple of 4.
    fn read32(&self, offset: u32) -> u32;

    /// Reads the 64-bit register at `offset`, a multiple of 8.
    fn read64(&self, offset: u32) -> u64;

    /// Writes the 32-bit register at `offset`, a multiple of 4. Memory written before is visible to the unit
    /// first.
    fn write32(&self, offset: u32, value: u32);

    /// Writes the 64-bit register at `offset`, a multiple of 8. Memory written before is visible to the unit
    /// first.
    fn write64(&self, offset: u32, value: u64);

    /// Called between two looks at something that the unit is about to do: a `pause`, or a short delay. Waits
    /// are bounded by a number of these.
    fn relax(&self);

    /// Writes these entries' cache lines back to memory (`clflush` and the like). Called for units that do
    /// not snoop the caches when they read their tables (§11.4.3, ECAP.C = 0), and for no others.
    fn write_back(&self, entries: &[AtomicU64]);
}

/// Version (§11.4.1).
pub const VER: u32 = 0x00;
/// Capabilities (§11.4.2).
pub const CAP: u32 = 0x08;
/// Extended capabilities (§11.4.3).
pub const ECAP: u32 = 0x10;
/// Global command (§11.4.4.1).
pub const GCMD: u32 = 0x18;
/// Global status (§11.4.4.2).
pub const GSTS: u32 = 0x1c;
/// Root table address (§11.4.5).
pub const RTADDR: u32 = 0x20;
/// Context command (§11.4.6.1).
pub const CCMD: u32 = 0x28;
/// Fault status (§11.4.7.1).
pub const FSTS: u32 = 0x34;
/// Fault event control (§11.4.7.2).
pub const FECTL: u32 = 0x38;
/// Fault event data (§11.4.7.3).
pub const FEDATA: u32 = 0x3c;
/// Fault event address (§11.4.7.4).
pub const FEADDR: u32 = 0x40;
/// Fault event upper address (§11.4.7.5).
pub const FEUADDR: u32 = 0x44;
/// Protected memory enable (§11.4.8.1).
pub const PMEN: u32 = 0x64;
/// Invalidation queue head (§11.4.9.1).
pub const IQH: u32 = 0x80;
/// Invalidation queue tail (§11.4.9.2).
pub const IQT: u32 = 0x88;
/// Invalidation queue address (§11.4.9.3).
pub const IQA: u32 = 0x90;
/// From the invalidate-address register (at ECAP.IRO) to the IOTLB invalidate register (§11.4.6.2).
pub const IOTLB_FROM_IVA: u32 = 8;

/// FECTL: the fault event is masked.
pub const FECTL_MASK: u32 = 1 << 31;
/// PMEN: protected memory regions are to be enforced.
pub const PMEN_ENABLE: u32 = 1 << 31;
/// PMEN: protected memory regions are enforced.
pub const PMEN_STATUS: u32 = 1;

/// Version (§11.4.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Version {
    /// The minor number.
    #[bits(4)]
    pub minor: u8,
    /// The major number; 1 and up.
    #[bits(4)]
    pub major: u8,
    #[bits(24)]
    _reserved: u32,
}

/// Capabilities (§11.4.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capability {
    /// ND: 2^(4 + 2·ND) domain ids.
    #[bits(3)]
    pub domain_ids: u8,
    #[bits(1)]
    _reserved_3: u8,
    /// RWBF: the write buffer has to be flushed after the tables change.
    pub write_buffer_flush: bool,
    /// PLMR: has a protected low-memory region.
    pub protected_low: bool,
    /// PHMR: has a protected high-memory region.
    pub protected_high: bool,
    /// CM: may cache that something is not present; added entries need a flush, too, and domain id 0 is the
    /// unit's own (§6.1).
    pub caching_mode: bool,
    /// SAGAW: bit 1, 2, 3 for second-stage tables of 3, 4, 5 levels.
    #[bits(5)]
    pub levels: u8,
    #[bits(3)]
    _reserved_13: u8,
    /// MGAW: the widest guest address in bits, less one.
    #[bits(6)]
    pub guest_width: u8,
    /// ZLR: zero-length reads of write-only pages are let through.
    pub zero_length_read: bool,
    #[bits(1)]
    _reserved_23: u8,
    /// FRO: where the fault recording registers are, in 16 bytes from the base.
    #[bits(10)]
    pub fault_offset: u16,
    /// SLLPS (SSLPS): bit 0 for 2 MiB, bit 1 for 1 GiB pages in second-stage tables.
    #[bits(4)]
    pub large_pages: u8,
    #[bits(1)]
    _reserved_38: u8,
    /// PSI: can invalidate single pages.
    pub page_selective: bool,
    /// NFR: the number of fault recording registers, less one.
    pub fault_registers: u8,
    /// MAMV: the largest order of pages for one page-selective invalidation.
    #[bits(6)]
    pub max_mask: u8,
    /// DWD: can drain writes.
    pub drain_writes: bool,
    /// DRD: can drain reads.
    pub drain_reads: bool,
    _rest: u8,
}

/// Extended capabilities (§11.4.3); what legacy mode uses.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ExtendedCapability {
    /// C: reads its tables coherently with the CPU's caches.
    pub coherent: bool,
    /// QI: has an invalidation queue.
    pub queue: bool,
    /// DT: supports device-TLBs.
    pub device_tlb: bool,
    /// IR: remaps interrupts.
    pub interrupt_remapping: bool,
    #[bits(2)]
    _mode: u8,
    /// PT: pass-through.
    pub pass_through: bool,
    /// SC: snoop control in second-stage leaves.
    pub snoop_control: bool,
    /// IRO: where the IOTLB registers are, in 16 bytes from the base.
    #[bits(10)]
    pub iotlb_offset: u16,
    #[bits(23)]
    _scalable: u32,
    /// DIT: throttles device-TLB invalidations by the physical function that they name.
    pub invalidation_throttle: bool,
    #[bits(22)]
    _rest: u32,
}

bitflags! {
    /// Global command and status (§11.4.4); the bits of a command and of its status are in the same places.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Global: u32 {
        /// TE: translation.
        const TRANSLATION = 1 << 31;
        /// SRTP: the root table pointer is to be taken over, or was.
        const ROOT_TABLE = 1 << 30;
        /// SFL: the fault log's pointer is to be taken over, or was.
        const FAULT_LOG = 1 << 29;
        /// WBF: flush the write buffer; the status shows that it goes on.
        const WRITE_BUFFER_FLUSH = 1 << 27;
        /// QIE: the invalidation queue.
        const QUEUE = 1 << 26;
        /// IRE: interrupt remapping.
        const INTERRUPT_REMAPPING = 1 << 25;
        /// SIRTP: the interrupt remapping table pointer.
        const INTERRUPT_TABLE = 1 << 24;
        /// CFI: interrupts in compatibility format pass.
        const COMPATIBILITY_FORMAT = 1 << 23;
    }
}

impl Global {
    /// What a command does once; every other bit is a state, which a command has to repeat (§11.4.4.1).
    pub const ONE_SHOT: Self =
        Self::ROOT_TABLE.union(Self::FAULT_LOG).union(Self::WRITE_BUFFER_FLUSH).union(Self::INTERRUPT_TABLE);
}

bitflags! {
    /// Fault status (§11.4.7.1); its errors are cleared by writing ones.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FaultStatus: u32 {
        /// PFO: faults were lost, for want of a register.
        const OVERFLOW = 1 << 0;
        /// PPF: at least one register holds a fault.
        const PENDING = 1 << 1;
        /// IQE: a descriptor of the invalidation queue is wrong, or could not be read.
        const QUEUE_ERROR = 1 << 4;
        /// ICE: a device answered an invalidation wrongly.
        const COMPLETION_ERROR = 1 << 5;
        /// ITE: a device did not answer an invalidation.
        const TIME_OUT_ERROR = 1 << 6;
        /// FRI: the index of the oldest fault's register, in bits 8 to 15.
        const INDEX = 0xff00;
    }
}

impl FaultStatus {
    /// The errors of the invalidation queue: it stands still until they are cleared.
    pub const QUEUE_ERRORS: Self =
        Self::QUEUE_ERROR.union(Self::COMPLETION_ERROR).union(Self::TIME_OUT_ERROR);

    /// FRI: the index of the oldest fault's register.
    #[must_use]
    pub const fn index(self) -> u8 {
        (self.bits() >> 8) as u8
    }
}

/// Context command (§11.4.6.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextCommand {
    /// DID.
    pub domain_id: u16,
    /// SID.
    pub source_id: u16,
    /// FM: which bits of the function number do not matter.
    #[bits(2)]
    pub function_mask: u8,
    #[bits(25)]
    _reserved: u32,
    /// CAIG: what was invalidated.
    #[bits(2)]
    pub actual: u8,
    /// CIRG: what to invalidate: 1 all, 2 a domain's, 3 a device's.
    #[bits(2)]
    pub granularity: u8,
    /// ICC: go, and not done yet.
    pub busy: bool,
}

/// IOTLB invalidate (§11.4.6.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct IotlbCommand {
    _reserved_0: u32,
    /// DID.
    pub domain_id: u16,
    /// DW: drain writes first.
    pub drain_writes: bool,
    /// DR: drain reads first.
    pub drain_reads: bool,
    #[bits(7)]
    _reserved_50: u8,
    /// IAIG: what was invalidated; 0 when the unit ignored the request.
    #[bits(2)]
    pub actual: u8,
    #[bits(1)]
    _reserved_59: u8,
    /// IIRG: what to invalidate: 1 all, 2 a domain's, 3 pages of a domain.
    #[bits(2)]
    pub granularity: u8,
    #[bits(1)]
    _reserved_62: u8,
    /// IVT: go, and not done yet.
    pub busy: bool,
}

/// The upper half of a fault recording register (§11.4.7.6); the lower half is the page's address.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    /// SID: the requester.
    pub source_id: u16,
    #[bits(12)]
    _reserved_16: u16,
    /// T2: with T1: 0 a write, 1 a page request, 2 a read, 3 an atomic operation.
    pub type2: bool,
    /// PRIV: privilege was asked for.
    pub privileged: bool,
    /// EXE: execute permission was asked for.
    pub execute: bool,
    /// PP: the request had a PASID.
    pub has_pasid: bool,
    /// FR: the reason (§7.1).
    pub reason: u8,
    /// PV: the PASID.
    #[bits(20)]
    pub pasid: u32,
    /// AT: 0 an untranslated request, 1 a translation request, 2 a translated request.
    #[bits(2)]
    pub address_type: u8,
    /// T1: the upper bit of the type.
    pub type1: bool,
    /// F: holds a fault; cleared by writing a one.
    pub fault: bool,
}

/// The uppermost 32 bits of a fault recording register: writing this frees it.
pub const FAULT_RECORD_CLEAR: u32 = 1 << 31;
