//! What fuzzing tries: each target is a function of any bytes that panics where something does not hold.
//!
//! They are a library of their own so that they build without a fuzzer: `cargo test -p fuzz-targets` runs the
//! seeds and the past findings through them, and `cargo xtask fuzz` looks for new ones. The models that they
//! check against are those of the crates' own tests.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a target that finds something says so by a panic"
)]

mod builder;
mod hypercall;
mod inspect;
mod machine;
mod option;
mod parse;
mod policy;
mod registry;
mod resolve;
mod seeds;
mod table;

// The models and checks of the crates' own tests, each where it belongs. Not every test needs all of them.
#[path = "../../../../acpi-dmar/tests/common/bus.rs"]
mod bus;
#[path = "../../../../acpi-dmar/tests/common/described.rs"]
mod described;
#[path = "../../../../acpi-dmar/tests/common/visit.rs"]
mod visit;

pub use builder::builder;
pub use hypercall::hypercall;
pub use inspect::inspect;
pub use option::option;
pub use parse::parse;
pub use policy::policy;
pub use registry::registry;
pub use resolve::resolve;
pub use seeds::{Seed, seeds};
pub use table::table;

/// A target: tries any bytes.
pub type Target = fn(&[u8]);

/// The targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("parse", parse),
    ("resolve", resolve),
    ("builder", builder),
    ("inspect", inspect),
    ("registry", registry),
    ("table", table),
    ("policy", policy),
    ("option", option),
    ("hypercall", hypercall),
];
