//! What a machine's firmware says of reserved device memory, for administrators and firmware engineers.
//!
//! - [`inspect`] reads a DMAR table and says which regions there are, which devices must stay together, and
//!   which can be passed through.
//! - [`machine`] is the running machine, or a copy of its `/sys`: PCI tree, memory map, names.
//! - [`query`] asks the handler of the hypercall what a toolstack is answered.
//! - [`device`] names devices as tables do.
//! - [`guest`] is a guest as it is asked for, by options or an xl.cfg; [`plan`] lays out its memory around
//!   the regions, and [`check`] says what would happen to it with libxl as it is and with the plan.

// A tool on the host: what follows from a table is counted in numbers that fit.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod check;
pub mod device;
pub mod guest;
pub mod inspect;
pub mod machine;
pub mod plan;
pub mod query;
