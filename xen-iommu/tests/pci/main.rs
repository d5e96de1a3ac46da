//! The walk of PCI on made-up buses: what is there, which ids its DMA carries, and who can reach whom.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests"
)]

mod acs;
mod config;
mod functions;
mod ids;
mod isolation;
mod kit;
mod random;
mod walk;
