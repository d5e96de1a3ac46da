//! The hardware under the code: page frames, and one VT-d unit that walks the real root, context and second-stage tables and caches as much as it may.
//! All devices do DMA to all probed frames all the time: after each table write, register write and freed frame they are tried, and what they can have
//! reached is taken down.
//!
//! The unit here is small, keeps no memory outside the block, and remembers which frames led to a cached translation; `testkit::vtd` is
//! larger, and what the driver's own tests use.

mod reach;
mod registers;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, TableFrame};
use xen_iommu::vtd::registers::{FaultStatus, Global};

use crate::machine::{Layout, REQUESTERS, source};
use crate::memory::{Block, FRAMES, bits};

pub use reach::Reach;

/// The machine frame number of the block's first frame.
const FIRST: u64 = 0x10_0000;
/// Domain ids, 0 included: three domains and four quarantines.
pub const IDS: usize = 8;
/// No layout has more probes.
const PROBES: usize = 8;

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
}

/// What is wrong with what the hardware saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// A walk went through a frame that is free.
    WalkedFree,
    /// A frame was freed that a cached translation came through.
    FreedCached,
    /// A frame was freed that was free.
    FreedTwice,
    /// A descriptor, a register or an entry that the specification does not allow.
    Malformed,
}

/// A context entry as hardware reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// Both words.
    pub words: [u64; 2],
}

impl Context {
    /// Whether it is present.
    #[must_use]
    pub fn present(self) -> bool {
        self.words[0] & 1 != 0
    }

    /// The second-stage table's frame, as an index.
    #[must_use]
    pub fn root(self) -> Option<usize> {
        index(self.words[0] >> 12)
    }

    /// Its levels.
    #[must_use]
    pub fn levels(self) -> u32 {
        (self.words[1] & 7) as u32 + 2
    }

    /// The domain id.
    #[must_use]
    pub fn id(self) -> usize {
        (self.words[1] >> 8 & 0xffff) as usize
    }
}

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The machine frame, where both reads and writes are allowed.
    pub mfn: Option<u64>,
    /// The table frames on the way.
    through: u128,
}

/// The unit's registers and caches.
#[derive(Default)]
struct Unit {
    status: u32,
    faults: u32,
    root_register: u64,
    root: u64,
    head: u64,
    tail: u64,
    queue: u64,
    contexts: [Option<Context>; REQUESTERS],
    /// By domain id and probe. Nothing that is not present is cached.
    translations: [[Option<Found>; PROBES]; IDS],
    /// An invalidation was not done, and since then not all of both caches has been dropped.
    in_doubt: bool,
    context_dropped: bool,
}

/// What was seen since the call began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// By requester: the probes that it did not reach 1:1 at some moment.
    pub lost: [u32; REQUESTERS],
    /// By probe: the top tables, as frames, through which some device may have reached it 1:1.
    pub through: [u128; PROBES],
    /// Frame allocations and invalidations that were asked for.
    pub allocations: u32,
    /// See `allocations`.
    pub invalidations: u32,
    /// Whether a failure came about.
    pub failed: bool,
    /// The first thing that was wrong.
    pub wrong: Option<Wrong>,
}

/// Frames and unit. Lives in the block, as does what it points to.
pub struct Machine {
    frames: &'static [TableFrame; FRAMES],
    layout: Layout,
    allocated: Cell<u128>,
    unit: RefCell<Unit>,
    seen: RefCell<Seen>,
    failure: Cell<Failure>,
    watching: Cell<bool>,
    /// Frames that were looked at through the frame source, and may have been written, since [`take_touched`](Self::take_touched).
    touched: Cell<u128>,
    /// Frames whose content has changed since [`take_changed`](Self::take_changed).
    changed: Cell<u128>,
}

fn index(frame: u64) -> Option<usize> {
    usize::try_from(frame.checked_sub(FIRST)?).ok().filter(|index| *index < FRAMES)
}

/// A frame's number in its bit.
#[must_use]
pub fn bit(index: usize) -> u128 {
    1 << index
}

impl Machine {
    /// All frames free, the unit off.
    #[must_use]
    pub fn new(block: &Block, layout: Layout) -> Self {
        Self {
            frames: block.frames(),
            layout,
            allocated: Cell::new(0),
            unit: RefCell::default(),
            seen: RefCell::default(),
            failure: Cell::new(Failure::None),
            watching: Cell::new(false),
            touched: Cell::new(0),
            changed: Cell::new(0),
        }
    }

    /// Frames that are not free.
    #[must_use]
    pub fn allocated(&self) -> u128 {
        self.allocated.get()
    }

    /// Begins a call in which this fails.
    pub fn begin(&self, failure: Failure) {
        *self.seen.borrow_mut() = Seen::default();
        self.failure.set(failure);
        self.watching.set(true);
    }

    /// Whether the call that is under way has not asked for frames or invalidations and has not written to a table.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let seen = self.seen.borrow();
        seen.allocations == 0 && seen.invalidations == 0 && seen.wrong.is_none() && self.changed.get() == 0
    }

    /// Ends a call that was refused at once.
    pub fn end_quietly(&self) {
        self.failure.set(Failure::None);
        self.watching.set(false);
    }

    /// Ends it: nothing fails any more.
    pub fn end(&self) -> Seen {
        self.failure.set(Failure::None);
        self.observe();
        self.watching.set(false);
        *self.seen.borrow()
    }

    /// The frames that may have been written since the last time.
    pub fn take_touched(&self) -> u128 {
        self.touched.take()
    }

    /// The frames that hold something else than the last time.
    pub fn take_changed(&self) -> u128 {
        self.changed.take()
    }

    /// Whether something cached may be wrong because an invalidation failed.
    #[must_use]
    pub fn in_doubt(&self) -> bool {
        self.unit.borrow().in_doubt
    }

    /// A word of a frame.
    #[must_use]
    pub fn word(&self, frame: usize, number: usize) -> u64 {
        self.frames[frame].0[number].load(Ordering::Relaxed)
    }

    /// The words of a frame.
    #[must_use]
    pub fn words(&self, frame: usize) -> &'static [AtomicU64; 512] {
        &self.frames[frame].0
    }

    /// The context entry of a requester, as it is in memory.
    #[must_use]
    pub fn context(&self, requester: usize) -> Context {
        let unit = self.unit.borrow();
        self.read_context(&unit, requester)
    }

    fn read_context(&self, unit: &Unit, requester: usize) -> Context {
        let source = source(requester);
        let Some(root) = index(unit.root >> 12) else { return Context::default() };
        let entry = self.word(root, usize::from(source.bus()) * 2);
        let Some(table) = index(entry >> 12).filter(|_| entry & 1 != 0) else { return Context::default() };
        let at = usize::from(source.devfn()) * 2;
        Context { words: [self.word(table, at), self.word(table, at + 1)] }
    }

    /// Frames of the root table, the context tables and the queue.
    #[must_use]
    pub fn unit_frames(&self) -> u128 {
        let unit = self.unit.borrow();
        let root = index(unit.root >> 12);
        let tables = root.into_iter().flat_map(|root| {
            (0..REQUESTERS).filter_map(move |requester| {
                let entry = self.word(root, usize::from(source(requester).bus()) * 2);
                index(entry >> 12).filter(|_| entry & 1 != 0)
            })
        });
        root.into_iter().chain(tables).fold(0, |frames, index| frames | bit(index))
    }

    /// Where a table leads to; `None` in place of the frame also where reads or writes are not allowed.
    #[must_use]
    pub fn walk(&self, root: usize, levels: u32, gfn: u64) -> Found {
        let mut found = Found::default();
        let mut frame = root;
        for level in (0..levels).rev() {
            found.through |= bit(frame);
            let entry = self.word(frame, (gfn >> (9 * level) & 511) as usize);
            if entry & 3 != 3 {
                return found;
            }
            let target = entry >> 12 & 0xff_ffff_ffff;
            if level == 0 || entry & 1 << 7 != 0 {
                found.mfn = Some(target + (gfn & ((1 << (9 * level)) - 1)));
                return found;
            }
            let Some(next) = index(target) else { return found };
            frame = next;
        }
        found
    }

    /// The same, from the lowest table on that the last walk went through, where that serves.
    fn walk_on(&self, root: usize, levels: u32, gfn: u64, last: &mut Option<(u64, usize, u128)>) -> Found {
        if let Some((first, frame, through)) = *last
            && first == gfn >> 9
        {
            let entry = self.word(frame, (gfn & 511) as usize);
            let mfn = (entry & 3 == 3).then_some(entry >> 12 & 0xff_ffff_ffff);
            return Found { mfn, through };
        }
        let mut frame = root;
        let mut through = 0;
        for level in (0..levels).rev() {
            through |= bit(frame);
            if level == 0 {
                *last = Some((gfn >> 9, frame, through));
                return self.walk_on(root, levels, gfn, last);
            }
            let entry = self.word(frame, (gfn >> (9 * level) & 511) as usize);
            let target = entry >> 12 & 0xff_ffff_ffff;
            match index(target) {
                Some(next) if entry & 3 == 3 && entry & 1 << 7 == 0 => frame = next,
                _ => {
                    let large = entry & 3 == 3 && entry & 1 << 7 != 0;
                    let mfn = large.then(|| target + (gfn & ((1 << (9 * level)) - 1)));
                    return Found { mfn, through };
                }
            }
        }
        Found { mfn: None, through }
    }

    fn wrong(&self, wrong: Wrong) {
        let mut seen = self.seen.borrow_mut();
        seen.wrong = seen.wrong.or(Some(wrong));
    }

    /// Everything does DMA.
    fn observe(&self) {
        if !self.watching.get() {
            return;
        }
        let mut seen = self.seen.borrow_mut();
        let mut unit = self.unit.borrow_mut();
        for requester in 0..REQUESTERS {
            let now = self.read_context(&unit, requester);
            if unit.contexts[requester].is_none() && now.present() {
                unit.contexts[requester] = Some(now);
            }
            let cached = unit.contexts[requester].filter(|cached| *cached != now);
            if !now.present() {
                seen.lost[requester] = u32::MAX;
            }
            for context in [Some(now).filter(|now| now.present()), cached].into_iter().flatten() {
                let Some(root) = context.root().filter(|_| context.id() < IDS) else {
                    seen.wrong = seen.wrong.or(Some(Wrong::Malformed));
                    continue;
                };
                let mut last: Option<(u64, usize, u128)> = None;
                for (probe, gfn) in self.layout.probes().iter().enumerate() {
                    let found = self.walk_on(root, context.levels(), *gfn, &mut last);
                    if found.through & !self.allocated.get() != 0 {
                        seen.wrong = seen.wrong.or(Some(Wrong::WalkedFree));
                    }
                    if found.mfn.is_some() {
                        unit.translations[context.id()][probe].get_or_insert(found);
                    }
                    let kept = unit.translations[context.id()][probe].and_then(|kept| kept.mfn);
                    if found.mfn != Some(*gfn) || kept != Some(*gfn) {
                        seen.lost[requester] |= 1 << probe;
                    }
                    if found.mfn == Some(*gfn) || kept == Some(*gfn) {
                        seen.through[probe] |= bit(root);
                    }
                }
            }
        }
    }

    /// By requester and probe: what it may reach now, by what is in memory and what is cached.
    #[must_use]
    pub fn reach(&self, requester: usize, probe: usize) -> Reach {
        let unit = self.unit.borrow();
        let now = self.read_context(&unit, requester);
        let gfn = self.layout.probes()[probe];
        let fresh = |context: Context| {
            let root = context.root().filter(|_| context.present());
            root.and_then(|root| self.walk(root, context.levels(), gfn).mfn)
        };
        let kept = |context: Context| {
            let kept = unit.translations.get(context.id()).and_then(|id| id[probe]);
            kept.filter(|_| context.present()).and_then(|kept| kept.mfn)
        };
        let cached = unit.contexts[requester].unwrap_or(now);
        Reach::new(fresh(now), [fresh(cached), kept(cached), kept(now)])
    }

    /// The context entry that is cached, if it is not the one in memory.
    #[must_use]
    pub fn stale_context(&self, requester: usize) -> Option<Context> {
        let unit = self.unit.borrow();
        unit.contexts[requester].filter(|cached| *cached != self.read_context(&unit, requester))
    }

    /// Whether caches may have changed.
    fn run_queue(&self) -> bool {
        let mut unit = self.unit.borrow_mut();
        let mut seen = self.seen.borrow_mut();
        if unit.head == unit.tail || unit.status & Global::QUEUE.bits() == 0 {
            return false;
        }
        let number = seen.invalidations;
        seen.invalidations += 1;
        let failure = self.failure.get();
        let stuck = match failure {
            Failure::TimeOut(at) => number == at,
            Failure::TimeOuts(from) => number >= from,
            _ => false,
        };
        if stuck || failure == Failure::QueueError(number) {
            unit.in_doubt = true;
            unit.context_dropped = false;
            seen.failed = true;
            if !stuck {
                unit.faults |= FaultStatus::QUEUE_ERROR.bits();
            }
            return false;
        }
        let Some(ring) = index(unit.queue >> 12) else {
            seen.wrong = seen.wrong.or(Some(Wrong::Malformed));
            return false;
        };
        while unit.head != unit.tail {
            let at = (unit.head >> 3) as usize;
            let (low, high) = (self.word(ring, at), self.word(ring, at + 1));
            if !self.run_descriptor(&mut unit, low, high) {
                seen.wrong = seen.wrong.or(Some(Wrong::Malformed));
            }
            unit.head = (unit.head + 16) & 0xfff;
        }
        true
    }

    /// Whether it was a right one (VT-d 6.5.2).
    fn run_descriptor(&self, unit: &mut Unit, low: u64, high: u64) -> bool {
        let (granularity, id) = (low >> 4 & 3, (low >> 16 & 0xffff) as usize);
        match low & 0xf {
            1 => {
                let only = (low >> 32 & 0xffff) as u16;
                for (requester, place) in unit.contexts.iter_mut().enumerate() {
                    let hit = place.is_some_and(|cached| match granularity {
                        1 => true,
                        2 => cached.id() == id,
                        _ => cached.id() == id && source(requester).source_id() == only,
                    });
                    if hit {
                        *place = None;
                    }
                }
                unit.context_dropped |= granularity == 1;
                granularity != 0 && high == 0
            }
            2 => {
                let (order, first) = (high & 0x3f, high >> 12);
                for (its, row) in unit.translations.iter_mut().enumerate() {
                    if granularity != 1 && its != id {
                        continue;
                    }
                    for (place, gfn) in row.iter_mut().zip(self.layout.probes()) {
                        if granularity != 3 || gfn >> order == first >> order {
                            *place = None;
                        }
                    }
                }
                if granularity == 1 && unit.context_dropped {
                    unit.in_doubt = false;
                }
                granularity != 0 && (granularity == 3 || high == 0)
            }
            5 => {
                let Some(frame) = index(high >> 12) else { return false };
                let word = &self.frames[frame].0[(high >> 3 & 511) as usize];
                let status = low >> 32;
                word.store(word.load(Ordering::Relaxed) & !0xffff_ffff | status, Ordering::Release);
                true
            }
            _ => false,
        }
    }
}

// SAFETY: the lowest free frame is handed out, its bit set until it is freed, and it is zeroed; frames stay where they are.
#[allow(unsafe_code, reason = "the frame source's promise")]
unsafe impl FrameSource for &'static Machine {
    fn allocate(&self) -> Option<Mfn> {
        let number = {
            let mut seen = self.seen.borrow_mut();
            seen.allocations += 1;
            seen.allocations - 1
        };
        if matches!(self.failure.get(), Failure::Frames(from) if number >= from) {
            self.seen.borrow_mut().failed = true;
            return None;
        }
        let allocated = self.allocated.get();
        let index = (!allocated).trailing_zeros() as usize;
        if index >= FRAMES {
            return None;
        }
        self.allocated.set(allocated | bit(index));
        self.touched.set(self.touched.get() | bit(index));
        self.changed.set(self.changed.get() | bit(index));
        self.frames[index].0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        Some(Mfn::new(FIRST + index as u64))
    }

    fn free(&self, frame: Mfn) {
        let Some(index) = index(frame.raw()) else {
            self.wrong(Wrong::Malformed);
            return;
        };
        if self.allocated.get() & bit(index) == 0 {
            self.wrong(Wrong::FreedTwice);
            return;
        }
        let cached = {
            let unit = self.unit.borrow();
            let mut kept = unit.translations.iter().flatten().flatten();
            kept.any(|kept| kept.through & bit(index) != 0)
        };
        // A translation that nobody can use any more is gone on before its domain id is used again.
        if cached && self.watching.get() && self.cached_in_use(index) {
            self.wrong(Wrong::FreedCached);
        }
        self.allocated.set(self.allocated.get() & !bit(index));
        self.observe();
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        let index = index(frame.raw())?;
        self.touched.set(self.touched.get() | bit(index));
        Some(&self.frames[index])
    }

    fn written(&self, frame: Mfn, _: Range<usize>) {
        if let Some(index) = index(frame.raw()) {
            self.changed.set(self.changed.get() | bit(index));
            self.observe();
        }
    }
}

impl Machine {
    /// Whether a requester's context entry, in memory or cached, has a domain id under which a translation through this frame is cached.
    fn cached_in_use(&self, index: usize) -> bool {
        let unit = self.unit.borrow();
        (0..REQUESTERS).any(|requester| {
            [Some(self.read_context(&unit, requester)), unit.contexts[requester]].into_iter().flatten().any(
                |context| {
                    let kept = unit.translations.get(context.id()).filter(|_| context.present());
                    kept.is_some_and(|kept| kept.iter().flatten().any(|kept| kept.through & bit(index) != 0))
                },
            )
        })
    }
}

/// Frames that are in a table: the top one and all below it.
pub fn frames_of(machine: &Machine, root: usize, levels: u32) -> u128 {
    let mut frames = bit(root);
    if levels > 1 {
        for word in machine.words(root) {
            let entry = word.load(Ordering::Relaxed);
            if let Some(next) = child(entry) {
                frames |= frames_of(machine, next, levels - 1);
            }
        }
    }
    frames
}

/// The table that an entry above the lowest level leads to.
#[must_use]
pub fn child(entry: u64) -> Option<usize> {
    if entry & 7 == 0 || entry & 1 << 7 != 0 { None } else { index(entry >> 12 & 0xff_ffff_ffff) }
}

/// How many frames.
#[must_use]
pub fn count(frames: u128) -> usize {
    bits(frames).count()
}

/// A table frame's index by its number.
#[must_use]
pub fn frame_index(frame: Mfn) -> Option<usize> {
    index(frame.raw())
}
