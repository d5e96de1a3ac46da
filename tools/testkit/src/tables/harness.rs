//! Any updates, one after the other, beside the model: with frames running out wherever they can, and with
//! everything checked after each.
//!
//! Hardware is taken to cache all that it can: what the tables said at any time since the last flush that
//! covers it. So flushes are asked for, fail, are done late and out of order, and the tables must say each
//! time what is still to be dropped, and keep the frames that a walk may still be in.

use std::collections::BTreeSet;
use std::fmt::Debug;

use p2m::{
    Access, DeviceRoot, Domain, Entry, Ept, FillCause, FillError, Flush, Format, Gfn, GfnRange,
    IdentityError, LongMode, MapError, Mfn, MfnRange, OnConflict, P2m, P2mType, PageSize, PopulateError, Run,
    SecondLevel, Seen, Table, fill_holes, populate,
};

use super::model::{Model, Stretch, gfns};
use super::walker::{Walker, reachable, walk};
use crate::frames::Frames;

/// One table as the hardware has it.
#[derive(Debug)]
pub struct Hardware {
    walkers: Vec<Walker>,
    root: DeviceRoot,
    largest: u32,
}

/// What is tested.
pub trait Subject: P2m {
    /// Its tables.
    fn hardware(&self) -> Vec<Hardware>;
    /// Frames in the tables, and frames that wait for a flush.
    fn frames_in_use(&self) -> (u64, u64);
    /// What is at a guest frame, and whether a 1:1 mapping installed it.
    fn at(&self, gfn: u64) -> (Entry, bool);
}

/// A format, and who walks its tables.
pub trait Walked: Format {
    /// Who.
    const WALKERS: &[Walker];
}
impl Walked for SecondLevel {
    const WALKERS: &[Walker] = &[Walker::Vtd];
}
impl Walked for Ept {
    const WALKERS: &[Walker] = &[Walker::Ept, Walker::Vtd];
}
impl Walked for LongMode {
    const WALKERS: &[Walker] = &[Walker::LongMode, Walker::Vtd];
}

fn hardware<F: Walked>(table: &Table<F, &Frames>) -> Hardware {
    let largest = table.largest_page().order() / 9 + 1;
    Hardware { walkers: F::WALKERS.to_vec(), root: table.root(), largest }
}

impl<F: Walked> Subject for Table<F, &Frames> {
    fn hardware(&self) -> Vec<Hardware> {
        vec![hardware(self)]
    }
    fn frames_in_use(&self) -> (u64, u64) {
        (self.table_frames(), self.held_frames())
    }
    fn at(&self, gfn: u64) -> (Entry, bool) {
        let page = self.translate(Gfn::new(gfn));
        assert_eq!(page.entry(), self.reader().translate(Gfn::new(gfn)).entry());
        (page.entry(), page.is_identity())
    }
}

impl<C: Walked, D: Walked> Subject for Domain<C, D, &Frames> {
    fn hardware(&self) -> Vec<Hardware> {
        [hardware(self.cpu())].into_iter().chain(self.iommu().map(hardware)).collect()
    }
    fn frames_in_use(&self) -> (u64, u64) {
        (self.table_frames(), self.held_frames())
    }
    fn at(&self, gfn: u64) -> (Entry, bool) {
        let at = self.cpu().at(gfn);
        assert!(self.iommu().is_none_or(|iommu| iommu.at(gfn) == at), "the tables disagree");
        at
    }
}

/// What is done, at frames counted from a base. Machine frames are `delta` above the guest frames.
#[allow(missing_docs, reason = "fields are those of p2m's calls")]
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Puts a mapping in place of all that is there.
    Map { start: u64, end: u64, p2m_type: P2mType, access: Access, delta: u64 },
    /// Leaves nothing.
    Unmap { start: u64, end: u64 },
    /// Gives frames of one type another.
    ChangeType { start: u64, end: u64, from: P2mType, to: P2mType },
    /// Maps 1:1.
    Install { start: u64, end: u64, access: Access, on_conflict: OnConflict },
    /// Removes 1:1 mappings.
    Uninstall { start: u64, end: u64 },
    /// Only where nothing is, and outside `region`.
    Populate { start: u64, end: u64, p2m_type: P2mType, delta: u64, region: (u64, u64) },
    /// Some frames into the first hole outside `region`; then there are no more.
    Fill { start: u64, end: u64, most: u64, delta: u64, region: (u64, u64) },
    /// A flush that is done at once.
    Flush,
    /// A flush that is begun: its token is kept, and may be lost.
    Take,
    /// The flush is done of one of the tokens that are kept, counted from the newest.
    Confirm(usize),
}

fn mfns(start: u64, end: u64) -> MfnRange {
    MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap()
}

/// What an update came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Done(String, Vec<Seen>),
    NoFrames(u64),
    Refused(u64, Entry),
}

impl Outcome {
    fn of_map<T: Debug>(result: Result<T, MapError>) -> Self {
        match result {
            Ok(done) => Self::Done(format!("{done:?}"), Vec::new()),
            Err(MapError::NoFrames { needed }) => Self::NoFrames(needed),
            Err(MapError::Reserved { gfn, found }) => Self::Refused(gfn.raw(), found),
            Err(error) => panic!("{error}"),
        }
    }

    fn of_identity<T: Debug>(result: Result<T, IdentityError>, seen: Vec<Seen>) -> Self {
        match result {
            Ok(done) => Self::Done(format!("{done:?}"), seen),
            Err(IdentityError::NoFrames { needed }) => Self::NoFrames(needed),
            Err(IdentityError::Conflict { gfn, found }) => Self::Refused(gfn.raw(), found),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A token, and what is to come of confirming it.
struct Token {
    flush: Flush,
    /// Which call made it.
    number: usize,
    /// How many of the past states it covers.
    covers: usize,
    /// The frames that were off the tables and not free when it was made.
    held: BTreeSet<Mfn>,
}

struct Harness<'a, P> {
    subject: P,
    frames: &'a Frames,
    model: Model,
    /// What hardware may still hold something of, the oldest first.
    past: Vec<Model>,
    /// Tokens that are kept, the oldest first.
    tokens: Vec<Token>,
    /// How often it was asked what is owed.
    takes: usize,
    base: u64,
    universe: u64,
}

impl<P: Subject> Harness<'_, P> {
    fn do_it(&mut self, step: &Step) -> Outcome {
        let base = self.base;
        match *step {
            Step::Map { start, end, p2m_type, access, delta } => {
                let first = mapping(base + start, p2m_type, access, delta);
                Outcome::of_map(self.subject.map(gfns(base + start, base + end), first))
            }
            Step::Unmap { start, end } => Outcome::of_map(self.subject.unmap(gfns(base + start, base + end))),
            Step::ChangeType { start, end, from, to } => {
                Outcome::of_map(self.subject.change_type(gfns(base + start, base + end), from, to))
            }
            Step::Install { start, end, access, on_conflict } => {
                let mut seen = Vec::new();
                let range = mfns(base + start, base + end);
                let result = self.subject.map_identity(range, access, on_conflict, &mut |run| seen.push(run));
                Outcome::of_identity(result, seen)
            }
            Step::Uninstall { start, end } => {
                let result = self.subject.unmap_identity(mfns(base + start, base + end));
                Outcome::of_identity(result, Vec::new())
            }
            Step::Populate { start, end, p2m_type, delta, region } => {
                let first = mapping(base + start, p2m_type, Access::all(), delta);
                let reserved = [gfns(base + region.0, base + region.1)];
                match populate(&mut self.subject, gfns(base + start, base + end), first, &reserved) {
                    Err(PopulateError::Occupied { gfn, found }) => Outcome::Refused(gfn.raw(), found),
                    Err(PopulateError::Reserved { gfn, region }) => {
                        assert_eq!(region, reserved[0]);
                        Outcome::Refused(gfn.raw(), Entry::NOTHING)
                    }
                    Err(PopulateError::Map(error)) => Outcome::of_map(Err::<(), _>(error)),
                    Ok(()) => Outcome::of_map(Ok(())),
                }
            }
            Step::Fill { start, end, most, delta, region } => {
                let reserved = [gfns(base + region.0, base + region.1)];
                let mut supplies = 1_u32;
                let mut supply = |hole: GfnRange| {
                    supplies = supplies.checked_sub(1)?;
                    let first = mapping(hole.start().raw(), P2mType::RamRw, Access::all(), delta).mfn?;
                    MfnRange::with_len(first, hole.len().min(most))
                };
                let range = gfns(base + start, base + end);
                let done = fill_holes(
                    &mut self.subject,
                    range,
                    &reserved,
                    P2mType::RamRw,
                    Access::all(),
                    &mut supply,
                );
                match done {
                    Err(FillError { filled: 0, cause: FillCause::Refused { error, .. }, .. }) => {
                        Outcome::of_map(Err::<(), _>(error))
                    }
                    done => Outcome::Done(format!("{done:?}"), Vec::new()),
                }
            }
            Step::Flush | Step::Take | Step::Confirm(_) => Outcome::of_map(Ok(())),
        }
    }

    fn model_it(&mut self, step: &Step) -> Outcome {
        let base = self.base;
        let done = |what: &dyn Debug| Outcome::Done(format!("{what:?}"), Vec::new());
        match *step {
            Step::Map { start, end, p2m_type, access, delta } => {
                if let Some((gfn, found)) = self.model.reserved(base + start, base + end) {
                    return Outcome::Refused(gfn, found);
                }
                self.model.map(base + start, base + end, mapping(base + start, p2m_type, access, delta));
                done(&())
            }
            Step::Unmap { start, end } => {
                if let Some((gfn, found)) = self.model.reserved(base + start, base + end) {
                    return Outcome::Refused(gfn, found);
                }
                self.model.map(base + start, base + end, Entry::NOTHING);
                done(&())
            }
            Step::ChangeType { start, end, from, to } => {
                done(&self.model.change_type(base + start, base + end, from, to))
            }
            Step::Install { start, end, access, on_conflict } => {
                match self.model.map_identity(base + start, base + end, access, on_conflict) {
                    Ok((outcome, seen)) => Outcome::Done(format!("{outcome:?}"), seen),
                    Err((gfn, found)) => Outcome::Refused(gfn, found),
                }
            }
            Step::Uninstall { start, end } => {
                self.model.unmap_identity(base + start, base + end);
                done(&())
            }
            Step::Populate { start, end, p2m_type, delta, region } => {
                let (start, end) = (base + start, base + end);
                let meets = start.max(base + region.0);
                let meets = (meets < end.min(base + region.1)).then_some((meets, Entry::NOTHING));
                let runs = self.model.runs(start, end).into_iter();
                let occupied = runs.filter(|run| !run.entry.p2m_type.is_vacant());
                let occupied = occupied.map(|run| (run.gfns.start().raw(), run.entry)).next();
                if let Some((gfn, found)) = meets.into_iter().chain(occupied).min_by_key(|(gfn, _)| *gfn) {
                    return Outcome::Refused(gfn, found);
                }
                self.model.map(start, end, mapping(start, p2m_type, Access::all(), delta));
                done(&())
            }
            Step::Fill { start, end, most, delta, region } => {
                let region = (base + region.0, base + region.1);
                let Some(hole) = self.model.hole(base + start, base + end, region) else {
                    return done(&Ok::<_, FillError>(0_u64));
                };
                let filled = (hole.1 - hole.0).min(most);
                let first = mapping(hole.0, P2mType::RamRw, Access::all(), delta);
                self.model.map(hole.0, hole.0 + filled, first);
                match self.model.hole(hole.0 + filled, base + end, region) {
                    None => done(&Ok::<_, FillError>(filled)),
                    Some((at, _)) => {
                        let stopped = FillError { at: Gfn::new(at), filled, cause: FillCause::NoMemory };
                        done(&Err::<u64, _>(stopped))
                    }
                }
            }
            Step::Flush | Step::Take | Step::Confirm(_) => done(&()),
        }
    }

    /// What can be seen of the subject from outside.
    fn state(&self) -> (Vec<Run>, (u64, u64), u64) {
        let all = gfns(self.base, self.base + self.universe);
        (self.subject.runs(all).collect(), self.subject.frames_in_use(), self.frames.live())
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Flush => {
                let token = self.take();
                token.into_iter().for_each(|token| self.confirm(token));
                assert!(self.take().is_none(), "what was flushed is still owed");
            }
            Step::Take => {
                let token = self.take();
                self.tokens.extend(token);
            }
            Step::Confirm(back) => {
                if let Some(back) = back.checked_rem(self.tokens.len()) {
                    let token = self.tokens.remove(self.tokens.len() - 1 - back);
                    self.confirm(token);
                }
            }
            _ => self.update(step),
        }
    }

    fn update(&mut self, step: &Step) {
        let before = self.model.clone();
        // Without frames it works or changes nothing; then with each number of frames that is too small, or
        // some of them if they are many.
        self.frames.limit(0);
        let state = self.state();
        let owed = self.owed();
        let mut taken = 0;
        let mut outcome = self.do_it(step);
        if let Outcome::NoFrames(needed) = outcome {
            let few =
                (1..needed).filter(|frames| needed < 12 || [1, needed / 2, needed - 1].contains(frames));
            for allowed in few {
                self.frames.limit(allowed);
                assert_eq!(self.do_it(step), Outcome::NoFrames(needed));
                assert_eq!(self.state(), state, "a failed update left a trace");
                assert_eq!(self.owed(), owed, "a failed update asks for a flush");
            }
            assert_eq!(self.state(), state, "a failed update left a trace");
            self.frames.limit(needed);
            taken = needed;
            outcome = self.do_it(step);
            assert!(!matches!(outcome, Outcome::NoFrames(_)), "{needed} frames are not enough");
        }
        assert_eq!(
            self.frames.live(),
            state.2 + taken,
            "frames were asked for and not used, or freed unflushed"
        );
        let expected = self.model_it(step);
        assert_eq!(outcome, expected);
        if matches!(outcome, Outcome::Refused(..)) {
            assert_eq!(self.state(), state, "a refused update left a trace");
        }
        if self.model != before {
            self.past.push(before.clone());
        }
        self.owed();
        self.check(&before);
    }

    /// What is owed, by a token that is dropped; not to be known while tokens are kept, which that would make
    /// out of date.
    fn owed(&mut self) -> Option<(GfnRange, bool)> {
        if !self.tokens.is_empty() {
            return None;
        }
        self.take().map(|token| (token.flush.gfns(), token.flush.only_added()))
    }

    /// A token for all that is owed, which must cover all that hardware may hold and that is not so any more.
    fn take(&mut self) -> Option<Token> {
        self.takes += 1;
        let flush = self.subject.take_flush();
        let hardware = self.subject.hardware();
        let walkers: BTreeSet<Walker> =
            hardware.iter().flat_map(|table| table.walkers.iter().copied()).collect();
        for past in &self.past {
            for gfn in self.model.points(past) {
                for walker in &walkers {
                    let [old, now] = [past, &self.model].map(|model| rights(model.at(gfn).entry, *walker));
                    if old != now {
                        let flush = flush.as_ref().expect("a change and no flush");
                        assert!(flush.gfns().contains(Gfn::new(gfn)), "{gfn:#x} is not flushed");
                        assert!(!flush.only_added() || old.is_none(), "{gfn:#x} was there before");
                    }
                }
            }
        }
        let mut held = self.frames.live_frames();
        for table in &hardware {
            reachable(self.frames, table.root).iter().for_each(|frame| _ = held.remove(frame));
        }
        assert_eq!(self.subject.frames_in_use().1, held.len() as u64, "held_frames");
        assert!(flush.is_some() || held.is_empty(), "frames are held and no flush is asked for");
        flush.map(|flush| Token { flush, number: self.takes, covers: self.past.len(), held })
    }

    /// Hardware has dropped what the token says, some time after it was made.
    fn confirm(&mut self, token: Token) {
        let Token { flush, number, covers, held } = token;
        let before = self.frames.live_frames();
        self.subject.confirm_flush(flush);
        let freed: BTreeSet<Mfn> = before.difference(&self.frames.live_frames()).copied().collect();
        if number == self.takes {
            assert_eq!(freed, held, "not the frames that were off the tables when the token was made");
            self.past.drain(..covers);
            assert!(!self.past.is_empty() || self.take().is_none(), "what was flushed is still owed");
        } else {
            assert_eq!(freed, BTreeSet::new(), "a newer token covers them");
        }
    }

    fn check(&self, before: &Model) {
        let (start, end) = (self.base, self.base + self.universe);
        let hardware = self.subject.hardware();
        let runs: Vec<_> = self.subject.runs(gfns(start, end)).collect();
        assert_eq!(runs, self.model.runs(start, end));

        let tables: u64 =
            hardware.iter().map(|table| self.model.tables(u32::from(table.root.levels), table.largest)).sum();
        let (in_use, held) = self.subject.frames_in_use();
        assert_eq!(in_use, tables, "not the frames that the layout takes");
        assert_eq!(self.frames.live(), in_use + held);

        for gfn in self.model.points(before) {
            let Stretch { entry, before: was } = self.model.at(gfn);
            let run = self.subject.look_up(Gfn::new(gfn));
            assert_eq!((run.gfns.start().raw(), run.entry), (gfn, entry));
            assert_eq!(self.subject.at(gfn), (entry, was.is_some()));
            for table in &hardware {
                for walker in &table.walkers {
                    let seen = walk(self.frames, *walker, table.root, gfn);
                    assert_eq!(
                        seen.map(|seen| (seen.mfn, seen.read, seen.write, seen.execute)),
                        rights(entry, *walker),
                        "{walker:?} at {gfn:#x}: {entry}"
                    );
                }
            }
        }
    }
}

fn mapping(gfn: u64, p2m_type: P2mType, access: Access, delta: u64) -> Entry {
    let mfn = p2m_type.has_frame().then(|| Mfn::new((gfn + delta) % (1 << 39)));
    Entry { p2m_type, mfn, access }
}

type Rights = Option<(u64, bool, bool, bool)>;

/// What hardware is to make of an entry.
fn rights(entry: Entry, walker: Walker) -> Rights {
    let mfn = entry.mfn?.raw();
    let read = entry.access.contains(Access::READ);
    let logged = matches!(entry.p2m_type, P2mType::RamRo | P2mType::RamLogdirty);
    let write = read && entry.access.contains(Access::WRITE) && !logged;
    let execute = read && entry.access.contains(Access::EXECUTE) && walker != Walker::Vtd;
    read.then_some((mfn, read, write, execute))
}

/// Makes the updates in `subject`, which is empty and has its frames from `frames`, and in a model, within
/// `universe` frames from `base` on. Panics where the two differ, or where anything else does not hold.
pub fn run<P: Subject>(frames: &Frames, subject: P, base: u64, universe: u64, steps: &[Step]) {
    let model = Model::new(subject.limit().raw());
    let (past, tokens) = (Vec::new(), Vec::new());
    let mut harness = Harness { subject, frames, model, past, tokens, takes: 0, base, universe };
    for step in steps {
        harness.step(step);
    }
    // All that 1:1 mappings installed goes without a frame at a time, and the rest with the table.
    let all = mfns(base, base + universe);
    frames.limit(None);
    harness.subject.unmap_identity(all).unwrap();
    let otherwise =
        harness.model.within(base, base + universe).into_iter().find_map(|(start, end, stretch)| {
            let run = Run { gfns: gfns(start, end), entry: stretch.entry };
            if stretch.before.is_some() { None } else { run.leading_to(all) }
        });
    let found = harness.subject.mapped_otherwise(all);
    assert_eq!(
        found.map(|run| (run.gfns.start(), run.entry)),
        otherwise.map(|run| (run.gfns.start(), run.entry))
    );
    let (in_use, _) = harness.subject.frames_in_use();
    let owed = harness.subject.take_flush();
    owed.into_iter().for_each(|owed| harness.subject.confirm_flush(owed));
    assert_eq!(harness.subject.frames_in_use(), (in_use, 0), "all that was owed is done");
    drop(harness);
    assert_eq!(frames.live(), 0);
}

/// Makes the updates in a new table: at its beginning, or its end.
pub fn case<F: Walked>(format: F, levels: u8, largest: PageSize, at_end: bool, steps: &[Step]) {
    let frames = Frames::new(192);
    let table = Table::new(format, &frames, levels, largest).unwrap();
    let universe = universe(largest);
    let limit = P2m::limit(&table).raw().min(1 << 39);
    run(&frames, table, if at_end { limit - universe } else { 0 }, universe, steps);
}

/// How many frames the updates are about, for pages up to this size.
#[must_use]
pub fn universe(largest: PageSize) -> u64 {
    match largest {
        PageSize::Size4K => 4 << 9,
        PageSize::Size2M => 2 << 18,
        PageSize::Size1G => 5 << 18,
    }
}
