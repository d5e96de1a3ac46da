//! One update of a range: look at all of it, count the frames it takes, then write. What the update makes of
//! each entry is an [`Edit`].

use core::marker::PhantomData;
use core::ops::ControlFlow;
use core::sync::atomic::Ordering;

use crate::entry::Entry;
use crate::format::{Format, Raw, Seed, shift_of, span_of, widened};
use crate::frame::{FrameSource, Gfn, GfnRange, Mfn, TableFrame};

use super::frame_list::Spare;
use super::owed::{Changed, Owed};
use super::raw_runs::{alike, entries, fill, frames};
use super::{LOW_LEVEL, Table, load, slot, store};

/// What becomes of an entry, or of the part of it that is in the range.
pub(crate) enum Change {
    Keep,
    To(Seed),
}

/// Why an update cannot be done: what is at a frame forbids it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) gfn: Gfn,
    pub(crate) found: Entry,
}

/// An update. The same entry always gets the same answer; the parts of an entry, and entries that go on as it
/// begins, get the same.
pub(crate) trait Edit {
    /// Hardware's marks in leaves that the answer does not depend on.
    fn marks(&self) -> u64;

    /// What becomes of `raw`, an entry at `level` for the frames from `gfn` on and not a table.
    fn change(&self, raw: Raw, gfn: u64, level: u32) -> Change;

    /// Looks at the frames `start..end` of a run that begins with such an entry, before anything is written;
    /// may refuse.
    fn inspect(&mut self, raw: Raw, gfn: u64, start: u64, end: u64) -> ControlFlow<Refusal>;

    /// Whether [`inspect`](Self::inspect) has found one and the same entry in the whole range, without a
    /// machine frame: then writing need not look where it ends.
    fn is_uniform(&self) -> bool {
        false
    }

    /// What the whole range becomes, whatever is there.
    fn replacement(&self) -> Option<Seed> {
        None
    }
}

impl<F: Format, S: FrameSource> Table<F, S> {
    /// Looks at the whole range: the table frames that `edit` takes there, or why it cannot be.
    pub(crate) fn inspect<E: Edit>(&self, edit: &mut E, gfns: GfnRange) -> Result<u64, Refusal> {
        let (start, end) = (gfns.start().raw(), gfns.end().min(self.limit()).raw());
        let (top, level) =
            if end <= self.low_frames { (self.low, LOW_LEVEL) } else { (self.root, self.levels) };
        let Some(table) = self.source.table(top) else { return Ok(0) };
        let mut frames = 0;
        match self.inspect_in(table, level, start, end, edit, &mut frames) {
            ControlFlow::Continue(()) => Ok(frames),
            ControlFlow::Break(refusal) => Err(refusal),
        }
    }

    fn inspect_in<E: Edit>(
        &self,
        table: &TableFrame,
        level: u32,
        start: u64,
        end: u64,
        edit: &mut E,
        frames: &mut u64,
    ) -> ControlFlow<Refusal> {
        let span = span_of(level);
        let mut from = start;
        while from < end {
            let first = from & !span.wrapping_sub(1);
            let to = first.wrapping_add(span).min(end);
            let whole = to.wrapping_sub(from) == span;
            let raw = load(slot(table, from.wrapping_shr(shift_of(level))));
            if raw.is_table() {
                if let Some(child) = self.source.table(raw.frame()) {
                    self.inspect_in(child, level.wrapping_sub(1), from, to, edit, frames)?;
                }
                from = to;
            } else {
                let to = if whole { run_end(table, raw, level, from, end, edit.marks()) } else { to };
                edit.inspect(raw, first, from, to)?;
                if level > 1
                    && let Change::To(seed) = edit.change(raw, first, level)
                    && !(whole && level <= seed.top)
                {
                    *frames = frames.wrapping_add(tables_below(level, from, to, seed.top));
                }
                from = to;
            }
        }
        ControlFlow::Continue(())
    }

    /// Writes `edit` to the range with the frames that [`inspect`](Self::inspect) asked for.
    pub(crate) fn commit<E: Edit>(&mut self, edit: &E, gfns: GfnRange, spare: Spare) {
        let (start, end) = (gfns.start().raw(), gfns.end().min(self.limit()).raw());
        let before = spare.count();
        let mut writer = Writer {
            source: &self.source,
            format: PhantomData::<F>,
            vacant: self.format.vacant(),
            largest: self.largest,
            edit,
            spare,
            owed: &mut self.owed,
            detached_now: 0,
        };
        writer.write_in(self.root, self.levels, start, end);
        let Writer { spare, detached_now, .. } = writer;
        let taken = before.wrapping_sub(spare.count());
        self.tables = self.tables.wrapping_add(taken).wrapping_sub(detached_now);
        spare.release(&self.source);
        self.find_low();
    }
}

/// Tables that the part `start..end` of one entry at `level`, or whole ones in a row, takes to become
/// something whose entries are at most at level `top`: at levels above, each entry that is touched needs a
/// table below it; at the others, only those that the range cuts.
#[inline]
pub(crate) fn tables_below(level: u32, start: u64, end: u64, top: u32) -> u64 {
    let last = end.wrapping_sub(1);
    let mut tables = 0_u64;
    for at in (2..=level).rev() {
        let (shift, mask) = (shift_of(at), span_of(at).wrapping_sub(1));
        if at <= top && (start | end) & mask == 0 {
            // Nor does the range cut anything further down.
            break;
        }
        let apart = last.wrapping_shr(shift).wrapping_sub(start.wrapping_shr(shift));
        let here = if at > top {
            apart.wrapping_add(1)
        } else {
            let cut = u64::from(start & mask != 0).wrapping_add(u64::from(end & mask != 0));
            if apart == 0 { cut.min(1) } else { cut }
        };
        tables = tables.wrapping_add(here);
    }
    tables
}

struct Writer<'a, F: Format, S: FrameSource, E: Edit> {
    source: &'a S,
    format: PhantomData<F>,
    /// An entry that says nothing.
    vacant: u64,
    largest: u32,
    edit: &'a E,
    spare: Spare,
    owed: &'a mut Owed,
    detached_now: u64,
}

impl<F: Format, S: FrameSource, E: Edit> Writer<'_, F, S, E> {
    /// Writes to the table at `frame`. Gives how many more entries are in use then, wrapping; `None` when
    /// nothing was written.
    fn write_in(&mut self, frame: Mfn, level: u32, start: u64, end: u64) -> Option<u64> {
        let mut written = Written::default();
        let table = self.source.table(frame)?;
        let span = span_of(level);
        let mut from = start;
        while from < end {
            let first = from & !span.wrapping_sub(1);
            let to = first.wrapping_add(span).min(end);
            let whole = to.wrapping_sub(from) == span;
            let entry = slot(table, from.wrapping_shr(shift_of(level)));
            let raw = load(entry);
            if raw.is_table() {
                if let Some(new) = self.write_below(raw, level, from, to) {
                    // Hardware may have marked the pointer as accessed meanwhile; nothing depends on that.
                    store(entry, new);
                    if new.is_table() {
                        written.touch(first, 1, level);
                    } else {
                        written.note(Raw(PRESENT_TABLE), new, first, 1, level);
                        written.flush(first, first.wrapping_add(span));
                    }
                }
                from = to;
                continue;
            }
            let Change::To(seed) = self.edit.change(raw, first, level) else {
                from = if whole { run_end(table, raw, level, from, end, self.edit.marks()) } else { to };
                continue;
            };
            if whole && level <= seed.top {
                // At the lowest level there are no tables between.
                let to = if level == 1 && self.edit.is_uniform() {
                    end
                } else {
                    run_end(table, raw, level, from, end, self.edit.marks())
                };
                let new = seed.at(first, level);
                if new != raw {
                    let entries = entries(table, level, from, to);
                    fill(entries, &seed, level, from);
                    written.note(raw, new, from, entries.len() as u64, level);
                    written.flush(from, to);
                }
                from = to;
                continue;
            }
            if let Some(new) = self.build(&Seed::of(raw, first, level), &seed, level, from, to) {
                store(entry, new);
                written.note(raw, new, first, 1, level);
                // Hardware may hold the old page as one: the pieces of it must not outlive a later change of
                // only some.
                let (from, to) =
                    if raw.is_present() { (first, first.wrapping_add(span)) } else { (from, to) };
                written.flush(from, to);
            }
            from = to;
        }
        written.finish(frame, self.source, self.owed)
    }

    /// Writes to the table that `raw`, an entry at `level`, leads to, and gives what the entry is to be then,
    /// unless it stays.
    fn write_below(&mut self, raw: Raw, level: u32, from: u64, to: u64) -> Option<Raw> {
        let below = level.wrapping_sub(1);
        let whole = to.wrapping_sub(from) == span_of(level);
        if whole && let Some(seed) = self.edit.replacement().filter(|seed| level <= seed.top) {
            self.detach(raw.frame(), below);
            return Some(seed.at(from, level));
        }
        if whole && let Some(new) = self.all_changed(raw, level, from) {
            self.detach_one(raw.frame());
            return Some(new);
        }
        let used = raw.used().wrapping_add(self.write_in(raw.frame(), below, from, to)?);
        let one = match used {
            0 => Some(Raw(self.vacant)),
            512 => self.widen(raw.frame(), below),
            _ => None,
        };
        if one.is_some() {
            self.detach_one(raw.frame());
        }
        one.or_else(|| (used != raw.used()).then(|| raw.with_used(used)))
    }

    /// The one entry that takes the place of the table that `raw`, at `level`, leads to, if that holds one
    /// run that changes as a whole.
    fn all_changed(&self, raw: Raw, level: u32, first: u64) -> Option<Raw> {
        let table = self.source.table(raw.frame())?;
        let below = level.wrapping_sub(1);
        let leaf = load(slot(table, 0));
        if leaf.is_table() {
            return None;
        }
        let Change::To(seed) = self.edit.change(leaf, first, below) else { return None };
        let end = first.wrapping_add(span_of(level));
        let all = level <= seed.top && run_end(table, leaf, below, first, end, self.edit.marks()) == end;
        all.then(|| seed.at(first, level))
    }

    /// A new table for the entry at `level` that covers `start..end`, `new` there, `old` around it; gives the
    /// entry that points to it.
    fn build(&mut self, old: &Seed, new: &Seed, level: u32, start: u64, end: u64) -> Option<Raw> {
        let frame = self.spare.take(self.source)?;
        let table = self.source.table(frame)?;
        let first = start & !span_of(level).wrapping_sub(1);
        let below = level.wrapping_sub(1);
        let span = span_of(below);
        let inside = |gfn: u64| gfn & !span.wrapping_sub(1);
        let behind = inside(end.wrapping_add(span).wrapping_sub(1));
        let mut used = put(table, old, below, first, inside(start));
        used = used.wrapping_add(put(table, old, below, behind, first.wrapping_add(span_of(level))));
        let mut from = start;
        while from < end {
            let to = if inside(from) == from && below <= new.top { inside(end) } else { from };
            if to > from {
                used = used.wrapping_add(put(table, new, below, from, to));
                from = to;
                continue;
            }
            let to = inside(from).wrapping_add(span).min(end);
            let child = self.build(old, new, below, from, to)?;
            slot(table, from.wrapping_shr(shift_of(below))).store(child.0, Ordering::Release);
            used = used.wrapping_add(1);
            from = to;
        }
        self.source.written(frame, 0..512);
        Some(Raw::pointer::<F>(frame, used))
    }

    /// The one entry that says what the table at `frame` says, if there is one.
    fn widen(&self, frame: Mfn, level: u32) -> Option<Raw> {
        let table = self.source.table(frame)?;
        let first = load(slot(table, 0));
        let wide = widened(first, level, self.largest)?;
        let step = Seed::of(first, 0, level).step(level);
        let marks = F::ACCESSED | F::DIRTY;
        // The ends say most.
        let last = first.0.wrapping_add(step.wrapping_mul(511));
        if (load(slot(table, 511)).0 ^ last) & !marks != 0
            || alike(&table.0, first, step, marks) < table.0.len()
        {
            return None;
        }
        let seen = table.0.iter().fold(0, |seen, entry| seen | load(entry).0 & marks);
        Some(if wide.has_frame() { Raw(wide.0 | seen) } else { wide })
    }

    /// Takes a table and all below it off the tree.
    fn detach(&mut self, frame: Mfn, level: u32) {
        if level > 1
            && let Some(table) = self.source.table(frame)
        {
            for entry in &table.0 {
                let raw = load(entry);
                if raw.is_table() {
                    self.detach(raw.frame(), level.wrapping_sub(1));
                }
            }
        }
        self.detach_one(frame);
    }

    /// Takes a table that has none below it off the tree.
    fn detach_one(&mut self, frame: Mfn) {
        self.owed.detach(frame, self.source);
        self.detached_now = self.detached_now.wrapping_add(1);
    }
}

/// Stands for a table that was: in use, and hardware may have cached entries of it.
const PRESENT_TABLE: u64 = u64::MAX;

/// The end of the run, within `table` and up to `end`, of entries that go on as `raw` at `from` begins: whole
/// entries.
#[inline]
fn run_end(table: &TableFrame, raw: Raw, level: u32, from: u64, end: u64, marks: u64) -> u64 {
    if end.wrapping_sub(from).wrapping_shr(shift_of(level)) <= 1 {
        return from.wrapping_add(span_of(level));
    }
    let step = Seed::of(raw, from, level).step(level);
    let alike = alike(entries(table, level, from, end), raw, step, marks);
    // The entry itself counts whatever hardware did to its marks since it was read.
    from.wrapping_add(frames(alike.max(1), level))
}

/// Puts a seed into the entries at `level` for `start..end` of a table that nothing leads to yet; how many
/// are in use then.
#[inline]
fn put(table: &TableFrame, seed: &Seed, level: u32, start: u64, end: u64) -> u64 {
    if start >= end || seed.is_nothing() {
        return 0;
    }
    let entries = entries(table, level, start, end);
    fill(entries, seed, level, start);
    if seed.at(start, level).is_used() { entries.len() as u64 } else { 0 }
}

/// What was written to one table.
#[derive(Default)]
struct Written {
    /// The entries, as numbers, the last one included, if any.
    entries: Option<(u64, u64)>,
    /// How many more entries are in use, wrapping.
    more: u64,
    /// The frames whose translation changed; none when the end is zero.
    start: u64,
    end: u64,
    old: u64,
    new: u64,
}

impl Written {
    /// Takes down that `count` entries at `level` from that for frame `first` on were written.
    #[inline]
    fn touch(&mut self, first: u64, count: u64, level: u32) {
        let first = first.wrapping_shr(shift_of(level)) & 511;
        let last = first.wrapping_add(count).wrapping_sub(1);
        self.entries = Some(self.entries.map_or((first, last), |(least, _)| (least, last)));
    }

    /// Takes down what they were, and what they are.
    #[inline]
    fn note(&mut self, old: Raw, new: Raw, first: u64, count: u64, level: u32) {
        self.touch(first, count, level);
        match (old.is_used(), new.is_used()) {
            (false, true) => self.more = self.more.wrapping_add(count),
            (true, false) => self.more = self.more.wrapping_sub(count),
            _ => {}
        }
        self.old |= old.0;
        self.new |= new.0;
    }

    /// Takes down that translations changed in these frames, which follow those of earlier calls.
    #[inline]
    fn flush(&mut self, start: u64, end: u64) {
        if self.end == 0 {
            self.start = start;
        }
        self.end = end;
    }

    #[inline]
    fn finish<S: FrameSource>(self, frame: Mfn, source: &S, owed: &mut Owed) -> Option<u64> {
        let (first, last) = self.entries?;
        source.written(frame, first as usize..last.wrapping_add(1) as usize);
        let (old, new) = (Raw(self.old).is_present(), Raw(self.new).is_present());
        if self.end != 0 && (old || new) {
            let gfns = GfnRange::clamped(Gfn::new(self.start), Gfn::new(self.end));
            owed.note(Changed { gfns, only_added: !old });
        }
        Some(self.more)
    }
}
