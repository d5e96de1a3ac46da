//! Unallocated guest-physical space: what a guest may use for grant and foreign mappings (on Arm: the
//! extended regions of the device tree's `/hypervisor` node, `docs/misc/arm/device-tree/guest.txt` in Xen).

use crate::entry::P2mType;
use crate::frame::{Gfn, GfnRange};
use crate::p2m::P2m;

/// What counts as a hole.
#[derive(Clone, Copy, Debug)]
pub struct HoleRules<'a> {
    /// Holes begin and end at multiples of two to the power of this many frames.
    pub order: u32,
    /// Smaller ones are left out, in frames.
    pub at_least: u64,
    /// Where there is no hole whatever the tables say: reserved regions, BARs, what else the caller knows. In
    /// any order; may overlap.
    pub excluded: &'a [GfnRange],
}

impl HoleRules<'_> {
    /// What Xen asks of an extended region on Arm: at least 64 MiB, 2 MiB aligned, nothing excluded.
    pub const EXTENDED_REGION: Self = Self { order: 9, at_least: 0x4000, excluded: &[] };
    /// Any frame.
    pub const ANY: Self = Self { order: 0, at_least: 1, excluded: &[] };
}

/// The holes of a range, in order.
#[derive(Debug)]
pub struct Holes<'a, P> {
    space: &'a P,
    left: GfnRange,
    rules: HoleRules<'a>,
}

/// The holes of `within`: guest frames where there is nothing, not even a device model (`p2m_mmio_dm`), and
/// that are not excluded.
pub fn holes<'a, P: P2m>(space: &'a P, within: GfnRange, rules: HoleRules<'a>) -> Holes<'a, P> {
    Holes { space, left: GfnRange::clamped(within.start(), within.end().min(space.limit())), rules }
}

impl<P: P2m> Iterator for Holes<'_, P> {
    type Item = GfnRange;

    fn next(&mut self) -> Option<GfnRange> {
        while let Some(hole) = first_hole(self.space, self.left, self.rules.excluded) {
            self.left = GfnRange::clamped(hole.end(), self.left.end());
            if let Some(hole) =
                aligned(hole, self.rules.order).filter(|hole| hole.len() >= self.rules.at_least.max(1))
            {
                return Some(hole);
            }
        }
        None
    }
}

/// The first frames of `within` where there is nothing, as far as that goes on.
pub(crate) fn first_hole<P: P2m>(space: &P, within: GfnRange, excluded: &[GfnRange]) -> Option<GfnRange> {
    for run in space.runs(within) {
        if run.entry.p2m_type != P2mType::Invalid {
            continue;
        }
        let mut start = run.gfns.start();
        // Each round passes at least one excluded range for good.
        while let Some(over) = excluded.iter().find(|over| over.contains(start)) {
            start = over.end();
        }
        let end = excluded
            .iter()
            .filter(|over| !over.is_empty() && over.start() > start)
            .map(|over| over.start())
            .fold(run.gfns.end(), Gfn::min);
        if start < end {
            return Some(GfnRange::clamped(start, end));
        }
    }
    None
}

fn aligned(hole: GfnRange, order: u32) -> Option<GfnRange> {
    let mask = 1_u64.checked_shl(order)?.checked_sub(1)?;
    let start = hole.start().raw().checked_add(mask)? & !mask;
    let end = hole.end().raw() & !mask;
    GfnRange::new(Gfn::new(start), Gfn::new(end)).filter(|hole| !hole.is_empty())
}
