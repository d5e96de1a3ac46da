//! The host's memory as far as regions are about it: what the memory map says, and the frame allocator that
//! keeps off a region.

use p2m::MfnRange;

use super::pages::pages_of;
use super::verdict::{Rejection, Repairs};

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
    /// Physical address after the last byte; an entry with `end <= start` is ignored.
    pub end: u64,
    /// What the memory is.
    pub kind: MemoryKind,
}

impl MemoryRegion {
    /// The pages that hold any byte of it.
    fn pages(self) -> MfnRange {
        self.end.checked_sub(1).and_then(|last| pages_of(self.start, last)).unwrap_or_default()
    }
}

/// The host's memory map, such as the e820: entries in any order, which may overlap.
///
/// ```
/// use xen_iommu::region::memory::{MemoryKind, MemoryMap, MemoryRegion};
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
    fn take_out_of_ram(&mut self, pages: MfnRange) -> Result<(), FramesInUse>;

    /// Is told of pages that the memory map does not know, and that now count as reserved: not to be given
    /// to devices or as hot-plugged RAM.
    fn take_as_reserved(&mut self, _unknown: MfnRange) {}
}

/// A hypervisor that gives no RAM away: every region in RAM is rejected.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepRam;

impl ReserveFrames for KeepRam {
    fn take_out_of_ram(&mut self, _: MfnRange) -> Result<(), FramesInUse> {
        Err(FramesInUse)
    }
}

/// Makes `pages` reserved. A page with any byte of RAM is RAM; if there is one, `frames` is asked once, for
/// all of `pages`, to take its frames out of the allocator. Of pages in no entry of the map it is told, run
/// by run, after that succeeded.
pub(super) fn reserve(
    pages: MfnRange,
    map: &(impl MemoryMap + ?Sized),
    frames: &mut (impl ReserveFrames + ?Sized),
) -> Result<Repairs, Rejection> {
    let mut repairs = Repairs::empty();
    let is_ram = |region: &MemoryRegion| region.kind == MemoryKind::Ram;
    if let Some((ram, _)) = runs(map, pages, is_ram).find(|&(_, covered)| covered) {
        if frames.take_out_of_ram(pages).is_err() {
            return Err(Rejection::InRam { ram });
        }
        repairs.insert(Repairs::TAKEN_OUT_OF_RAM);
    }
    for (unknown, _) in runs(map, pages, |_| true).filter(|&(_, covered)| !covered) {
        frames.take_as_reserved(unknown);
        repairs.insert(Repairs::UNKNOWN_TAKEN_AS_RESERVED);
    }
    Ok(repairs)
}

/// Cuts `pages` into runs that entries of `map` which are `wanted` cover, or do not. For n entries there are
/// at most 2n + 1 steps of one look at each entry, without memory of its own.
fn runs<M: MemoryMap + ?Sized>(
    map: &M,
    pages: MfnRange,
    wanted: impl Fn(&MemoryRegion) -> bool,
) -> impl Iterator<Item = (MfnRange, bool)> {
    let mut at = pages.start();
    core::iter::from_fn(move || {
        if at >= pages.end() {
            return None;
        }
        let start = at;
        // As long as entries meet or overlap they are one run.
        while let Some(end) = entries(map, &wanted)
            .filter(|entry| entry.contains(at))
            .map(|entry| entry.end())
            .max()
            .filter(|_| at < pages.end())
        {
            at = end.min(pages.end());
        }
        let covered = at > start;
        if !covered {
            let next = entries(map, &wanted).map(|entry| entry.start()).filter(|&next| next > start).min();
            at = next.unwrap_or(pages.end()).min(pages.end());
        }
        Some((MfnRange::new(start, at)?, covered))
    })
}

fn entries<M: MemoryMap + ?Sized>(
    map: &M,
    wanted: impl Fn(&MemoryRegion) -> bool,
) -> impl Iterator<Item = MfnRange> {
    map.regions().filter(wanted).map(MemoryRegion::pages).filter(|pages| !pages.is_empty())
}
