//! The processor: exceptions and interrupts, and time.

pub mod interrupts;
pub mod traps;
