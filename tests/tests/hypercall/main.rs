//! Xen's calls, as toolstacks and guests make them: structures in the caller's memory, and numbers that come
//! back. The rows of the table of error numbers in `docs/xen.md` are here.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails ends in a panic"
)]

mod devices;
mod domctl;
mod maps;
mod multicall;
mod populate;
mod query;
mod random;
