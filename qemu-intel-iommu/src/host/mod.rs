//! What the policy is given here: frames, registers, the memory map; and the policy made from the firmware's tables.

mod frames;
mod hypercall;
mod registers;
mod setup;

pub use frames::TableFrames;
pub use hypercall::Caller;
pub use setup::{HARDWARE_DOMAIN, Host, Remapping, Space, UHCI, map_ram, new_space, remapping, source};
