//! Places for modules: things of any size and alignment, each in a window of its own.
//!
//! That is bin packing, so the search has a bound. Up to it, it is complete: if there is any arrangement,
//! then also one in which each module, in the order of addresses, lies as low as the one before it allows. So
//! trying all orders that way finds one.

use core::cmp::Reverse;

use p2m::GfnRange;

use crate::frames::{Bounds, align_up, range};
use crate::machine::Module;
use crate::plan::ModulePlan;

/// Most modules that all orders are tried for, and most places that are looked for in all.
const MOST: usize = 8;
const BOUND: u32 = 20_000;

/// Why none was found.
pub(crate) struct NotFound {
    /// Whether all was tried.
    pub(crate) all_tried: bool,
}

/// Space that modules may lie in.
pub(crate) trait Space {
    /// The module of this index.
    fn module(&self, index: usize) -> Option<&Module>;
    /// The lowest free place for a module from frame `from` on.
    fn lowest(&self, module: &Module, from: u64) -> Option<GfnRange>;
    /// The same, by index.
    fn lowest_for(&self, index: usize, from: u64) -> Option<GfnRange> {
        self.lowest(self.module(index)?, from)
    }
}

/// The lowest place for `module` in any of `ranges`, which ascend, from frame `from` on.
pub(crate) fn lowest_in(
    ranges: impl Iterator<Item = GfnRange>,
    avoid: impl Fn(&GfnRange) -> Option<u64>,
    module: &Module,
    from: u64,
) -> Option<GfnRange> {
    let window = module.window();
    for free in ranges {
        let end = free.high().min(window.high());
        let mut start = free.low().max(window.low()).max(from);
        while let Some(place) = align_up(start, module.align)
            .and_then(|start| Some(range(start, start.checked_add(module.frames)?)))
            .filter(|place| place.high() <= end)
        {
            match avoid(&place) {
                None => return Some(place),
                Some(behind) => start = behind.max(place.low().saturating_add(1)),
            }
        }
    }
    None
}

/// Places all of `wanted` in `space`, or says why not. The records end up in any order.
pub(crate) fn place(space: &impl Space, wanted: &mut [ModulePlan]) -> Result<(), NotFound> {
    // Nearly always one of these does: those that have least choice first, or the largest.
    let key = |index| space.module(index).map_or((0, 0), |module| (module.window().len(), module.frames));
    wanted.sort_unstable_by_key(|one| (key(one.input).0, one.input));
    if one_by_one(space, wanted) {
        return Ok(());
    }
    wanted.sort_unstable_by_key(|one| (Reverse(key(one.input).1), one.input));
    if one_by_one(space, wanted) {
        return Ok(());
    }
    if wanted.len() > MOST {
        return Err(NotFound {
            all_tried: wanted.iter().any(|one| space.lowest_for(one.input, 0).is_none()),
        });
    }
    all_orders(space, wanted)
}

/// Places each as low as those before it in the list allow, anywhere beside them.
fn one_by_one(space: &impl Space, wanted: &mut [ModulePlan]) -> bool {
    for next in 0..wanted.len() {
        let Some((placed, rest)) = wanted.split_at_mut_checked(next) else { return false };
        let Some(this) = rest.first_mut() else { return false };
        let mut from = 0;
        let place = loop {
            let Some(place) = space.lowest_for(this.input, from) else { return false };
            let others = placed.iter().filter_map(|other| other.place);
            match others.filter(|other| other.overlaps(&place)).map(|other| other.high()).max() {
                None => break place,
                Some(behind) => from = behind,
            }
        };
        this.place = Some(place);
    }
    true
}

/// Tries each order of addresses.
fn all_orders(space: &impl Space, wanted: &mut [ModulePlan]) -> Result<(), NotFound> {
    wanted.sort_unstable_by_key(|one| one.input);
    let mut left = BOUND;
    loop {
        let mut from = 0;
        let mut failed = None;
        for (position, this) in wanted.iter_mut().enumerate() {
            left = left.saturating_sub(1);
            match space.lowest_for(this.input, from) {
                Some(place) => {
                    this.place = Some(place);
                    from = place.high();
                }
                None => {
                    failed = Some(position);
                    break;
                }
            }
        }
        let Some(failed) = failed else { return Ok(()) };
        // Nothing that begins like this will do: on to the last order of those, and from there to the next.
        if let Some(rest) = wanted.get_mut(failed.saturating_add(1)..) {
            rest.sort_unstable_by_key(|one| Reverse(one.input));
        }
        if !next_order(wanted) {
            return Err(NotFound { all_tried: true });
        }
        if left == 0 {
            return Err(NotFound { all_tried: false });
        }
    }
}

/// The next order by index; `false` behind the last.
fn next_order(wanted: &mut [ModulePlan]) -> bool {
    let index = |wanted: &[ModulePlan], at: usize| wanted.get(at).map_or(0, |one| one.input);
    let Some(pivot) =
        (1..wanted.len()).rev().find(|at| index(wanted, at.saturating_sub(1)) < index(wanted, *at))
    else {
        return false;
    };
    let pivot = pivot.saturating_sub(1);
    let Some(successor) = (0..wanted.len()).rev().find(|at| index(wanted, *at) > index(wanted, pivot)) else {
        return false;
    };
    wanted.swap(pivot, successor);
    if let Some(rest) = wanted.get_mut(pivot.saturating_add(1)..) {
        rest.reverse();
    }
    true
}
