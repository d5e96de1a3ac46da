//! How the model translates: tables, caches, faults.

use std::sync::atomic::Ordering;

use p2m::{FrameSource, Mfn};

use super::{Map, Model, State, Store};
use xen_iommu::vtd::Reason;
use xen_iommu::vtd::registers::{ContextCommand, FaultRecord, FaultStatus, Global, IotlbCommand};
use xen_iommu::vtd::tables::{ContextEntry, ContextHigh, ContextLow};

/// A context entry in the context cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// What was read.
    pub entry: ContextEntry,
    /// What it is tagged with: 0 for one that was not present.
    pub domain: u16,
    /// Why the request failed, when it is cached that it did (caching mode).
    pub fault: Option<Reason>,
}

/// What a walk of second-stage tables came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// The frame.
    pub frame: u64,
    /// Reads are allowed.
    pub read: bool,
    /// Writes are allowed.
    pub write: bool,
    /// The frames of the tables on the way, topmost first; 0 behind the last.
    pub(super) through: [u64; 5],
}

impl<F: FrameSource, S: Store> Model<F, S> {
    /// The DMA of a requester: where in memory it arrives, or why it does not; the fault is recorded then.
    ///
    /// # Errors
    /// The fault's reason.
    pub fn dma(&self, source: u16, address: u64, write: bool) -> Result<u64, Reason> {
        let mut state = self.state();
        if !state.status.contains(Global::TRANSLATION) {
            return Ok(address);
        }
        let result = self.translate(&mut state, source, address, write, false);
        if let Err(reason) = result {
            state.record(source, address, write, reason);
        }
        result
    }

    /// A device asks for a translation and keeps it (PCIe ATS).
    ///
    /// # Errors
    /// The fault's reason.
    pub fn ats_request(&self, source: u16, address: u64) -> Result<u64, Reason> {
        let mut state = self.state();
        let result = self.translate(&mut state, source, address, false, true);
        match result {
            Ok(target) => {
                state.device_pages.insert((source, address >> 12), target >> 12);
            }
            Err(reason) => state.record(source, address, false, reason),
        }
        result
    }

    /// DMA of a device through its own TLB alone: where it arrives, if the page is in there and its context
    /// entry lets it through.
    #[must_use]
    pub fn ats_dma(&self, source: u16, address: u64) -> Option<u64> {
        let mut state = self.state();
        let frame = state.device_pages.get((source, address >> 12))?;
        let entry = self.context(&mut state, source);
        if !entry.is_ok_and(|entry| entry.low.translation_type() == 1) {
            state.record(source, address, false, Reason::TRANSLATED_BLOCKED);
            return None;
        }
        Some(frame << 12 | address & 0xfff)
    }

    fn translate(
        &self,
        state: &mut State<S>,
        source: u16,
        address: u64,
        write: bool,
        ats: bool,
    ) -> Result<u64, Reason> {
        let entry = self.context(state, source)?;
        match entry.low.translation_type() {
            0 if ats => return Err(Reason::TRANSLATED_BLOCKED),
            0 => {}
            1 if state.extended.device_tlb() => {}
            2 if state.extended.pass_through() => return Ok(address),
            _ => return Err(Reason::CONTEXT_INVALID),
        }
        let levels = entry.high.width() + 2;
        if !(3..=5).contains(&levels) || state.capability.levels() & 1 << entry.high.width() == 0 {
            return Err(Reason::CONTEXT_INVALID);
        }
        let width = (12 + 9 * u32::from(levels)).min(u32::from(state.capability.guest_width()) + 1);
        if address >> width != 0 {
            return Err(Reason::BEYOND_WIDTH);
        }
        let key = (entry.high.domain_id(), address >> 12);
        let page = match state.pages.get(key) {
            Some(page) => page,
            None => {
                let page = self.walk(state, entry.low.table(), levels, address >> 12)?;
                // Only a unit in caching mode caches that there is nothing.
                if page.read || page.write || state.capability.caching_mode() {
                    state.pages.insert(key, page);
                }
                page
            }
        };
        match (write, page.read, page.write) {
            (true, _, false) => Err(Reason::NO_WRITE),
            (false, false, _) => Err(Reason::NO_READ),
            _ => Ok(page.frame << 12 | address & 0xfff),
        }
    }

    fn context(&self, state: &mut State<S>, source: u16) -> Result<ContextEntry, Reason> {
        if let Some(cached) = state.contexts.get(source) {
            return cached.fault.map_or(Ok(cached.entry), Err);
        }
        let found = self.read_context(state, source);
        let cached = match found {
            Ok(entry) => Context { entry, domain: entry.high.domain_id(), fault: None },
            Err(fault) => Context { entry: ContextEntry::ABSENT, domain: 0, fault: Some(fault) },
        };
        if cached.fault.is_none() || state.capability.caching_mode() {
            state.contexts.insert(source, cached);
        }
        found
    }

    pub(super) fn read_context(&self, state: &State<S>, source: u16) -> Result<ContextEntry, Reason> {
        let [bus, devfn] = source.to_be_bytes();
        let read = |frame, index, unreadable| self.read(state, frame, index).ok_or(unreadable);
        let root_frame = state.root >> 12;
        let root = read(root_frame, usize::from(bus) * 2, Reason::ROOT_UNREADABLE)?;
        if root & 1 == 0 {
            return Err(Reason::ROOT_NOT_PRESENT);
        }
        let upper = read(root_frame, usize::from(bus) * 2 + 1, Reason::ROOT_UNREADABLE)?;
        if root & 0xffe != 0 || upper != 0 {
            return Err(Reason::ROOT_RESERVED);
        }
        let low = read(root >> 12, usize::from(devfn) * 2, Reason::CONTEXT_UNREADABLE)?;
        let high = read(root >> 12, usize::from(devfn) * 2 + 1, Reason::CONTEXT_UNREADABLE)?;
        if low & 1 == 0 {
            return Err(Reason::CONTEXT_NOT_PRESENT);
        }
        if low & 0xff0 != 0 || high & !0x00ff_ff7f != 0 {
            return Err(Reason::CONTEXT_RESERVED);
        }
        Ok(ContextEntry { low: ContextLow::from_bits(low), high: ContextHigh::from_bits(high) })
    }

    pub(super) fn walk(&self, state: &State<S>, table: u64, levels: u8, gfn: u64) -> Result<Page, Reason> {
        let (mut frame, mut read, mut write) = (table, true, true);
        let mut through = [0; 5];
        for level in (0..levels).rev() {
            let index = (gfn >> (9 * level) & 511) as usize;
            if let Some(place) = through.iter_mut().find(|place| **place == 0) {
                *place = frame;
            }
            let entry = self.read(state, frame, index).ok_or(Reason::TABLE_UNREADABLE)?;
            if entry & 3 == 0 {
                return Ok(Page { through, ..Page::default() });
            }
            read &= entry & 1 != 0;
            write &= entry & 2 != 0;
            let target = (entry & 0x000f_ffff_ffff_f000) >> 12;
            let large = level > 0 && entry & 1 << 7 != 0;
            if large {
                let known = level <= 2 && state.capability.large_pages() & 1 << (level - 1) != 0;
                if !known || target & ((1 << (9 * level)) - 1) != 0 {
                    return Err(Reason::ENTRY_RESERVED);
                }
            }
            if level == 0 || large {
                let inside = gfn & ((1 << (9 * level)) - 1);
                return Ok(Page { frame: target | inside, read, write, through });
            }
            frame = target;
        }
        Err(Reason::TABLE_UNREADABLE)
    }

    /// A word of a table as the unit sees it.
    pub(super) fn read(&self, state: &State<S>, frame: u64, index: usize) -> Option<u64> {
        let word = self.frames.table(Mfn::new(frame))?.0.get(index)?;
        if state.extended.coherent() {
            return Some(word.load(Ordering::Acquire));
        }
        // Of what was never written back, memory holds anything.
        let written = state.written_back.get(std::ptr::from_ref(word).addr());
        Some(written.unwrap_or(u64::MAX))
    }
}

impl<S: Store> State<S> {
    fn record(&mut self, source: u16, address: u64, write: bool, reason: Reason) {
        let record = FaultRecord::new()
            .with_source_id(source)
            .with_reason(reason.0)
            .with_type1(!write)
            .with_fault(true);
        self.keep_record(address & !0xfff, record.into_bits());
    }

    pub(super) fn keep_record(&mut self, low: u64, high: u64) {
        if self.faults.contains(FaultStatus::OVERFLOW) {
            return;
        }
        let index = self.next_record;
        if FaultRecord::from_bits(self.records[index].1).fault() {
            self.faults |= FaultStatus::OVERFLOW;
            return;
        }
        self.records[index] = (low, high);
        self.next_record = (index + 1) % self.records().len();
    }

    pub(super) fn oldest(&self) -> Option<usize> {
        let count = self.records().len();
        (0..count)
            .map(|ahead| (self.next_record + ahead) % count)
            .find(|&index| FaultRecord::from_bits(self.records[index].1).fault())
    }

    pub(super) fn invalidate_contexts(&mut self, command: ContextCommand) {
        self.contexts.retain(&mut |source, cached| match command.granularity() {
            1 => false,
            2 => cached.domain != command.domain_id(),
            _ => {
                let mask = match command.function_mask() {
                    0 => 0,
                    1 => 4,
                    2 => 6,
                    _ => 7,
                };
                cached.domain != command.domain_id() || (source ^ command.source_id()) & !mask != 0
            }
        });
    }

    /// Whether the request was right.
    pub(super) fn invalidate_iotlb(&mut self, command: IotlbCommand, address: u64) -> bool {
        let (order, first) = (address & 0x3f, address >> 12);
        if command.granularity() == 3
            && (!self.capability.page_selective() || order > u64::from(self.capability.max_mask()))
        {
            return false;
        }
        self.pages.retain(&mut |(domain, page), _| match command.granularity() {
            1 => false,
            2 => domain != command.domain_id(),
            _ => domain != command.domain_id() || page >> order != first >> order,
        });
        true
    }

    pub(super) fn invalidate_device_tlb(&mut self, source: u16, address: u64) {
        // The lowest zero from bit 12 on tells the size, if bit 0 says that there is one.
        let order = if address & 1 == 0 { 0 } else { (address >> 12).trailing_ones() + 1 };
        let first = address >> 12;
        self.device_pages.retain(&mut |(its, page), _| {
            its != source || page.checked_shr(order) != first.checked_shr(order)
        });
    }
}
