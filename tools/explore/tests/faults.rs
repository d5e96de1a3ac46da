//! Code that is broken is found broken, in each of the ways.
#![cfg(feature = "faults")]

use explore::faults::{FAULTS, break_code};
use explore::search::{Bounds, explore};
use explore::settings::SETTINGS;

/// One test for all, because what is broken is broken in the whole process.
#[test]
fn each_fault_is_found() {
    let bounds = Bounds { states: 6000, depth: 5, failures: 2 };
    for (name, fault, what) in FAULTS {
        assert!(break_code(Some(*fault)));
        // The first setting in which it shows; domains have two tables in the second.
        let found = SETTINGS[..2].iter().rev().find_map(|setting| {
            let explored = explore(*setting, bounds, &mut |_| {});
            explored.found.map(|found| (explored.count.states, found))
        });
        let Some((states, found)) = found else { panic!("{name} ({what}) was not found") };
        let steps: Vec<_> = found.steps.iter().map(ToString::to_string).collect();
        println!("{name}: {} ({states} states; {})", found.breach, steps.join("; "));
    }
    assert!(break_code(None));
    let healed = explore(SETTINGS[1], Bounds { states: 500, ..bounds }, &mut |_| {});
    assert!(healed.found.is_none());
}
