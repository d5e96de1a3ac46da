//! The machine's reserved regions: which frames, for which devices, accepted or not.
//!
//! Built once at boot from whatever states regions, then frozen: readers need no lock. Two things change
//! later and stand in atomics, written under the ownership lock alone: which domain a region is mapped in,
//! and where a region's present devices begin. So does what is found out later: which devices a scope means
//! that led through an absent bridge.

mod search;
mod unresolved;

use intrusive_collections::SinglyLinkedList;
use p2m::{Mfn, MfnRange};

use super::devices::Devices;
use super::iommu_state::IommuState;
use super::record::{Record, Region, Regions};
use super::verdict::Verdict;
use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;

pub use search::{Overlapping, RegionsOf};

/// Regions that overlap, one leading to the next: mapped and owned as one. Regions that only touch are in
/// clusters of their own.
pub(crate) struct Cluster<'m> {
    pub(crate) range: MfnRange,
    /// Lowest first.
    pub(crate) regions: &'m [&'m Region<'m>],
}

/// Collects the regions at boot.
pub struct RegistryBuilder<'m> {
    /// The last one first.
    regions: SinglyLinkedList<Regions<'m>>,
    count: u32,
    unresolved: SinglyLinkedList<unresolved::UnresolvedScopes<'m>>,
    iommu: IommuState,
}

impl Default for RegistryBuilder<'_> {
    fn default() -> Self {
        Self {
            regions: SinglyLinkedList::new(Regions::new()),
            count: 0,
            unresolved: SinglyLinkedList::new(unresolved::UnresolvedScopes::new()),
            iommu: IommuState::Active,
        }
    }
}

impl<'m> RegistryBuilder<'m> {
    /// Whether there is an IOMMU to reserve anything for; [`IommuState::Active`] unless said otherwise.
    pub fn set_iommu(&mut self, state: IommuState) {
        self.iommu = state;
    }

    /// Registers a region with the verdict on it. [`Host::add_record`](super::intake::Host::add_record)
    /// judges it first.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; the region is not registered then.
    pub fn add(
        &mut self,
        arena: &mut Arena<'m>,
        record: &Record<'_>,
        verdict: Verdict,
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let devices = devices(record.devices.iter().copied(), arena)?;
        self.register(arena, Record { devices, ..*record }, verdict)
    }

    /// As [`add`](Self::add), with devices from [`devices`].
    pub(super) fn register(
        &mut self,
        arena: &mut Arena<'m>,
        record: Record<'m>,
        verdict: Verdict,
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let region: &'m Region<'m> = arena.object(Region::new(record, verdict, self.count))?;
        self.regions.push_front(region);
        self.count = self.count.saturating_add(1);
        Ok(region)
    }

    /// Finds out which regions overlap; from here on the registry does not change.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`.
    pub fn freeze(self, arena: &mut Arena<'m>) -> Result<Registry<'m>, OutOfMemory> {
        let all = self.all(arena)?;
        let accepted = || all.iter().copied().filter(|region| region.rejection().is_none());
        let by_start = match accepted().count() {
            count if count == all.len() => all,
            _ => arena.collect(accepted())?,
        };
        let mut count = 0_u32;
        let mut highest = Mfn::new(0);
        for region in by_start {
            if region.range().start() >= highest {
                count = count.saturating_add(1);
            }
            region.set_cluster(count.saturating_sub(1));
            highest = highest.max(region.range().end());
            region.set_highest_end(highest.raw());
        }
        let clusters = runs_of(by_start, |one, other| one.cluster() == other.cluster());
        let clusters = arena.collect(clusters.map(|regions| {
            let hull = regions.iter().map(|region| region.range()).reduce(|range, other| range.hull(&other));
            Cluster { range: hull.unwrap_or_default(), regions }
        }))?;
        let starts = search::Starts::new(by_start, arena)?;
        let by_function = search::by_function(all, arena)?;
        let intervals = search::Intervals::new(all, arena)?;
        let mut index = Index::new(by_function.len(), arena)?;
        let mut last = None;
        for (number, claim) in (0_u32..).zip(by_function) {
            if last.replace(claim.function) != Some(claim.function) {
                index.insert(claim.function, number);
            }
        }
        let (unresolved, iommu) = (self.unresolved, self.iommu);
        Ok(Registry { all, by_start, starts, by_function, index, intervals, unresolved, clusters, iommu })
    }

    /// All regions in order, each with its place.
    fn all(&self, arena: &mut Arena<'m>) -> Result<&'m [&'m Region<'m>], OutOfMemory> {
        let mut cursor = self.regions.front();
        let all = arena.collect(core::iter::from_fn(move || {
            let region = cursor.clone_pointer();
            cursor.move_next();
            region
        }))?;
        all.sort_unstable_by_key(|region| (region.record().base, region.rank()));
        for (rank, region) in (0_u32..).zip(all.iter()) {
            region.set_rank(rank);
        }
        Ok(all)
    }
}

/// The devices of a region, each once, in ascending order.
pub(super) fn devices<'m>(
    all: impl Iterator<Item = Devices> + Clone,
    arena: &mut Arena<'m>,
) -> Result<&'m [Devices], OutOfMemory> {
    let devices = arena.collect(all)?;
    devices.sort_unstable();
    Ok(without_repeats(devices, PartialEq::eq))
}

/// The runs of `all` whose members are the same as their first. (As `slice::chunk_by`, whose iterator can be
/// cloned from Rust 1.89 on.)
pub(super) fn runs_of<T>(
    all: &[T],
    is_same: impl Fn(&T, &T) -> bool + Clone,
) -> impl Iterator<Item = &[T]> + Clone {
    let mut left = all;
    core::iter::from_fn(move || {
        let first = left.first()?;
        let len = left.iter().position(|other| !is_same(first, other)).unwrap_or(left.len());
        let (run, rest) = left.split_at_checked(len)?;
        left = rest;
        Some(run)
    })
}

/// Moves the first of each run of equals to the front; the rest is left out.
pub(super) fn without_repeats<T>(sorted: &mut [T], is_same: impl Fn(&T, &T) -> bool) -> &[T] {
    let mut kept = 0_usize;
    for index in 0..sorted.len() {
        let last = kept.checked_sub(1).and_then(|last| sorted.get(last));
        if last.zip(sorted.get(index)).is_some_and(|(last, next)| is_same(last, next)) {
            continue;
        }
        sorted.swap(kept, index);
        kept = kept.saturating_add(1);
    }
    sorted.get(..kept).unwrap_or_default()
}

/// The machine's reserved regions.
pub struct Registry<'m> {
    all: &'m [&'m Region<'m>],
    pub(super) by_start: &'m [&'m Region<'m>],
    starts: search::Starts<'m>,
    by_function: &'m [search::OfFunction<'m>],
    /// Where the claims of a function begin.
    pub(super) index: Index<'m>,
    intervals: search::Intervals<'m>,
    unresolved: SinglyLinkedList<unresolved::UnresolvedScopes<'m>>,
    pub(super) clusters: &'m [Cluster<'m>],
    iommu: IommuState,
}

impl<'m> Registry<'m> {
    /// The accepted regions, lowest first.
    pub fn regions(&self) -> impl Iterator<Item = &'m Region<'m>> + '_ {
        self.by_start.iter().copied()
    }

    /// The regions that were rejected, lowest base first.
    pub fn rejected(&self) -> impl Iterator<Item = &'m Region<'m>> + '_ {
        self.all.iter().copied().filter(|region| region.rejection().is_some())
    }

    /// Whether there is an IOMMU that the regions are reserved for.
    #[must_use]
    pub fn iommu(&self) -> IommuState {
        self.iommu
    }

    /// From now on the IOMMU is this: where it could not be started after all.
    pub fn set_iommu(&mut self, state: IommuState) {
        self.iommu = state;
    }

    pub(crate) fn cluster(&self, region: &Region<'_>) -> Option<&'m Cluster<'m>> {
        self.clusters.get(region.cluster() as usize)
    }
}

#[cfg(test)]
mod tests;
