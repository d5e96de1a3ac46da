//! Attaching requesters to address spaces, and dropping what is cached when either changes.

use core::sync::atomic::Ordering;

use p2m::{DeviceRoot, Flush, FrameSource};

use crate::platform::{HardwareError, Sbdf, SpaceId};
use crate::vtd::invalidate::{Block, Request};
use crate::vtd::registers::Registers;
use crate::vtd::tables::{ContextEntry, ContextSlot, DomainId, RootEntry, context_table, root_word};
use crate::vtd::unit::{Locked, walks};

/// The requester with this source id.
pub(super) fn requester(segment: u16, source: u16) -> Sbdf {
    let [bus, devfn] = source.to_be_bytes();
    Sbdf::new(segment, bus, devfn >> 3, devfn & 7)
}

impl<R: Registers> Locked<'_, '_, R> {
    /// [`RemappingHardware::attach`](crate::RemappingHardware::attach) for a requester of this unit.
    pub(super) fn attach(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
        space: SpaceId,
        root: DeviceRoot,
    ) -> Result<(), HardwareError> {
        let unit = self.unit.base;
        let device_tlb = self.device_tlb(source).is_some();
        let Some(live) = &self.state.live else { return Err(HardwareError::NoUnit { requester: source }) };
        let levels = HardwareError::Levels { unit, levels: root.levels };
        if !walks(live.capability, root.levels) {
            return Err(levels);
        }
        // An id that became free in the meantime is still cached if a flush failed.
        self.settle(frames)?;
        // The id before the context table: a failure gives back what it took, and a table stays once it is
        // there.
        let id = self.unit.domains.acquire(space).ok_or(HardwareError::NoDomainId { unit })?;
        let prepared = ContextEntry::translating(root, id, device_tlb)
            .ok_or(levels)
            .and_then(|entry| self.make_slot(frames, source).map(|slot| (slot, entry)));
        match prepared {
            Ok((slot, entry)) => self.change(frames, source, slot, entry),
            Err(error) => {
                self.unit.domains.release(id, self.state.in_doubt);
                Err(error)
            }
        }
    }

    /// [`RemappingHardware::detach`](crate::RemappingHardware::detach) for a requester of this unit.
    pub(super) fn detach(&mut self, frames: &impl FrameSource, source: Sbdf) -> Result<(), HardwareError> {
        if self.state.live.is_none() {
            return Err(HardwareError::NoUnit { requester: source });
        }
        match self.slot(frames, source) {
            Some(slot) if slot.read().low.present() => {
                self.change(frames, source, slot, ContextEntry::ABSENT)
            }
            _ => self.settle(frames),
        }
    }

    /// [`RemappingHardware::flush`](crate::RemappingHardware::flush) for this unit; nothing to do where it
    /// does not know the space.
    pub(super) fn flush(
        &mut self,
        frames: &impl FrameSource,
        space: SpaceId,
        flush: &Flush,
    ) -> Result<(), HardwareError> {
        // Looked for once more: it may have gone while the lock was waited for, and then it is clean.
        let Some(domain) = self.unit.domains.id_of(space) else { return Ok(()) };
        let result = self.flush_domain(frames, domain, flush);
        // What failed is owed to the space, and to nobody else.
        self.unit.domains.set_owed(domain, result.is_err());
        result
    }

    fn flush_domain(
        &mut self,
        frames: &impl FrameSource,
        domain: DomainId,
        flush: &Flush,
    ) -> Result<(), HardwareError> {
        let Some(live) = &self.state.live else { return Ok(()) };
        let capability = live.capability;
        self.unit.access(capability).flush_write_buffer()?;
        if self.state.in_doubt {
            // Nobody knows under which ids what is cached. And whatever this flush is for, the tables behind
            // it are free to be used again when it succeeds.
            return self.settle(frames);
        }
        let owed = self.unit.domains.is_owed(domain);
        if !owed && (flush.gfns().is_empty() || (flush.only_added() && !capability.caching_mode())) {
            return Ok(());
        }
        let fits =
            |block: &Block| capability.page_selective() && block.order <= u32::from(capability.max_mask());
        let block = Block::covering(flush.gfns()).filter(|block| !owed && fits(block));
        let request = match block {
            Some(block) => Request::IotlbPages { domain, block },
            None => Request::IotlbDomain { domain },
        };
        self.invalidate(frames, request)?;
        self.flush_device_tlbs(frames, |its| its == Some(domain), block)
    }

    pub(super) fn requester(&self, source: u16) -> Sbdf {
        requester(self.unit.coverage.segment(), source)
    }

    /// Where a requester's context entry is, if its bus has a context table.
    pub(super) fn slot<'f>(&self, frames: &'f impl FrameSource, source: Sbdf) -> Option<ContextSlot<'f>> {
        let root = frames.table(self.state.live.as_ref()?.root)?;
        ContextSlot::of(frames.table(context_table(root, source.bus())?)?, source.devfn())
    }

    /// The same, with a context table made for the bus if it has none.
    fn make_slot<'f>(
        &mut self,
        frames: &'f impl FrameSource,
        source: Sbdf,
    ) -> Result<ContextSlot<'f>, HardwareError> {
        if let Some(slot) = self.slot(frames, source) {
            return Ok(slot);
        }
        let live = self.state.live.as_ref().ok_or(HardwareError::NoUnit { requester: source })?;
        let root = frames.table(live.root).ok_or(HardwareError::NoFrames)?;
        let word = root_word(root, source.bus()).ok_or(HardwareError::NoFrames)?;
        let frame = frames.allocate().ok_or(HardwareError::NoFrames)?;
        let Some(table) = frames.table(frame) else {
            frames.free(frame);
            return Err(HardwareError::NoFrames);
        };
        // The table's zeros have to be in memory before the root entry leads to them.
        self.write_back(&table.0);
        word.store(
            RootEntry::new().with_present(true).with_context_table(frame.raw()).into_bits(),
            Ordering::Release,
        );
        self.write_back(core::slice::from_ref(word));
        ContextSlot::of(table, source.devfn()).ok_or(HardwareError::NoFrames)
    }

    pub(super) fn write_back(&self, words: &[core::sync::atomic::AtomicU64]) {
        if self.state.live.as_ref().is_some_and(|live| !live.extended.coherent()) {
            self.unit.registers.write_back(words);
        }
    }

    /// Puts `to` into a requester's entry, drops what is cached of the old one, and keeps the count of the
    /// domain ids' users; `to`'s is counted already.
    pub(super) fn change(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
        slot: ContextSlot<'_>,
        to: ContextEntry,
    ) -> Result<(), HardwareError> {
        let from = slot.read();
        let result = self.replace(frames, source, slot, from, to);
        let gone = match result {
            // Done; or given up, and then hardware may go on with the old entry until `settle` succeeds.
            Ok(()) | Err(HardwareError::TimedOut { .. }) => from,
            // The unit works; take the change back, so that the requester is attached as it was.
            Err(_) => {
                let now = slot.read();
                let undone = self.replace(frames, source, slot, now, from);
                if undone.and_then(|()| self.settle(frames)).is_err() {
                    let operation = "taking a context entry's change back";
                    self.release(to);
                    return Err(HardwareError::TimedOut { unit: self.unit.base, operation });
                }
                to
            }
        };
        self.release(gone);
        result
    }

    /// One entry less has the id of `entry`, if it has one. What may still be cached under it keeps it from
    /// being given to another space.
    fn release(&mut self, entry: ContextEntry) {
        if let Some(domain) = entry.domain() {
            self.unit.domains.release(domain, self.state.in_doubt);
        }
    }

    /// Replaces an entry in memory and drops what is cached of the old one. When it fails, the new entry is
    /// in memory all the same, and what is cached is in doubt.
    fn replace(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
        slot: ContextSlot<'_>,
        from: ContextEntry,
        to: ContextEntry,
    ) -> Result<(), HardwareError> {
        let Some(live) = &self.state.live else { return Err(HardwareError::NoUnit { requester: source }) };
        let transit = live.transit;
        // The device may have been cut off since the entry was made.
        let to = if self.device_tlb(source).is_some() { to } else { to.without_device_tlb() };
        let mut result = Ok(());
        // See the head of `tables` for the steps.
        let in_one_step =
            self.unit.at_once.is_some() || !from.low.present() || !to.low.present() || from.high == to.high;
        let on_the_way = match transit {
            _ if in_one_step => [None, None],
            Some(transit) if from.high.width() == to.high.width() => {
                // What an earlier change left under the transit id.
                result = self.invalidate(frames, Request::IotlbDomain { domain: transit });
                [Some(from.tagged(transit)), Some(to.tagged(transit))]
            }
            _ => [Some(ContextEntry::ABSENT), None],
        };
        let mut before = from;
        for step in on_the_way.into_iter().chain([Some(to)]).flatten() {
            if !self.unit.at_once.is_some_and(|how| slot.replace_at_once(how, step)) {
                slot.replace_by_words(step);
            }
            self.write_back(slot.words());
            // After an error only memory is brought to the end.
            result = result.and_then(|()| self.flush_context_entry(frames, source, before));
            before = step;
        }
        result = result.and_then(|()| self.flush_after(frames, source, from, to));
        self.state.in_doubt |= result.is_err();
        // An earlier doubt ends here, too, so that what was asked for is certain when this returns.
        result.and_then(|()| self.settle(frames))
    }

    /// Drops a requester's cached context entry, of which memory held `before`.
    pub(super) fn flush_context_entry(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
        before: ContextEntry,
    ) -> Result<(), HardwareError> {
        let Some(live) = &self.state.live else { return Ok(()) };
        let capability = live.capability;
        self.unit.access(capability).flush_write_buffer()?;
        let domain = match before.domain() {
            Some(domain) => domain,
            // In caching mode, that it was not present may be cached, under id 0 (§6.1).
            None if capability.caching_mode() => DomainId(0),
            None => return Ok(()),
        };
        self.invalidate(frames, Request::ContextDevice { domain, source: source.source_id() })
    }

    /// Drops the translations that a requester had under `from`, and in caching mode that it had none.
    fn flush_after(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
        from: ContextEntry,
        to: ContextEntry,
    ) -> Result<(), HardwareError> {
        let Some(live) = &self.state.live else { return Ok(()) };
        let negative = live.capability.caching_mode();
        match from.domain() {
            Some(domain) => {
                self.invalidate(frames, Request::IotlbDomain { domain })?;
                if let Some(device) = self.device_tlb(source) {
                    self.flush_device_tlb(frames, device, None)?;
                }
            }
            None if negative => self.invalidate(frames, Request::IotlbDomain { domain: DomainId(0) })?,
            None => {}
        }
        match to.domain() {
            Some(domain) if negative => self.invalidate(frames, Request::IotlbDomain { domain }),
            _ => Ok(()),
        }
    }

    /// After a failure, nobody knows what the unit has cached of entries and ids that are no longer in use:
    /// drops everything.
    fn settle(&mut self, frames: &impl FrameSource) -> Result<(), HardwareError> {
        let Some(live) = &self.state.live else { return Ok(()) };
        if !self.state.in_doubt {
            return Ok(());
        }
        self.unit.access(live.capability).flush_write_buffer()?;
        self.invalidate(frames, Request::ContextGlobal)?;
        self.invalidate(frames, Request::IotlbGlobal)?;
        self.flush_device_tlbs(frames, |_| true, None)?;
        self.state.in_doubt = false;
        self.unit.domains.settle();
        Ok(())
    }

    /// Has the unit do something; returns when it is done.
    pub(super) fn invalidate(
        &mut self,
        frames: &impl FrameSource,
        request: Request,
    ) -> Result<(), HardwareError> {
        let Some(live) = &mut self.state.live else { return Ok(()) };
        let access = self.unit.access(live.capability);
        live.way.run(&access, frames, request)
    }
}
