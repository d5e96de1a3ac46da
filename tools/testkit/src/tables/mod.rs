//! What page tables are tested against: a model of what they are to hold, walkers that see them as hardware
//! does, and a harness that makes any updates in both, with frames running out wherever they can and
//! everything checked after each.

pub mod harness;
pub mod model;
pub mod walker;
