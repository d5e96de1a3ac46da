//! Bits that software has to leave clear, wherever it writes them.

use p2m::{FrameSource, Mfn};
use xen_iommu::vtd::registers::Global;
use xen_iommu::vtd::tables::{ContextHigh, ContextLow};

use super::{Model, State, Store};

impl<F: FrameSource, S: Store> Model<F, S> {
    /// Looks through the root table and all context tables, and takes down as [violations](Self::violations)
    /// what the specification forbids in them (§9.1, §9.3). Entries that are not present may hold anything,
    /// and so may everything while translation is off.
    pub fn check_tables(&self) {
        let mut state = self.state();
        if !state.status.contains(Global::TRANSLATION) {
            return;
        }
        for bus in 0..256 {
            let word = |index: usize| self.read(&state, state.root >> 12, bus * 2 + index);
            let (Some(low), Some(high)) = (word(0), word(1)) else {
                state.violation("the root table is in no frame");
                return;
            };
            if low & 1 == 0 {
                continue;
            }
            if low & 0xffe != 0 || high != 0 {
                state.violation("reserved bits in a root entry");
            }
            for devfn in 0..256 {
                let word = |index: usize| self.read(&state, low >> 12, devfn * 2 + index);
                match (word(0), word(1)) {
                    (Some(low), Some(high)) => state.check_context(low, high),
                    _ => state.violation("a context table is in no frame"),
                }
            }
        }
    }

    /// Whether a frame is one of the root and context tables.
    pub fn is_table(&self, frame: Mfn) -> bool {
        let state = self.state();
        let root = state.root >> 12;
        root == frame.raw()
            || (0..256).any(|bus| {
                let entry = self.read(&state, root, bus * 2).unwrap_or(0);
                entry & 1 != 0 && entry >> 12 == frame.raw()
            })
    }
}

/// GCMD's bits that mean something (§11.4.4.1): 23 to 31.
const COMMANDS: u32 = 0xff80_0000;
/// SFL, in bit 29 of GCMD: the fault log's pointer.
const FAULT_LOG: u32 = 1 << 29;

impl<S: Store> State<S> {
    /// A command keeps the states as they are, does one thing, and repeats nothing that is done once
    /// (§11.4.4.1).
    pub(super) fn check_command(&mut self, command: Global) {
        let (bits, once) = (command.bits(), Global::ONE_SHOT.bits() | FAULT_LOG);
        let changed = (bits ^ self.status.bits()) & !once | bits & once;
        if bits & !COMMANDS != 0 {
            self.violation("reserved bits in a global command");
        }
        if (changed & COMMANDS).count_ones() > 1 {
            self.violation("a global command that does several things at once");
        }
        if bits & FAULT_LOG != 0 || command.contains(Global::INTERRUPT_TABLE) {
            self.violation("a pointer is taken over that nobody has set");
        }
        if command.contains(Global::QUEUE) && !self.extended.queue() {
            self.violation("a queue is switched on that the unit does not have");
        }
    }

    fn check_context(&mut self, low: u64, high: u64) {
        let (entry, upper) = (ContextLow::from_bits(low), ContextHigh::from_bits(high));
        if !entry.present() {
            return;
        }
        if low & 0xff0 != 0 || high & !0x00ff_ff7f != 0 {
            self.violation("reserved bits in a context entry");
        }
        let is_known = match entry.translation_type() {
            0 => true,
            1 => self.extended.device_tlb(),
            2 => self.extended.pass_through(),
            _ => false,
        };
        if !is_known {
            self.violation("a translation type that the unit does not know");
        }
        if !(1..=3).contains(&upper.width()) || self.capability.levels() & 1 << upper.width() == 0 {
            self.violation("a table of more or fewer levels than the unit walks");
        }
        let ids = 1_u64 << (4 + 2 * u32::from(self.capability.domain_ids())).min(16);
        if u64::from(upper.domain_id()) >= ids {
            self.violation("a domain id that the unit does not have");
        }
        if upper.domain_id() == 0 && self.capability.caching_mode() {
            self.violation("domain id 0, which is the unit's own in caching mode");
        }
    }

    /// Whether a descriptor has only bits set that mean something (§6.5.2).
    pub(super) fn check_descriptor(&mut self, low: u64, high: u64) -> bool {
        let granularity = low >> 4 & 3;
        let is_right = match low & 0xf {
            1 => granularity != 0 && low & 0xfffc_0000_0000_ffc0 == 0 && high == 0,
            2 => {
                let order = high & 0x3f;
                let aligned = order < 52 && high >> 12 & ((1 << order) - 1) == 0;
                granularity != 0
                    && low & 0xffff_ffff_0000_ff00 == 0
                    && (granularity == 3 && high & 0xf80 == 0 && aligned || granularity != 3 && high == 0)
            }
            3 => {
                // PFSID means something only where invalidations are throttled (ECAP.DIT, bit 41).
                let throttled = self.extended.into_bits() & 1 << 41 != 0;
                let reserved = if throttled { 0x000f_0000_ffe0_0ff0 } else { 0xffff_0000_ffe0_fff0 };
                self.extended.device_tlb() && low & reserved == 0 && high & 0xffe == 0
            }
            5 => low & 0xffff_ff80 == 0 && high & 3 == 0,
            _ => false,
        };
        if !is_right {
            self.violation("a descriptor of the queue that the specification does not have");
        }
        is_right
    }
}
