//! The invalidation queue (§6.5.2).

use std::sync::atomic::Ordering;

use p2m::{FrameSource, Mfn};
use xen_iommu::vtd::registers::{ContextCommand, FaultStatus, Global, IotlbCommand};

use super::{Event, Model, Silence, State, Store};

impl<F: FrameSource, S: Store> Model<F, S> {
    /// Carries out what is in the queue; `is_new` when the tail was just written.
    pub(super) fn run_queue(&self, state: &mut State<S>, is_new: bool) {
        let is_live = state.status.contains(Global::QUEUE)
            && !state.faults.intersects(FaultStatus::QUEUE_ERRORS)
            && state.head != state.tail;
        if is_live && is_new {
            let number = state.commands;
            state.commands += 1;
            state.is_stalled |=
                state.trouble.stalls.is_some_and(|(first, end)| (first..end).contains(&number));
            if let Some((_, errors)) = state.trouble.error_at.filter(|(at, _)| *at == number) {
                state.faults |= errors;
            }
        }
        while state.status.contains(Global::QUEUE)
            && !state.trouble.queue
            && !state.is_stalled
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

    fn run_descriptor(&self, state: &mut State<S>, low: u64, high: u64) -> bool {
        if !state.check_descriptor(low, high) {
            return false;
        }
        match low & 0xf {
            1 => {
                let command = ContextCommand::new()
                    .with_granularity((low >> 4 & 3) as u8)
                    .with_domain_id((low >> 16) as u16)
                    .with_source_id((low >> 32) as u16)
                    .with_function_mask((low >> 48 & 3) as u8);
                state.invalidate_contexts(command);
                state.event(Event::Context(command));
                true
            }
            2 => {
                let command = IotlbCommand::new()
                    .with_granularity((low >> 4 & 3) as u8)
                    .with_drain_writes(low & 1 << 6 != 0)
                    .with_drain_reads(low & 1 << 7 != 0)
                    .with_domain_id((low >> 16) as u16);
                state.event(Event::Iotlb(command, high));
                state.invalidate_iotlb(command, high)
            }
            3 => {
                let source = (low >> 32) as u16;
                state.invalidate_device_tlb(source, high);
                state.event(Event::DeviceTlb {
                    source,
                    physical_function: (low >> 52 << 4 | low >> 12 & 0xf) as u16,
                    max_pending: (low >> 16 & 0x1f) as u8,
                    address: high,
                });
                true
            }
            _ => self.wait_descriptor(low, high),
        }
    }

    fn wait_descriptor(&self, low: u64, high: u64) -> bool {
        if low & 1 << 5 == 0 {
            return true;
        }
        let Some(table) = self.frames.table(Mfn::containing(high)) else { return false };
        let word = &table.0[(high >> 3 & 511) as usize];
        let old = word.load(Ordering::Acquire);
        let status = low >> 32;
        let new = if high & 4 == 0 { old & !0xffff_ffff | status } else { old & 0xffff_ffff | status << 32 };
        word.store(new, Ordering::Release);
        true
    }
}
