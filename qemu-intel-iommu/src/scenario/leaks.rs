//! The last step of a scenario: every frame that the steps took was given back.

use alloc::format;

use super::step::{Outcome, Step};
use crate::check::ensure;
use crate::memory::{FrameCounts, Shared, frames};

/// The step, of which `run` knows what frames there were before.
pub const fn step<C>(run: fn(&mut C) -> Outcome) -> Step<C> {
    Step { name: "leaks", title: "every frame that the steps took was given back", run }
}

/// The frames are those that were there `before`.
pub fn check(before: FrameCounts, spoilt: bool) -> Outcome {
    let _spoilt = spoilt.then(|| Shared::alloc(1));
    let after = frames().counts();
    ensure!(after == before, "{after} instead of {before}");
    Ok(format!("{after}"))
}
