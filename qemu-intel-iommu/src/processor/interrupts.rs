//! Interrupts: the local APIC, message-signalled interrupts to vectors of it, and waiting for them with a
//! bound.
//!
//! Interrupts are off except inside [`wait`], so that handlers need do no more than count.
#![allow(unsafe_code)]

use core::arch::asm;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use core::time::Duration;

use spin::Once;
use x86::apic::xapic::{
    XAPIC_EOI, XAPIC_ID, XAPIC_LVT_LINT0, XAPIC_LVT_TIMER, XAPIC_SVR, XAPIC_TIMER_CURRENT_COUNT,
    XAPIC_TIMER_DIV_CONF, XAPIC_TIMER_INIT_COUNT, XAPIC_TPR,
};
use x86::io::{inb, outb};

use crate::memory::{MapError, Mmio};

const SPURIOUS: u8 = 0xff;
const TIMER: u8 = 0xf0;
/// Vectors that [`Vector::allocate`] hands out. Those below are left to what a legacy interrupt controller
/// might still send.
const FIRST_FREE: u8 = 0x40;

const LVT_MASKED: u32 = 1 << 16;
const SVR_ENABLE: u32 = 1 << 8;
/// Divides the timer's clock by 16.
const DIVIDE_BY_16: u32 = 0b0011;

static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static NEXT: AtomicU8 = AtomicU8::new(FIRST_FREE);
static LOCAL: Once<Local> = Once::new();

/// The local APIC and the clocks.
struct Local {
    registers: Mmio,
    id: u32,
    /// Timer ticks and time stamp counts in [`CALIBRATION`].
    ticks: u32,
    stamps: u64,
}

/// For how long the clocks are measured against the PIT.
const CALIBRATION: Duration = Duration::from_millis(1);
/// The PIT's frequency in Hz.
const PIT_HZ: u64 = 1_193_182;

/// A vector of the local APIC that belongs to one source of interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector(u8);

/// What a device writes where to raise an interrupt (Intel SDM volume 3, section 11.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The address, in the range of the local APICs.
    pub address: u64,
    /// The data: the vector, fixed delivery, edge triggered.
    pub data: u32,
}

/// What was waited for did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedOut {
    /// For how long it was waited.
    pub after: Duration,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing came within {} ms", self.after.as_millis())
    }
}

/// A point in time, by the time stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        // SAFETY: CR4.TSD is clear, and at privilege level 0 the counter can be read anyway.
        Self(unsafe { x86::time::rdtsc() })
    }

    /// The time since then.
    pub fn elapsed(self) -> Duration {
        let stamps = Self::now().0.wrapping_sub(self.0);
        let per_calibration = LOCAL.get().map_or(1, |local| local.stamps.max(1));
        let nanos = u128::from(stamps) * CALIBRATION.as_nanos() / u128::from(per_calibration);
        Duration::from_nanos(nanos.try_into().unwrap_or(u64::MAX))
    }
}

impl Vector {
    /// A vector that nobody else has; `None` when all are given away.
    pub fn allocate() -> Option<Self> {
        let next =
            NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| (next < TIMER).then(|| next + 1));
        next.ok().map(Self)
    }

    /// How many interrupts arrived.
    pub fn count(self) -> u64 {
        counter(self.0).load(Ordering::Relaxed)
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// The message that raises an interrupt with this vector on this processor.
    pub fn message(self) -> Message {
        let id = LOCAL.get().map_or(0, |local| local.id);
        Message { address: 0xfee0_0000 | u64::from(id) << 12, data: u32::from(self.0) }
    }

    /// Waits until more than `seen` interrupts arrived in all.
    pub fn wait(self, seen: u64, timeout: Duration) -> Result<(), TimedOut> {
        wait(timeout, timeout, || self.count() > seen)
    }
}

/// Silences the legacy interrupt controllers, turns the local APIC on, and measures its timer.
///
/// # Errors
/// The registers could not be mapped.
pub fn init() -> Result<(), MapError> {
    // SAFETY: the ports are those of the two 8259s. All inputs masked; nothing else in the image touches
    // them.
    unsafe {
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
    }
    // SAFETY: every processor with long mode has the register.
    let base = unsafe { x86::msr::rdmsr(x86::msr::IA32_APIC_BASE) };
    // SAFETY: as above; sets the global enable and changes nothing else.
    unsafe { x86::msr::wrmsr(x86::msr::IA32_APIC_BASE, base | 1 << 11) };
    let start = base & 0x000f_ffff_ffff_f000;
    let registers = Mmio::map(start..start + 0x1000)?;

    registers.write32(u64::from(XAPIC_SVR), SVR_ENABLE | u32::from(SPURIOUS));
    registers.write32(u64::from(XAPIC_TPR), 0);
    registers.write32(u64::from(XAPIC_LVT_LINT0), LVT_MASKED);
    registers.write32(u64::from(XAPIC_LVT_TIMER), LVT_MASKED | u32::from(TIMER));
    registers.write32(u64::from(XAPIC_TIMER_DIV_CONF), DIVIDE_BY_16);
    let (ticks, stamps) = calibrate(&registers);
    registers.write32(u64::from(XAPIC_LVT_TIMER), u32::from(TIMER));

    let id = registers.read32(u64::from(XAPIC_ID)) >> 24;
    let local = LOCAL.call_once(|| Local { registers, id, ticks, stamps });
    log::debug!(
        "local APIC {} at {start:#x}: {} timer ticks and {} time stamps in a millisecond",
        local.id,
        local.ticks,
        local.stamps
    );
    Ok(())
}

/// Ticks of the APIC timer and of the time stamp counter in [`CALIBRATION`], measured with the PIT's channel
/// 2.
fn calibrate(registers: &Mmio) -> (u32, u64) {
    const SPEAKER: u16 = 0x61;
    let count = (PIT_HZ * CALIBRATION.as_micros() as u64 / 1_000_000) as u16;
    let [low, high] = count.to_le_bytes();
    // SAFETY: the ports are those of the PIT's channel 2 and of its gate, which nothing else in the image
    // touches.
    unsafe {
        // The gate off and on, the speaker off; one shot (mode 0), low byte first.
        outb(SPEAKER, inb(SPEAKER) & !0b11 | 1);
        outb(0x43, 0b1011_0000);
        outb(0x42, low);
    }
    registers.write32(u64::from(XAPIC_TIMER_INIT_COUNT), u32::MAX);
    // SAFETY: as above. The second byte starts the count.
    unsafe { outb(0x42, high) };
    let start = Instant::now();
    // Bounded, for a machine without a PIT: no read of the port is faster than some nanoseconds.
    for _ in 0..10_000_000u32 {
        // SAFETY: as above; bit 5 is the channel's output.
        if unsafe { inb(SPEAKER) } & 1 << 5 != 0 {
            break;
        }
    }
    let stamps = Instant::now().0.wrapping_sub(start.0);
    let ticks = u32::MAX - registers.read32(u64::from(XAPIC_TIMER_CURRENT_COUNT));
    registers.write32(u64::from(XAPIC_TIMER_INIT_COUNT), 0);
    (ticks.max(1), stamps.max(1))
}

/// Called for every vector that is not an exception, with interrupts off.
pub fn arrived(vector: u8) {
    counter(vector).fetch_add(1, Ordering::Relaxed);
    // A spurious interrupt is not in service and must not be acknowledged.
    if vector != SPURIOUS
        && let Some(local) = LOCAL.get()
    {
        local.registers.write32(u64::from(XAPIC_EOI), 0);
    }
}

/// Halts until `done` says so. It is asked at first, after every interrupt, and at least once in every
/// `interval`.
///
/// # Errors
/// `timeout` passed.
pub fn wait(timeout: Duration, interval: Duration, mut done: impl FnMut() -> bool) -> Result<(), TimedOut> {
    let start = Instant::now();
    loop {
        if done() {
            return Ok(());
        }
        let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            return Err(TimedOut { after: timeout });
        };
        halt_for(left.min(interval));
    }
}

/// Halts for this long.
pub fn sleep(time: Duration) {
    // Only the time can end it.
    let _passed = wait(time, time, || false);
}

/// Halts until the next interrupt, or for `time`.
fn halt_for(time: Duration) {
    let Some(local) = LOCAL.get() else { return };
    let ticks = u128::from(local.ticks) * time.as_nanos() / CALIBRATION.as_nanos();
    let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).max(1);
    local.registers.write32(u64::from(XAPIC_TIMER_INIT_COUNT), ticks);
    // SAFETY: every vector has a handler. `sti` takes effect after `hlt` has begun, so that no interrupt
    // slips in between; the timer ends the halt in any case.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
    local.registers.write32(u64::from(XAPIC_TIMER_INIT_COUNT), 0);
}

fn counter(vector: u8) -> &'static AtomicU64 {
    static NONE: AtomicU64 = AtomicU64::new(0);
    COUNTS.get(usize::from(vector)).unwrap_or(&NONE)
}
