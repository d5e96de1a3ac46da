//! The driver of Intel VT-d remapping hardware: any number of units, in legacy mode, with second-stage tables that somebody else makes.
//!
//! "§" is a section of the *Intel Virtualization Technology for Directed I/O Architecture Specification* (D51397), revision 4.1 or later.
//!
//! The hypervisor makes a [`Unit`] of each DRHD structure, gives them to [`Vtd::new`], starts them, attaches the devices, and enables translation:
//! from then on what is not attached is blocked. A unit that cannot be started keeps its devices: they have no unit, and never fall to another one
//! that does not see their requests.

mod attach;
mod coverage;
mod domains;
mod drhd;
mod fault;
mod invalidate;
#[cfg(any(test, feature = "model"))]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a tool for tests, which says so when it is used wrongly"
)]
pub mod model;
pub mod registers;
pub mod tables;
#[cfg(test)]
mod tests;
mod unit;

use p2m::{DeviceRoot, Flush, FrameSource, PageSize};

pub use coverage::Coverage;
pub use domains::DomainSlot;
pub use drhd::coverage;
pub use fault::{Fault, FaultSummary, Operation, Pass, RateLimit, Reason};
pub use invalidate::AtsDevice;
pub use registers::Registers;
pub use unit::{Setup, Unit, UnitError};

use crate::platform::{HardwareError, RemappingHardware, Sbdf, SpaceId};

/// All the remapping units of a machine.
pub struct Vtd<'m, R, F> {
    units: &'m mut [Unit<'m, R>],
    frames: F,
}

impl<'m, R: Registers, F: FrameSource> Vtd<'m, R, F> {
    /// Of these units; root, context and queue frames come from `frames`.
    #[must_use]
    pub fn new(units: &'m mut [Unit<'m, R>], frames: F) -> Self {
        Self { units, frames }
    }

    /// Starts every unit that is not, and tells of each that cannot be.
    pub fn start(&mut self, failed: &mut dyn FnMut(&Unit<'m, R>, UnitError)) {
        for unit in self.units.iter_mut() {
            if let Err(error) = unit.start(&self.frames) {
                failed(unit, error);
            }
        }
    }

    /// The units.
    #[must_use]
    pub fn units(&self) -> &[Unit<'m, R>] {
        self.units
    }

    /// The unit that translates the DMA of `source`, started or not: the one that names it most closely; of several, the first.
    #[must_use]
    pub fn unit_of(&self, source: Sbdf) -> Option<&Unit<'m, R>> {
        self.units.get(self.index_of(source)?)
    }

    fn index_of(&self, source: Sbdf) -> Option<usize> {
        let named =
            self.units.iter().enumerate().filter_map(|(index, unit)| Some((unit.closeness(source)?, index)));
        // `max_by_key` takes the last of equals.
        named.rev().max_by_key(|(closeness, _)| *closeness).map(|(_, index)| index)
    }

    fn started(&self) -> impl Iterator<Item = &Unit<'m, R>> {
        self.units.iter().filter(|unit| unit.is_started())
    }

    /// Whether every started unit walks tables of so many levels.
    #[must_use]
    pub fn walks(&self, levels: u8) -> bool {
        self.started().all(|unit| unit.walks(levels))
    }

    /// The largest page that every started unit knows.
    #[must_use]
    pub fn largest_page(&self) -> PageSize {
        self.started().filter_map(Unit::largest_page).min().unwrap_or(PageSize::Size4K)
    }

    /// Whether every started unit reads its tables through the CPU's caches. If not, second-stage tables have to be written back to memory before
    /// [`flush`](RemappingHardware::flush).
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.started().filter_map(Unit::capabilities).all(|(_, extended)| extended.coherent())
    }

    /// Whether every started unit knows the snoop bit of second-stage leaves.
    #[must_use]
    pub fn has_snoop_control(&self) -> bool {
        self.started().filter_map(Unit::capabilities).all(|(_, extended)| extended.snoop_control())
    }

    /// The width in bits of the guest addresses that every started unit translates.
    #[must_use]
    pub fn guest_width(&self) -> u8 {
        let widths = self.started().filter_map(Unit::capabilities);
        widths.map(|(capability, _)| capability.guest_width().saturating_add(1)).min().unwrap_or(0)
    }

    /// Switches translation on in every started unit.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; the other units are switched on all the same.
    pub fn enable(&mut self) -> Result<(), HardwareError> {
        self.each(Unit::enable)
    }

    /// Switches translation off in every started unit.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; the other units are switched off all the same.
    pub fn disable(&mut self) -> Result<(), HardwareError> {
        self.each(Unit::disable)
    }

    /// Switches every started unit off and takes all frames back from it.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; that unit keeps what it may still use.
    pub fn stop(&mut self) -> Result<(), HardwareError> {
        let Self { units, frames } = self;
        all(units.iter_mut().map(|unit| unit.stop(frames)))
    }

    fn each(
        &mut self,
        what: impl FnMut(&mut Unit<'m, R>) -> Result<(), HardwareError>,
    ) -> Result<(), HardwareError> {
        all(self.units.iter_mut().map(what))
    }

    /// Reads and frees the fault registers of every unit.
    pub fn read_faults(&mut self, report: &mut dyn FnMut(&Fault)) -> FaultSummary {
        let mut total = FaultSummary::default();
        for unit in self.units.iter_mut() {
            let FaultSummary { faults, overflow } = unit.read_faults(report);
            total.faults = total.faults.saturating_add(faults);
            total.overflow |= overflow;
        }
        total
    }

    /// Has every started unit send this message (an MSI's address and data) when it records a fault; `None` for none.
    pub fn set_fault_event(&mut self, message: Option<(u64, u32)>) {
        for unit in self.units.iter_mut() {
            unit.set_fault_event(message);
        }
    }

    /// To be called before a device gets its own TLB switched on (PCIe ATS); `false` when that has to stay off: its unit has no support for it, no
    /// queue, or no room. Such a device is trusted to use only translations that it was given.
    ///
    /// # Errors
    /// As [`attach`](RemappingHardware::attach); ATS then stays off.
    pub fn use_device_tlb(
        &mut self,
        device: Sbdf,
        physical_function: Sbdf,
        max_pending: u8,
    ) -> Result<bool, HardwareError> {
        let unit = self.index_of(device).and_then(|index| self.units.get_mut(index));
        let unit = unit.ok_or(HardwareError::NoUnit { source: device })?;
        let device = AtsDevice {
            source: device.source_id(),
            physical_function: physical_function.source_id(),
            max_pending,
        };
        unit.use_device_tlb(&self.frames, device)
    }

    /// To be called after a device's own TLB was switched off, or the device went away: translated requests are blocked again.
    ///
    /// # Errors
    /// As [`attach`](RemappingHardware::attach).
    pub fn drop_device_tlb(&mut self, device: Sbdf) -> Result<(), HardwareError> {
        let unit = self.index_of(device).and_then(|index| self.units.get_mut(index));
        let unit = unit.ok_or(HardwareError::NoUnit { source: device })?;
        unit.drop_device_tlb(&self.frames, device)
    }
}

/// All of them, whatever becomes of the others; the first error.
fn all(results: impl Iterator<Item = Result<(), HardwareError>>) -> Result<(), HardwareError> {
    let mut first = Ok(());
    for result in results {
        first = first.and(result);
    }
    first
}

impl<R: Registers, F: FrameSource> RemappingHardware for Vtd<'_, R, F> {
    fn attach(&mut self, source: Sbdf, space: SpaceId, root: DeviceRoot) -> Result<(), HardwareError> {
        let unit = self.index_of(source).and_then(|index| self.units.get_mut(index));
        unit.ok_or(HardwareError::NoUnit { source })?.attach(&self.frames, source, space, root)
    }

    fn detach(&mut self, source: Sbdf) -> Result<(), HardwareError> {
        let unit = self.index_of(source).and_then(|index| self.units.get_mut(index));
        unit.ok_or(HardwareError::NoUnit { source })?.detach(&self.frames, source)
    }

    fn flush(&mut self, space: SpaceId, flush: &Flush) -> Result<(), HardwareError> {
        let Self { units, frames } = self;
        all(units.iter_mut().map(|unit| unit.flush(frames, space, flush)))
    }
}
