//! What a table is to hold: an ordered map of guest frames to entries.

use std::collections::BTreeMap;

use p2m::{Access, Entry, Gfn, GfnRange, Identity, Mfn, OnConflict, P2mType, Run, Seen};

/// What is at the frames from one key of the map up to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What is at the first of them.
    pub entry: Entry,
    /// What was there before a 1:1 mapping came.
    pub before: Option<P2mType>,
}

impl Stretch {
    const NOTHING: Self = Self { entry: Entry::NOTHING, before: None };

    fn after(self, frames: u64) -> Self {
        Self { entry: self.entry.after(frames), ..self }
    }
}

/// The map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    stretches: BTreeMap<u64, Stretch>,
    limit: u64,
}

/// Guest frames from `start` up to `end`, exclusive.
#[must_use]
pub fn gfns(start: u64, end: u64) -> GfnRange {
    GfnRange::new(Gfn::new(start), Gfn::new(end)).unwrap()
}

/// Whether it is what a 1:1 mapping puts there.
#[must_use]
pub fn is_identical(gfn: u64, entry: Entry, access: Access) -> bool {
    entry.p2m_type == P2mType::MmioDirect && entry.mfn == Some(Mfn::new(gfn)) && entry.access == access
}

impl Model {
    /// Nothing anywhere below `limit`.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { stretches: BTreeMap::from([(0, Stretch::NOTHING)]), limit }
    }

    /// What is at a guest frame.
    #[must_use]
    pub fn at(&self, gfn: u64) -> Stretch {
        let (start, stretch) = self.stretches.range(..=gfn).next_back().unwrap();
        stretch.after(gfn - start)
    }

    fn cut(&mut self, gfn: u64) {
        if gfn < self.limit {
            self.stretches.insert(gfn, self.at(gfn));
        }
    }

    /// The stretches within `start..end`.
    #[must_use]
    pub fn within(&self, start: u64, end: u64) -> Vec<(u64, u64, Stretch)> {
        let mut starts: Vec<u64> = self.stretches.range(start..end).map(|(start, _)| *start).collect();
        if start < end && starts.first() != Some(&start) {
            starts.insert(0, start);
        }
        let ends = starts.iter().skip(1).copied().chain([end]).collect::<Vec<_>>();
        starts.iter().zip(ends).map(|(start, end)| (*start, end, self.at(*start))).collect()
    }

    /// Changes the stretches within `start..end`.
    fn update(&mut self, start: u64, end: u64, cutting: bool, change: impl Fn(u64, Stretch) -> Stretch) {
        if start >= end {
            return;
        }
        let cuts = [start, end].map(|cut| (cut, self.stretches.contains_key(&cut)));
        self.cut(start);
        self.cut(end);
        for (gfn, stretch) in self.stretches.range_mut(start..end) {
            *stretch = change(*gfn, *stretch);
        }
        // What 1:1 mappings installed stays apart, and is cut only where a 1:1 mapping ends.
        let mut previous: Option<(u64, Stretch)> = None;
        self.stretches.retain(|gfn, stretch| {
            let same = previous.is_some_and(|(from, last)| {
                let joined = last.before.is_none() || (!cutting && cuts.contains(&(*gfn, false)));
                joined && last.after(gfn - from) == *stretch
            });
            if !same {
                previous = Some((*gfn, *stretch));
            }
            !same
        });
    }

    /// The first frame of `start..end` that a 1:1 mapping installed, and what is there.
    #[must_use]
    pub fn reserved(&self, start: u64, end: u64) -> Option<(u64, Entry)> {
        let found = self.within(start, end).into_iter().find(|(_, _, stretch)| stretch.before.is_some())?;
        Some((found.0, found.2.entry))
    }

    /// Puts `first` and what follows at `start..end`.
    pub fn map(&mut self, start: u64, end: u64, first: Entry) {
        let first =
            if first.p2m_type.is_vacant() { Entry { access: Access::empty(), ..first } } else { first };
        self.update(start, end, false, |gfn, _| Stretch { entry: first.after(gfn - start), before: None });
    }

    /// Gives frames of one type another; how many.
    pub fn change_type(&mut self, start: u64, end: u64, from: P2mType, to: P2mType) -> u64 {
        let applies =
            |stretch: Stretch| stretch.entry.p2m_type == from && stretch.before.is_none() && from != to;
        let changed = self.within(start, end).into_iter().filter(|(_, _, stretch)| applies(*stretch));
        let changed = changed.map(|(start, end, _)| end - start).sum();
        self.update(start, end, false, |_, stretch| {
            if applies(stretch) {
                Stretch { entry: Entry { p2m_type: to, ..stretch.entry }, ..stretch }
            } else {
                stretch
            }
        });
        changed
    }

    /// Maps 1:1; what came of it and what was left, or what is in the way.
    ///
    /// # Errors
    /// The first frame in the way, and what is there.
    pub fn map_identity(
        &mut self,
        start: u64,
        end: u64,
        access: Access,
        on_conflict: OnConflict,
    ) -> Result<(Identity, Vec<Seen>), (u64, Entry)> {
        let (mut installed, mut identical, mut skipped) = (0, 0, 0);
        for (gfn, end, Stretch { entry, .. }) in self.within(start, end) {
            if entry.p2m_type.is_vacant() {
                installed += end - gfn;
            } else if is_identical(gfn, entry, access) {
                identical += end - gfn;
            } else if on_conflict == OnConflict::Skip {
                skipped += end - gfn;
            } else {
                return Err((gfn, entry));
            }
        }
        let occupied = self.runs(start, end).into_iter().filter(|run| !run.entry.p2m_type.is_vacant());
        let seen = occupied.map(|run| {
            let identical = is_identical(run.gfns.start().raw(), run.entry, access);
            if identical { Seen::Identical(run.gfns) } else { Seen::Skipped(run) }
        });
        let seen = seen.collect();
        self.update(start, end, true, |gfn, stretch| {
            if !stretch.entry.p2m_type.is_vacant() {
                return stretch;
            }
            let entry = Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::new(gfn)), access };
            Stretch { entry, before: Some(stretch.entry.p2m_type) }
        });
        let outcome = match (installed, identical, skipped) {
            (0, _, 0) => Identity::AlreadyIdentical,
            (_, 0, 0) => Identity::Mapped,
            _ => Identity::Mixed { installed, identical, skipped },
        };
        Ok((outcome, seen))
    }

    /// Removes what 1:1 mappings installed.
    pub fn unmap_identity(&mut self, start: u64, end: u64) {
        self.update(start, end, true, |_, stretch| match stretch.before {
            Some(p2m_type) => Stretch { entry: Entry { p2m_type, ..Entry::NOTHING }, before: None },
            None => stretch,
        });
    }

    /// The first frames of `start..end` where there is nothing, outside `excluded`, as far as that goes on.
    #[must_use]
    pub fn hole(&self, start: u64, end: u64, excluded: (u64, u64)) -> Option<(u64, u64)> {
        let nothing = self.runs(start, end).into_iter().filter(|run| run.entry.p2m_type == P2mType::Invalid);
        let nothing = nothing.map(|run| (run.gfns.start().raw(), run.gfns.end().raw()));
        let pieces = nothing.flat_map(|(start, end)| {
            if excluded.0 >= excluded.1 {
                return [(start, end), (end, end)];
            }
            [(start, end.min(excluded.0)), (start.max(excluded.1), end)]
        });
        pieces.filter(|(start, end)| start < end).min()
    }

    /// The runs of equal mappings, whoever made them.
    #[must_use]
    pub fn runs(&self, start: u64, end: u64) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for (start, end, Stretch { entry, .. }) in self.within(start, end) {
            match runs.last_mut() {
                Some(last) if last.entry.after(last.gfns.len()) == entry => {
                    last.gfns = gfns(last.gfns.start().raw(), end);
                }
                _ => runs.push(Run { gfns: gfns(start, end), entry }),
            }
        }
        runs
    }

    /// Frames that differ between two models, at the ends of the stretches of both: enough to see any
    /// difference.
    #[must_use]
    pub fn points(&self, other: &Self) -> Vec<u64> {
        let keys = self.stretches.keys().chain(other.stretches.keys());
        let around = keys.flat_map(|key| [key.checked_sub(1), Some(*key), Some(key + 1)]).flatten();
        around.chain([self.limit - 1]).filter(|gfn| *gfn < self.limit).collect()
    }

    /// Tables that this takes in a table of `levels` levels with leaves up to level `largest`, the top one
    /// included: each one without which the stretches in its span could not be told apart.
    #[must_use]
    pub fn tables(&self, levels: u32, largest: u32) -> u64 {
        let end = self.limit.min(1 << (9 * levels));
        1 + self.tables_in(levels, 0, end, largest)
    }

    /// Tables below the entries at `level` for `start..end`.
    fn tables_in(&self, level: u32, start: u64, end: u64, largest: u32) -> u64 {
        if level == 1 {
            return 0;
        }
        let span = 1_u64 << (9 * (level - 1));
        let mut tables = 0;
        let mut counted = start;
        for (from, to, stretch) in self.within(start, end) {
            // An entry that this stretch shares with others.
            if from % span != 0 && counted <= from {
                counted = from / span * span + span;
                tables += 1 + self.tables_in(level - 1, counted - span, counted, largest);
            }
            let (first, last) = (from.next_multiple_of(span), to / span * span);
            if first < last {
                tables += (last - first) / span
                    * tables_for(level, stretch.entry.mfn.map(|mfn| mfn.raw().wrapping_sub(from)), largest);
            }
            if to % span != 0 && counted <= to / span * span && from <= to / span * span {
                counted = to / span * span + span;
                tables += 1 + self.tables_in(level - 1, counted - span, counted, largest);
            }
        }
        tables
    }
}

/// Tables below one entry at `level` whose frames all belong together, `delta` beyond the guest frames.
fn tables_for(level: u32, delta: Option<u64>, largest: u32) -> u64 {
    match delta {
        Some(delta) if level > largest || delta % (1 << (9 * (level - 1))) != 0 => {
            if level == 1 {
                0
            } else {
                1 + 512 * tables_for(level - 1, Some(delta), largest)
            }
        }
        _ => 0,
    }
}
