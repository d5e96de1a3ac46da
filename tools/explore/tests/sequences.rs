//! Sequences of calls that a search came upon late, each judged as the search judges.
#![allow(clippy::expect_used, reason = "a test that fails ends in a panic")]

use explore::calls::{Call, Step};
use explore::hardware::Failure;
use explore::settings::SETTINGS;
use explore::world::World;

/// Makes the calls one after the other in the setting whose name has `only` in it, and judges each.
fn judge(only: &str, steps: &[(Call, Failure)]) {
    let setting = SETTINGS.into_iter().find(|setting| setting.name.contains(only));
    let mut world = World::new(setting.expect("a setting of that name"));
    for &(call, failure) in steps {
        let step = Step { call, failure };
        let saved = world.save();
        world.load(&saved);
        let before = world.before();
        let outcome = world.make(step, before.owners);
        let shown = step.show(world.board).to_string();
        assert_eq!(world.judge_rule(&before, call, &outcome), Ok(()), "{shown}");
        let keys = world.keys();
        assert_eq!(world.judge_call(&before, step, &outcome, &keys), Ok(()), "{shown}");
        assert_eq!(world.judge_state(), Ok(()), "{shown}");
    }
    assert_eq!(world.judge_end(), Ok(()), "in the end");
}

/// The frames of a quarantine that was kept, because hardware might have used it, come free when the next
/// call makes sure of it, whether that call is refused then or not.
#[test]
fn what_was_kept_for_hardware_comes_free_in_a_call_that_is_refused() {
    let [p, q] = [0, 1];
    judge(
        "phantom",
        &[
            (Call::Remove(p), Failure::None),
            (Call::Deassign(1 << q, 0), Failure::TimeOuts(0)),
            (Call::Add(p), Failure::TimeOuts(0)),
            (Call::Remove(q), Failure::None),
            (Call::Add(p), Failure::Frames(3)),
        ],
    );
}
