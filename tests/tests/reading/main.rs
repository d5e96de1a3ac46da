//! From a table's bytes and the `rmrr=` option to registered regions and the hypercall's answers: one bad
//! entry costs one entry.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails ends in a panic"
)]

mod hypercall;
mod kit;
mod option;
mod record;
mod table;
