//! Exhaustive exploration of the real code: every call in every state that a small machine can get into, with a failure at every frame allocation and at
//! every invalidation, and each state checked. See `cargo xtask explore --help`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::needless_range_loop,
    clippy::expect_used,
    clippy::panic,
    reason = "a tool for tests, which may end in a panic where it is wrong itself"
)]

pub mod arguments;
pub mod calls;
pub mod faults;
pub mod hardware;
pub mod invariants;
pub mod machine;
pub mod memory;
pub mod search;
pub mod settings;
pub mod state;
pub mod world;
