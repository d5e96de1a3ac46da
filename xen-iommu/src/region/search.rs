//! Finding regions: by address and by device.

use core::slice;
use core::sync::atomic::Ordering;

use intrusive_collections::{SinglyLinkedList, singly_linked_list};
use p2m::{Mfn, MfnRange};

use super::registry::{Claim, Claims, OfFunction, Region, Registry, Scope};
use super::unresolved;
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

    /// The regions of `device`, accepted and rejected: those whose scope names it, then those of bridges that it is below. Each once. Takes time
    /// for those found, and logarithmic time where any scope is a bridge's. The device need not be known or present.
    #[inline]
    pub fn regions_of(&self, device: Sbdf) -> RegionsOf<'_, 'm> {
        let claims = self.index.find(device, |number| {
            let from = self.by_function.get(number as usize..)?;
            from.first().filter(|claim| claim.function == device).map(|_| from)
        });
        let (below, late) = (self.below.above(device), self.late.iter());
        RegionsOf { registry: self, device, claims: claims.unwrap_or_default().iter(), below, late }
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
    registry: &'t Registry<'m>,
    device: Sbdf,
    /// From the device's first on.
    claims: slice::Iter<'t, OfFunction<'m>>,
    /// Those with first buses up to the device's.
    below: slice::Iter<'t, UnderBridge<'m>>,
    /// Those found since boot.
    late: singly_linked_list::Iter<'t, unresolved::Lates<'m>>,
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
        while let Some(next) = self.below.next_back() {
            if next.highest_last < bus_of(device) {
                self.below = [].iter();
                break;
            }
            if next.claim.is_first_below_for(device) {
                return Some(next.claim.region);
            }
        }
        // Nearly every machine has its bridges at boot.
        if self.registry.late.is_empty() {
            return None;
        }
        unresolved::regions_of(&mut self.late, || self.registry.late.iter(), device)
    }
}

impl Claim<'_> {
    /// Whether this is the claim by which its region is found for `device`, which is below the bridge: of several such scopes the first, and none where
    /// a scope names the device.
    fn is_first_below_for(&self, device: Sbdf) -> bool {
        let mut scopes = self.region.scopes.iter();
        !self.region.scopes.iter().any(|scope| scope.named() == device)
            && scopes.find(|scope| scope.covers(device)) == Some(&self.scope)
    }
}

/// Segment and bus.
fn bus_of(device: Sbdf) -> u32 {
    device.raw() >> 8
}

/// Claims by bridges, in the order of the first buses below them.
pub(super) struct Below<'m> {
    claims: &'m [UnderBridge<'m>],
}

struct UnderBridge<'m> {
    first: u32,
    /// The highest last bus of this one and those before.
    highest_last: u32,
    claim: &'m Claim<'m>,
}

impl<'m> Below<'m> {
    /// Picks the `count` claims by bridges out of `all`.
    pub(super) fn new(
        all: &SinglyLinkedList<Claims<'m>>,
        count: u32,
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let mut cursor = all.front();
        let Some(some) = cursor.clone_pointer() else { return Ok(Self { claims: &[] }) };
        let claims = arena.slice(count as usize, |_| {
            loop {
                let claim = cursor.clone_pointer();
                cursor.move_next();
                let (first, last, claim) = match claim {
                    None => (0, 0, some),
                    Some(claim) => match claim.scope {
                        Scope::Function(_) => continue,
                        Scope::Below { bridge, first_bus, last_bus } => {
                            let bus = |bus| bus_of(Sbdf::new(bridge.segment(), bus, 0, 0));
                            (bus(first_bus), bus(last_bus), claim)
                        }
                    },
                };
                return UnderBridge { first, highest_last: last, claim };
            }
        })?;
        claims.sort_unstable_by_key(|below| below.first);
        let mut highest = 0;
        for below in claims.iter_mut() {
            highest = below.highest_last.max(highest);
            below.highest_last = highest;
        }
        Ok(Self { claims })
    }

    /// Those that begin no further up than `device`'s bus.
    #[inline]
    fn above(&self, device: Sbdf) -> slice::Iter<'_, UnderBridge<'m>> {
        if self.claims.is_empty() {
            return [].iter();
        }
        let end = self.claims.partition_point(|below| below.first <= bus_of(device));
        self.claims.get(..end).unwrap_or_default().iter()
    }
}
