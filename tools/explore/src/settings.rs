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
        ends: false,
    }
}

const SMALL: Setting = Setting {
    calls: Calls { toolstack: false, ..ALL },
    failures: Some(0),
    ends: true,
    ..of("two devices share a region, a third is alone", &boards::PAIR, false)
};

/// All of them.
pub const SETTINGS: [Setting; 15] = [
    SMALL,
    Setting { name: "two devices behind a bridge, one of them shares a region", board: &boards::BEHIND, ..SMALL },
    Setting {
        name: "a phantom function and a shared region, one guest, every failure",
        board: &boards::PHANTOM,
        guests: 1,
        failures: Some(u32::MAX),
        calls: Calls { groups: false, ..SMALL.calls },
        ..SMALL
    },
    Setting { name: "a physical function and its virtual ones", board: &boards::FUNCTIONS, ..SMALL },
    Setting { name: "two devices behind a bridge, one with a rejected region", board: &boards::REJECTED, ..SMALL },
    Setting { name: "a unit that is not switched on", translates: false, guests: 1, ..SMALL },
    of("five devices, small regions, shared tables", &boards::PAGES, false),
    of("five devices, small regions, separate tables", &boards::PAGES, true),
    of("five devices, 2 MiB pages, one cut, shared tables", &boards::CUT, false),
    of("five devices, 2 MiB pages, one cut, separate tables", &boards::CUT, true),
    Setting { calls: STRICT, ..of("a late scope and a rejected region, strict", &boards::LATE, false) },
    of("a late scope and a rejected region, separate tables", &boards::LATE, true),
    Setting {
        isolation: Isolation::Require,
        ..of("devices that are not isolated stay together", &boards::TOGETHER, false)
    },
    Setting {
        unit: Kind { caching: true, ..COHERENT },
        ..of("a device with a TLB of its own, caching mode", &boards::DEVICE_TLB, true)
    },
    Setting {
        unit: Kind { incoherent: true, by_words: true, ..COHERENT },
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

/// Explores all settings, so many at a time. Those that do not come to an end share the states of `bounds`, which are so many for each. `hear` returns
/// whether to go on with those that were not begun.
pub fn explore_all(bounds: Bounds, jobs: usize, hear: &mut dyn FnMut(usize, Event) -> bool) {
    let all: Vec<usize> = (0..SETTINGS.len()).collect();
    explore_some(&all, bounds, jobs, hear);
}

/// The settings whose names have these words in them.
#[must_use]
pub fn named(words: &str) -> Vec<usize> {
    (0..SETTINGS.len()).filter(|index| SETTINGS[*index].name.contains(words)).collect()
}

/// As [`explore_all`], with the settings of these indices alone.
pub fn explore_some(
    which: &[usize],
    bounds: Bounds,
    jobs: usize,
    hear: &mut dyn FnMut(usize, Event) -> bool,
) {
    let next = AtomicUsize::new(0);
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..jobs.min(which.len()).max(1) {
            let (send, next) = (send.clone(), &next);
            scope.spawn(move || {
                while let Some(index) = which.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    let Some(setting) = SETTINGS.get(index).copied() else { continue };
                    // Nobody may listen any more.
                    let mut tell = |count: &Count| drop(send.send((index, Event::Progress(*count))));
                    let explored = explore(setting, bounds, &mut tell);
                    drop(send.send((index, Event::Done(Box::new(explored)))));
                }
            });
        }
        drop(send);
        for (index, event) in receive {
            if !hear(index, event) {
                next.store(which.len(), Ordering::Relaxed);
            }
        }
    });
}
