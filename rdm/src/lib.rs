//! What a machine's firmware says of reserved device memory, for administrators and firmware engineers.
//!
//! - [`inspect`] reads a DMAR table and says which regions there are, which devices must stay together, and
//!   which can be passed through.
//! - [`machine`] is the running machine, or a copy of its `/sys`: PCI tree, memory map, names.
//! - [`query`] asks the handler of the hypercall what a toolstack is answered.
//! - [`device`] names devices as tables do.

// A tool on the host: what follows from a table is counted in numbers that fit.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod device;
pub mod inspect;
pub mod machine;
pub mod query;
