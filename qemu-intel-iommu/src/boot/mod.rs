//! From PVH's entry to Rust, and out again: the entry code, exceptions, the runtime's symbols, and the exit.
#![allow(unsafe_code)]

pub mod exit;
mod runtime;
pub mod traps;

use core::arch::global_asm;

global_asm!(include_str!("entry.s"));

/// The first Rust line: the processor is in 64-bit mode with SSE on, the first 4 GiB are mapped one to one, interrupts are off.
///
/// `start_info` is the physical address of `hvm_start_info` that the PVH entry was given.
#[unsafe(no_mangle)]
extern "C" fn image_main(start_info: u64) -> ! {
    crate::main(start_info)
}
