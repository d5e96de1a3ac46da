//! QEMU's monitor, at the other end of COM2 in the machine of the scenario `hotplug`: what a person would type there, the image asks itself.
#![allow(unsafe_code)]

use alloc::string::String;
use core::time::Duration;

use x86::io::{inb, outb};

use crate::interrupts::Instant;

/// The registers of a 16550 at COM2.
const DATA: u16 = 0x2f8;
const INTERRUPT_ENABLE: u16 = DATA + 1;
const FIFO_CONTROL: u16 = DATA + 2;
const LINE_CONTROL: u16 = DATA + 3;
const MODEM_CONTROL: u16 = DATA + 4;
const LINE_STATUS: u16 = DATA + 5;
/// Line status: a byte has come; the transmit buffer takes another.
const RECEIVED: u8 = 1;
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// How often the line status is read before a byte is given up.
const PATIENCE: u32 = 1 << 20;
const GREETING: Duration = Duration::from_secs(5);
/// What the monitor says when it waits for a command.
const PROMPT: &str = "(qemu) ";

/// The line to the monitor.
pub struct Monitor(());

impl Monitor {
    /// Sets up COM2: 115200 baud, 8N1, FIFOs on, no interrupts.
    pub fn open() -> Self {
        for (port, value) in [
            (INTERRUPT_ENABLE, 0),
            (LINE_CONTROL, 0x80),
            (DATA, 1),
            (INTERRUPT_ENABLE, 0),
            (LINE_CONTROL, 0x03),
            (FIFO_CONTROL, 0x07),
            (MODEM_CONTROL, 0x03),
        ] {
            // SAFETY: COM2's registers, which nobody else uses.
            unsafe { outb(port, value) };
        }
        let mut monitor = Self(());
        // It greets who connects.
        monitor.listen(GREETING);
        monitor
    }

    /// Gives the monitor a command, and returns what it says until it waits for the next, for at most this long.
    pub fn ask(&mut self, command: &str, patience: Duration) -> String {
        for byte in command.bytes().chain([b'\n']) {
            for _ in 0..PATIENCE {
                if status() & TRANSMIT_EMPTY != 0 {
                    break;
                }
            }
            // SAFETY: as in `open`.
            unsafe { outb(DATA, byte) };
        }
        self.listen(patience)
    }

    fn listen(&mut self, patience: Duration) -> String {
        let mut said = String::new();
        let begun = Instant::now();
        while begun.elapsed() < patience && !said.ends_with(PROMPT) {
            if status() & RECEIVED != 0 {
                // SAFETY: as in `open`.
                said.push(char::from(unsafe { inb(DATA) }));
            }
        }
        said
    }
}

fn status() -> u8 {
    // SAFETY: COM2's line status; reading it clears no more than errors of the line.
    unsafe { inb(LINE_STATUS) }
}
