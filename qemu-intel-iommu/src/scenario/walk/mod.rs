//! Tables walked by hardware: a guest or a device touches memory, and what becomes of that is what the table
//! says.

mod probe;
mod steps;
mod trial;

use alloc::format;

use super::step;
use crate::boot::exit::Exit;
use crate::inventory::Inventory;
use crate::walker::Walker;
use trial::World;

/// Runs the steps on tables that `W` walks.
pub fn run<W: Walker>(inventory: &'static Inventory) -> Exit {
    step::run(&steps::all::<W>(), inventory.options, || {
        World::<W>::new(inventory).map_err(|error| format!("nothing can walk: {error}"))
    })
}
