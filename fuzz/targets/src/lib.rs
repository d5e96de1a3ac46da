//! What fuzzing tries: each target is a function of any bytes that panics where something does not hold.
//!
//! They are a library of their own so that they build without a fuzzer: `cargo test -p fuzz-targets` runs the seeds and the past findings through them,
//! and `cargo xtask fuzz` looks for new ones. The models that they check against are those of the crates' own tests.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target that finds something says so by a panic"
)]

mod builder;
mod machine;
mod parse;
mod resolve;

#[path = "../../../acpi-dmar/tests/common/bus.rs"]
mod bus;
#[path = "../../../acpi-dmar/tests/common/described.rs"]
mod described;
#[path = "../../../acpi-dmar/tests/common/visit.rs"]
mod visit;

pub use builder::builder;
pub use parse::parse;
pub use resolve::resolve;

/// A target: tries any bytes.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[("parse", parse), ("resolve", resolve), ("builder", builder)];
