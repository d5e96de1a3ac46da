//! Runs of equal mappings, read table by table.

use core::fmt;

use crate::entry::Run;
use crate::format::{Format, Seed, shift_of, span_of};
use crate::frame::{FrameSource, Gfn, GfnRange, TableFrame};

use super::raw_runs::{alike, entries, frames};
use super::{Table, load, slot};

/// The runs of a range, in order ([`Table::runs`]).
pub struct Runs<'a, F: Format, S: FrameSource> {
    table: &'a Table<F, S>,
    gfn: u64,
    end: u64,
    /// The table that was read last, its level and the first frame that it covers.
    within: Option<(&'a TableFrame, u32, u64)>,
    ahead: Option<(Run, bool)>,
}

impl<'a, F: Format, S: FrameSource> Runs<'a, F, S> {
    pub(super) fn new(table: &'a Table<F, S>, gfns: GfnRange) -> Self {
        let end = gfns.end().min(table.limit()).raw();
        Self { table, gfn: gfns.start().raw(), end, within: None, ahead: None }
    }

    /// What one entry, and those after it that go on as it begins, say of the frames from `gfn` on, and
    /// whether a 1:1 mapping installed it.
    fn piece(&mut self) -> Option<(Run, bool)> {
        if self.gfn >= self.end {
            return None;
        }
        let span = |level: u32| span_of(level.wrapping_add(1));
        let (mut table, mut level, mut first) = match self.within {
            Some(within) if self.gfn.wrapping_sub(within.2) < span(within.1) => within,
            _ => (self.table.source.table(self.table.root)?, self.table.levels, 0),
        };
        let raw = loop {
            let raw = load(slot(table, self.gfn.wrapping_shr(shift_of(level))));
            if !raw.is_table() || level == 1 {
                break raw;
            }
            table = self.table.source.table(raw.frame())?;
            level = level.wrapping_sub(1);
            first = self.gfn & !span(level).wrapping_sub(1);
        };
        self.within = Some((table, level, first));
        let offset = self.gfn & span_of(level).wrapping_sub(1);
        let start = self.gfn;
        let slot_start = start.wrapping_sub(offset);
        let table_end = first.wrapping_add(span(level));
        let step = Seed::of(raw, slot_start, level).step(level);
        let marks = F::ACCESSED | F::DIRTY;
        let entries = entries(table, level, slot_start, table_end);
        let count = alike(entries, raw, step, marks).max(1);
        self.gfn = slot_start.wrapping_add(frames(count, level)).min(self.end);
        let gfns = GfnRange::clamped(Gfn::new(start), Gfn::new(self.gfn));
        Some((Run { gfns, entry: raw.entry(offset) }, raw.is_identity()))
    }

    /// The next run, of entries that `wanted` picks from what [`piece`](Self::piece) finds.
    pub(crate) fn next_of(&mut self, wanted: impl Fn(&Run, bool) -> Option<Run>) -> Option<Run> {
        let mut run = loop {
            let (piece, identity) = self.ahead.take().or_else(|| self.piece())?;
            if let Some(run) = wanted(&piece, identity) {
                break run;
            }
        };
        while let Some((piece, identity)) = self.piece() {
            match wanted(&piece, identity) {
                Some(more) if run.entry.after(run.gfns.len()) == more.entry => {
                    run.gfns = GfnRange::clamped(run.gfns.start(), more.gfns.end());
                }
                _ => {
                    self.ahead = Some((piece, identity));
                    break;
                }
            }
        }
        Some(run)
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Runs<'_, F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "runs of [{:#x}, {:#x})", self.gfn, self.end)
    }
}

impl<F: Format, S: FrameSource> Iterator for Runs<'_, F, S> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        self.next_of(|run, _| Some(*run))
    }
}
