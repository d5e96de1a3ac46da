//! The end of a boot: QEMU's isa-debug-exit device, whose status says how it went, or Bochs's port for it,
//! which tells nothing.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt;

use super::serial;

/// The port of `-device isa-debug-exit,iobase=0xf4,iosize=4`. QEMU ends with the status `(value << 1) | 1`.
const PORT: u16 = 0xf4;

/// The port where Bochs's `unmapped` device waits for a word, and the word.
const BOCHS_PORT: u16 = 0x8900;
const BOCHS_WORD: &[u8] = b"Shutdown";

/// How a boot ended. No variant makes QEMU exit with 0 or 1, which it also does when the image never got this
/// far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// Every step held: status 33.
    Held = 0x10,
    /// A step failed, or the command line asked for something that does not exist: status 35.
    Failed = 0x11,
    /// A panic or an exception: status 37.
    Crashed = 0x12,
}

/// Ends the boot.
pub fn exit(how: Exit) -> ! {
    serial::drain();
    // SAFETY: the port belongs to isa-debug-exit and to nothing else on a q35 machine; without that device
    // the write is ignored.
    unsafe { x86::io::outl(PORT, how as u32) };
    for byte in BOCHS_WORD {
        // SAFETY: QEMU is gone by now; under Bochs the port belongs to this, and elsewhere to nothing.
        unsafe { x86::io::outb(BOCHS_PORT, *byte) };
    }
    loop {
        // SAFETY: stops the processor for good, which is what is left to do when nothing ended the machine.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Ends a boot that cannot go on.
#[cold]
pub fn stop(what: &str, error: impl fmt::Display) -> ! {
    serial::last_words("PANIC", format_args!("{what}: {error}"));
    exit(Exit::Crashed)
}
