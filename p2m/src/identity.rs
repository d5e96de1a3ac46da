//! The 1:1 mapping as a transaction: look at the whole range, reserve every table frame, write.
//!
//! Leaves that it installs are marked, in the bits that hardware ignores, together with what was there before
//! (nothing, or `p2m_mmio_dm`): removal finds just those and puts back what was there. They are never joined
//! to larger pages, and a range that begins or ends inside a page of another call cuts it there, so that no
//! end of a range that was ever given lies inside a page, and removing one takes no frames.

use core::ops::ControlFlow;

use crate::entry::{Access, Entry};
use crate::format::{Format, Raw, Seed, span_of};
use crate::frame::{FrameSource, Gfn, GfnRange, MfnRange};
use crate::space::{Identity, IdentityError, OnConflict, Seen};
use crate::table::{Change, Edit, Refusal, Runs, Spare, Table, tables_below};

/// Installs the 1:1 mapping of a range.
pub(crate) struct Install {
    seed: Seed,
    marks: u64,
    access: Access,
    on_conflict: OnConflict,
    vacant: u64,
    identical: u64,
    other: u64,
    /// The bits that any of the vacant entries has, and those that all have.
    any_bits: u64,
    all_bits: u64,
}

impl Edit for Install {
    fn marks(&self) -> u64 {
        self.marks
    }

    #[inline]
    fn change(&self, raw: Raw, gfn: u64, level: u32) -> Change {
        if raw.is_vacant() {
            Change::To(self.seed.in_place_of(raw))
        } else if raw.is_identity() {
            // The same again, but cut where the range ends inside it.
            Change::To(Seed::of(raw, gfn, level))
        } else {
            Change::Keep
        }
    }

    #[inline]
    fn inspect(&mut self, raw: Raw, gfn: u64, start: u64, end: u64) -> ControlFlow<Refusal> {
        let frames = end.wrapping_sub(start);
        if raw.is_vacant() {
            self.vacant = self.vacant.wrapping_add(frames);
            self.any_bits |= raw.0;
            self.all_bits &= raw.0;
        } else if raw.is_identical(gfn, self.access) {
            self.identical = self.identical.wrapping_add(frames);
        } else if self.on_conflict == OnConflict::Skip {
            self.other = self.other.wrapping_add(frames);
        } else {
            let found = raw.entry(start.wrapping_sub(gfn));
            return ControlFlow::Break(Refusal { gfn: Gfn::new(start), found });
        }
        ControlFlow::Continue(())
    }

    #[inline]
    fn is_uniform(&self) -> bool {
        self.identical == 0 && self.other == 0 && self.any_bits == self.all_bits
    }
}

/// Removes what [`Install`] installed.
struct Uninstall<F> {
    format: F,
}

impl<F: Format> Edit for Uninstall<F> {
    fn marks(&self) -> u64 {
        F::ACCESSED | F::DIRTY
    }

    #[inline]
    fn change(&self, raw: Raw, _: u64, _: u32) -> Change {
        if raw.is_identity() { Change::To(Seed::before_identity(&self.format, raw)) } else { Change::Keep }
    }

    fn inspect(&mut self, _: Raw, _: u64, _: u64, _: u64) -> ControlFlow<Refusal> {
        ControlFlow::Continue(())
    }
}

/// A 1:1 mapping that was looked at: what it will do and what it takes.
pub(crate) struct IdentityPlan {
    edit: Install,
    gfns: GfnRange,
    pub(crate) frames: u64,
}

impl IdentityPlan {
    pub(crate) fn outcome(&self) -> Identity {
        let Install { vacant, identical, other, .. } = self.edit;
        match (vacant, identical, other) {
            (0, _, 0) => Identity::AlreadyIdentical,
            (_, 0, 0) => Identity::Mapped,
            _ => Identity::Mixed { installed: vacant, identical, skipped: other },
        }
    }

    /// Tells of each run that stays as it is.
    pub(crate) fn tell<F: Format, S: FrameSource>(&self, runs: Runs<'_, F, S>, report: &mut dyn FnMut(Seen)) {
        if self.edit.identical == 0 && self.edit.other == 0 {
            return;
        }
        for run in runs {
            let Entry { p2m_type, mfn, access } = run.entry;
            if p2m_type.is_vacant() {
                continue;
            }
            let direct = p2m_type == crate::P2mType::MmioDirect && access == self.edit.access;
            let identical = direct && mfn.is_some_and(|mfn| mfn.raw() == run.gfns.start().raw());
            report(if identical { Seen::Identical(run.gfns) } else { Seen::Skipped(run) });
        }
    }
}

impl<F: Format, S: FrameSource> Table<F, S> {
    /// Looks at the whole range.
    pub(crate) fn plan_identity(
        &self,
        range: MfnRange,
        access: Access,
        on_conflict: OnConflict,
    ) -> Result<IdentityPlan, IdentityError> {
        let gfns = range.identity();
        let limit = self.identity_limit();
        if gfns.end() > limit {
            return Err(IdentityError::OutOfRange { limit });
        }
        let seed = Seed::identity(self.format(), access, self.largest_level());
        let marks = F::ACCESSED | F::DIRTY;
        let mut edit = Install {
            seed,
            marks,
            access,
            on_conflict,
            vacant: 0,
            identical: 0,
            other: 0,
            any_bits: 0,
            all_bits: u64::MAX,
        };
        match self.inspect(&mut edit, gfns) {
            Ok(frames) => Ok(IdentityPlan { edit, gfns, frames }),
            Err(Refusal { gfn, found }) => Err(IdentityError::Conflict { gfn, found }),
        }
    }

    /// Writes what was planned.
    pub(crate) fn commit_identity(&mut self, plan: &IdentityPlan, spare: Spare) {
        if plan.edit.vacant == 0 && plan.frames == 0 {
            self.release(spare);
        } else {
            self.commit(&plan.edit, plan.gfns, spare);
        }
    }

    /// Frames that removing the 1:1 mappings in `range` takes: for the pages that its ends cut.
    pub(crate) fn frames_to_unmap_identity(&self, range: MfnRange) -> u64 {
        let gfns = range.identity();
        let (start, end) = (gfns.start().raw(), gfns.end().min(self.limit()).raw());
        if start >= end {
            return 0;
        }
        let cut = |gfn: u64| -> (u64, u64) {
            let page = self.translate(Gfn::new(gfn));
            let level = page.order().wrapping_div(9).wrapping_add(1);
            let first = gfn & !span_of(level).wrapping_sub(1);
            let (from, to) = (first.max(start), first.wrapping_add(span_of(level)).min(end));
            let frames = if page.is_identity() { tables_below(level, from, to, level) } else { 0 };
            (frames, to)
        };
        let (at_start, to) = cut(start);
        let at_end = if to < end { cut(end.wrapping_sub(1)).0 } else { 0 };
        at_start.wrapping_add(at_end)
    }

    /// Removes them.
    pub(crate) fn commit_unmap_identity(&mut self, range: MfnRange, spare: Spare) {
        let edit = Uninstall { format: *self.format() };
        let gfns = GfnRange::clamped(range.identity().start(), range.identity().end().min(self.limit()));
        self.commit(&edit, gfns, spare);
    }
}
