//! Any updates, one after the other, beside the model: with frames running out wherever they can, and with everything checked after each.

use std::fmt::Debug;

use p2m::{
    Access, DeviceRoot, Domain, Entry, Ept, FillCause, FillError, Flush, Format, Gfn, GfnRange,
    IdentityError, LongMode, MapError, Mfn, MfnRange, OnConflict, P2m, P2mType, PageSize, PopulateError, Run,
    SecondLevel, Seen, Table, fill_holes, populate,
};

use crate::model::{Model, Stretch, gfns};
use crate::source::Frames;
use crate::walker::{Walker, walk};

/// One table as the hardware has it.
pub(crate) struct Hardware {
    walkers: Vec<Walker>,
    root: DeviceRoot,
    largest: u32,
}

/// What is tested.
pub(crate) trait Subject: P2m {
    fn hardware(&self) -> Vec<Hardware>;
    fn frames_in_use(&self) -> (u64, u64);
    fn at(&self, gfn: u64) -> (Entry, bool);
}

pub(crate) trait Walked: Format {
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

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    Map {
        start: u64,
        end: u64,
        p2m_type: P2mType,
        access: Access,
        delta: u64,
    },
    Unmap {
        start: u64,
        end: u64,
    },
    ChangeType {
        start: u64,
        end: u64,
        from: P2mType,
        to: P2mType,
    },
    Install {
        start: u64,
        end: u64,
        access: Access,
        on_conflict: OnConflict,
    },
    Uninstall {
        start: u64,
        end: u64,
    },
    /// Only where nothing is, and outside `region`.
    Populate {
        start: u64,
        end: u64,
        p2m_type: P2mType,
        delta: u64,
        region: (u64, u64),
    },
    /// Some frames into the first hole outside `region`; then there are no more.
    Fill {
        start: u64,
        end: u64,
        most: u64,
        delta: u64,
        region: (u64, u64),
    },
    Flush,
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

struct Harness<'a, P> {
    subject: P,
    frames: &'a Frames,
    model: Model,
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
            Step::Flush => {
                self.subject.confirm_flush();
                Outcome::of_map(Ok(()))
            }
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
            Step::Flush => done(&()),
        }
    }

    /// What can be seen of the subject from outside.
    fn state(&self) -> (Vec<Run>, (u64, u64), u64) {
        let all = gfns(self.base, self.base + self.universe);
        (self.subject.runs(all).collect(), self.subject.frames_in_use(), self.frames.live())
    }

    fn step(&mut self, step: &Step) {
        let before = self.model.clone();
        let asked = match *step {
            Step::Install { start, end, access: Access::READ_WRITE, .. } => {
                Some(self.subject.frames_needed(mfns(self.base + start, self.base + end)))
            }
            _ => None,
        };
        // Without frames it works or changes nothing; then with each number of frames that is too small, or some of them if they are many.
        self.frames.allow(0);
        let state = self.state();
        let mut taken = 0;
        let mut outcome = self.do_it(step);
        if let Outcome::NoFrames(needed) = outcome {
            let few =
                (1..needed).filter(|frames| needed < 12 || [1, needed / 2, needed - 1].contains(frames));
            for allowed in few {
                self.frames.allow(allowed);
                assert_eq!(self.do_it(step), Outcome::NoFrames(needed));
                assert_eq!(self.state(), state, "a failed update left a trace");
                assert_eq!(self.subject.take_flush(), None, "a failed update asks for a flush");
            }
            assert_eq!(self.state(), state, "a failed update left a trace");
            self.frames.allow(needed);
            taken = needed;
            outcome = self.do_it(step);
            if let Some(asked) = asked {
                assert_eq!(asked, needed, "frames_needed");
            }
            assert!(!matches!(outcome, Outcome::NoFrames(_)), "{needed} frames are not enough");
        } else if matches!(outcome, Outcome::Done(..)) {
            assert!(asked.is_none_or(|asked| asked == 0), "frames_needed");
        }
        if *step != Step::Flush {
            assert_eq!(self.frames.live(), state.2 + taken, "frames were asked for and not used");
        }
        let expected = self.model_it(step);
        assert_eq!(outcome, expected);
        if matches!(outcome, Outcome::Refused(..)) {
            assert_eq!(self.state(), state, "a refused update left a trace");
        }
        let flush = self.subject.take_flush();
        if *step != Step::Flush && flush.is_none() {
            assert_eq!(self.subject.frames_in_use().1, state.1.1, "frames left and no flush is asked for");
        }
        self.check(&before, flush);
    }

    fn check(&self, before: &Model, flush: Option<Flush>) {
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
                    let now = rights(entry, *walker);
                    assert_eq!(
                        seen.map(|seen| (seen.mfn, seen.read, seen.write, seen.execute)),
                        now,
                        "{walker:?} at {gfn:#x}: {entry}"
                    );
                    let old = rights(before.at(gfn).entry, *walker);
                    if old != now {
                        let flush = flush.expect("a change and no flush");
                        assert!(flush.gfns.contains(Gfn::new(gfn)), "{gfn:#x} is not flushed");
                        assert!(!flush.only_added || old.is_none(), "{gfn:#x} was there before");
                    }
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

pub(crate) fn run<P: Subject>(frames: &Frames, subject: P, base: u64, universe: u64, steps: &[Step]) {
    let model = Model::new(subject.limit().raw());
    let mut harness = Harness { subject, frames, model, base, universe };
    for step in steps {
        harness.step(step);
    }
    // All that 1:1 mappings installed goes without a frame at a time, and the rest with the table.
    let all = mfns(base, base + universe);
    frames.allow(u64::MAX);
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
    drop(harness);
    assert_eq!(frames.live(), 0);
}

pub(crate) fn case<F: Walked>(format: F, levels: u8, largest: PageSize, at_end: bool, steps: &[Step]) {
    let frames = Frames::new(192);
    let table = Table::new(format, &frames, levels, largest).unwrap();
    let universe = universe(largest);
    let limit = P2m::limit(&table).raw().min(1 << 39);
    run(&frames, table, if at_end { limit - universe } else { 0 }, universe, steps);
}

pub(crate) fn universe(largest: PageSize) -> u64 {
    match largest {
        PageSize::Size4K => 4 << 9,
        PageSize::Size2M => 2 << 18,
        PageSize::Size1G => 5 << 18,
    }
}
