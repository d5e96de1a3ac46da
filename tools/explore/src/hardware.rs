//! The hardware under the code: page frames, one VT-d unit, and devices whose DMA can be switched off.
//!
//! The unit is `testkit`'s, with caches in the block that keep all they may. All devices do DMA to all probed
//! frames all the time: after each table write, register write and freed frame they are tried, and what they
//! can have reached is taken down.

mod control;
mod pool;
mod reach;
mod registers;
mod store;

use std::cell::{Cell, RefCell};

use p2m::Mfn;
use testkit::vtd::{Model, Silence, Trouble, Way};
use xen_iommu::vtd::registers::{Capability, ExtendedCapability, FaultStatus};

use crate::machine::{Board, PROBES, SOURCES, Set, members};

pub use control::Control;
pub use pool::{Pool, bit, child, frame_index, frames_of};
pub use reach::{Reach, Sight};
pub use store::{Fixed, IDS};

/// What a unit is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// It caches what is not present, too.
    pub caching: bool,
    /// It sees memory only as it was last written back.
    pub incoherent: bool,
    /// Context entries are replaced one word after the other.
    pub by_words: bool,
}

/// What fails during a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// Nothing.
    None,
    /// Every frame allocation from this one on.
    Frames(u32),
    /// This invalidation is never done; the next ones are.
    TimeOut(u32),
    /// No invalidation from this one on is done.
    TimeOuts(u32),
    /// The queue stops with an error at this invalidation.
    QueueError(u32),
    /// The DMA of the device that this is asked for cannot be switched off.
    Quiesce(u32),
    /// The device with a TLB of its own does not answer; the unit goes on waiting, or tells.
    Silence(bool),
}

/// What is wrong with what the hardware saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A walk went through a frame that is free.
    WalkedFree,
    /// A frame was freed, or used anew, that a cached translation came through.
    FreedCached,
    /// A frame was freed that was free.
    FreedTwice,
    /// A frame that is none of the machine's.
    Foreign,
    /// A device whose DMA goes on was told to resume.
    ResumedTwice,
}

/// What was seen since the call began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// By requester id: the probes that it did not reach 1:1 at some moment.
    pub lost: [u32; SOURCES],
    /// By probe: the top tables, as frames, through which some device may have reached it 1:1.
    pub through: [u128; PROBES],
    /// By probe and requester id, whose DMA was not switched off: by way of which other tables it was reached
    /// 1:1 at the same moment.
    pub beside: [[u128; SOURCES]; PROBES],
    /// Frame allocations, invalidations and devices to be switched off that were asked for.
    pub allocations: u32,
    /// See `allocations`.
    pub invalidations: u32,
    /// See `allocations`.
    pub quiesces: u32,
    /// Whether a failure came about that leaves caches or contexts in doubt.
    pub failed: bool,
    /// The first thing that was wrong.
    pub wrong: Option<Wrong>,
}

/// Frames and unit. Lives in the block, as does what it points to.
pub struct Machine {
    /// What it is made of.
    pub board: &'static Board,
    kind: Kind,
    pool: &'static Pool,
    unit: Model<&'static Pool, Fixed>,
    sources: [u16; SOURCES],
    /// By requester id.
    carriers: [Set; SOURCES],
    seen: RefCell<Seen>,
    failure: Cell<Failure>,
    watching: Cell<bool>,
    /// Devices that the policy was told of.
    present: Cell<Set>,
    /// Devices whose DMA is off.
    quiesced: Cell<Set>,
    /// An invalidation was not done, and since then not all of both caches has been dropped.
    in_doubt: Cell<bool>,
    context_dropped: Cell<bool>,
}

impl Machine {
    /// The unit is off.
    #[must_use]
    pub fn new(pool: &'static Pool, board: &'static Board, kind: Kind) -> Self {
        let capability = Capability::new()
            .with_domain_ids(2)
            .with_levels(0b110)
            .with_guest_width(47)
            .with_fault_offset(0x22)
            .with_large_pages(0b11)
            .with_page_selective(true)
            .with_max_mask(18)
            .with_caching_mode(kind.caching);
        let extended = ExtendedCapability::new()
            .with_coherent(!kind.incoherent)
            .with_queue(true)
            .with_device_tlb(board.devices.iter().any(|device| device.ats))
            .with_iotlb_offset(0xf);
        let unit = Model::with_store(capability.into_bits(), extended.into_bits(), pool).without_events();
        let (mut sources, mut carriers) = ([0; SOURCES], [0; SOURCES]);
        for (index, source) in board.sources.iter().enumerate() {
            sources[index] = source.source_id();
            carriers[index] = board.carriers(index);
        }
        Self {
            board,
            kind,
            pool,
            unit,
            sources,
            carriers,
            seen: RefCell::default(),
            failure: Cell::new(Failure::None),
            watching: Cell::new(false),
            present: Cell::new(0),
            quiesced: Cell::new(0),
            in_doubt: Cell::new(false),
            context_dropped: Cell::new(false),
        }
    }

    /// Its frames.
    #[must_use]
    pub fn pool(&self) -> &'static Pool {
        self.pool
    }

    /// Begins a call in which this fails.
    pub fn begin(&self, failure: Failure) {
        *self.seen.borrow_mut() = Seen::default();
        self.failure.set(failure);
        let error = FaultStatus::QUEUE_ERROR;
        let none = Trouble::default();
        self.unit.trouble(match failure {
            Failure::TimeOut(at) => Trouble { stalls: Some((at, at + 1)), ..none },
            Failure::TimeOuts(from) => Trouble { stalls: Some((from, u32::MAX)), ..none },
            Failure::QueueError(at) => Trouble { error_at: Some((at, error)), ..none },
            Failure::Silence(told) => {
                let silence = if told { Silence::Told } else { Silence::Waits };
                let device = self.board.devices.iter().find(|device| device.ats);
                let silent_device = device.map(|device| (device.sbdf.source_id(), silence));
                Trouble { silent_device, ..none }
            }
            _ => none,
        });
        self.watching.set(true);
    }

    /// Whether the call that is under way has not asked for anything and has not written to a table.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let seen = self.seen.borrow();
        let asked = seen.allocations + seen.quiesces + self.unit.commands();
        asked == 0 && seen.wrong.is_none() && !self.pool.is_changed()
    }

    /// Ends a call that did nothing.
    pub fn end_quietly(&self) {
        self.failure.set(Failure::None);
        self.unit.trouble(Trouble::default());
        self.watching.set(false);
    }

    /// Ends it: nothing fails any more.
    pub fn end(&self) -> Seen {
        self.failure.set(Failure::None);
        self.seen.borrow_mut().invalidations = self.unit.commands();
        self.unit.trouble(Trouble::default());
        self.observe();
        self.watching.set(false);
        *self.seen.borrow()
    }

    /// What the specification forbids and was done all the same.
    #[must_use]
    pub fn violation(&self) -> Option<&'static str> {
        self.unit.violations().first().copied()
    }

    /// Whether something cached may be wrong because an invalidation failed.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.in_doubt.get()
    }

    /// The devices whose DMA is off.
    #[must_use]
    pub fn quiesced(&self) -> Set {
        self.quiesced.get()
    }

    /// The devices that the policy knows. Bridges among them do no DMA of their own.
    pub fn set_present(&self, devices: Set) {
        let bridges = self.board.devices.iter().enumerate().filter(|(_, device)| device.is_bridge());
        self.present.set(bridges.fold(devices, |devices, (bridge, _)| devices & !(1 << bridge)));
    }

    /// Whether DMA may come from a requester id: from a device that is there. What was removed is taken as
    /// gone.
    #[must_use]
    pub fn is_live(&self, source: usize) -> bool {
        self.carriers[source] & self.present.get() & !self.quiesced.get() != 0
    }

    fn wrong(&self, wrong: Wrong) {
        let mut seen = self.seen.borrow_mut();
        seen.wrong = seen.wrong.or(Some(wrong));
    }

    fn sources(&self) -> &[u16] {
        &self.sources[..self.board.sources.len()]
    }

    /// Everything does DMA.
    fn observe(&self) {
        if !self.watching.get() {
            return;
        }
        let board = self.board;
        let mut seen = self.seen.borrow_mut();
        let mut roots = [[0_u128; SOURCES]; PROBES];
        let (mut index, mut probe) = (0, 0);
        self.unit.observe(self.sources(), board.probes, &mut |source, page, way: Option<Way>| {
            // They come in order.
            if self.sources[index] != source {
                index = self.sources.iter().position(|id| *id == source).unwrap_or(0);
            }
            if board.probes[probe] != page {
                probe = board.probes.iter().position(|probe| *probe == page).unwrap_or(0);
            }
            let source = index;
            let Some(way) = way else {
                seen.lost[source] |= 1 << probe;
                return;
            };
            let is_own = |mfn: Option<Mfn>| mfn == Some(Mfn::new(page));
            let fresh = is_own(way.fresh.both_ways());
            let kept = way.kept.map(|kept| is_own(kept.both_ways()));
            if !fresh || kept == Some(false) {
                seen.lost[source] |= 1 << probe;
            }
            // What was kept came by the table that it was read through.
            let kept = way.kept.filter(|_| kept == Some(true)).and_then(|kept| kept.tables().next());
            let fresh = fresh.then(|| Mfn::new(way.entry.low.table()));
            for root in fresh.into_iter().chain(kept).filter_map(|root| self.pool.index(root.raw())) {
                seen.through[probe] |= bit(root);
                roots[probe][source] |= bit(root);
            }
        });
        for (probe, roots) in roots.iter().enumerate() {
            let all = roots.iter().fold(0, |all, roots| all | roots);
            for source in (0..SOURCES).filter(|source| roots[*source] != 0 && all != roots[*source]) {
                if self.is_live(source) {
                    seen.beside[probe][source] |= all & !roots[source];
                }
            }
        }
        if self.pool.take_walked_free() {
            seen.wrong = seen.wrong.or(Some(Wrong::WalkedFree));
        }
        for device in board.devices.iter().filter(|device| device.ats) {
            for page in board.probes {
                let _ = self.unit.ats_request(device.sbdf.source_id(), page << 12);
            }
        }
    }

    /// Frames of the root table and the context tables.
    #[must_use]
    pub fn unit_frames(&self) -> u128 {
        let Some(root) = self.pool.index(self.unit.root() >> 12) else { return 0 };
        let mut frames = bit(root);
        for source in self.board.sources {
            let entry = self.pool.word(root, usize::from(source.bus()) * 2);
            if entry & 1 != 0
                && let Some(table) = self.pool.index(entry >> 12)
            {
                frames |= bit(table);
            }
        }
        frames
    }

    /// Whether all who carry a requester id have their DMA off, by the policy's word.
    pub fn carriers(&self, source: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        members(self.carriers[source])
    }
}
