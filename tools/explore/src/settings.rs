//! What is explored: machines with what there is to be found on each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use xen_iommu::Isolation;

use crate::boards;
use crate::hardware::Kind;
use crate::machine::Board;
use crate::search::{Bounds, Count, Explored, explore};
use crate::world::{Calls, Setting};

const COHERENT: Kind = Kind { caching: false, incoherent: false, by_words: false };
const ALL: Calls = Calls { relaxed: true, groups: true, presence: true, toolstack: true };
const STRICT: Calls = Calls { relaxed: false, ..ALL };

const fn of(name: &'static str, board: &'static Board, separate: bool) -> Setting {
    Setting {
        name,
        board,
        unit: COHERENT,
        translates: true,
        separate,
        isolation: Isolation::Report,
        guests: 2,
        calls: ALL,
        failures: None,
        share: 5,
    }
}

/// The largest machine; groups are moved whole on others.
const fn five(name: &'static str, board: &'static Board, separate: bool) -> Setting {
    Setting { calls: Calls { groups: false, ..ALL }, share: 1, ..of(name, board, separate) }
}

const SMALL: Setting = Setting {
    calls: Calls { toolstack: false, ..ALL },
    failures: Some(0),
    share: 0,
    ..of("two devices share a region, a third is alone", &boards::PAIR, false)
};

/// All of them.
pub const SETTINGS: [Setting; 16] = [
    SMALL,
    Setting {
        name: "two devices behind a bridge, one of them shares a region",
        board: &boards::BEHIND,
        ..SMALL
    },
    Setting {
        name: "a phantom function and a shared region, one guest, every failure",
        board: &boards::PHANTOM,
        guests: 1,
        failures: Some(u32::MAX),
        calls: Calls { groups: false, ..SMALL.calls },
        ..SMALL
    },
    Setting { name: "a physical function and its virtual ones", board: &boards::FUNCTIONS, ..SMALL },
    Setting {
        name: "two devices behind a bridge, one with a rejected region",
        board: &boards::REJECTED,
        ..SMALL
    },
    Setting {
        name: "regions in a chain, and the middle one's device comes and goes",
        board: &boards::CHAIN,
        ..SMALL
    },
    Setting { name: "a unit that is not switched on", translates: false, guests: 1, ..SMALL },
    five("five devices, small regions, shared tables", &boards::PAGES, false),
    five("five devices, small regions, separate tables", &boards::PAGES, true),
    five("five devices, 2 MiB pages, one cut, shared tables", &boards::CUT, false),
    five("five devices, 2 MiB pages, one cut, separate tables", &boards::CUT, true),
    Setting { calls: STRICT, ..of("a late scope and a rejected region, strict", &boards::LATE, false) },
    of("a late scope and a rejected region, separate tables", &boards::LATE, true),
    Setting {
        isolation: Isolation::Require,
        share: 0,
        ..of("devices that are not isolated stay together", &boards::TOGETHER, false)
    },
    Setting {
        unit: Kind { caching: true, ..COHERENT },
        ..of("a device with a TLB of its own, caching mode", &boards::DEVICE_TLB, true)
    },
    Setting {
        unit: Kind { incoherent: true, by_words: true, ..COHERENT },
        share: 0,
        ..of("a unit that does not snoop, entries replaced by words", &boards::PAIR, false)
    },
];

/// What happens while settings are explored, each by its index.
pub enum Event {
    /// It goes on.
    Progress(Count),
    /// It has come to its end.
    Done(Box<Explored>),
}

/// Who asks for fewer states than these in all wants no setting explored to its end.
const ENOUGH: usize = 100_000;

impl Bounds {
    /// What these bounds for all settings mean for one: those that come to an end have no bound, and the
    /// others share the states.
    fn of(self, setting: &Setting) -> Self {
        let is_meant = |setting: &&Setting| setting.name.contains(self.only);
        let shares: usize = SETTINGS.iter().filter(is_meant).map(|setting| setting.share).sum();
        let to_the_end = setting.share == 0 && self.states >= ENOUGH;
        let share = (self.states * setting.share.max(1)).div_ceil(shares.max(1));
        let states = if to_the_end { usize::MAX } else { share };
        let failures = match setting.failures {
            Some(failures) if to_the_end => failures,
            Some(failures) => failures.min(self.failures),
            None => self.failures,
        };
        Self { states, failures, ..self }
    }
}

/// The number of the next setting when there is to be none, whatever each thread adds to it.
const STOPPED: usize = usize::MAX / 2;

/// Explores all settings, so many at a time. `hear` returns whether to go on.
pub fn explore_all(bounds: Bounds, jobs: usize, hear: &mut dyn FnMut(usize, Event) -> bool) {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, SETTINGS.len()) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some((index, setting)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, *SETTINGS.get(at)?)))
                {
                    if !setting.name.contains(bounds.only) {
                        continue;
                    }
                    let mut tell = |count: &Count| {
                        // Nobody may listen any more.
                        drop(send.send((index, Event::Progress(*count))));
                        next.load(Ordering::Relaxed) < STOPPED
                    };
                    let explored = explore(setting, bounds.of(&setting), &mut tell);
                    drop(send.send((index, Event::Done(Box::new(explored)))));
                }
            });
        }
        drop(send);
        for (index, event) in receive {
            if !hear(index, event) {
                next.store(STOPPED, Ordering::Relaxed);
            }
        }
    });
}
