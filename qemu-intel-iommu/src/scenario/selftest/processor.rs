//! Exceptions, time, and interrupts that do not come.

use alloc::format;
use core::time::Duration;

use crate::check::ensure;
use crate::inventory::Inventory;
use crate::processor::interrupts::{self, Instant, Vector};
use crate::processor::traps;
use crate::scenario::layout::EDUS;
use crate::scenario::step::{Context, Outcome};

pub fn breakpoint(inventory: &mut Inventory) -> Outcome {
    let before = traps::breakpoints();
    let sum: f64 = EDUS.iter().map(|edu| f64::from(edu.bus() + edu.device())).sum();
    if !inventory.broken("breakpoint") {
        traps::breakpoint();
    }
    let again: f64 = EDUS.iter().map(|edu| f64::from(edu.bus() + edu.device())).sum();
    ensure!(traps::breakpoints() == before + 1, "{} breakpoints were taken", traps::breakpoints() - before);
    ensure!(sum.to_bits() == again.to_bits(), "floating point registers changed: {sum} and {again}");
    Ok(format!("taken and returned from, {} in all", traps::breakpoints()))
}

pub fn clock(inventory: &mut Inventory) -> Outcome {
    let time = Duration::from_millis(10);
    let start = Instant::now();
    if !inventory.broken("clock") {
        interrupts::sleep(time);
    }
    let passed = start.elapsed();
    ensure!(
        passed >= time && passed < time * 2,
        "halted for {} us instead of {}",
        passed.as_micros(),
        time.as_micros()
    );
    Ok(format!("{} us", time.as_micros()))
}

pub fn lost_interrupt(inventory: &mut Inventory) -> Outcome {
    let vector = Vector::allocate().ok_or("no vector is left")?;
    let timeout = Duration::from_millis(50);
    let start = Instant::now();
    // Nothing raises this vector: more than 0 is never seen.
    let waited = if inventory.broken("lost-interrupt") {
        interrupts::wait(timeout, timeout, || true)
    } else {
        vector.wait(vector.count(), timeout)
    };
    let passed = start.elapsed();
    match waited {
        Err(error) if passed >= timeout => Ok(format!("{error}")),
        Err(error) => Err(format!("{error}, told after {} us", passed.as_micros())),
        Ok(()) => Err("an interrupt was seen that nobody raised".into()),
    }
}
