//! The policy at work here: what it is given (memory, units), what it learns (regions, devices), and its
//! calls.

mod control;
mod hypercall;
mod memory;
mod plan;
mod regions;
mod setup;
mod space;
mod tables;
mod units;

pub use hypercall::Caller;
pub use memory::TableFrames;
pub use plan::DomainMemory;
pub use setup::{HARDWARE_DOMAIN, Host, UHCI};
pub use space::{Space, map_ram, new_space};
pub use units::{Remapping, remapping};
