//! Intel extended page tables: SDM Vol. 3, 29.3.2 and 29.3.7, tables 29-1 to 29-7.
//!
//! VT-d walks such a table as it stands (shared mode): bits 0, 1, 7 and the address mean the same in its
//! second stage, bits 6:2 and 63 are ignored there (VT-d 9.8), and bit 11, which EPT ignores, is the second
//! stage's snoop bit.

use core::ops::RangeInclusive;

use crate::entry::{Access, P2mType};
use crate::format::Format;
use crate::frame::PageSize;

/// Memory types of EPT leaves (SDM 29.3.7.2), in the encoding of bits 5:3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}

/// EPT tables: 4 or 5 levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ept {
    /// The memory type of RAM, the domain's own or another's.
    pub ram: MemoryType,
    /// The memory type of `p2m_mmio_direct`. The guest's PAT has no say in it.
    pub direct: MemoryType,
    /// Whether entries keep EPT violations from becoming virtualization exceptions (#VE, SDM 26.5.7.1). That
    /// takes the bit in each entry, also in those that map nothing.
    pub suppress_ve: bool,
    /// Whether the processor knows pages that can be executed and not read (SDM A.10, bit 0); elsewhere such
    /// an entry would be a misconfiguration, and gives no access.
    pub execute_only: bool,
    /// Shared mode with units that have snoop control: leaves ask for snooped accesses (bit 11, see
    /// [`SecondLevel`](super::SecondLevel)).
    pub snoop: bool,
}

impl Default for Ept {
    /// Write-back RAM, uncached `p2m_mmio_direct` (Xen's choice for frames it does not know), nothing
    /// optional.
    fn default() -> Self {
        Self {
            ram: MemoryType::WriteBack,
            direct: MemoryType::Uncacheable,
            suppress_ve: false,
            execute_only: false,
            snoop: false,
        }
    }
}

/// Bit 0: reads.
const READ: u64 = 1 << 0;
/// Bit 1: writes. Without bit 0 it is a misconfiguration (SDM 29.3.3.1).
const WRITE: u64 = 1 << 1;
/// Bit 2: instruction fetches. With bits 2:0 clear the entry is not present.
const EXECUTE: u64 = 1 << 2;
/// Bits 5:3: memory type, in leaves.
const MEMORY_TYPE_SHIFT: u32 = 3;
/// Bit 6: the guest's PAT is ignored, in leaves.
const IGNORE_PAT: u64 = 1 << 6;
// Bit 7: set in a leaf above the lowest level.
/// Bit 8: used, with EPTP bit 6 set.
const ACCESSED: u64 = 1 << 8;
/// Bit 9: written, in leaves.
const DIRTY: u64 = 1 << 9;
// Bit 10: execute for user-mode addresses, without mode-based execute control ignored; clear.
/// Bit 11: ignored here, the snoop bit for VT-d.
const SNOOP: u64 = 1 << 11;
// Bits 51:12: address. Bits 56:52 and 59: ignored. Bits 57, 58, 60, 61: ignored while their controls are off.
// Bit 62: VT-d's TM, clear.
/// Bit 63: no #VE from this entry, in leaves and in entries that are not present.
const SUPPRESS_VE: u64 = 1 << 63;

impl Format for Ept {
    const NAME: &'static str = "EPT";
    const LEVELS: RangeInclusive<u8> = 4..=5;
    const TABLE: u64 = READ | WRITE | EXECUTE;
    const ACCESSED: u64 = ACCESSED;
    const DIRTY: u64 = DIRTY;

    fn leaf(&self, p2m_type: P2mType, allowed: Access) -> u64 {
        let mut bits = 0;
        if allowed.contains(Access::READ) {
            bits |= READ;
        }
        if allowed.contains(Access::WRITE) {
            bits |= WRITE;
        }
        if allowed.contains(Access::EXECUTE) && (bits != 0 || self.execute_only) {
            bits |= EXECUTE;
        }
        if bits == 0 {
            return self.vacant();
        }
        bits |= match p2m_type {
            P2mType::MmioDirect => (self.direct as u64) << MEMORY_TYPE_SHIFT | IGNORE_PAT,
            _ => (self.ram as u64) << MEMORY_TYPE_SHIFT,
        };
        if self.snoop {
            bits |= SNOOP;
        }
        bits | self.vacant()
    }

    fn vacant(&self) -> u64 {
        if self.suppress_ve { SUPPRESS_VE } else { 0 }
    }
}

impl Ept {
    /// The largest page that the processor walks, from `IA32_VMX_EPT_VPID_CAP` (SDM A.10: bit 16 for 2 MiB,
    /// bit 17 for 1 GiB).
    #[must_use]
    pub const fn largest_page(capability: u64) -> PageSize {
        match (capability >> 16) & 3 {
            3 => PageSize::Size1G,
            1 => PageSize::Size2M,
            _ => PageSize::Size4K,
        }
    }

    /// Whether the processor walks tables of that many levels (SDM A.10: bit 6 for 4, bit 7 for 5).
    #[must_use]
    pub const fn walks_levels(capability: u64, levels: u8) -> bool {
        match levels {
            4 => capability & 1 << 6 != 0,
            5 => capability & 1 << 7 != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{leaf, pointer, vacant};

    #[test]
    fn ram_is_write_back_and_direct_memory_uncached_whatever_the_guest_says() {
        let format = Ept::default();
        assert_eq!(leaf(&format, P2mType::RamRw, Access::all(), 1), 0x4000_0037);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ_WRITE, 2), 0x4000_00b3);
        assert_eq!(leaf(&format, P2mType::RamRo, Access::all(), 1), 0x4000_0035);
        assert_eq!(leaf(&format, P2mType::MmioDirect, Access::READ_WRITE, 3), 0x4000_00c3);
        let write_combining = Ept { direct: MemoryType::WriteCombining, ..format };
        assert_eq!(leaf(&write_combining, P2mType::MmioDirect, Access::READ_WRITE, 1), 0x4000_004b);
        assert_eq!(pointer::<Ept>(), 0x4000_0007);
    }

    #[test]
    fn no_entry_is_a_misconfiguration() {
        for bits in 0..8 {
            let access = Access::from_bits_truncate(bits);
            let entry = leaf(&Ept::default(), P2mType::RamRw, access, 1);
            assert!(matches!(entry & 7, 0 | 1 | 3 | 5 | 7), "{access}: {entry:#x}");
        }
        let format = Ept { execute_only: true, ..Ept::default() };
        assert_eq!(leaf(&format, P2mType::RamRw, Access::EXECUTE, 1), 0x4000_0034);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::WRITE, 1) & 7, 0);
    }

    #[test]
    fn no_entry_gives_a_virtualization_exception() {
        let format = Ept { suppress_ve: true, ..Ept::default() };
        assert_eq!(vacant(&format), 1 << 63);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ, 1), 1 << 63 | 0x4000_0031);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::empty(), 1) & (1 << 63 | 7), 1 << 63);
        assert_eq!(vacant(&Ept::default()), 0);
    }

    #[test]
    fn in_shared_mode_leaves_can_ask_for_snooping() {
        let format = Ept { snoop: true, ..Ept::default() };
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ, 1), 0x4000_0831);
    }

    #[test]
    fn the_capability_register_says_levels_and_pages() {
        assert_eq!(Ept::largest_page(1 << 16 | 1 << 17), PageSize::Size1G);
        assert_eq!(Ept::largest_page(1 << 16), PageSize::Size2M);
        assert_eq!(Ept::largest_page(0), PageSize::Size4K);
        assert_eq!([3, 4, 5].map(|levels| Ept::walks_levels(1 << 6, levels)), [false, true, false]);
        assert!(Ept::walks_levels(1 << 7, 5));
    }
}
