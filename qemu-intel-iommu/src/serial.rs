//! COM1, and the lines that the host side reads from it: log records, steps, and last words.
//!
//! A line is a kind padded to five characters, a space, and text without line breaks.
#![allow(unsafe_code)]

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use spin::mutex::TicketMutex;

/// The registers of a 16550 at COM1.
mod register {
    const COM1: u16 = 0x3f8;
    /// Transmit buffer, or the divisor's low byte while DLAB is set.
    pub const DATA: u16 = COM1;
    /// Interrupt enable, or the divisor's high byte while DLAB is set.
    pub const INTERRUPT_ENABLE: u16 = COM1 + 1;
    pub const FIFO_CONTROL: u16 = COM1 + 2;
    pub const LINE_CONTROL: u16 = COM1 + 3;
    pub const MODEM_CONTROL: u16 = COM1 + 4;
    pub const LINE_STATUS: u16 = COM1 + 5;
}

/// Line status: the transmit buffer takes another byte.
const TRANSMIT_EMPTY: u8 = 1 << 5;
/// Line status: nothing is left to transmit, in the FIFO or on its way.
const TRANSMITTED: u8 = 1 << 6;
/// How often the line status is read before a byte is given up: no UART at all reads as 0xff, a stuck one must not stop the boot.
const PATIENCE: u32 = 1 << 20;

static LINE: TicketMutex<()> = TicketMutex::new(());
/// A line was begun and not ended. Last words then start on a line of their own.
static MID_LINE: AtomicBool = AtomicBool::new(false);

/// The kinds of lines that tell about steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answer to `list-steps`.
    List,
    /// A step begins.
    Step,
    /// A step held.
    Pass,
    /// A step did not hold.
    Fail,
    /// The run came to its end.
    Done,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::List => "LIST",
            Self::Step => "STEP",
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Done => "DONE",
        }
    }
}

/// Sets up COM1: 115200 baud, 8N1, FIFOs on, no interrupts.
pub fn init() {
    use register::{DATA, FIFO_CONTROL, INTERRUPT_ENABLE, LINE_CONTROL, MODEM_CONTROL};
    for (port, value) in [
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, 0x80),
        (DATA, 1),
        (INTERRUPT_ENABLE, 0),
        (LINE_CONTROL, 3),
        (FIFO_CONTROL, 0xc7),
        (MODEM_CONTROL, 3),
    ] {
        write_port(port, value);
    }
}

/// Makes the serial line the destination of `log` records, from `level` up.
pub fn init_log(level: LevelFilter) {
    static LOGGER: Logger = Logger;
    // A second call finds a logger set, which is this one.
    let _already_set = log::set_logger(&LOGGER);
    log::set_max_level(level);
}

/// Writes one line about a step.
pub fn line(kind: Kind, text: fmt::Arguments<'_>) {
    let _held = LINE.lock();
    write_line(kind.name(), text);
}

/// Writes one line without waiting for whoever holds the serial line: for panics and exceptions, after which nothing else is written.
pub fn last_words(kind: &str, text: fmt::Arguments<'_>) {
    if MID_LINE.load(Ordering::Relaxed) {
        write_byte(b'\n');
    }
    write_line(kind, text);
}

fn write_line(kind: &str, text: fmt::Arguments<'_>) {
    MID_LINE.store(true, Ordering::Relaxed);
    // `Port` never fails; a `Display` that does cuts its own line short.
    let _cut_short = write!(Port, "{kind:<5} {text}");
    write_byte(b'\n');
    MID_LINE.store(false, Ordering::Relaxed);
}

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // The image's own modules need not repeat its name in every line.
            let target = record.target();
            let target = target.strip_prefix("qemu_intel_iommu::").unwrap_or(target);
            let _held = LINE.lock();
            write_line(record.level().as_str(), format_args!("{target}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

struct Port;

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // One record is one line, whatever is in it.
            write_byte(if byte.is_ascii_control() { b' ' } else { byte });
        }
        Ok(())
    }
}

/// Waits until the last byte has left, before the machine ends.
pub fn drain() {
    wait_for(TRANSMITTED);
}

fn write_byte(byte: u8) {
    wait_for(TRANSMIT_EMPTY);
    write_port(register::DATA, byte);
}

/// Waits for a bit of the line status, as long as patience lasts.
fn wait_for(bit: u8) {
    for _ in 0..PATIENCE {
        // SAFETY: reading COM1's line status changes nothing but its error bits.
        if unsafe { x86::io::inb(register::LINE_STATUS) } & bit != 0 {
            break;
        }
        core::hint::spin_loop();
    }
}

fn write_port(port: u16, value: u8) {
    // SAFETY: only the constants in `register` are passed, all of COM1, which nothing else in the image uses.
    unsafe { x86::io::outb(port, value) };
}
