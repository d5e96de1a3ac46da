//! From PVH's entry to Rust, and out again: the entry code, exceptions, the runtime's symbols, and the exit.
#![allow(unsafe_code)]

pub mod exit;
mod runtime;
pub mod traps;

use core::arch::global_asm;

use crate::{memory, serial};

global_asm!(include_str!("entry.s"));

/// The first Rust line: the processor is in 64-bit mode with SSE on, the first 4 GiB are mapped one to one, interrupts are off.
///
/// `start_info` is the physical address of `hvm_start_info` that the PVH entry was given.
#[unsafe(no_mangle)]
extern "C" fn image_main(start_info: u64) -> ! {
    serial::init();
    // SAFETY: the address is what the PVH entry passed, and nothing outside the image and COM1 was touched so far.
    match unsafe { memory::copy_start_info(start_info) } {
        Ok(info) => crate::main(info),
        Err(error) => crate::stop("the boot loader", error),
    }
}
