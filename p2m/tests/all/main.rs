//! Tests of the tables as their users see them.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "a test that fails says so by a panic"
)]

mod beside;
mod identity;
mod limits;
mod marks;
mod owed;
mod random;
mod space;
mod words;
mod written;
