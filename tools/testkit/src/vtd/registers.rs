//! The registers (§11.4).

use std::sync::atomic::{AtomicU64, Ordering};

use p2m::FrameSource;
use xen_iommu::vtd::registers::{
    CAP, CCMD, ContextCommand, ECAP, FEADDR, FECTL, FEDATA, FEUADDR, FSTS, FaultRecord, FaultStatus, GCMD,
    GSTS, Global, IQA, IQH, IQT, IotlbCommand, PMEN, RTADDR, Registers, VER,
};

use super::{Event, Map, Model, State, Store};

impl<F: FrameSource, S: Store> Model<F, S> {
    fn command(&self, state: &mut State<S>, command: Global) {
        if state.trouble.global {
            return;
        }
        state.check_command(command);
        let once = command & Global::ONE_SHOT;
        let was_on = state.status.contains(Global::TRANSLATION);
        let kept = state.status & Global::ONE_SHOT;
        if command.contains(Global::QUEUE) && !state.status.contains(Global::QUEUE) && state.tail != 0 {
            state.violation("the queue is switched on with its tail not at 0");
        }
        state.status = kept | command.difference(Global::ONE_SHOT);
        if once.contains(Global::ROOT_TABLE) {
            state.root = state.root_register;
            state.status |= Global::ROOT_TABLE;
        }
        if once.contains(Global::WRITE_BUFFER_FLUSH) {
            state.event(Event::WriteBuffer);
        }
        if !state.status.contains(Global::QUEUE) {
            state.head = 0;
            state.is_stalled = false;
        }
        let is_on = state.status.contains(Global::TRANSLATION);
        if was_on != is_on {
            state.event(Event::Translation(is_on));
            if is_on && !state.status.contains(Global::ROOT_TABLE) {
                state.violation("translation on without a root table");
            }
        }
    }

    fn by_register(state: &mut State<S>) -> bool {
        if state.status.contains(Global::QUEUE) {
            state.violation("an invalidation by register beside the queue");
        }
        if state.version >> 4 & 0xf >= 6 {
            state.violation("an invalidation by register in version 6");
            return false;
        }
        true
    }

    fn context_command(state: &mut State<S>, command: ContextCommand) {
        if state.context_command.busy() {
            state.violation("a context command while another goes on");
        }
        state.context_command = command;
        if command.busy() && Self::by_register(state) && !state.trouble.context {
            state.invalidate_contexts(command);
            state.event(Event::Context(command.with_busy(false)));
            state.context_command = command.with_busy(false).with_actual(command.granularity());
        }
    }

    fn iotlb_command(state: &mut State<S>, command: IotlbCommand) {
        if state.iotlb_command.busy() {
            state.violation("an IOTLB command while another goes on");
        }
        state.iotlb_command = command;
        if !command.busy() || !Self::by_register(state) || state.trouble.iotlb {
            return;
        }
        let address = state.invalidate_address;
        let ignored = state.trouble.ignores.contains(&command.granularity());
        let done = !ignored && state.invalidate_iotlb(command, address);
        if done {
            state.event(Event::Iotlb(command.with_busy(false), address));
        }
        let actual = if done { command.granularity() } else { 0 };
        state.iotlb_command = command.with_busy(false).with_actual(actual);
    }
}

impl<S: Store> State<S> {
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
        (index < self.records().len()).then_some((index, inside & 0xf))
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

impl<F: FrameSource, S: Store> Registers for &Model<F, S> {
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
                self.run_queue(&mut state, false);
            }
            FECTL => {
                if value & !(1 << 31) != 0 {
                    state.violation("reserved bits in the fault event's control");
                }
                state.event[0] = value;
            }
            FEDATA => state.event[1] = value,
            FEADDR => state.event[2] = value,
            FEUADDR => state.event[3] = value,
            // PRS follows EPM.
            PMEN => {
                if value & 0x7fff_fffe != 0 {
                    state.violation("reserved bits in PMEN");
                }
                state.protected = value & 1 << 31 | value >> 31;
            }
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
            RTADDR => {
                // Bits 10 and 11 are the mode, 0 for legacy.
                if value & 0xfff != 0 {
                    state.violation("reserved bits, or another mode, in the root table's address");
                }
                state.root_register = value;
            }
            CCMD => Model::<F, S>::context_command(&mut state, ContextCommand::from_bits(value)),
            IQT => {
                state.tail = value & 0xff0;
                self.run_queue(&mut state, true);
            }
            IQA => {
                if state.status.contains(Global::QUEUE) {
                    state.violation("the queue's address changed while it is on");
                }
                // A frame of descriptors of 128 bits; no more is used here.
                if value & 0xfff != 0 {
                    state.violation("reserved bits, or another size, in the queue's address");
                }
                state.queue = value;
            }
            _ if offset == state.iotlb_base() => state.invalidate_address = value,
            _ if offset == state.iotlb_base() + 8 => {
                Model::<F, S>::iotlb_command(&mut state, IotlbCommand::from_bits(value));
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
