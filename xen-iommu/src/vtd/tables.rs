//! Root and context tables of legacy mode (§9.1, §9.3), and how their entries change under the eyes of
//! hardware.
//!
//! A root table has an entry for each bus, a context table one for each device and function; an entry is two
//! 64-bit words. Only the lower word of a root entry is in use, so it changes in one write. Both words of a
//! context entry matter: the lower one has the present bit and the second-stage table's address, the upper
//! one the table's number of levels and the domain id that cached translations are tagged with. Hardware that
//! read the one word before and the other after a change would walk the new table with the old number of
//! levels, or tag translations of one domain with the id of another, whose devices would then reach them.
//!
//! - **Not present to present**: the upper word first; hardware ignores it until the lower one is there.
//! - **Present to not present**: the lower word first, for the same reason.
//! - **Present to present**: reserved memory has to stay reachable (XSA-400), so the entry must not be absent
//!   in between. `cmpxchg16b` replaces both words at once; the entry is naturally aligned and never crosses a
//!   cache line, so hardware reads all of the old one or all of the new one. Every CPU that comes with VT-d
//!   has the instruction.
//! - **Present to present, two words at a time** (a virtual CPU without `cmpxchg16b`): by way of a domain id
//!   of its own, that no domain ever has: (old id, old table) → (transit, old) → (transit, new) → (new id,
//!   new table), with the context cache invalidated after each step. Whatever is cached under a wrong pair is
//!   tagged with the transit id, which no other device uses, and is flushed at the end. That leaves one case
//!   without a safe way: tables of different numbers of levels. It goes by way of not present, which blocks
//!   the device for a moment rather than let it walk memory as a table that is none.

use core::sync::atomic::{AtomicU64, Ordering};

use bitfield_struct::bitfield;
use p2m::{DeviceRoot, Mfn, TableFrame};

/// A domain id: what hardware tags cached translations with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

/// The lower word of a root entry (§9.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct RootEntry {
    /// P.
    pub present: bool,
    #[bits(11)]
    _reserved: u16,
    /// CTP: the context table's frame.
    #[bits(52)]
    pub context_table: u64,
}

/// The lower word of a context entry (§9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextLow {
    /// P.
    pub present: bool,
    /// FPD: faults are not recorded.
    pub fault_disable: bool,
    /// TT: 0 translate untranslated requests and block others, 1 serve the device's TLB as well, 2 pass
    /// through.
    #[bits(2)]
    pub translation_type: u8,
    _reserved: u8,
    /// SLPTPTR (SSPTPTR): the second-stage table's frame.
    #[bits(52)]
    pub table: u64,
}

/// The upper word of a context entry (§9.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ContextHigh {
    /// AW: the table's levels, less two.
    #[bits(3)]
    pub width: u8,
    #[bits(4)]
    _ignored: u8,
    #[bits(1)]
    _reserved_7: u8,
    /// DID.
    pub domain_id: u16,
    #[bits(40)]
    _reserved_24: u64,
}

/// A context entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextEntry {
    /// Its lower word.
    pub low: ContextLow,
    /// Its upper word.
    pub high: ContextHigh,
}

impl ContextEntry {
    /// Nothing: DMA is blocked.
    pub const ABSENT: Self = Self { low: ContextLow::new(), high: ContextHigh::new() };

    /// Translates through `root`, tagged as `domain`; `device_tlb` lets the device keep translations itself.
    #[must_use]
    pub fn translating(root: DeviceRoot, domain: DomainId, device_tlb: bool) -> Option<Self> {
        if root.root.raw() >> ContextLow::TABLE_BITS != 0 {
            return None;
        }
        let width = root.levels.checked_sub(2).filter(|width| (1..=3).contains(width))?;
        Some(Self {
            low: ContextLow::new()
                .with_present(true)
                .with_translation_type(u8::from(device_tlb))
                .with_table(root.root.raw()),
            high: ContextHigh::new().with_width(width).with_domain_id(domain.0),
        })
    }

    /// The domain id; `None` when the entry is not present.
    #[must_use]
    pub fn domain(&self) -> Option<DomainId> {
        self.low.present().then(|| DomainId(self.high.domain_id()))
    }

    /// The same with translated requests blocked.
    #[must_use]
    pub fn without_device_tlb(self) -> Self {
        if self.low.translation_type() == 1 {
            Self { low: self.low.with_translation_type(0), ..self }
        } else {
            self
        }
    }

    /// The same under another domain id.
    #[must_use]
    pub fn tagged(self, domain: DomainId) -> Self {
        Self { high: self.high.with_domain_id(domain.0), ..self }
    }
}

/// Where a context entry is in memory: two words at a multiple of 16 bytes, the lower one first.
#[derive(Clone, Copy)]
pub struct ContextSlot<'f>(&'f [AtomicU64; 2]);

impl<'f> ContextSlot<'f> {
    /// The entry of `devfn` in a context table.
    #[must_use]
    pub fn of(table: &'f TableFrame, devfn: u8) -> Option<Self> {
        // A table frame is aligned to 4096, so each pair of words from its first on is at a multiple of 16.
        table.0.as_chunks::<2>().0.get(usize::from(devfn)).map(Self)
    }

    /// What the entry holds.
    #[must_use]
    pub fn read(self) -> ContextEntry {
        let [low, high] = self.0;
        ContextEntry {
            low: ContextLow::from_bits(low.load(Ordering::Acquire)),
            high: ContextHigh::from_bits(high.load(Ordering::Acquire)),
        }
    }

    /// The entry's two words, for writing them back to memory.
    #[must_use]
    pub fn words(self) -> &'f [AtomicU64] {
        self.0
    }

    /// Replaces both words in one write; `false` if somebody else wrote the entry in between, which the
    /// callers' lock rules out.
    #[must_use]
    pub fn replace_at_once(self, how: AtOnce, entry: ContextEntry) -> bool {
        how.replace(self, entry)
    }

    /// Replaces one word after the other, in the order that is right when the entry was not present before,
    /// will not be, or differs in one word.
    pub fn replace_by_words(self, entry: ContextEntry) {
        let [low, high] = self.0;
        if entry.low.present() {
            high.store(entry.high.into_bits(), Ordering::Release);
            low.store(entry.low.into_bits(), Ordering::Release);
        } else {
            low.store(entry.low.into_bits(), Ordering::Release);
            high.store(entry.high.into_bits(), Ordering::Release);
        }
    }
}

/// The lower word of a bus's root entry.
#[must_use]
pub fn root_word(table: &TableFrame, bus: u8) -> Option<&AtomicU64> {
    table.0.as_chunks::<2>().0.get(usize::from(bus)).map(|[low, _]| low)
}

/// The context table of a bus, if it has one.
#[must_use]
pub fn context_table(root: &TableFrame, bus: u8) -> Option<Mfn> {
    let entry = RootEntry::from_bits(root_word(root, bus)?.load(Ordering::Acquire));
    entry.present().then(|| Mfn::new(entry.context_table()))
}

/// The proof that this CPU has `cmpxchg16b`.
#[derive(Clone, Copy, Debug)]
pub struct AtOnce(());

/// Bit 13 of ECX, of leaf 1 (Intel SDM Vol. 2, CPUID).
#[cfg(target_arch = "x86_64")]
fn has_cmpxchg16b(ecx: u32) -> bool {
    ecx & 1 << 13 != 0
}

#[cfg(target_arch = "x86_64")]
impl AtOnce {
    /// Asks the CPU, by leaf 1 of CPUID.
    #[must_use]
    #[allow(unsafe_code, reason = "cpuid is unsafe up to Rust 1.93")]
    #[allow(unused_unsafe, reason = "and safe after")]
    pub fn detect() -> Option<Self> {
        // SAFETY: every x86-64 processor has `cpuid`, with leaf 1.
        let leaf = unsafe { core::arch::x86_64::__cpuid(1) };
        has_cmpxchg16b(leaf.ecx).then_some(Self(()))
    }

    /// Assembly, because without optimization core's `cmpxchg16b` becomes a call into a library that a
    /// hypervisor does not have.
    #[allow(unsafe_code, reason = "cmpxchg16b")]
    fn replace(self, slot: ContextSlot<'_>, entry: ContextEntry) -> bool {
        let place = core::ptr::from_ref(slot.0).cast::<u128>();
        if !place.is_aligned() {
            return false;
        }
        let old = slot.0.each_ref().map(|word| word.load(Ordering::Relaxed));
        let [low, high] = old;
        let (found_low, found_high): (u64, u64);
        // SAFETY: the CPU has the instruction: `self` is only made where it says so. `place` is the 16 bytes
        // that the slot borrows, aligned, as was just looked at. They are atomics, so writing them through a
        // shared reference is allowed, and every other access to them is atomic, too. RBX, which the compiler
        // keeps for itself, has its value again at the end; if `new_low` is in RBX, both exchanges of it with
        // itself do nothing.
        unsafe {
            core::arch::asm!(
                "xchg rbx, {new_low}",
                "lock cmpxchg16b [rdi]",
                "xchg rbx, {new_low}",
                new_low = inout(reg) entry.low.into_bits() => _,
                in("rcx") entry.high.into_bits(),
                in("rdi") place,
                inout("rax") low => found_low,
                inout("rdx") high => found_high,
                options(nostack),
            );
        }
        [found_low, found_high] == old
    }
}

#[cfg(not(target_arch = "x86_64"))]
impl AtOnce {
    /// Other CPUs are not asked.
    #[must_use]
    pub const fn detect() -> Option<Self> {
        None
    }

    const fn replace(self, _: ContextSlot<'_>, _: ContextEntry) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_processor_says_by_one_bit_whether_it_has_cmpxchg16b() {
        assert!(has_cmpxchg16b(0x2000) && has_cmpxchg16b(u32::MAX));
        assert!(!has_cmpxchg16b(0) && !has_cmpxchg16b(!0x2000));
    }
}
