//! QEMU's monitor, at the other end of COM2 in the machine of the scenario `hotplug`: the image types what a
//! person would type there.

use alloc::string::String;
use core::time::Duration;

use crate::boot::Uart;
use crate::processor::interrupts::Instant;

const GREETING: Duration = Duration::from_secs(5);
/// What the monitor says when it waits for a command.
const PROMPT: &str = "(qemu) ";

/// The line to the monitor.
pub struct Monitor(Uart);

impl Monitor {
    /// Sets the line up, and waits for the greeting.
    pub fn open() -> Self {
        let mut monitor = Self(Uart::COM2);
        monitor.0.init();
        monitor.listen(GREETING);
        monitor
    }

    /// Gives the monitor a command, and returns what it says until it waits for the next, for at most this
    /// long.
    pub fn ask(&mut self, command: &str, patience: Duration) -> String {
        for byte in command.bytes().chain([b'\n']) {
            self.0.send(byte);
        }
        self.listen(patience)
    }

    fn listen(&mut self, patience: Duration) -> String {
        let mut said = String::new();
        let begun = Instant::now();
        while begun.elapsed() < patience && !said.ends_with(PROMPT) {
            if let Some(byte) = self.0.receive() {
                said.push(char::from(byte));
            }
        }
        said
    }
}
