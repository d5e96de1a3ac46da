//! The policy on real tables: calls in any order, with memory and hardware failing at any moment, never let
//! two domains reach one region, never lose a region that a device needs, and leave everything as it was when
//! they fail.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails ends in a panic"
)]

mod assignable;
mod company;
mod failures;
mod hotplug;
mod isolation;
mod joining;
mod machine;
mod relax;
mod requesters;
mod sequences;
mod suspect;
mod threads;
mod unresolved;
mod waiting;
