//! Invalidation of what a unit caches (§6.5): through its registers, or through its queue; every wait is
//! bounded.
//!
//! Whatever the way, requests run one after the other: each is complete before the next one starts. The
//! specification wants that where it matters (context cache before IOTLB, because the former's contents tag
//! the latter's; IOTLB before the devices' TLBs, because a device would refill from it), and this driver does
//! it everywhere.

use core::sync::atomic::{AtomicU64, Ordering, fence};

use bitfield_struct::bitfield;
use p2m::{FrameSource, GfnRange, Mfn};

use crate::platform::HardwareError;
use crate::vtd::device_tlb::AtsDevice;
use crate::vtd::registers::{
    CCMD, Capability, ContextCommand, ExtendedCapability, FSTS, FaultStatus, GCMD, GSTS, Global,
    IOTLB_FROM_IVA, IQA, IQT, IotlbCommand, Registers,
};
use crate::vtd::tables::DomainId;

/// One thing to drop from a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Every cached context entry.
    ContextGlobal,
    /// A requester's cached context entry, which was cached under `domain`; 0 for one that was cached as not
    /// present (caching mode).
    ContextDevice {
        /// The domain id it was cached under.
        domain: DomainId,
        /// The requester.
        source: u16,
    },
    /// Every cached translation.
    IotlbGlobal,
    /// The cached translations of a domain.
    IotlbDomain {
        /// Which.
        domain: DomainId,
    },
    /// The cached translations of some pages of a domain.
    IotlbPages {
        /// Which domain.
        domain: DomainId,
        /// Which pages.
        block: Block,
    },
    /// The translations that a device keeps (§6.5.2.5); only through a queue.
    DeviceTlb {
        /// The device.
        device: AtsDevice,
        /// Which pages; all of them if `None`.
        block: Option<Block>,
    },
}

/// Guest frames in a block of a power of two, naturally aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The first frame.
    pub(crate) first: u64,
    /// The power of two.
    pub(crate) order: u32,
}

impl Block {
    /// The smallest block that has all of `range`, unless that is empty or wider than 2^52 frames.
    #[must_use]
    pub(crate) fn covering(range: GfnRange) -> Option<Self> {
        let (first, last) = (range.start().raw(), range.end().raw().checked_sub(1)?);
        if last < first || last >> 52 != 0 {
            return None;
        }
        let order = u64::BITS.saturating_sub((first ^ last).leading_zeros());
        Some(Self { first: first >> order << order, order })
    }

    /// The block as an IOTLB invalidation has it.
    fn page_address(self) -> PageAddress {
        PageAddress::new().with_order(self.order).with_frame(self.first)
    }

    /// The block as a device-TLB invalidation has it (PCIe ATS 3.7): the lowest zero of the frame's number
    /// tells the size.
    fn device_tlb_address(self) -> DeviceTlbAddress {
        let ones = (1u64 << self.order.min(52) >> 1).saturating_sub(1);
        // The bits of `ones` are clear in the first frame's number.
        let frame = self.first.saturating_add(ones);
        DeviceTlbAddress::new().with_frame(frame).with_is_sized(self.order != 0)
    }
}

/// How a unit is told to invalidate.
#[derive(Debug)]
pub(crate) enum Way {
    /// By its registers, at this offset for the IOTLB.
    Registers { iva: u32 },
    /// By its queue.
    Queue(Queue),
}

/// An invalidation queue of one frame, 256 descriptors of 16 bytes.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The descriptors. Hardware reads them, and writes statuses, coherently, whatever ECAP.C says (§11.4.3).
    ring: Mfn,
    /// The frame whose first word the wait descriptors write.
    status: Mfn,
    /// The index of the next descriptor to write.
    tail: u8,
    /// The number of the last wait.
    wait: u32,
}

/// A descriptor's lower word, type 1: context cache (§6.5.2.1).
#[bitfield(u64)]
struct ContextDescriptor {
    #[bits(4, default = 1)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    #[bits(10)]
    _reserved: u16,
    domain_id: u16,
    source_id: u16,
    _function_mask: u16,
}

/// A descriptor's lower word, type 2: IOTLB (§6.5.2.3).
#[bitfield(u64)]
struct IotlbDescriptor {
    #[bits(4, default = 2)]
    kind: u8,
    #[bits(2)]
    granularity: u8,
    drain_writes: bool,
    drain_reads: bool,
    _reserved_8: u8,
    domain_id: u16,
    _reserved_32: u32,
}

/// Which pages to drop from the IOTLB: the invalidate-address register (§11.4.6.3), and a descriptor's upper
/// word (§6.5.2.3).
#[bitfield(u64)]
struct PageAddress {
    /// AM: the power of two of pages.
    #[bits(6)]
    order: u32,
    /// IH: no table on the way has changed.
    only_leaf: bool,
    #[bits(5)]
    _reserved_7: u8,
    /// The first page.
    #[bits(52)]
    frame: u64,
}

/// A descriptor's lower word, type 3: device-TLB (§6.5.2.5).
#[bitfield(u64)]
struct DeviceTlbDescriptor {
    #[bits(12, default = 3)]
    kind: u16,
    #[bits(4)]
    physical_function_low: u8,
    #[bits(5)]
    max_pending: u8,
    #[bits(11)]
    _reserved: u16,
    source_id: u16,
    #[bits(4)]
    _reserved_48: u8,
    #[bits(12)]
    physical_function_high: u16,
}

/// Its upper word.
#[bitfield(u64)]
struct DeviceTlbAddress {
    /// S: more than one page.
    is_sized: bool,
    #[bits(11)]
    _reserved_1: u16,
    #[bits(52)]
    frame: u64,
}

/// A descriptor's lower word, type 5: wait (§6.5.2.8).
#[bitfield(u64)]
struct WaitDescriptor {
    #[bits(4, default = 5)]
    kind: u8,
    interrupt: bool,
    status_write: bool,
    fence: bool,
    #[bits(25)]
    _reserved: u32,
    status: u32,
}

/// What every operation needs to know of its unit.
pub(crate) struct Access<'a, R> {
    /// The unit's registers.
    pub(crate) registers: &'a R,
    /// Where they are, for errors.
    pub(crate) base: u64,
    /// CAP.
    pub(crate) capability: Capability,
    /// How often a wait looks before it gives up.
    pub(crate) polls: u32,
}

impl<R: Registers> Access<'_, R> {
    /// Looks until `done`, or for too long.
    pub(crate) fn wait(
        &self,
        operation: &'static str,
        mut done: impl FnMut() -> Result<bool, HardwareError>,
    ) -> Result<(), HardwareError> {
        for _ in 0..self.polls {
            if done()? {
                return Ok(());
            }
            self.registers.relax();
        }
        if done()? { Ok(()) } else { Err(HardwareError::TimedOut { unit: self.base, operation }) }
    }

    /// GSTS.
    pub(crate) fn status(&self) -> Global {
        Global::from_bits_retain(self.registers.read32(GSTS))
    }

    /// Gives a global command: the states as they are, but for `set` and `clear` (§11.4.4.1), and waits until
    /// the status shows it.
    pub(crate) fn command(
        &self,
        operation: &'static str,
        set: Global,
        clear: Global,
    ) -> Result<(), HardwareError> {
        let states = self.status().difference(Global::ONE_SHOT).difference(clear);
        self.registers.write32(GCMD, states.union(set).bits());
        // The write buffer's flush shows by its status going away, all others by their status being there.
        let (shown, gone) = if set == Global::WRITE_BUFFER_FLUSH {
            (Global::empty(), Global::WRITE_BUFFER_FLUSH)
        } else {
            (set, clear)
        };
        self.wait(operation, || {
            let status = self.status();
            Ok(status.contains(shown) && !status.intersects(gone))
        })
    }

    /// Makes what was written to the tables visible to a unit that holds writes back (§6.8, CAP.RWBF).
    pub(crate) fn flush_write_buffer(&self) -> Result<(), HardwareError> {
        fence(Ordering::SeqCst);
        if !self.capability.write_buffer_flush() {
            return Ok(());
        }
        self.command("write buffer flush", Global::WRITE_BUFFER_FLUSH, Global::empty())
    }

    fn fault_status(&self) -> FaultStatus {
        FaultStatus::from_bits_retain(self.registers.read32(FSTS))
    }

    fn queue_error(&self) -> HardwareError {
        HardwareError::QueueError { unit: self.base, status: self.fault_status().bits() }
    }
}

impl Way {
    /// By the unit's queue if `queue` asks for it and there is one, else by its registers.
    ///
    /// # Errors
    /// [`HardwareError::NoFrames`], or the queue does not start.
    pub(crate) fn set_up<R: Registers>(
        unit: &Access<'_, R>,
        extended: ExtendedCapability,
        queue: bool,
        frames: &impl FrameSource,
    ) -> Result<Self, HardwareError> {
        if queue && extended.queue() {
            return Queue::start(unit, frames).map(Self::Queue);
        }
        Ok(Self::Registers { iva: u32::from(extended.iotlb_offset()) << 4 })
    }

    /// Whether there is a queue.
    pub(crate) fn is_queue(&self) -> bool {
        matches!(self, Self::Queue(_))
    }

    /// Does what is requested; returns when it is done.
    pub(crate) fn run<R: Registers>(
        &mut self,
        unit: &Access<'_, R>,
        frames: &impl FrameSource,
        request: Request,
    ) -> Result<(), HardwareError> {
        match self {
            Self::Registers { iva } => by_registers(unit, *iva, request),
            Self::Queue(queue) => queue.run(unit, frames, request),
        }
    }

    /// Stops it and gives its frames back.
    pub(crate) fn tear_down<R: Registers>(
        self,
        unit: &Access<'_, R>,
        frames: &impl FrameSource,
    ) -> Result<(), HardwareError> {
        let Self::Queue(queue) = self else { return Ok(()) };
        unit.command("invalidation queue off", Global::empty(), Global::QUEUE)?;
        // A queue that does not stop still reads and writes its frames, so they come back only here.
        frames.free(queue.ring);
        frames.free(queue.status);
        Ok(())
    }
}

/// §6.5.1.
fn by_registers<R: Registers>(unit: &Access<'_, R>, iva: u32, request: Request) -> Result<(), HardwareError> {
    match request {
        Request::ContextGlobal => by_context_command(unit, ContextCommand::new().with_granularity(1)),
        Request::ContextDevice { domain, source } => by_context_command(
            unit,
            ContextCommand::new().with_granularity(3).with_domain_id(domain.0).with_source_id(source),
        ),
        Request::IotlbGlobal => by_iotlb_command(unit, iva, IotlbCommand::new().with_granularity(1), None),
        Request::IotlbDomain { domain } => by_iotlb_command(
            unit,
            iva,
            IotlbCommand::new().with_granularity(2).with_domain_id(domain.0),
            None,
        ),
        Request::IotlbPages { domain, block } => by_iotlb_command(
            unit,
            iva,
            IotlbCommand::new().with_granularity(3).with_domain_id(domain.0),
            Some(block),
        ),
        // Device-TLBs are used with a queue only (`Unit::use_device_tlb`).
        Request::DeviceTlb { .. } => Ok(()),
    }
}

fn by_context_command<R: Registers>(
    unit: &Access<'_, R>,
    command: ContextCommand,
) -> Result<(), HardwareError> {
    let read = || ContextCommand::from_bits(unit.registers.read64(CCMD));
    unit.wait("an earlier context-cache invalidation", || Ok(!read().busy()))?;
    unit.registers.write64(CCMD, command.with_busy(true).into_bits());
    unit.wait("context-cache invalidation", || Ok(!read().busy()))
}

fn by_iotlb_command<R: Registers>(
    unit: &Access<'_, R>,
    iva: u32,
    command: IotlbCommand,
    block: Option<Block>,
) -> Result<(), HardwareError> {
    let iotlb = iva.saturating_add(IOTLB_FROM_IVA);
    let read = || IotlbCommand::from_bits(unit.registers.read64(iotlb));
    unit.wait("an earlier IOTLB invalidation", || Ok(!read().busy()))?;
    if let Some(block) = block {
        unit.registers.write64(iva, block.page_address().into_bits());
    }
    let command = command
        .with_busy(true)
        .with_drain_reads(unit.capability.drain_reads())
        .with_drain_writes(unit.capability.drain_writes());
    unit.registers.write64(iotlb, command.into_bits());
    unit.wait("IOTLB invalidation", || Ok(!read().busy()))?;
    // §11.4.6.2: an actual granularity of 0 says that the request was wrong and nothing was done; a wider one
    // than asked for is as good.
    match (read().actual(), command.granularity()) {
        (0, 3) => by_iotlb_command(unit, iva, command.with_busy(false).with_granularity(2), None),
        (0, 2) => by_iotlb_command(unit, iva, command.with_busy(false).with_granularity(1), None),
        (0, _) => Err(HardwareError::TimedOut { unit: unit.base, operation: "IOTLB invalidation (ignored)" }),
        _ => Ok(()),
    }
}

impl Queue {
    /// Takes two frames and switches the queue on.
    fn start<R: Registers>(unit: &Access<'_, R>, frames: &impl FrameSource) -> Result<Self, HardwareError> {
        let ring = frames.allocate().ok_or(HardwareError::NoFrames)?;
        let Some(status) = frames.allocate() else {
            frames.free(ring);
            return Err(HardwareError::NoFrames);
        };
        let mut queue = Self { ring, status, tail: 0, wait: 0 };
        let started = queue.restart(unit);
        if started.is_err() {
            // Only if it is off for certain; else hardware may still use them.
            if !unit.status().contains(Global::QUEUE) {
                frames.free(ring);
                frames.free(status);
            }
        }
        started.map(|()| queue)
    }

    /// Switches the queue off and on again, which clears it and the errors it stands still for.
    fn restart<R: Registers>(&mut self, unit: &Access<'_, R>) -> Result<(), HardwareError> {
        unit.command("invalidation queue off", Global::empty(), Global::QUEUE)?;
        let errors = unit.fault_status().intersection(FaultStatus::QUEUE_ERRORS);
        if !errors.is_empty() {
            unit.registers.write32(FSTS, errors.bits());
        }
        self.tail = 0;
        unit.registers.write64(IQT, 0);
        // Size 0: one frame; descriptors of 128 bits.
        unit.registers.write64(IQA, self.ring.address().unwrap_or(0));
        unit.command("invalidation queue on", Global::QUEUE, Global::empty())
    }

    /// Runs one request and waits for it (§6.5.2).
    fn run<R: Registers>(
        &mut self,
        unit: &Access<'_, R>,
        frames: &impl FrameSource,
        request: Request,
    ) -> Result<(), HardwareError> {
        let result = self.submit(unit, frames, request);
        match result {
            Err(HardwareError::QueueError { .. }) => {
                // The error is reported as it was found; the queue has to be usable for what the caller does
                // about it.
                self.restart(unit)?;
            }
            // What is in the queue may be done later or never. A new start forgets it, and late status writes
            // carry old numbers.
            Err(HardwareError::TimedOut { .. }) => {
                let _ = self.restart(unit);
            }
            _ => {}
        }
        result
    }

    fn submit<R: Registers>(
        &mut self,
        unit: &Access<'_, R>,
        frames: &impl FrameSource,
        request: Request,
    ) -> Result<(), HardwareError> {
        // Both were allocated by `start`; a source that does not know its own frames has none.
        let ring = frames.table(self.ring).ok_or(HardwareError::NoFrames)?;
        let status = frames.table(self.status).and_then(|table| table.0.first());
        let (Some(status), Some(status_address)) = (status, self.status.address()) else {
            return Err(HardwareError::NoFrames);
        };
        self.wait = self.wait.wrapping_add(1).max(1);
        let wait = WaitDescriptor::new().with_status_write(true).with_fence(true).with_status(self.wait);
        for (low, high) in [encode(unit.capability, request), (wait.into_bits(), status_address)] {
            let slots: &[[AtomicU64; 2]] = ring.0.as_chunks::<2>().0;
            if let Some([low_word, high_word]) = slots.get(usize::from(self.tail)) {
                low_word.store(low, Ordering::Relaxed);
                high_word.store(high, Ordering::Relaxed);
            }
            self.tail = self.tail.wrapping_add(1);
        }
        fence(Ordering::SeqCst);
        unit.registers.write64(IQT, u64::from(self.tail) << 4);
        unit.wait("queued invalidation", || {
            // Statuses are 32 bits wide, little-endian: the lower half of the word.
            if status.load(Ordering::Acquire) as u32 == self.wait {
                return Ok(true);
            }
            if unit.fault_status().intersects(FaultStatus::QUEUE_ERRORS) {
                return Err(unit.queue_error());
            }
            Ok(false)
        })
    }
}

/// A request as a descriptor.
fn encode(capability: Capability, request: Request) -> (u64, u64) {
    let iotlb = IotlbDescriptor::new()
        .with_drain_reads(capability.drain_reads())
        .with_drain_writes(capability.drain_writes());
    match request {
        Request::ContextGlobal => (ContextDescriptor::new().with_granularity(1).into_bits(), 0),
        Request::ContextDevice { domain, source } => {
            let descriptor =
                ContextDescriptor::new().with_granularity(3).with_domain_id(domain.0).with_source_id(source);
            (descriptor.into_bits(), 0)
        }
        Request::IotlbGlobal => (iotlb.with_granularity(1).into_bits(), 0),
        Request::IotlbDomain { domain } => {
            (iotlb.with_granularity(2).with_domain_id(domain.0).into_bits(), 0)
        }
        Request::IotlbPages { domain, block } => {
            (iotlb.with_granularity(3).with_domain_id(domain.0).into_bits(), block.page_address().into_bits())
        }
        Request::DeviceTlb { device, block } => {
            let descriptor = DeviceTlbDescriptor::new()
                .with_max_pending(device.max_pending & 0x1f)
                .with_source_id(device.source)
                .with_physical_function_low((device.physical_function & 0xf) as u8)
                .with_physical_function_high(device.physical_function >> 4);
            let block = block.unwrap_or(Block { first: 0, order: 52 });
            (descriptor.into_bits(), block.device_tlb_address().into_bits())
        }
    }
}
