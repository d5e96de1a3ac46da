//! Finding regions: by address and by device.

use core::slice;

use p2m::{Mfn, MfnRange};

use super::unresolved;
use super::{Registry, runs_of, without_repeats};
use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;
use crate::region::devices::Devices;
use crate::region::record::Region;

impl<'m> Registry<'m> {
    /// The accepted regions that have a frame in common with `range`, highest start first. Takes logarithmic
    /// time, and time for the regions that overlap those found.
    #[inline]
    pub fn overlapping(&self, range: MfnRange) -> Overlapping<'_, 'm> {
        let below = self.starts.below(range.end());
        Overlapping { left: self.by_start.get(..below).unwrap_or(self.by_start).iter(), range }
    }

    /// The accepted regions that have a frame in common with an accepted one, itself among them.
    #[inline]
    pub(crate) fn overlapping_with(&self, region: &Region<'_>) -> Overlapping<'_, 'm> {
        match self.cluster(region).map(|cluster| cluster.regions) {
            // Most regions are alone; they need no search.
            Some(alone @ [_]) => Overlapping { left: alone.iter(), range: region.range() },
            _ => self.overlapping(region.range()),
        }
    }

    /// The regions of `device`, accepted and rejected, lowest base first, each once: those that name it,
    /// those of bridges that it is below, those of ranges of requester ids that it is in. Takes time for
    /// those found, and logarithmic time where any region has such a range. The device need not be known or
    /// present.
    #[inline]
    pub fn regions_of(&self, device: Sbdf) -> RegionsOf<'_, 'm> {
        let claims = self.index.find(device, |number| {
            let from = self.by_function.get(number as usize..)?;
            from.first().filter(|claim| claim.function == device).map(|_| from)
        });
        let intervals = self.intervals.up_to(device);
        let is_plain = intervals.is_empty() && self.unresolved.is_empty();
        let claims = claims.unwrap_or_default();
        RegionsOf { registry: self, device, from: 0, is_plain, claims, intervals }
    }

    /// As [`regions_of`](Self::regions_of), without those that come before `rank`.
    pub(in crate::region) fn regions_of_from(&self, device: Sbdf, rank: u32) -> RegionsOf<'_, 'm> {
        let mut regions = self.regions_of(device);
        let before = |claim: &OfFunction<'_>| claim.function == device && claim.rank < rank;
        let passed = regions.claims.partition_point(before);
        regions.claims = regions.claims.get(passed..).unwrap_or_default();
        regions.from = rank;
        regions
    }
}

/// Where the regions start, as a tree without pointers: the children of node `k` are `2 k` and `2 k + 1`.
/// Searching it takes two thirds of the instructions that halving a sorted slice does.
pub(super) struct Starts<'m> {
    nodes: &'m [Node],
}

#[derive(Clone, Copy)]
struct Node {
    start: Mfn,
    /// How many regions come before.
    rank: usize,
}

impl<'m> Starts<'m> {
    pub(super) fn new(regions: &[&Region<'_>], arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let last = regions.len();
        let leftmost = |mut node: usize| {
            while node.saturating_mul(2) <= last {
                node = node.saturating_mul(2);
            }
            node
        };
        // Node 0 stands for the end.
        let end = Node { start: Mfn::new(u64::MAX), rank: last };
        let nodes = arena.slice(last.saturating_add(1), |_| end)?;
        let mut at = leftmost(1);
        for (rank, region) in regions.iter().enumerate() {
            if let Some(node) = nodes.get_mut(at) {
                *node = Node { start: region.range().start(), rank };
            }
            let right = at.saturating_mul(2).saturating_add(1);
            // Up from a right child until it is a left one, and up once more.
            at = if right <= last {
                leftmost(right)
            } else {
                at.wrapping_shr(at.trailing_ones().saturating_add(1))
            };
        }
        Ok(Self { nodes })
    }

    /// How many regions start below `end`.
    #[inline]
    fn below(&self, end: Mfn) -> usize {
        let mut at = 1_usize;
        while let Some(node) = self.nodes.get(at) {
            at = at.wrapping_mul(2).wrapping_add(usize::from(node.start < end));
        }
        // The last left turn was at the first that does not.
        let first = at.wrapping_shr(at.trailing_ones().wrapping_add(1));
        self.nodes.get(first).map_or(0, |node| node.rank)
    }
}

/// See [`Registry::overlapping`].
pub struct Overlapping<'t, 'm> {
    /// Those that start below the end.
    left: slice::Iter<'t, &'m Region<'m>>,
    range: MfnRange,
}

impl<'m> Iterator for Overlapping<'_, 'm> {
    type Item = &'m Region<'m>;

    #[inline]
    fn next(&mut self) -> Option<&'m Region<'m>> {
        loop {
            let region = *self.left.next_back()?;
            if Mfn::new(region.highest_end()) <= self.range.start() {
                self.left = [].iter();
                return None;
            }
            if region.range().overlaps(&self.range) {
                return Some(region);
            }
        }
    }
}

/// That a region names a function, or a bridge and what is below it.
pub(super) struct OfFunction<'m> {
    pub(super) function: Sbdf,
    /// The region's.
    rank: u32,
    region: &'m Region<'m>,
}

/// What regions say of single functions, in the order of those, lowest region first.
pub(super) fn by_function<'m>(
    regions: &[&'m Region<'m>],
    arena: &mut Arena<'m>,
) -> Result<&'m [OfFunction<'m>], OutOfMemory> {
    let claims = arena.collect(regions.iter().flat_map(|region| {
        let functions = region.devices().iter().filter_map(Devices::function);
        functions.map(|function| OfFunction { function, rank: region.rank(), region })
    }))?;
    claims.sort_unstable_by_key(|claim| (claim.function, claim.rank));
    // A region that names a bridge and what is below it is the bridge's once.
    Ok(without_repeats(claims, |one, other| one.function == other.function && one.rank == other.rank))
}

/// That the devices of an interval of ids have a region.
struct OfInterval<'m> {
    first: Sbdf,
    last: Sbdf,
    /// The region's.
    rank: u32,
    region: &'m Region<'m>,
}

/// The regions of one interval of ids.
pub(super) struct Interval<'m> {
    first: Sbdf,
    last: Sbdf,
    /// The highest last id of this one and those before.
    highest_last: Sbdf,
    /// Lowest first.
    claims: &'m [OfInterval<'m>],
}

/// What regions say of devices below bridges and of ranges of requester ids, in the order of the intervals'
/// first ids.
pub(super) struct Intervals<'m> {
    all: &'m [Interval<'m>],
}

impl<'m> Intervals<'m> {
    pub(super) fn new(regions: &[&'m Region<'m>], arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let claims = arena.collect(regions.iter().flat_map(|region| {
            let intervals = region.devices().iter().filter_map(Devices::interval);
            let intervals = intervals.filter(|(first, last)| first <= last);
            intervals.map(|(first, last)| OfInterval { first, last, rank: region.rank(), region })
        }))?;
        claims.sort_unstable_by_key(|claim| (claim.first, claim.last, claim.rank));
        let is_same = |one: &OfInterval<'_>, other: &OfInterval<'_>| {
            (one.first, one.last, one.rank) == (other.first, other.last, other.rank)
        };
        let claims: &'m [OfInterval<'m>] = without_repeats(claims, is_same);
        let is_one =
            |one: &OfInterval<'_>, other: &OfInterval<'_>| (one.first, one.last) == (other.first, other.last);
        let mut highest = Sbdf::from_raw(0);
        let all = arena.collect(runs_of(claims, is_one).filter_map(|claims| {
            let OfInterval { first, last, .. } = *claims.first()?;
            Some(Interval { first, last, highest_last: last, claims })
        }))?;
        for interval in all.iter_mut() {
            highest = highest.max(interval.last);
            interval.highest_last = highest;
        }
        Ok(Self { all })
    }

    /// Those that begin no further up than `device`.
    #[inline]
    fn up_to(&self, device: Sbdf) -> &'m [Interval<'m>] {
        if self.all.is_empty() {
            return &[];
        }
        let end = self.all.partition_point(|interval| interval.first <= device);
        self.all.get(..end).unwrap_or_default()
    }
}

/// See [`Registry::regions_of`].
pub struct RegionsOf<'t, 'm> {
    registry: &'t Registry<'m>,
    device: Sbdf,
    /// Regions of lower rank are through.
    from: u32,
    /// Whether only regions that name the device can be its.
    is_plain: bool,
    /// From the device's next on.
    claims: &'m [OfFunction<'m>],
    /// Those that begin no further up than the device.
    intervals: &'m [Interval<'m>],
}

impl<'m> Iterator for RegionsOf<'_, 'm> {
    type Item = &'m Region<'m>;

    #[inline]
    fn next(&mut self) -> Option<&'m Region<'m>> {
        let named = self.claims.split_first().filter(|(claim, _)| claim.function == self.device);
        if self.is_plain {
            let (claim, rest) = named?;
            self.claims = rest;
            return Some(claim.region);
        }
        let named = named.map(|(claim, _)| (claim.rank, claim.region));
        self.next_of_all(named)
    }
}

impl<'m> RegionsOf<'_, 'm> {
    /// The lowest of the next that names the device and those of other sources.
    fn next_of_all(&mut self, named: Option<(u32, &'m Region<'m>)>) -> Option<&'m Region<'m>> {
        let mut next = named;
        let mut take = |found: Option<(u32, &'m Region<'m>)>| match (next, found) {
            (Some((best, _)), Some((rank, _))) if best <= rank => {}
            (_, None) => {}
            _ => next = found,
        };
        for interval in self.intervals.iter().rev() {
            if interval.highest_last < self.device {
                break;
            }
            if interval.last >= self.device {
                let passed = interval.claims.partition_point(|claim| claim.rank < self.from);
                take(interval.claims.get(passed).map(|claim| (claim.rank, claim.region)));
            }
        }
        // Nearly every machine has its bridges at boot.
        if !self.registry.unresolved.is_empty() {
            let unresolved = unresolved::regions_of(self.registry, self.device);
            unresolved
                .filter(|region| region.rank() >= self.from)
                .for_each(|region| take(Some((region.rank(), region))));
        }
        let (rank, region) = next?;
        self.from = rank.saturating_add(1);
        while let Some((claim, rest)) = self.claims.split_first()
            && claim.function == self.device
            && claim.rank <= rank
        {
            self.claims = rest;
        }
        Some(region)
    }
}
