//! VT-d second-stage (once "second-level") translation: VT-d specification 9.8, tables 34 to 40 of revision
//! 4.1.

use core::ops::RangeInclusive;

use crate::entry::{Access, P2mType};
use crate::format::Format;
use crate::frame::PageSize;

/// VT-d second-stage tables: 3, 4 or 5 levels (39, 48, 57 address bits).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecondLevel {
    /// Whether leaves ask for snooped accesses whatever the device says: only where the unit has snoop
    /// control (VT-d 11.4.3, ECAP.SC), as the bit is reserved elsewhere.
    pub snoop: bool,
}

/// Bit 0, R: reads.
const READ: u64 = 1 << 0;
/// Bit 1, W: writes. With R and W clear the entry is not present.
const WRITE: u64 = 1 << 1;
// Bit 2, X: execute requests; stays clear, it is ignored or reserved depending on the unit. Bits 6:3: memory
// type, which this mode does not use. Bit 7, PS: set in a leaf above the lowest level.
/// Bit 8, A: used, where the unit maintains it (ECAP.SSADS or scalable mode).
const ACCESSED: u64 = 1 << 8;
/// Bit 9, D: written.
const DIRTY: u64 = 1 << 9;
/// Bit 11, SNP: snoop, in leaves.
const SNOOP: u64 = 1 << 11;
// Bits 51:12: address. Bits 61:52: ignored. Bit 62, TM: reserved without device TLBs, left clear. Bit 63:
// ignored.

impl Format for SecondLevel {
    const NAME: &'static str = "VT-d second level";
    const LEVELS: RangeInclusive<u8> = 3..=5;
    const TABLE: u64 = READ | WRITE;
    const ACCESSED: u64 = ACCESSED;
    const DIRTY: u64 = DIRTY;

    fn leaf(&self, _: P2mType, allowed: Access) -> u64 {
        let mut bits = 0;
        if allowed.contains(Access::READ) {
            bits |= READ;
        }
        if allowed.contains(Access::WRITE) {
            bits |= WRITE;
        }
        if self.snoop && bits != 0 { bits | SNOOP } else { bits }
    }
}

impl SecondLevel {
    /// The largest page that a unit walks, from its capability register (VT-d 11.4.2: SSLPS, bit 34 for 2
    /// MiB, bit 35 for 1 GiB).
    #[must_use]
    pub const fn largest_page(capability: u64) -> PageSize {
        match (capability >> 34) & 3 {
            3 => PageSize::Size1G,
            1 => PageSize::Size2M,
            _ => PageSize::Size4K,
        }
    }

    /// Whether a unit walks tables of that many levels (VT-d 11.4.2: SAGAW, bit 9 for 3 levels, 10 for 4, 11
    /// for 5).
    #[must_use]
    pub const fn walks_levels(capability: u64, levels: u8) -> bool {
        match levels {
            3 => capability & 1 << 9 != 0,
            4 => capability & 1 << 10 != 0,
            5 => capability & 1 << 11 != 0,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::tests::{leaf, pointer};

    #[test]
    fn leaves_have_r_and_w_and_ps_above_the_lowest_level() {
        let format = SecondLevel::default();
        assert_eq!(leaf(&format, P2mType::MmioDirect, Access::READ_WRITE, 1), 0x4000_0003);
        assert_eq!(leaf(&format, P2mType::MmioDirect, Access::READ_WRITE, 2), 0x4000_0083);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::all(), 3), 0x4000_0083);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ, 1), 0x4000_0001);
        assert_eq!(pointer::<SecondLevel>(), 0x4000_0003);
    }

    #[test]
    fn a_type_can_take_the_write_away() {
        for p2m_type in [P2mType::RamRo, P2mType::RamLogdirty] {
            assert_eq!(leaf(&SecondLevel::default(), p2m_type, Access::READ_WRITE, 1), 0x4000_0001);
        }
    }

    #[test]
    fn snoop_is_in_leaves_that_give_access() {
        let format = SecondLevel { snoop: true };
        assert_eq!(leaf(&format, P2mType::RamRw, Access::READ_WRITE, 1), 0x4000_0803);
        assert_eq!(leaf(&format, P2mType::RamRw, Access::EXECUTE, 1) & 0xfff, 0);
    }

    #[test]
    fn qemus_capability_register_says_3_levels_and_pages_of_1_gib() {
        let capability = 0x00d2_008c_2226_0206;
        assert_eq!(SecondLevel::largest_page(capability), PageSize::Size1G);
        assert_eq!(SecondLevel::largest_page(capability & !(1 << 35)), PageSize::Size2M);
        assert_eq!(SecondLevel::largest_page(capability & !(3 << 34)), PageSize::Size4K);
        assert_eq!(
            [3, 4, 5].map(|levels| SecondLevel::walks_levels(capability, levels)),
            [true, false, false]
        );
        let capability = capability | 1 << 10;
        assert_eq!(
            [2, 3, 4, 5, 6].map(|levels| SecondLevel::walks_levels(capability, levels)),
            [false, true, true, false, false]
        );
    }
}
