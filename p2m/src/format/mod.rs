//! How an entry looks to the hardware, and what of it is ours.
//!
//! The three formats put the address in bits 51:12 and the page-size bit at 7, and leave bits 61:52 to
//! software. What Xen keeps in its EPT entries (`sa_p2mt`, `access` in
//! `xen/arch/x86/include/asm/hvm/vmx/vmx.h`) is kept here in all of them:
//!
//! | bits | what |
//! | --- | --- |
//! | 55:52 | the p2m type, and whether a 1:1 mapping installed the leaf |
//! | 58:56 | the p2m access, which the hardware's bits may fall short of (a read-only type, a format without execute) |
//! | 59 | the entry points to a table: then 58:52 and 61:60 say how many entries of that are in use, less one |
//! | 61:60 | in a table that is off the tree: a piece of the link to the next such table |
//!
//! Where the hardware could give 61:57 a meaning (EPT: guest-paging verification, paging-write, supervisor
//! shadow stack, sub-page permissions; long mode: protection keys), those controls stay off, as under Xen.

use core::fmt;
use core::ops::RangeInclusive;

use crate::entry::{Access, Entry, P2mType};
use crate::frame::{Mfn, PAGE_SHIFT, PageSize};

mod ept;
mod long_mode;
mod second_level;

pub use ept::{Ept, MemoryType};
pub use long_mode::LongMode;
pub use second_level::SecondLevel;

/// A table format: what the hardware reads in an entry. A value of the type holds what is the same for all
/// entries of one table.
pub trait Format: Copy + fmt::Debug {
    /// Its name.
    const NAME: &'static str;
    /// How many levels a table may have.
    const LEVELS: RangeInclusive<u8>;
    /// The hardware's bits of an entry that points to a table.
    const TABLE: u64;
    /// The bit that hardware sets in an entry it has used; 0 where there is none.
    const ACCESSED: u64;
    /// The bit that hardware sets in a leaf it has written through; 0 where there is none.
    const DIRTY: u64;

    /// The hardware's bits of a leaf, but for the address and the page-size bit. `allowed` is what `p2m_type`
    /// leaves of its access; it is not empty, and has no `WRITE` without `READ`. Bits 2:0 of the answer are
    /// zero only when the format cannot express any of it.
    fn leaf(&self, p2m_type: P2mType, allowed: Access) -> u64;

    /// The hardware's bits of an entry that maps nothing: bits 2:0 are zero.
    fn vacant(&self) -> u64 {
        0
    }
}

/// Bits 51:12 (Intel SDM 29.3.2, VT-d 9.8, APM 5.3): hardware with fewer address bits reserves the upper
/// ones.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bit 7: a leaf above the lowest level.
const LARGE: u64 = 1 << 7;
const PLACE: u64 = ADDRESS | LARGE;
/// Bits of which hardware that finds them all zero reads no more of the entry: R, W, X in EPT and the second
/// level, P in long mode.
const PRESENT: u64 = 7;
const KIND: u64 = 0xf << KIND_SHIFT;
const KIND_SHIFT: u32 = 52;
const ACCESS: u64 = 7 << ACCESS_SHIFT;
const ACCESS_SHIFT: u32 = 56;
const POINTER: u64 = 1 << 59;
/// Where the two upper bits of a table's count of used entries are; the seven lower ones are at
/// [`KIND_SHIFT`].
const USED_HIGH_SHIFT: u32 = 60;
const USED: u64 = 0x7f << KIND_SHIFT | 3 << USED_HIGH_SHIFT;
const LINK_SHIFT: u32 = 60;
/// Bits of a link in one entry.
const LINK_BITS: u32 = 2;
/// Entries that a link of 40 bits takes.
pub(crate) const LINK_ENTRIES: usize = 20;

/// Frame numbers below this fit an entry (52 address bits).
pub(crate) const MACHINE_FRAMES: u64 = 1 << (52 - PAGE_SHIFT);
/// The highest level at which an entry may be a leaf: 1 GiB.
pub(crate) const LARGEST_LEAF_LEVEL: u32 = 3;
/// More levels than any table has: entries without an address fit at each.
pub(crate) const ANY_LEVEL: u32 = 5;

// Codes of bits 55:52. Zero is nothing at all, so that a zeroed frame is an empty table; bit 55 says that
// there is an address.
const INVALID: u64 = 0;
const MMIO_DM: u64 = 1;
const POPULATE_ON_DEMAND: u64 = 2;
const HAS_FRAME: u64 = 8;
const MMIO_DIRECT: u64 = 8;
const RAM_RW: u64 = 9;
const RAM_RO: u64 = 10;
const RAM_LOGDIRTY: u64 = 11;
const FOREIGN: u64 = 12;
const GRANT: u64 = 13;
/// Installed by a 1:1 mapping where [`INVALID`] was; with bit 0 set, where [`MMIO_DM`] was.
const IDENTITY: u64 = 14;

const TYPES: [P2mType; 16] = {
    use P2mType::*;
    [
        Invalid,
        MmioDm,
        PopulateOnDemand,
        Invalid,
        Invalid,
        Invalid,
        Invalid,
        Invalid,
        MmioDirect,
        RamRw,
        RamRo,
        RamLogdirty,
        Foreign,
        Grant,
        MmioDirect,
        MmioDirect,
    ]
};

const fn kind_of(p2m_type: P2mType) -> u64 {
    match p2m_type {
        P2mType::Invalid => INVALID,
        P2mType::MmioDm => MMIO_DM,
        P2mType::PopulateOnDemand => POPULATE_ON_DEMAND,
        P2mType::MmioDirect => MMIO_DIRECT,
        P2mType::RamRw => RAM_RW,
        P2mType::RamRo => RAM_RO,
        P2mType::RamLogdirty => RAM_LOGDIRTY,
        P2mType::Foreign => FOREIGN,
        P2mType::Grant => GRANT,
    }
}

/// What `p2m_type` leaves of `access` for the hardware. A write without a read cannot be expressed everywhere
/// (EPT: a misconfiguration, SDM 29.3.3.1; long mode: no bit for it), so nowhere does it get through.
fn allowed(p2m_type: P2mType, access: Access) -> Access {
    let access = match p2m_type {
        P2mType::RamRo | P2mType::RamLogdirty => access.difference(Access::WRITE),
        _ => access,
    };
    if access.contains(Access::READ) { access } else { access.difference(Access::WRITE) }
}

/// The lowest level whose entries span a page of this size.
pub(crate) const fn level_of(size: PageSize) -> u32 {
    match size {
        PageSize::Size4K => 1,
        PageSize::Size2M => 2,
        PageSize::Size1G => LARGEST_LEAF_LEVEL,
    }
}

/// Frames that an entry at `level` (1 is the lowest) covers, as a power of two.
#[inline]
pub(crate) const fn shift_of(level: u32) -> u32 {
    level.wrapping_sub(1).wrapping_mul(9)
}

/// Frames that an entry at `level` covers.
#[inline]
pub(crate) const fn span_of(level: u32) -> u64 {
    1_u64.wrapping_shl(shift_of(level))
}

/// The 64 bits of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Raw(pub(crate) u64);

impl Raw {
    /// What a zeroed frame holds.
    pub(crate) const NOTHING: Self = Self(0);

    /// An entry that points to the table at `frame`, of whose entries `used` are in use: 1 to 512.
    pub(crate) fn pointer<F: Format>(frame: Mfn, used: u64) -> Self {
        let address = frame.raw().wrapping_shl(PAGE_SHIFT) & ADDRESS;
        Self(F::TABLE).with(POINTER).with(address).with_used(used)
    }

    /// The same with these bits as well, of fields that are clear.
    #[inline]
    const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// The same pointer with another count of used entries.
    #[inline]
    pub(crate) const fn with_used(self, used: u64) -> Self {
        let less_one = used.wrapping_sub(1);
        let (low, high) = (less_one & 0x7f, less_one >> 7 & 3);
        Self(self.0 & !USED).with(low << KIND_SHIFT).with(high << USED_HIGH_SHIFT)
    }

    /// How many entries of the table that this points to are in use.
    #[inline]
    pub(crate) const fn used(self) -> u64 {
        let (low, high) = (self.0 >> KIND_SHIFT & 0x7f, self.0 >> USED_HIGH_SHIFT & 3);
        (high << 7).wrapping_add(low).wrapping_add(1)
    }

    /// Whether the entry says anything: it is not `p2m_invalid`.
    #[inline]
    pub(crate) const fn is_used(self) -> bool {
        self.is_table() || self.kind() != INVALID
    }

    #[inline]
    pub(crate) const fn is_table(self) -> bool {
        self.0 & POINTER != 0
    }

    /// The table or first machine frame that the entry leads to.
    #[inline]
    pub(crate) const fn frame(self) -> Mfn {
        Mfn::containing(self.0 & ADDRESS)
    }

    const fn kind(self) -> u64 {
        (self.0 & KIND) >> KIND_SHIFT
    }

    /// A hole: nothing is mapped, nothing promised, and it is not a table.
    #[inline]
    pub(crate) const fn is_vacant(self) -> bool {
        !self.is_table() && matches!(self.kind(), INVALID | MMIO_DM)
    }

    /// Whether there is a machine frame behind the entry.
    #[inline]
    pub(crate) const fn has_frame(self) -> bool {
        self.0 & HAS_FRAME << KIND_SHIFT != 0
    }

    /// Whether a 1:1 mapping installed it.
    #[inline]
    pub(crate) const fn is_identity(self) -> bool {
        self.kind() >= IDENTITY
    }

    /// Whether hardware may have cached what is here.
    #[inline]
    pub(crate) const fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    #[inline]
    pub(crate) fn p2m_type(self) -> P2mType {
        TYPES.get((self.kind() & 15) as usize).copied().unwrap_or_default()
    }

    #[inline]
    pub(crate) const fn access(self) -> Access {
        Access::from_bits_truncate(((self.0 & ACCESS) >> ACCESS_SHIFT) as u8)
    }

    /// What is at the frame `offset` into the span of this entry, which is not a table.
    pub(crate) fn entry(self, offset: u64) -> Entry {
        let mfn = self.has_frame().then(|| Mfn::new(self.frame().raw().wrapping_add(offset)));
        Entry { p2m_type: self.p2m_type(), mfn, access: self.access() }
    }

    /// The leaf as if it began `offset` frames further on: within its span.
    #[inline]
    pub(crate) const fn advanced(self, offset: u64) -> Self {
        self.with(offset.wrapping_shl(PAGE_SHIFT))
    }

    /// Whether it is `p2m_mmio_direct` at the machine frames of the same numbers as the guest frames from
    /// `gfn` on, with this access.
    #[inline]
    pub(crate) const fn is_identical(self, gfn: u64, access: Access) -> bool {
        let there = self.frame().raw() == gfn && self.access().bits() == access.bits();
        there && (self.kind() == MMIO_DIRECT || self.is_identity())
    }

    /// Two bits of the link that entry number `entry` of a detached table holds.
    pub(crate) fn with_link(self, link: u64, entry: u32) -> Self {
        let piece = link.wrapping_shr(entry.wrapping_mul(LINK_BITS)) & 3;
        Self(self.0 & !(3 << LINK_SHIFT)).with(piece << LINK_SHIFT)
    }

    /// What [`with_link`](Self::with_link) put there.
    pub(crate) fn link(self, entry: u32) -> u64 {
        (self.0 >> LINK_SHIFT & 3).wrapping_shl(entry.wrapping_mul(LINK_BITS))
    }
}

/// What a run of guest frames is to hold, whatever the level of the entries.
#[derive(Clone, Copy)]
pub(crate) struct Seed {
    /// The entry but for its address and page size.
    entry: Raw,
    /// The machine address behind guest address 0, wrapping.
    origin: u64,
    /// The bits that the place of an entry decides, address and page size; none where there is no address.
    place: u64,
    /// The highest level at which this may be one entry.
    pub(crate) top: u32,
}

impl Seed {
    /// `entry` for the frames from `gfn` on, in leaves up to level `largest`.
    pub(crate) fn new<F: Format>(format: &F, gfn: u64, entry: Entry, largest: u32) -> Self {
        let Entry { p2m_type, access, .. } = entry;
        let kind = kind_of(p2m_type);
        let access = if p2m_type.is_vacant() { Access::empty() } else { access };
        let soft = Raw(kind << KIND_SHIFT).with(u64::from(access.bits()) << ACCESS_SHIFT);
        match entry.mfn {
            Some(mfn) if kind & HAS_FRAME != 0 => {
                let allowed = allowed(p2m_type, access);
                let hardware =
                    if allowed.is_empty() { format.vacant() } else { format.leaf(p2m_type, allowed) };
                let delta = mfn.raw().wrapping_sub(gfn);
                let aligned = match delta.trailing_zeros() {
                    18.. => LARGEST_LEAF_LEVEL,
                    9.. => 2,
                    _ => 1,
                };
                Self {
                    entry: soft.with(hardware),
                    origin: delta.wrapping_shl(PAGE_SHIFT),
                    place: PLACE,
                    top: largest.min(aligned),
                }
            }
            _ => Self::without_frame(soft.with(format.vacant())),
        }
    }

    /// `p2m_mmio_direct` at the machine frames of the guest frames' numbers, marked as installed by a 1:1
    /// mapping where nothing was.
    pub(crate) fn identity<F: Format>(format: &F, access: Access, largest: u32) -> Self {
        let entry = Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(0)), access };
        let direct = Self::new(format, 0, entry, largest);
        Self { entry: Raw(direct.entry.0 & !KIND).with(IDENTITY << KIND_SHIFT), ..direct }
    }

    /// The same entry everywhere: there is no address in it.
    #[inline]
    const fn without_frame(entry: Raw) -> Self {
        Self { entry, origin: 0, place: 0, top: ANY_LEVEL }
    }

    /// This 1:1 mapping in place of `vacant`.
    #[inline]
    pub(crate) const fn in_place_of(self, vacant: Raw) -> Self {
        Self { entry: self.entry.with(vacant.0 & (MMIO_DM << KIND_SHIFT)), ..self }
    }

    /// The same, with hardware's accessed and dirty marks kept from what was there.
    pub(crate) const fn marked(self, marks: u64) -> Self {
        Self { entry: self.entry.with(marks), ..self }
    }

    /// What was there before the 1:1 mapping that installed `raw`.
    #[inline]
    pub(crate) fn before_identity<F: Format>(format: &F, raw: Raw) -> Self {
        Self::without_frame(Raw(format.vacant()).with(raw.0 & (MMIO_DM << KIND_SHIFT)))
    }

    /// What `raw`, an entry at `level` for the frames from `gfn` on and not a table, holds.
    #[inline]
    pub(crate) const fn of(raw: Raw, gfn: u64, level: u32) -> Self {
        if raw.has_frame() {
            let origin = (raw.0 & ADDRESS).wrapping_sub(gfn.wrapping_shl(PAGE_SHIFT));
            Self { entry: Raw(raw.0 & !PLACE), origin, place: PLACE, top: level }
        } else {
            Self::without_frame(raw)
        }
    }

    /// The entry at `level` for the frames from `gfn` on.
    #[inline]
    pub(crate) const fn at(&self, gfn: u64, level: u32) -> Raw {
        let large = if level > 1 { LARGE } else { 0 };
        let address = gfn.wrapping_shl(PAGE_SHIFT).wrapping_add(self.origin) & ADDRESS;
        self.entry.with(address & self.place).with(large & self.place)
    }

    /// What the entry at `level` grows by from one to the next.
    #[inline]
    pub(crate) const fn step(&self, level: u32) -> u64 {
        span_of(level).wrapping_shl(PAGE_SHIFT) & self.place
    }

    /// Whether an entry is what a zeroed frame holds.
    pub(crate) const fn is_nothing(&self) -> bool {
        self.entry.0 == 0
    }
}

/// The entry one level up that says the same as a whole table at `level`, given the first entry of the table:
/// `None` when there cannot be one. Leaves that 1:1 mappings installed are never joined, so that each can be
/// removed without a frame to split what another made.
pub(crate) fn widened(first: Raw, level: u32, largest: u32) -> Option<Raw> {
    if first.is_table() || first.is_identity() {
        return None;
    }
    if !first.has_frame() {
        return Some(first);
    }
    let wide = level.wrapping_add(1);
    let aligned = first.frame().raw() & span_of(wide).wrapping_sub(1) == 0;
    (wide <= largest && aligned).then_some(Raw(first.0 | LARGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits that hardware does not read.
    const SOFT: u64 = KIND | ACCESS | POINTER | 3 << LINK_SHIFT;

    /// The hardware's bits of a leaf at `level` for machine frame 0x40000.
    pub(crate) fn leaf<F: Format>(format: &F, p2m_type: P2mType, access: Access, level: u32) -> u64 {
        let entry = Entry { p2m_type, mfn: Some(Mfn::new(0x4_0000)), access };
        let raw = Seed::new(format, 0, entry, LARGEST_LEAF_LEVEL).at(0, level);
        assert_eq!(raw.entry(0), entry, "what was put in is not what comes out");
        raw.0 & !SOFT
    }

    pub(crate) fn vacant<F: Format>(format: &F) -> u64 {
        let raw = Seed::new(format, 0, Entry::NOTHING, 1).at(0, 1);
        assert!(raw.is_vacant() && !raw.is_used());
        raw.0
    }

    pub(crate) fn pointer<F: Format>() -> u64 {
        let raw = Raw::pointer::<F>(Mfn::new(0x4_0000), 1);
        assert!(raw.is_table());
        raw.0 & !SOFT
    }

    #[test]
    fn a_pointer_keeps_its_count_apart_from_all_else() {
        let frame = Mfn::new(MACHINE_FRAMES - 1);
        for used in 1..=512 {
            let raw = Raw::pointer::<Ept>(frame, 7).with_used(used);
            assert_eq!((raw.used(), raw.frame(), raw.0 & 0xfff, raw.0 >> 62), (used, frame, 7, 0));
            assert!(raw.is_table() && raw.is_used() && !raw.is_vacant());
        }
    }

    #[test]
    fn a_link_is_put_together_from_its_pieces() {
        let link = 0xa5_c3f0_1234;
        let pieces: std::vec::Vec<Raw> =
            (0..LINK_ENTRIES as u32).map(|entry| Raw(!0).with_link(link, entry)).collect();
        assert!(pieces.iter().all(|raw| raw.0 | 3 << LINK_SHIFT == !0));
        let joined = (0..).zip(&pieces).fold(0, |joined, (entry, raw)| joined | raw.link(entry));
        assert_eq!(joined, link);
    }

    #[test]
    fn types_and_codes_belong_together() {
        for (code, p2m_type) in (0..).zip(TYPES) {
            let raw = Raw(code << KIND_SHIFT);
            assert_eq!(raw.p2m_type(), p2m_type);
            assert_eq!(raw.has_frame(), p2m_type.has_frame());
            let own = kind_of(p2m_type) == code;
            assert!(own || raw.is_identity() || p2m_type == P2mType::Invalid);
        }
    }

    #[test]
    fn a_leaf_is_no_larger_than_both_addresses_are_aligned() {
        let top = |gfn: u64, mfn: u64, largest: u32| {
            let entry = Entry { p2m_type: P2mType::RamRw, mfn: Some(Mfn::new(mfn)), access: Access::READ };
            Seed::new(&SecondLevel::default(), gfn, entry, largest).top
        };
        assert_eq!([top(5, 5, 3), top(5, 5, 2), top(0, 1 << 18, 3)], [3, 2, 3]);
        assert_eq!([top(0, 1 << 17, 3), top(0, 1 << 9, 3), top(0, 1 << 8, 3), top(0, 1, 3)], [2, 2, 1, 1]);
    }
}
