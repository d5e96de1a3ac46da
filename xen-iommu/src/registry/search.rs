//! Finding regions: by address and by device.

use core::sync::atomic::Ordering;

use intrusive_collections::rbtree::Cursor;
use intrusive_collections::{Bound, singly_linked_list};
use p2m::{Mfn, MfnRange};

use super::{BelowBridges, ByDevice, ByStart, Claim, Region, Registry, Scope};
use crate::platform::Sbdf;

impl<'m> Registry<'m> {
    /// The accepted regions that have a frame in common with `range`, highest start first. Takes logarithmic time, and time for the regions that overlap
    /// those found.
    pub fn overlapping(&self, range: MfnRange) -> Overlapping<'_, 'm> {
        let cursor = self.tables.by_start.upper_bound(Bound::Excluded(&range.end()));
        Overlapping { cursor, range }
    }

    /// The regions of `device`, accepted and rejected: those whose scope names it, then those of bridges that it is below. Each once. The device need
    /// not be known or present.
    pub fn regions_of(&self, device: Sbdf) -> RegionsOf<'_, 'm> {
        let claims = self.tables.by_device.lower_bound(Bound::Included(&device));
        RegionsOf { device, claims, below: self.tables.below.iter() }
    }
}

/// See [`Registry::overlapping`].
pub struct Overlapping<'t, 'm> {
    cursor: Cursor<'t, ByStart<'m>>,
    range: MfnRange,
}

impl<'m> Iterator for Overlapping<'_, 'm> {
    type Item = &'m Region<'m>;

    fn next(&mut self) -> Option<&'m Region<'m>> {
        loop {
            let region = self.cursor.clone_pointer()?;
            if Mfn::new(region.highest_end.load(Ordering::Relaxed)) <= self.range.start() {
                return None;
            }
            self.cursor.move_prev();
            if region.range.overlaps(&self.range) {
                return Some(region);
            }
        }
    }
}

/// See [`Registry::regions_of`].
pub struct RegionsOf<'t, 'm> {
    device: Sbdf,
    claims: Cursor<'t, ByDevice<'m>>,
    below: singly_linked_list::Iter<'t, BelowBridges<'m>>,
}

impl<'m> Iterator for RegionsOf<'_, 'm> {
    type Item = &'m Region<'m>;

    fn next(&mut self) -> Option<&'m Region<'m>> {
        let device = self.device;
        if let Some(claim) = self.claims.get().filter(|claim| claim.scope == Scope::Function(device)) {
            self.claims.move_next();
            return Some(claim.region);
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

/// The accepted regions from the lowest up.
pub(super) struct Ascending<'t, 'm> {
    cursor: Cursor<'t, ByStart<'m>>,
}

impl<'t, 'm> Ascending<'t, 'm> {
    pub(super) fn new(cursor: Cursor<'t, ByStart<'m>>) -> Self {
        Self { cursor }
    }
}

impl<'m> Iterator for Ascending<'_, 'm> {
    type Item = &'m Region<'m>;

    fn next(&mut self) -> Option<&'m Region<'m>> {
        let region = self.cursor.clone_pointer()?;
        self.cursor.move_next();
        Some(region)
    }
}
