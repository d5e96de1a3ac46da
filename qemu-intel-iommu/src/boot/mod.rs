//! From PVH's entry to Rust, and out again: what needs no memory but the image's own.
#![allow(unsafe_code)]

pub mod command_line;
pub mod exit;
mod runtime;
pub mod serial;
mod uart;

use core::arch::global_asm;

pub use uart::Uart;

// Calls `image_main`, which is in main.rs.
global_asm!(include_str!("entry.s"));
