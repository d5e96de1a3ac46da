//! What no guest may reach, whatever a table or an option says: remapping units, the interrupts' range,
//! configuration space, other devices' windows.

use p2m::MfnRange;

use super::devices::Devices;
use super::pages::pages_of;
use crate::platform::Sbdf;

/// Writes here are interrupts, and units do not translate them (VT-d 3.14, "Handling requests to interrupt
/// address range").
const INTERRUPTS: (u64, u64) = (0xfee0_0000, 0xfeef_ffff);

/// Memory that decodes as something else than memory. Limits are inclusive; one below its base is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The registers of a remapping unit.
    UnitRegisters {
        /// The first byte's address.
        base: u64,
        /// The last byte's.
        limit: u64,
    },
    /// Memory-mapped configuration space (ECAM, the MCFG table's ranges).
    ConfigSpace {
        /// The first byte's address.
        base: u64,
        /// The last byte's.
        limit: u64,
    },
    /// A base address register whose decoding is on. What a bridge forwards is none.
    Bar(Bar),
}

/// The window of a base address register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// The function.
    pub device: Sbdf,
    /// The first byte's address.
    pub base: u64,
    /// The last byte's, inclusive. The hypervisor knows the size: a live register is not sized by writing to
    /// it.
    pub limit: u64,
}

/// What a region is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Forbidden {
    /// The registers of a remapping unit.
    #[error("it is over the registers of the remapping unit at {base:#x}")]
    OverUnitRegisters {
        /// Where they begin.
        base: u64,
    },
    /// The interrupts' range.
    #[error("it is over the interrupts' range, {:#x} to {:#x}", INTERRUPTS.0, INTERRUPTS.1)]
    OverInterrupts,
    /// Memory-mapped configuration space.
    #[error("it is over the memory-mapped configuration space at {base:#x}")]
    OverConfigSpace {
        /// Where that begins.
        base: u64,
    },
    /// Another device's window.
    #[error("it is over a window of {}, {:#x} to {:#x}", .0.device, .0.base, .0.limit)]
    OverBar(Bar),
}

impl Window {
    /// What is forbidden about the whole pages `pages` for a region of `devices`, by this window.
    pub fn check(&self, pages: MfnRange, devices: impl IntoIterator<Item = Devices>) -> Option<Forbidden> {
        let over = |base, limit| pages_of(base, limit).is_some_and(|window| window.overlaps(&pages));
        match *self {
            Self::UnitRegisters { base, limit } => {
                over(base, limit).then_some(Forbidden::OverUnitRegisters { base })
            }
            Self::ConfigSpace { base, limit } => {
                over(base, limit).then_some(Forbidden::OverConfigSpace { base })
            }
            Self::Bar(bar) => {
                let is_over = over(bar.base, bar.limit)
                    && !devices.into_iter().any(|devices| devices.covers(bar.device));
                is_over.then_some(Forbidden::OverBar(bar))
            }
        }
    }
}

/// The machine's windows, as the hypervisor knows them. The interrupts' range need not be among them: it is
/// forbidden on every machine.
pub trait Windows {
    /// Visits each.
    fn for_each(&self, visit: &mut dyn FnMut(Window));
}

impl Windows for &[Window] {
    fn for_each(&self, visit: &mut dyn FnMut(Window)) {
        self.iter().copied().for_each(visit);
    }
}

impl<const N: usize> Windows for [Window; N] {
    fn for_each(&self, visit: &mut dyn FnMut(Window)) {
        self.iter().copied().for_each(visit);
    }
}

/// As `|visit| bars.for_each(|bar| visit(Window::Bar(bar)))`, where windows are not kept in one place.
impl<F: Fn(&mut dyn FnMut(Window))> Windows for F {
    fn for_each(&self, visit: &mut dyn FnMut(Window)) {
        self(visit);
    }
}

/// The first reason why no guest may reach the whole pages `pages` for a region of `devices`, whose own BARs
/// are theirs. To be asked when a region is judged, and again when a device is assigned, as BARs move.
pub fn check(
    windows: &dyn Windows,
    pages: MfnRange,
    devices: impl Iterator<Item = Devices> + Clone,
) -> Option<Forbidden> {
    let (base, limit) = INTERRUPTS;
    if pages_of(base, limit).is_some_and(|interrupts| interrupts.overlaps(&pages)) {
        return Some(Forbidden::OverInterrupts);
    }
    let mut found = None;
    windows.for_each(&mut |window| found = found.or_else(|| window.check(pages, devices.clone())));
    found
}
