//! COM1, and the lines that the host side reads from it: log records, steps, and last words.
//!
//! A line is a kind padded to five characters, a space, and text without line breaks.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering};

use log::{LevelFilter, Log, Metadata, Record};
use spin::mutex::TicketMutex;

use super::uart::Uart;

const UART: Uart = Uart::COM1;

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

/// Sets COM1 up.
pub fn init() {
    UART.init();
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

/// Writes one line without waiting for whoever holds the serial line: for panics and exceptions, after which
/// nothing else is written.
pub fn last_words(kind: &str, text: fmt::Arguments<'_>) {
    if MID_LINE.load(Ordering::Relaxed) {
        UART.send(b'\n');
    }
    write_line(kind, text);
}

fn write_line(kind: &str, text: fmt::Arguments<'_>) {
    MID_LINE.store(true, Ordering::Relaxed);
    // `Port` never fails; a `Display` that does cuts its own line short.
    let _cut_short = write!(Port, "{kind:<5} {text}");
    UART.send(b'\n');
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
            UART.send(if byte.is_ascii_control() { b' ' } else { byte });
        }
        Ok(())
    }
}

/// Waits until the last byte has left, before the machine ends.
pub fn drain() {
    UART.drain();
}
