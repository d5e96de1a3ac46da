//! The code as it is, in as many states as there is time for.
#![allow(clippy::indexing_slicing, reason = "a test that fails ends in a panic")]

use explore::search::Bounds;
use explore::settings::{Event, SETTINGS, explore_all};

/// Explores, and gives the figures of each setting: states, calls, depth.
fn run(bounds: Bounds) -> Vec<(usize, u64, u32)> {
    let mut figures = vec![(0, 0, 0); SETTINGS.len()];
    explore_all(bounds, 2, &mut |index, event| {
        if let Event::Done(explored) = event {
            let found = explored
                .found
                .map(|found| format!("{}: {} after {:#?}", SETTINGS[index], found.breach, found.steps));
            assert_eq!(found, None);
            figures[index] = (explored.count.states, explored.count.calls, explored.count.depth);
        }
        true
    });
    figures
}

#[test]
fn all_holds() {
    // So many that one is reached anew from boot.
    let figures = run(Bounds { states: 110 * 19, depth: u32::MAX, failures: 1, only: "" });
    assert!(figures.iter().all(|(states, calls, _)| *states > 50 && *calls > 1000), "{figures:?}");
}

#[test]
fn the_figures_are_the_same_each_time() {
    let bounds = Bounds { states: 400, depth: 2, failures: 1, only: "" };
    assert_eq!(run(bounds), run(bounds));
}
