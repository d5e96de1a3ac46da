//! A software VT-d: registers, a walker of root, context and second-stage tables, caches that keep what
//! nobody flushes, fault records, and ways to make it fail. Made from the specification, for tests of what
//! drives it.
//!
//! A [`Model`] is one unit. It does DMA when told ([`Model::dma`]) or behind each register write
//! ([`Model::probe`]), or all at once that hardware may do ([`Model::observe`]). It takes down what the
//! specification forbids ([`Model::violations`]), reserved bits in tables among it ([`Model::check_tables`]).

mod greedy;
mod queue;
mod registers;
mod reserved;
mod store;
mod translate;

use std::sync::{Mutex, MutexGuard};

use p2m::FrameSource;

pub use greedy::Way;
pub use store::{Few, Map, Maps, Store};
pub use translate::{Context, Page};

use xen_iommu::vtd::Reason;
use xen_iommu::vtd::registers::{
    Capability, ContextCommand, ExtendedCapability, FaultStatus, Global, IotlbCommand,
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
    /// The commands from the first of these numbers to before the second are never done; a command is what
    /// one write of the queue's tail adds, and they are counted from now on.
    pub stalls: Option<(u32, u32)>,
    /// At the command of this number, the queue stops with these errors.
    pub error_at: Option<(u32, FaultStatus)>,
    /// This device's own TLB does not answer.
    pub silent_device: Option<(u16, Silence)>,
    /// IOTLB invalidations by register of these granularities are ignored: 1 all, 2 a domain's, 3 pages.
    pub ignores: &'static [u8],
}

/// What the model was told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A context-cache invalidation.
    Context(ContextCommand),
    /// An IOTLB invalidation, with the address word.
    Iotlb(IotlbCommand, u64),
    /// An invalidation of a device's own TLB.
    DeviceTlb {
        /// The device.
        source: u16,
        /// PFSID.
        physical_function: u16,
        /// MIP: the most that it may have outstanding, less one.
        max_pending: u8,
        /// The address word.
        address: u64,
    },
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
pub struct Model<F, S: Store = Maps> {
    state: Mutex<State<S>>,
    frames: F,
}

/// No unit here has more fault registers, whatever it says.
const RECORDS: usize = 8;
/// So many different violations are taken down.
const VIOLATIONS: usize = 8;

/// Has nothing on the heap unless `S` has, events are recorded, or there are probes.
struct State<S: Store> {
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
    records: [(u64, u64); RECORDS],
    next_record: usize,
    contexts: S::Contexts,
    pages: S::Pages,
    device_pages: S::DevicePages,
    written_back: S::Memory,
    trouble: Trouble,
    /// Commands that the queue was given since then.
    commands: u32,
    /// One of them is never done; until the queue is switched off.
    is_stalled: bool,
    records_events: bool,
    events: Vec<Event>,
    violations: [Option<&'static str>; VIOLATIONS],
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
        Self::with_store(capability, extended, frames)
    }
}

impl<F: FrameSource, S: Store> Model<F, S> {
    /// The same with caches of its own kind.
    pub fn with_store(capability: u64, extended: u64, frames: F) -> Self {
        let capability = Capability::from_bits(capability);
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
            records: [(0, 0); RECORDS],
            next_record: 0,
            contexts: S::Contexts::default(),
            pages: S::Pages::default(),
            device_pages: S::DevicePages::default(),
            written_back: S::Memory::default(),
            trouble: Trouble::default(),
            commands: 0,
            is_stalled: false,
            records_events: true,
            events: Vec::new(),
            violations: [None; VIOLATIONS],
            probes: Vec::new(),
            probed: Vec::new(),
            polls: 0,
        };
        Self { state: Mutex::new(state), frames }
    }

    /// Records no events, which take memory.
    #[must_use]
    pub fn without_events(self) -> Self {
        self.state().records_events = false;
        self
    }

    fn state(&self) -> MutexGuard<'_, State<S>> {
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

    /// Has these errors in the fault status, as somebody before may have left them.
    pub fn leave_errors(&self, errors: FaultStatus) {
        self.state().faults |= errors;
    }

    /// Records a fault with these words in the next fault register.
    pub fn fault(&self, low: u64, high: u64) {
        self.state().keep_record(low, high);
    }

    /// Starts or ends trouble.
    pub fn trouble(&self, trouble: Trouble) {
        let mut state = self.state();
        state.trouble = trouble;
        state.commands = 0;
    }

    /// How many commands the queue was given since trouble was started or ended last.
    pub fn commands(&self) -> u32 {
        self.state().commands
    }

    /// What the model was told to do since the last call.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut self.state().events)
    }

    /// What the specification forbids and was done all the same.
    pub fn violations(&self) -> Vec<&'static str> {
        self.state().violations.into_iter().flatten().collect()
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

    /// From now on, has these requesters read these addresses behind each register write;
    /// [`take_probed`](Self::take_probed) has the results.
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
}

impl<S: Store> State<S> {
    fn event(&mut self, event: Event) {
        if self.records_events {
            self.events.push(event);
        }
    }

    fn violation(&mut self, what: &'static str) {
        if !self.violations.contains(&Some(what))
            && let Some(place) = self.violations.iter_mut().find(|place| place.is_none())
        {
            *place = Some(what);
        }
    }

    /// The fault registers that there are.
    fn records(&self) -> &[(u64, u64)] {
        &self.records[..RECORDS.min(usize::from(self.capability.fault_registers()) + 1)]
    }
}
