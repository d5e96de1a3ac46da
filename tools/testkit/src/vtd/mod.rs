//! A software VT-d: registers, a walker of root, context and second-stage tables, caches that keep what nobody flushes, fault records, and ways to
//! make it fail. Made from the specification, for tests of what drives it.

mod translate;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use p2m::{FrameSource, Mfn};

use self::translate::{CachedContext, CachedPage};
use xen_iommu::vtd::Reason;
use xen_iommu::vtd::registers::{
    CAP, CCMD, Capability, ContextCommand, ECAP, ExtendedCapability, FEADDR, FECTL, FEDATA, FEUADDR, FSTS,
    FaultRecord, FaultStatus, GCMD, GSTS, Global, IQA, IQH, IQT, IotlbCommand, PMEN, RTADDR, Registers, VER,
};

/// What a unit does about a device whose own TLB does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It goes on waiting.
    Waits,
    /// It has waited, and tells of the error.
    Told,
}

/// What the model is to get wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Global commands are not carried out.
    pub global: bool,
    /// Context-cache invalidations by register do not end.
    pub context: bool,
    /// IOTLB invalidations by register do not end.
    pub iotlb: bool,
    /// The queue stands still.
    pub queue: bool,
    /// So many descriptors are still carried out before one fails with these errors.
    pub queue_error: Option<(u32, FaultStatus)>,
    /// This device's own TLB does not answer.
    pub silent_device: Option<(u16, Silence)>,
    /// Page-selective IOTLB invalidations are ignored.
    pub ignores_pages: bool,
}

/// What the model was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A context-cache invalidation.
    Context(ContextCommand),
    /// An IOTLB invalidation, with the address word.
    Iotlb(IotlbCommand, u64),
    /// An invalidation of the TLB of this device, with the address word.
    DeviceTlb(u16, u64),
    /// A write buffer flush.
    WriteBuffer,
    /// Translation was switched on or off.
    Translation(bool),
}

/// What became of a probing read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// The requester.
    pub source: u16,
    /// The address it read.
    pub address: u64,
    /// Where that was in memory, or why it was blocked.
    pub result: Result<u64, Reason>,
}

/// One unit.
pub struct Model<F> {
    state: Mutex<State>,
    frames: F,
}

struct State {
    capability: Capability,
    extended: ExtendedCapability,
    version: u32,
    status: Global,
    root_register: u64,
    root: u64,
    context_command: ContextCommand,
    invalidate_address: u64,
    iotlb_command: IotlbCommand,
    faults: FaultStatus,
    event: [u32; 4],
    protected: u32,
    head: u64,
    tail: u64,
    queue: u64,
    records: Vec<(u64, u64)>,
    next_record: usize,
    contexts: BTreeMap<u16, CachedContext>,
    iotlb: BTreeMap<(u16, u64), CachedPage>,
    device_tlbs: BTreeMap<(u16, u64), u64>,
    /// The words of memory that the caches have written back, by address; for a unit that does not snoop.
    written_back: BTreeMap<usize, u64>,
    trouble: Trouble,
    events: Vec<Event>,
    violations: Vec<String>,
    probes: Vec<(u16, u64)>,
    probed: Vec<Probed>,
    polls: u64,
}

/// QEMU's CAP with 39-bit tables: 2M and 1G pages, 64K domains, one fault register at 0x220.
pub const QEMU_CAP: u64 = 0x00d2_008c_2226_0206;
/// An ECAP with queued invalidation, device-TLBs, coherent walks, and the IOTLB registers at 0xf0.
pub const MODEL_ECAP: u64 = 0xf07;

impl<F: FrameSource> Model<F> {
    /// A unit with these capabilities that walks tables in `frames`.
    pub fn new(capability: u64, extended: u64, frames: F) -> Self {
        let capability = Capability::from_bits(capability);
        let records = vec![(0, 0); usize::from(capability.fault_registers()) + 1];
        let state = State {
            capability,
            extended: ExtendedCapability::from_bits(extended),
            version: 0x10,
            status: Global::empty(),
            root_register: 0,
            root: 0,
            context_command: ContextCommand::new(),
            invalidate_address: 0,
            iotlb_command: IotlbCommand::new(),
            faults: FaultStatus::empty(),
            event: [1 << 31, 0, 0, 0],
            protected: 0,
            head: 0,
            tail: 0,
            queue: 0,
            records,
            next_record: 0,
            contexts: BTreeMap::new(),
            iotlb: BTreeMap::new(),
            device_tlbs: BTreeMap::new(),
            written_back: BTreeMap::new(),
            trouble: Trouble::default(),
            events: Vec::new(),
            violations: Vec::new(),
            probes: Vec::new(),
            probed: Vec::new(),
            polls: 0,
        };
        Self { state: Mutex::new(state), frames }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Sets the version register.
    pub fn set_version(&self, version: u32) {
        self.state().version = version;
    }

    /// Sets a state as a boot loader may have left it: the global status, and PMEN.
    pub fn leave_on(&self, status: Global, protected: u32) {
        let mut state = self.state();
        state.status |= status;
        state.protected = protected;
    }

    /// Starts or ends trouble.
    pub fn trouble(&self, trouble: Trouble) {
        self.state().trouble = trouble;
    }

    /// What the model was told to do since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    /// What the specification forbids and was done all the same.
    pub fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    /// How often somebody waited.
    pub fn polls(&self) -> u64 {
        self.state().polls
    }

    /// The root table's address as it was taken over.
    pub fn root(&self) -> u64 {
        self.state().root
    }

    /// The fault event's control, data, address and upper address.
    pub fn fault_event(&self) -> [u32; 4] {
        self.state().event
    }

    /// PMEN.
    pub fn protected(&self) -> u32 {
        self.state().protected
    }

    /// From now on, has these requesters read these addresses behind each register write; [`take_probed`](Self::take_probed) has the results.
    pub fn probe(&self, probes: &[(u16, u64)]) {
        self.state().probes = probes.to_vec();
    }

    /// What the probing came to.
    pub fn take_probed(&self) -> Vec<Probed> {
        std::mem::take(&mut self.state().probed)
    }

    fn probe_now(&self) {
        let probes = self.state().probes.clone();
        for (source, address) in probes {
            let result = self.dma(source, address, false);
            self.state().probed.push(Probed { source, address, result });
        }
    }

    fn command(&self, state: &mut State, command: Global) {
        if state.trouble.global {
            return;
        }
        let once = command & Global::ONE_SHOT;
        let was_on = state.status.contains(Global::TRANSLATION);
        let kept = state.status & Global::ONE_SHOT;
        if command.contains(Global::QUEUE) && !state.status.contains(Global::QUEUE) && state.tail != 0 {
            state.violations.push("the queue is switched on with its tail not at 0".into());
        }
        state.status = kept | command.difference(Global::ONE_SHOT);
        if once.contains(Global::ROOT_TABLE) {
            state.root = state.root_register;
            state.status |= Global::ROOT_TABLE;
        }
        if once.contains(Global::WRITE_BUFFER_FLUSH) {
            state.events.push(Event::WriteBuffer);
        }
        if !state.status.contains(Global::QUEUE) {
            state.head = 0;
        }
        let is_on = state.status.contains(Global::TRANSLATION);
        if was_on != is_on {
            state.events.push(Event::Translation(is_on));
            if is_on && !state.status.contains(Global::ROOT_TABLE) {
                state.violations.push("translation on without a root table".into());
            }
        }
    }

    fn by_register(state: &mut State, what: &str) -> bool {
        if state.status.contains(Global::QUEUE) {
            state.violations.push(format!("{what} by register beside the queue"));
        }
        if state.version >> 4 & 0xf >= 6 {
            state.violations.push(format!("{what} by register in version 6"));
            return false;
        }
        true
    }

    fn context_command(state: &mut State, command: ContextCommand) {
        if state.context_command.busy() {
            state.violations.push("a context command while another goes on".into());
        }
        state.context_command = command;
        if command.busy() && Self::by_register(state, "context invalidation") && !state.trouble.context {
            state.invalidate_contexts(command);
            state.events.push(Event::Context(command.with_busy(false)));
            state.context_command = command.with_busy(false).with_actual(command.granularity());
        }
    }

    fn iotlb_command(state: &mut State, command: IotlbCommand) {
        if state.iotlb_command.busy() {
            state.violations.push("an IOTLB command while another goes on".into());
        }
        state.iotlb_command = command;
        if !command.busy() || !Self::by_register(state, "IOTLB invalidation") || state.trouble.iotlb {
            return;
        }
        let address = state.invalidate_address;
        let ignored = command.granularity() == 3 && state.trouble.ignores_pages;
        let done = !ignored && state.invalidate_iotlb(command, address);
        if done {
            state.events.push(Event::Iotlb(command.with_busy(false), address));
        }
        let actual = if done { command.granularity() } else { 0 };
        state.iotlb_command = command.with_busy(false).with_actual(actual);
    }

    fn run_queue(&self, state: &mut State) {
        while state.status.contains(Global::QUEUE)
            && !state.trouble.queue
            && !state.faults.intersects(FaultStatus::QUEUE_ERRORS)
            && state.head != state.tail
        {
            match &mut state.trouble.queue_error {
                Some((0, errors)) => {
                    let errors = *errors;
                    state.trouble.queue_error = None;
                    state.faults |= errors;
                    return;
                }
                Some((left, _)) => *left -= 1,
                None => {}
            }
            let index = (state.head >> 4) as usize * 2;
            let ring = self.frames.table(Mfn::containing(state.queue));
            let words = ring
                .map(|ring| [&ring.0[index], &ring.0[index + 1]].map(|word| word.load(Ordering::Acquire)));
            if let Some([low, _]) = words
                && low & 0xf == 3
                && let Some((device, silence)) = state.trouble.silent_device
                && device == (low >> 32) as u16
            {
                if silence == Silence::Told {
                    state.faults |= FaultStatus::TIME_OUT_ERROR;
                }
                return;
            }
            let done = words.is_some_and(|[low, high]| self.run_descriptor(state, low, high));
            if !done {
                state.faults |= FaultStatus::QUEUE_ERROR;
                return;
            }
            state.head = (state.head + 16) & 0xfff;
        }
    }

    fn run_descriptor(&self, state: &mut State, low: u64, high: u64) -> bool {
        match low & 0xf {
            1 => {
                let command = ContextCommand::new()
                    .with_granularity((low >> 4 & 3) as u8)
                    .with_domain_id((low >> 16) as u16)
                    .with_source_id((low >> 32) as u16)
                    .with_function_mask((low >> 48 & 3) as u8);
                state.invalidate_contexts(command);
                state.events.push(Event::Context(command));
                low >> 50 == 0 && low & 0xffc0 == 0 && command.granularity() != 0 && high == 0
            }
            2 => {
                let command = IotlbCommand::new()
                    .with_granularity((low >> 4 & 3) as u8)
                    .with_drain_writes(low & 1 << 6 != 0)
                    .with_drain_reads(low & 1 << 7 != 0)
                    .with_domain_id((low >> 16) as u16);
                let right =
                    low >> 32 == 0 && low & 0xff00 == 0 && command.granularity() != 0 && high & 0xf80 == 0;
                state.events.push(Event::Iotlb(command, high));
                right && state.invalidate_iotlb(command, high)
            }
            3 => {
                let source = (low >> 32) as u16;
                state.invalidate_device_tlb(source, high);
                state.events.push(Event::DeviceTlb(source, high));
                low & 0xff0 == 0 && high & 0xffe == 0
            }
            5 => {
                if low & 1 << 5 == 0 {
                    return true;
                }
                let Some(table) = self.frames.table(Mfn::containing(high)) else { return false };
                let word = &table.0[(high >> 3 & 511) as usize];
                let old = word.load(Ordering::Acquire);
                let status = low >> 32;
                let new = if high & 4 == 0 {
                    old & !0xffff_ffff | status
                } else {
                    old & 0xffff_ffff | status << 32
                };
                word.store(new, Ordering::Release);
                true
            }
            _ => false,
        }
    }
}

impl State {
    fn fault_base(&self) -> u32 {
        u32::from(self.capability.fault_offset()) << 4
    }

    fn iotlb_base(&self) -> u32 {
        u32::from(self.extended.iotlb_offset()) << 4
    }

    /// The record and the offset in it.
    fn record_at(&self, offset: u32) -> Option<(usize, u32)> {
        let inside = offset.checked_sub(self.fault_base())?;
        let index = (inside >> 4) as usize;
        (index < self.records.len()).then_some((index, inside & 0xf))
    }

    fn fault_status(&self) -> u32 {
        let mut status = self.faults;
        if let Some(oldest) = self.oldest() {
            status |= FaultStatus::PENDING;
            return status.bits() | (oldest as u32) << 8;
        }
        status.bits()
    }
}

impl<F: FrameSource> Registers for &Model<F> {
    fn read32(&self, offset: u32) -> u32 {
        let state = self.state();
        match offset {
            VER => state.version,
            GSTS => state.status.bits(),
            FSTS => state.fault_status(),
            FECTL => state.event[0],
            FEDATA => state.event[1],
            FEADDR => state.event[2],
            FEUADDR => state.event[3],
            PMEN => state.protected,
            _ => panic!("a 32-bit read at {offset:#x}"),
        }
    }

    fn read64(&self, offset: u32) -> u64 {
        let state = self.state();
        match offset {
            CAP => state.capability.into_bits(),
            ECAP => state.extended.into_bits(),
            CCMD => state.context_command.into_bits(),
            IQH => state.head,
            IQT => state.tail,
            IQA => state.queue,
            _ if offset == state.iotlb_base() + 8 => state.iotlb_command.into_bits(),
            _ => match state.record_at(offset) {
                Some((index, 0)) => state.records[index].0,
                Some((index, 8)) => state.records[index].1,
                _ => panic!("a 64-bit read at {offset:#x}"),
            },
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        let mut state = self.state();
        match offset {
            GCMD => self.command(&mut state, Global::from_bits_retain(value)),
            FSTS => {
                let cleared = FaultStatus::QUEUE_ERRORS | FaultStatus::OVERFLOW;
                state.faults -= FaultStatus::from_bits_truncate(value) & cleared;
                self.run_queue(&mut state);
            }
            FECTL => state.event[0] = value,
            FEDATA => state.event[1] = value,
            FEADDR => state.event[2] = value,
            FEUADDR => state.event[3] = value,
            // PRS follows EPM.
            PMEN => state.protected = value & 1 << 31 | value >> 31,
            _ => match state.record_at(offset) {
                Some((index, 12)) if value >> 31 != 0 => {
                    let record = FaultRecord::from_bits(state.records[index].1).with_fault(false);
                    state.records[index].1 = record.into_bits();
                }
                _ => panic!("a 32-bit write at {offset:#x}"),
            },
        }
        drop(state);
        self.probe_now();
    }

    fn write64(&self, offset: u32, value: u64) {
        let mut state = self.state();
        match offset {
            RTADDR => state.root_register = value,
            CCMD => Model::<F>::context_command(&mut state, ContextCommand::from_bits(value)),
            IQT => {
                state.tail = value & 0xff0;
                self.run_queue(&mut state);
            }
            IQA => {
                if state.status.contains(Global::QUEUE) {
                    state.violations.push("the queue's address changed while it is on".into());
                }
                state.queue = value;
            }
            _ if offset == state.iotlb_base() => state.invalidate_address = value,
            _ if offset == state.iotlb_base() + 8 => {
                Model::<F>::iotlb_command(&mut state, IotlbCommand::from_bits(value));
            }
            _ => panic!("a 64-bit write at {offset:#x}"),
        }
        drop(state);
        self.probe_now();
    }

    fn relax(&self) {
        self.state().polls += 1;
    }

    fn write_back(&self, entries: &[AtomicU64]) {
        let mut state = self.state();
        for entry in entries {
            let value = entry.load(Ordering::Acquire);
            state.written_back.insert(std::ptr::from_ref(entry).addr(), value);
        }
    }
}
