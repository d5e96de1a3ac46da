//! Breadth first through all states, so that the first way to a breach is a shortest one.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use crate::calls::{Call, Step, calls};
use crate::hardware::{Failure, Seen};
use crate::invariants::{Before, Breach};
use crate::world::{Saved, Setting, World};

/// How far to go.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// No more states than these, in all settings that do not come to an end.
    pub states: usize,
    /// No more calls in a row.
    pub depth: u32,
    /// Failures in states of up to so many calls; beyond, calls do not fail.
    pub failures: u32,
    /// Only settings whose names have this in them.
    pub only: &'static str,
}

/// How far it has got.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    /// States.
    pub states: usize,
    /// Calls that were made, failures and all.
    pub calls: u64,
    /// States that are to be gone on from.
    pub queue: usize,
    /// The most calls in a row.
    pub depth: u32,
    /// Whether there is no state that was not gone on from.
    pub complete: bool,
    /// States that were reached again by making all calls on a new machine.
    pub replayed: usize,
}

impl Count {
    /// Counts another exploration too.
    pub fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.calls += other.calls;
        self.queue += other.queue;
        self.depth = self.depth.max(other.depth);
        self.complete &= other.complete;
        self.replayed += other.replayed;
    }
}

/// A breach, and the way to it.
#[derive(Clone, Debug)]
pub struct Found {
    /// What does not hold.
    pub breach: Breach,
    /// The calls, from boot on.
    pub steps: Vec<String>,
}

/// What an exploration came to.
#[derive(Clone, Debug)]
pub struct Explored {
    /// The figures.
    pub count: Count,
    /// How long it took.
    pub time: Duration,
    /// A breach, which ended it.
    pub found: Option<Found>,
}

impl Explored {
    /// The figures in words.
    #[must_use]
    pub fn show(&self) -> String {
        let Count { states, calls, depth, .. } = self.count;
        let end = if self.count.complete && self.found.is_none() { " and no more" } else { "" };
        let time = self.time.as_secs_f64();
        format!("{states} states{end}, {calls} calls, up to {depth} in a row, {time:.1} s")
    }
}

/// Keys are hashes already.
#[derive(Default)]
struct Same(u64);

impl Hasher for Same {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }
}

/// Every how many states one is reached anew from boot.
const REPLAY_EVERY: usize = 100;

struct Search<'p> {
    setting: Setting,
    world: World,
    /// A second machine, for replaying.
    replay: World,
    boot: [Saved; 2],
    bounds: Bounds,
    /// States by key.
    numbers: HashMap<u128, u32, BuildHasherDefault<Same>>,
    /// How each state was first reached: from which, and how.
    origins: Vec<(u32, Option<Step>)>,
    queue: VecDeque<(u32, u32, Saved)>,
    count: Count,
    progress: &'p mut dyn FnMut(&Count) -> bool,
}

/// Explores one setting, with bounds that are its own. `progress` is told how far it has got, and returns
/// whether to go on.
pub fn explore(setting: Setting, bounds: Bounds, progress: &mut dyn FnMut(&Count) -> bool) -> Explored {
    let start = std::time::Instant::now();
    let (mut world, mut replay) = (World::new(setting), World::new(setting));
    let boot = [world.save(), replay.save()];
    let mut search = Search {
        setting,
        world,
        replay,
        boot,
        bounds,
        numbers: HashMap::default(),
        origins: Vec::new(),
        queue: VecDeque::new(),
        count: Count { complete: true, ..Count::default() },
        progress,
    };
    let found = search.run().err();
    let _ = (search.progress)(&search.count);
    Explored { count: search.count, time: start.elapsed(), found }
}

impl Search<'_> {
    fn run(&mut self) -> Result<(), Found> {
        self.world.load(&self.boot[0]);
        let key = self.world.keys().number();
        self.reach(key, 0, 0, None)?;
        let calls = calls(&self.setting);
        while let Some((number, depth, saved)) = self.queue.pop_front() {
            self.world.load(&saved);
            if depth >= self.bounds.depth {
                self.count.complete = false;
                continue;
            }
            let before = self.world.before();
            for call in &calls {
                self.try_call(number, depth, *call, &before)?;
            }
            self.count.queue = self.queue.len();
            if number.is_multiple_of(64) && !(self.progress)(&self.count) {
                self.count.complete = false;
                break;
            }
        }
        Ok(())
    }

    /// Makes a call without a failure, then with each.
    fn try_call(&mut self, number: u32, depth: u32, call: Call, before: &Before) -> Result<(), Found> {
        let seen = self.step(number, depth, Step { call, failure: Failure::None }, before)?;
        if depth >= self.bounds.failures {
            return Ok(());
        }
        let mut failures: Vec<_> = (0..seen.allocations).map(Failure::Frames).collect();
        for at in 0..seen.invalidations {
            failures.extend([Failure::TimeOut(at), Failure::TimeOuts(at), Failure::QueueError(at)]);
        }
        failures.extend((0..seen.quiesces).map(Failure::Quiesce));
        if seen.invalidations > 0 && self.setting.board.devices.iter().any(|device| device.ats) {
            failures.extend([Failure::Silence(false), Failure::Silence(true)]);
        }
        for failure in failures {
            self.step(number, depth, Step { call, failure }, before)?;
        }
        Ok(())
    }

    /// One step from the state that is loaded, and back. Gives what hardware saw.
    fn step(&mut self, number: u32, depth: u32, step: Step, before: &Before) -> Result<Seen, Found> {
        let outcome = self.world.make(step, before.owners);
        self.count.calls += 1;
        let judged = self.world.judge_rule(before, step.call, &outcome);
        judged.map_err(|breach| self.found(breach, number, Some(step)))?;
        if outcome.quiet && self.world.region_owners() == before.region_owners {
            self.world.back();
            return Ok(Seen::default());
        }
        let keys = self.world.keys();
        let judged = self.world.judge_call(before, step, &outcome, &keys);
        judged.map_err(|breach| self.found(breach, number, Some(step)))?;
        let key = keys.number();
        if key != before.keys.number() && !self.numbers.contains_key(&key) {
            self.reach(key, depth + 1, number, Some(step))?;
        }
        self.world.back();
        Ok(outcome.seen)
    }

    /// A state for the first time.
    fn reach(&mut self, key: u128, depth: u32, from: u32, step: Option<Step>) -> Result<(), Found> {
        if self.count.states >= self.bounds.states {
            self.count.complete = false;
            return Ok(());
        }
        self.world.judge_state().map_err(|breach| self.found(breach, from, step))?;
        let number = u32::try_from(self.origins.len()).expect("fewer states than 2^32");
        self.numbers.insert(key, number);
        self.origins.push((from, step));
        self.queue.push_back((number, depth, self.world.save()));
        self.count.states += 1;
        self.count.depth = self.count.depth.max(depth);
        if self.count.states.is_multiple_of(REPLAY_EVERY) {
            self.replay(key, number, from, step)?;
        }
        self.world.judge_end().map_err(|breach| self.found(breach, from, step))
    }

    /// Makes all calls that led to a state on another machine: what putting states back makes of them has to
    /// be the same.
    fn replay(&mut self, key: u128, number: u32, from: u32, step: Option<Step>) -> Result<(), Found> {
        self.replay.load(&self.boot[1]);
        for step in self.way(number) {
            let owners = self.replay.owners();
            self.replay.make(step, owners);
        }
        self.count.replayed += 1;
        if self.replay.keys().number() == key {
            return Ok(());
        }
        Err(self.found("reached anew from boot, the state is another".into(), from, step))
    }

    fn way(&self, mut number: u32) -> Vec<Step> {
        let mut steps = Vec::new();
        while let Some((from, Some(step))) = self.origins.get(number as usize).copied() {
            steps.push(step);
            number = from;
        }
        steps.reverse();
        steps
    }

    fn found(&self, breach: Breach, from: u32, step: Option<Step>) -> Found {
        let mut steps = self.way(from);
        steps.extend(step);
        let steps = steps.into_iter().map(|step| step.show(self.setting.board).to_string()).collect();
        Found { breach, steps }
    }
}
