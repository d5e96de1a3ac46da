//! The pages that bytes lie in.

use p2m::{Mfn, MfnRange};

/// Every page that holds a byte of `base` to `limit`, which is inclusive; `None` if `base` is above `limit`.
pub(super) fn pages_of(base: u64, limit: u64) -> Option<MfnRange> {
    if base > limit {
        return None;
    }
    MfnRange::new(Mfn::containing(base), Mfn::containing(limit).checked_add(1)?)
}
