//! x86-64 long-mode tables (AMD APM Vol. 2, 5.3; Intel SDM Vol. 3, 4.5) and AMD nested paging, which uses the
//! same (APM 15.25).
//!
//! VT-d's second stage can walk such a table too: P and R/W are its R and W, bits 6:2, 8 and 63 are ignored
//! there (VT-d 9.8).

use core::ops::RangeInclusive;

use crate::entry::{Access, P2mType};
use crate::format::Format;
use crate::frame::PageSize;

/// Long-mode tables: 4 or 5 levels.
///
/// For a table of virtual addresses, a guest frame is a virtual page number without the sign extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LongMode {
    /// Whether leaves are for user mode. A nested walk always is (APM 15.25.5).
    pub user: bool,
    /// Whether bit 63 keeps instructions from being fetched. With EFER.NXE clear the bit is reserved.
    pub no_execute: bool,
    /// Whether leaves outlive a write to CR3 (with CR4.PGE).
    pub global: bool,
    /// Whether `p2m_mmio_direct` is uncached whatever the MTRRs say (PCD and PWT: entry 3 of the PAT as it is
    /// after reset).
    pub uncached_direct: bool,
}

/// Bit 0, P.
const PRESENT: u64 = 1 << 0;
/// Bit 1, R/W.
const WRITE: u64 = 1 << 1;
/// Bit 2, U/S.
const USER: u64 = 1 << 2;
/// Bits 3 and 4, PWT and PCD.
const UNCACHED: u64 = 1 << 3 | 1 << 4;
/// Bit 5, A.
const ACCESSED: u64 = 1 << 5;
/// Bit 6, D, in leaves.
const DIRTY: u64 = 1 << 6;
// Bit 7: PS in leaves above the lowest level; PAT in the lowest, clear.
/// Bit 8, G, in leaves.
const GLOBAL: u64 = 1 << 8;
// Bits 11:9: available, clear; bit 12 of a large leaf: PAT, clear as part of the address. Bits 58:52:
// available. Bits 62:59: protection key with CR4.PKE, available without.
/// Bit 63, NX.
const NO_EXECUTE: u64 = 1 << 63;

impl Format for LongMode {
    const NAME: &'static str = "long mode";
    const LEVELS: RangeInclusive<u8> = 4..=5;
    const TABLE: u64 = PRESENT | WRITE | USER;
    const ACCESSED: u64 = ACCESSED;
    const DIRTY: u64 = DIRTY;

    fn leaf(&self, p2m_type: P2mType, allowed: Access) -> u64 {
        if !allowed.contains(Access::READ) {
            return self.vacant();
        }
        let mut bits = PRESENT;
        if allowed.contains(Access::WRITE) {
            bits |= WRITE;
        }
        if self.no_execute && !allowed.contains(Access::EXECUTE) {
            bits |= NO_EXECUTE;
        }
        if self.user {
            bits |= USER;
        }
        if self.global {
            bits |= GLOBAL;
        }
        if self.uncached_direct && p2m_type == P2mType::MmioDirect {
            bits |= UNCACHED;
        }
        bits
    }
}

impl LongMode {
    /// Nested paging of a guest.
    pub const NESTED: Self = Self { user: true, no_execute: true, global: false, uncached_direct: false };
    /// The hypervisor's own address space.
    pub const HOST: Self = Self { user: false, no_execute: true, global: true, uncached_direct: false };

    /// The largest page that the processor walks, from EDX of CPUID leaf 0x8000_0001 (bit 26: 1 GiB); 2 MiB
    /// pages are always there.
    #[must_use]
    pub const fn largest_page(extended_features_edx: u32) -> PageSize {
        if extended_features_edx & 1 << 26 != 0 { PageSize::Size1G } else { PageSize::Size2M }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{leaf, pointer};

    #[test]
    fn a_nested_walk_is_a_user_s() {
        let format = LongMode::NESTED;
        assert_eq!(leaf(&format, P2mType::RamRw, Access::all(), 1), 0x4000_0007);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ_WRITE, 2), 1 << 63 | 0x4000_0087);
        assert_eq!(leaf(&format, P2mType::RamLogdirty, Access::all(), 3), 0x4000_0085);
        assert_eq!(pointer::<LongMode>(), 0x4000_0007);
    }

    #[test]
    fn the_hypervisors_own_pages_are_global_and_not_a_users() {
        assert_eq!(leaf(&LongMode::HOST, P2mType::RamRw, Access::READ_WRITE, 1), 1 << 63 | 0x4000_0103);
        let without = LongMode { no_execute: false, global: false, ..LongMode::HOST };
        assert_eq!(leaf(&without, P2mType::RamRw, Access::READ_WRITE, 1), 0x4000_0003);
    }

    #[test]
    fn without_a_read_there_is_no_access() {
        for access in [Access::empty(), Access::WRITE, Access::EXECUTE] {
            assert_eq!(leaf(&LongMode::NESTED, P2mType::RamRw, access, 1) & 1, 0);
        }
    }

    #[test]
    fn direct_memory_can_be_uncached() {
        let format = LongMode { uncached_direct: true, ..LongMode::HOST };
        assert_eq!(leaf(&format, P2mType::MmioDirect, Access::READ_WRITE, 1), 1 << 63 | 0x4000_011b);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ_WRITE, 1), 1 << 63 | 0x4000_0103);
    }

    #[test]
    fn cpuid_says_whether_there_are_pages_of_1_gib() {
        assert_eq!(LongMode::largest_page(1 << 26), PageSize::Size1G);
        assert_eq!(LongMode::largest_page(!(1 << 26)), PageSize::Size2M);
    }
}
