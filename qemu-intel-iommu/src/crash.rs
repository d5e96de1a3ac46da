//! Crashes on purpose (`crash=`), so that a test can see that every kind of crash is reported and ends the
//! boot.
#![allow(unsafe_code)]

use core::fmt;
use core::hint::black_box;

use crate::boot::command_line::Crash;
use crate::boot::exit::{Exit, exit};
use crate::memory;

/// Crashes; if the machine goes on, the boot ends as one with a failed step.
pub fn crash(kind: Crash) -> ! {
    match kind {
        Crash::Panic => assert!(black_box(false), "a panic, as the command line asked"),
        Crash::PanicInRecord => log::info!("before {PanicsWhenShown}"),
        // SAFETY: page 0 is not mapped; the exception ends the boot.
        Crash::PageFault => unsafe { black_box(memory::phys_to_ptr(8)).write_volatile(1) },
        // SAFETY: code is mapped read-only; the exception ends the boot.
        Crash::WriteToCode => unsafe { memory::phys_to_ptr(memory::image().code.start).write_volatile(1) },
        Crash::StackOverflow => {
            black_box(recurse(black_box(1)));
        }
        // SAFETY: the exception ends the boot.
        Crash::InvalidOpcode => unsafe { core::arch::asm!("ud2") },
        Crash::BehindMemory => {
            let end = memory::start_info().map.memory().map(|range| range.end).max().unwrap_or(0);
            // SAFETY: no bank covers it, so nothing is mapped there; the exception ends the boot.
            black_box(unsafe { memory::phys_to_ptr(end).read_volatile() });
        }
    }
    log::error!("the machine went on after {kind:?}");
    exit(Exit::Failed)
}

#[allow(unconditional_recursion)]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + frame.iter().sum::<u64>()
}

struct PanicsWhenShown;

impl fmt::Display for PanicsWhenShown {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(black_box(false), "a panic inside a record, as the command line asked");
        Ok(())
    }
}
