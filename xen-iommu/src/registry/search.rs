//! Finding regions: by address and by device.

use core::slice;
use core::sync::atomic::Ordering;

use intrusive_collections::singly_linked_list;
use p2m::{Mfn, MfnRange};

use super::{Claim, Claims, OfFunction, Region, Registry};
use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;

impl<'m> Registry<'m> {
    /// The accepted regions that have a frame in common with `range`, highest start first. Takes logarithmic time, and time for the regions that overlap
    /// those found.
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
            Some(alone @ [_]) => Overlapping { left: alone.iter(), range: region.range },
            _ => self.overlapping(region.range),
        }
    }

    /// The regions of `device`, accepted and rejected: those whose scope names it, then those of bridges that it is below. Each once. The device need
    /// not be known or present.
    #[inline]
    pub fn regions_of(&self, device: Sbdf) -> RegionsOf<'_, 'm> {
        let claims = self.index.find(device, |number| {
            let from = self.by_function.get(number as usize..)?;
            from.first().filter(|claim| claim.function == device).map(|_| from)
        });
        RegionsOf { device, claims: claims.unwrap_or_default().iter(), below: self.below.iter() }
    }
}

/// Where the regions start, as a tree without pointers: the children of node `k` are `2 k` and `2 k + 1`. Searching it takes two thirds of the
/// instructions that halving a sorted slice does.
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
                *node = Node { start: region.range.start(), rank };
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
            if Mfn::new(region.highest_end.load(Ordering::Relaxed)) <= self.range.start() {
                self.left = [].iter();
                return None;
            }
            if region.range.overlaps(&self.range) {
                return Some(region);
            }
        }
    }
}

/// See [`Registry::regions_of`].
pub struct RegionsOf<'t, 'm> {
    device: Sbdf,
    /// From the device's first on.
    claims: slice::Iter<'t, OfFunction<'m>>,
    below: singly_linked_list::Iter<'t, Claims<'m>>,
}

impl<'m> Iterator for RegionsOf<'_, 'm> {
    type Item = &'m Region<'m>;

    #[inline]
    fn next(&mut self) -> Option<&'m Region<'m>> {
        let device = self.device;
        if let Some(claim) = self.claims.next() {
            if claim.function == device {
                return Some(claim.region);
            }
            self.claims = [].iter();
        }
        self.below.find(|claim| claim.is_first_for(device)).map(|claim| claim.region)
    }
}

impl Claim<'_> {
    /// Whether this is the claim by which its region is found for `device`: of several scopes that cover it, the first.
    fn is_first_for(&self, device: Sbdf) -> bool {
        self.scope.covers(device)
            && self.region.scopes.iter().find(|scope| scope.covers(device)) == Some(&self.scope)
    }
}
