//! What is explored: both ways with groups, both kinds of tables, both places for the regions.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use xen_iommu::GroupPolicy;

use crate::machine::Layout;
use crate::search::{Bounds, Count, Explored, explore};
use crate::world::Setting;

/// All of them.
pub const SETTINGS: [Setting; 8] = {
    const fn of(groups: GroupPolicy, separate: bool, layout: Layout) -> Setting {
        Setting { groups, separate, layout }
    }
    use GroupPolicy::{MoveWhole, Refuse};
    use Layout::{Cut, Pages};
    [
        of(Refuse, false, Pages),
        of(Refuse, true, Pages),
        of(MoveWhole, false, Pages),
        of(MoveWhole, true, Pages),
        of(Refuse, false, Cut),
        of(Refuse, true, Cut),
        of(MoveWhole, false, Cut),
        of(MoveWhole, true, Cut),
    ]
};

/// What happens while settings are explored, each by its index.
pub enum Event {
    /// It goes on.
    Progress(Count),
    /// It has come to its end.
    Done(Box<Explored>),
}

/// Explores all settings, so many at a time; `hear` returns whether to go on with those that were not begun.
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
                next.store(SETTINGS.len(), Ordering::Relaxed);
            }
        }
    });
}
