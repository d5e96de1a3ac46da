//! What to do with a reserved region that firmware reports: a verdict against the host's memory map.
//!
//! Overlaps and shared pages are legal; they join devices into groups and are no matter of this module.

use core::fmt;

use crate::Rmrr;

const PAGE_SHIFT: u32 = 12;

bitflags::bitflags! {
    /// How a region had to be repaired before it could be accepted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Repairs: u8 {
        /// The base was not on a page edge; the page is taken from its start.
        const BASE_WIDENED = 1 << 0;
        /// The limit was not the last byte of a page; the page is taken to its end.
        const LIMIT_WIDENED = 1 << 1;
        /// Some of its memory is in no entry of the memory map; it is taken as reserved.
        const UNKNOWN_TAKEN_AS_RESERVED = 1 << 2;
        /// Some of its memory is RAM; the hypervisor has taken those frames out of its allocator.
        const TAKEN_OUT_OF_RAM = 1 << 3;
    }
}

impl fmt::Display for Repairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sentences = [
            (Self::BASE_WIDENED, "base widened to its page's start"),
            (Self::LIMIT_WIDENED, "limit widened to its page's end"),
            (Self::UNKNOWN_TAKEN_AS_RESERVED, "memory that the map does not know taken as reserved"),
            (Self::TAKEN_OUT_OF_RAM, "frames taken out of RAM"),
        ];
        let mut separator = "";
        for (repair, sentence) in sentences {
            if self.contains(repair) {
                write!(f, "{separator}{sentence}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

/// A range of 4 KiB pages by frame number: `start` is the first, `end` is exclusive. Never empty where this crate makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageRange {
    /// The first frame.
    pub start: u64,
    /// The frame behind the last.
    pub end: u64,
}

impl PageRange {
    /// Every page that holds a byte of `base` to `limit`, which is inclusive; `None` if `base` is above `limit`.
    #[must_use]
    pub const fn covering(base: u64, limit: u64) -> Option<Self> {
        if base > limit {
            return None;
        }
        // The highest frame number is 2^52 - 1.
        Some(Self { start: base >> PAGE_SHIFT, end: (limit >> PAGE_SHIFT).wrapping_add(1) })
    }

    /// How many pages.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// True if there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// True if some page is in both.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frames {:#x} to {:#x}", self.start, self.end.saturating_sub(1))
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end)
    }
}

/// What the host's memory map says of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// RAM that the hypervisor may give away.
    Ram,
    /// Reserved by firmware: where a region belongs.
    Reserved,
    /// Known and never given away: ACPI tables, NVS, unusable memory, device memory.
    Other,
}

/// An entry of the host's memory map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryRegion {
    /// Physical address of the first byte.
    pub start: u64,
    /// Physical address behind the last byte; an entry with `end <= start` is ignored.
    pub end: u64,
    /// What the memory is.
    pub kind: MemoryKind,
}

impl MemoryRegion {
    /// The pages that hold any byte of it.
    fn pages(self) -> PageRange {
        match self.end.checked_sub(1).and_then(|last| PageRange::covering(self.start, last)) {
            Some(pages) => pages,
            None => PageRange { start: 0, end: 0 },
        }
    }
}

/// The host's memory map, such as the e820: entries in any order, which may overlap.
///
/// ```
/// use acpi_dmar::verdict::{MemoryKind, MemoryMap, MemoryRegion};
///
/// struct E820<'a>(&'a [(u64, u64, u32)]);
///
/// impl MemoryMap for E820<'_> {
///     fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
///         self.0.iter().map(|&(start, length, kind)| MemoryRegion {
///             start,
///             end: start.saturating_add(length),
///             kind: match kind {
///                 1 => MemoryKind::Ram,
///                 2 => MemoryKind::Reserved,
///                 _ => MemoryKind::Other,
///             },
///         })
///     }
/// }
/// ```
pub trait MemoryMap {
    /// The entries. Asked for several times for a region, so this should be cheap.
    fn regions(&self) -> impl Iterator<Item = MemoryRegion>;
}

impl MemoryMap for [MemoryRegion] {
    fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
        self.iter().copied()
    }
}

impl<const N: usize> MemoryMap for [MemoryRegion; N] {
    fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
        self.iter().copied()
    }
}

impl<M: MemoryMap + ?Sized> MemoryMap for &M {
    fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
        (**self).regions()
    }
}

/// The hypervisor's answer that it cannot take frames out of its allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramesInUse;

/// What the hypervisor does to keep its own hands off a region.
pub trait ReserveFrames {
    /// Takes every frame of `pages` that is RAM out of the allocator for good: all of them or none.
    ///
    /// # Errors
    ///
    /// [`FramesInUse`] if some of them are in use already; nothing has changed then.
    fn take_out_of_ram(&mut self, pages: PageRange) -> Result<(), FramesInUse>;

    /// Is told of `pages` that the memory map does not know, and that now count as reserved: not to be given to devices or as hot-plugged RAM.
    fn take_as_reserved(&mut self, pages: PageRange) {
        let _ = pages;
    }
}

/// A hypervisor that gives no RAM away: every region in RAM is rejected.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepRam;

impl ReserveFrames for KeepRam {
    fn take_out_of_ram(&mut self, _: PageRange) -> Result<(), FramesInUse> {
        Err(FramesInUse)
    }
}

/// Why a region cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The first byte is behind the last.
    #[error("its base {base:#x} is above its limit {limit:#x}")]
    BaseAboveLimit {
        /// The first byte.
        base: u64,
        /// The last byte.
        limit: u64,
    },
    /// The last byte is beyond what DMA can address on this machine.
    #[error("its limit {limit:#x} is beyond the host address width of {width} bits")]
    BeyondAddressWidth {
        /// The last byte.
        limit: u64,
        /// Bits of a host address.
        width: u8,
    },
    /// The number of its bytes does not fit 64 bits: it is all there is.
    #[error("{base:#x} to {limit:#x} is more than 2^64 - 1 bytes long")]
    Overflow {
        /// The first byte.
        base: u64,
        /// The last byte.
        limit: u64,
    },
    /// No readable device scope names a device for it.
    #[error("no device scope names a device for it")]
    NoScope,
    /// Some of it is RAM that the hypervisor cannot take out of its allocator.
    #[error("{ram} are RAM in use")]
    InRam {
        /// The first run of RAM in it.
        ram: PageRange,
    },
}

/// What becomes of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As firmware says.
    Accepted(PageRange),
    /// With changes.
    Repaired(PageRange, Repairs),
    /// Kept until one of its devices, which are all absent, appears. Only who knows the bus can say so, by [`Verdict::dormant`].
    Dormant(PageRange, Repairs),
    /// Not to be mapped; its devices are not to be assigned unless their owner accepts that.
    Rejected(Rejection),
}

impl Verdict {
    /// The pages to map 1:1, also while dormant; `None` if rejected.
    #[must_use]
    pub const fn pages(&self) -> Option<PageRange> {
        match *self {
            Self::Accepted(pages) | Self::Repaired(pages, _) | Self::Dormant(pages, _) => Some(pages),
            Self::Rejected(_) => None,
        }
    }

    /// What was repaired.
    #[must_use]
    pub const fn repairs(&self) -> Repairs {
        match *self {
            Self::Repaired(_, repairs) | Self::Dormant(_, repairs) => repairs,
            Self::Accepted(_) | Self::Rejected(_) => Repairs::empty(),
        }
    }

    /// The same while all its devices are absent. A rejected region stays rejected.
    #[must_use]
    pub const fn dormant(self) -> Self {
        match self {
            Self::Accepted(pages) => Self::Dormant(pages, Repairs::empty()),
            Self::Repaired(pages, repairs) => Self::Dormant(pages, repairs),
            other => other,
        }
    }

    /// The same once one of its devices has appeared.
    #[must_use]
    pub const fn awake(self) -> Self {
        match self {
            Self::Dormant(pages, repairs) if repairs.is_empty() => Self::Accepted(pages),
            Self::Dormant(pages, repairs) => Self::Repaired(pages, repairs),
            other => other,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(_) => f.write_str("accepted"),
            Self::Repaired(_, repairs) => write!(f, "repaired: {repairs}"),
            Self::Dormant(_, repairs) if repairs.is_empty() => {
                f.write_str("dormant: no device of it is present")
            }
            Self::Dormant(_, repairs) => {
                write!(f, "dormant: no device of it is present; repaired: {repairs}")
            }
            Self::Rejected(reason) => write!(f, "rejected: {reason}"),
        }
    }
}

/// Judges the region of an RMRR; see [`judge`]. One without a readable scope is rejected, since nothing could ever use it.
pub fn judge_rmrr(
    rmrr: &Rmrr<'_>,
    host_address_width: u8,
    map: &(impl MemoryMap + ?Sized),
    frames: &mut (impl ReserveFrames + ?Sized),
) -> Verdict {
    // Wrong bounds say more than a missing scope, and frames must not be taken for a region that nobody uses.
    match check_bounds(rmrr.base(), rmrr.limit(), host_address_width) {
        Ok(_) if !rmrr.scopes().any(|scope| scope.is_ok()) => Verdict::Rejected(Rejection::NoScope),
        Ok(_) => judge(rmrr.base(), rmrr.limit(), host_address_width, map, frames),
        Err(rejection) => Verdict::Rejected(rejection),
    }
}

/// Judges the region from `base` to `limit`, inclusive, on a host with `host_address_width` bits of physical address and memory as `map` says.
///
/// A page with any byte of RAM is RAM. If there is one, `frames` is asked once, for the whole region, to take its frames out of the allocator. Of
/// pages in no entry of the map it is told, run by run, after that succeeded.
pub fn judge(
    base: u64,
    limit: u64,
    host_address_width: u8,
    map: &(impl MemoryMap + ?Sized),
    frames: &mut (impl ReserveFrames + ?Sized),
) -> Verdict {
    let pages = match check_bounds(base, limit, host_address_width) {
        Ok(pages) => pages,
        Err(rejection) => return Verdict::Rejected(rejection),
    };
    let in_page = |address: u64| address & ((1 << PAGE_SHIFT) - 1);
    let mut repairs = Repairs::empty();
    repairs.set(Repairs::BASE_WIDENED, in_page(base) != 0);
    repairs.set(Repairs::LIMIT_WIDENED, in_page(limit) != in_page(u64::MAX));

    let is_ram = |region: &MemoryRegion| region.kind == MemoryKind::Ram;
    if let Some((ram, _)) = runs(map, pages, is_ram).find(|&(_, covered)| covered) {
        if frames.take_out_of_ram(pages).is_err() {
            return Verdict::Rejected(Rejection::InRam { ram });
        }
        repairs |= Repairs::TAKEN_OUT_OF_RAM;
    }
    for (unknown, _) in runs(map, pages, |_| true).filter(|&(_, covered)| !covered) {
        frames.take_as_reserved(unknown);
        repairs |= Repairs::UNKNOWN_TAKEN_AS_RESERVED;
    }
    if repairs.is_empty() { Verdict::Accepted(pages) } else { Verdict::Repaired(pages, repairs) }
}

fn check_bounds(base: u64, limit: u64, width: u8) -> Result<PageRange, Rejection> {
    let pages = PageRange::covering(base, limit).ok_or(Rejection::BaseAboveLimit { base, limit })?;
    if limit.checked_shr(width.into()).is_some_and(|beyond| beyond != 0) {
        return Err(Rejection::BeyondAddressWidth { limit, width });
    }
    if pages.len() > u64::MAX >> PAGE_SHIFT {
        return Err(Rejection::Overflow { base, limit });
    }
    Ok(pages)
}

/// Cuts `pages` into runs that entries of `map` which are `wanted` cover, or do not. For n entries there are at most 2n + 1 steps of one look at
/// each entry, without memory of its own.
fn runs<M: MemoryMap + ?Sized>(
    map: &M,
    pages: PageRange,
    wanted: impl Fn(&MemoryRegion) -> bool,
) -> impl Iterator<Item = (PageRange, bool)> {
    let mut at = pages.start;
    core::iter::from_fn(move || {
        if at >= pages.end {
            return None;
        }
        let start = at;
        // As long as entries meet or overlap they are one run.
        while let Some(end) = entries(map, &wanted)
            .filter(|entry| entry.start <= at && at < entry.end)
            .map(|entry| entry.end)
            .max()
            .filter(|_| at < pages.end)
        {
            at = end.min(pages.end);
        }
        let covered = at > start;
        if !covered {
            let next = entries(map, &wanted).map(|entry| entry.start).filter(|&next| next > start).min();
            at = next.unwrap_or(pages.end).min(pages.end);
        }
        Some((PageRange { start, end: at }, covered))
    })
}

fn entries<M: MemoryMap + ?Sized>(
    map: &M,
    wanted: impl Fn(&MemoryRegion) -> bool,
) -> impl Iterator<Item = PageRange> {
    map.regions().filter(wanted).map(MemoryRegion::pages).filter(|pages| !pages.is_empty())
}

#[cfg(test)]
mod tests;
