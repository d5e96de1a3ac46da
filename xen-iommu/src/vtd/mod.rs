//! The driver of Intel VT-d remapping hardware: any number of units, in legacy mode, with second-stage tables
//! that somebody else makes.
//!
//! "§" is a section of the *Intel Virtualization Technology for Directed I/O Architecture Specification*
//! (D51397), revision 4.1 or later.
//!
//! The hypervisor makes a [`Unit`] of each DRHD structure, gives them to [`Vtd::new`], starts them, attaches
//! the devices, and enables translation: from then on what is not attached is blocked. A unit that cannot be
//! started keeps its devices: they have no unit, and never fall to another one that does not see their
//! requests.

mod attach;
mod coverage;
mod device_tlb;
mod domains;
mod drhd;
mod fault;
mod invalidate;
pub mod registers;
pub mod tables;
mod unit;

use p2m::{DeviceRoot, Flush, FrameSource, PageSize};

pub use coverage::Coverage;
pub use device_tlb::DeviceTlbSlot;
pub use domains::DomainSlot;
pub use drhd::coverage;
pub use fault::{Fault, FaultSummary, Operation, Pass, RateLimit, Reason};
pub use registers::Registers;
pub use unit::{Replacement, Setup, Unit, UnitError};

use self::device_tlb::AtsDevice;
use crate::platform::{HardwareError, RemappingHardware, RequesterId, Sbdf, SpaceId};

/// All the remapping units of a machine.
///
/// Every call takes `&self`; with registers and frames that may be shared between processors, so may this.
pub struct Vtd<'m, R, F> {
    units: &'m [Unit<'m, R>],
    frames: F,
}

impl<'m, R: Registers, F: FrameSource> Vtd<'m, R, F> {
    /// Of these units; root, context and queue frames come from `frames`.
    #[must_use]
    pub fn new(units: &'m [Unit<'m, R>], frames: F) -> Self {
        Self { units, frames }
    }

    /// Starts every unit that is not, and tells of each that cannot be. A started unit has an empty root
    /// table, which blocks all DMA once translation is on, and empty caches; translation that firmware or a
    /// boot loader left on is switched off first. Faults of before are dropped, and no unit sends a fault
    /// event until [`set_fault_event`](Self::set_fault_event) is called anew.
    ///
    /// Takes the units' locks one after the other, and waits for the units.
    pub fn start(&self, failed: &mut dyn FnMut(&Unit<'m, R>, UnitError)) {
        for unit in self.units {
            if let Err(error) = unit.start(&self.frames) {
                failed(unit, error);
            }
        }
    }

    /// The units. No lock, no wait.
    #[must_use]
    pub fn units(&self) -> &'m [Unit<'m, R>] {
        self.units
    }

    /// The unit of a requester, started or not: the one whose scopes name its
    /// [`unit_of`](RequesterId::unit_of) most closely; of several, the first. No lock, no wait.
    #[must_use]
    pub fn unit_of(&self, requester: RequesterId) -> Option<&'m Unit<'m, R>> {
        let named = self.units.iter().filter_map(|unit| Some((unit.closeness(requester.unit_of)?, unit)));
        // The first of equals stays.
        let closest = |best: (_, &'m Unit<'m, R>), next: (_, _)| if next.0 > best.0 { next } else { best };
        named.reduce(closest).map(|(_, unit)| unit)
    }

    fn unit(&self, requester: RequesterId) -> Result<&'m Unit<'m, R>, HardwareError> {
        self.unit_of(requester).ok_or(HardwareError::NoUnit { requester: requester.id })
    }

    fn started(&self) -> impl Iterator<Item = &Unit<'m, R>> {
        self.units.iter().filter(|unit| unit.is_started())
    }

    /// Whether every started unit walks tables of so many levels. No lock, no wait.
    #[must_use]
    pub fn walks(&self, levels: u8) -> bool {
        self.started().all(|unit| unit.walks(levels))
    }

    /// The largest page that every started unit knows. No lock, no wait.
    #[must_use]
    pub fn largest_page(&self) -> PageSize {
        self.started().filter_map(Unit::largest_page).min().unwrap_or(PageSize::Size4K)
    }

    /// Whether every started unit reads its tables through the CPU's caches. If not, second-stage tables have
    /// to be written back to memory before [`flush`](RemappingHardware::flush). No lock, no wait.
    #[must_use]
    pub fn is_coherent(&self) -> bool {
        self.started().filter_map(Unit::capabilities).all(|(_, extended)| extended.coherent())
    }

    /// Whether every started unit knows the snoop bit of second-stage leaves. No lock, no wait.
    #[must_use]
    pub fn has_snoop_control(&self) -> bool {
        self.started().filter_map(Unit::capabilities).all(|(_, extended)| extended.snoop_control())
    }

    /// The width in bits of the guest addresses that every started unit translates; 0 when none is. No lock,
    /// no wait.
    #[must_use]
    pub fn guest_width(&self) -> u8 {
        self.started().filter_map(Unit::address_width).min().unwrap_or(0)
    }

    /// Switches translation on in every started unit: from now on DMA that is not attached is blocked. Then
    /// switches off the protected memory regions that a boot loader may have set up, which translation
    /// replaces (§11.4.8.1).
    ///
    /// Takes the units' locks one after the other, and waits for the units.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; the other units are switched on all the same.
    pub fn enable(&self) -> Result<(), HardwareError> {
        all(self.units.iter().map(Unit::enable))
    }

    /// Switches translation off in every started unit: DMA goes through as it is.
    ///
    /// Takes the units' locks one after the other, and waits for the units.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; the other units are switched off all the same.
    pub fn disable(&self) -> Result<(), HardwareError> {
        all(self.units.iter().map(Unit::disable))
    }

    /// Switches translation off as far as that goes without waiting: for a crash, before another kernel is
    /// started (Xen's `iommu_crash_shutdown`). Each started unit gets the command, which it carries out
    /// within microseconds; nobody waits for that. `left` is told the register base of each unit that
    /// somebody has, perhaps a processor that was stopped while it waited: it goes on translating, and blocks
    /// what is not attached.
    ///
    /// Never waits, neither for a lock nor for a unit; may be called from anywhere, with anything held.
    pub fn disable_at_crash(&self, left: &mut dyn FnMut(u64)) {
        for unit in self.units.iter().filter(|unit| !unit.try_disable()) {
            left(unit.base());
        }
    }

    /// Switches every started unit off and takes all frames back from it.
    ///
    /// Takes the units' locks one after the other, and waits for the units.
    ///
    /// # Errors
    /// The first [`HardwareError::TimedOut`]; that unit keeps what it may still use.
    pub fn stop(&self) -> Result<(), HardwareError> {
        all(self.units.iter().map(|unit| unit.stop(&self.frames)))
    }

    /// Reads and frees the fault registers of every unit.
    ///
    /// Takes the locks of the units' fault registers one after the other, which are held only by those who
    /// read them: a unit that somebody waits for holds nobody up here. `report` is called under them, and
    /// must not ask for faults. Not for interrupts that come while faults are read: see
    /// [`try_read_faults`](Self::try_read_faults).
    pub fn read_faults(&self, report: &mut dyn FnMut(&Fault)) -> FaultSummary {
        let summaries = self.units.iter().map(|unit| unit.read_faults(report));
        summaries.fold(FaultSummary::default(), FaultSummary::and)
    }

    /// The same without waiting for a lock; `None` when somebody else reads a unit's faults now. The faults
    /// of the other units are read and reported all the same; for that unit's the caller has to come again,
    /// as a new one makes no event while old ones are there (§7.3).
    ///
    /// Never waits; may be called from a fault event's interrupt, with anything held.
    pub fn try_read_faults(&self, report: &mut dyn FnMut(&Fault)) -> Option<FaultSummary> {
        let mut total = Some(FaultSummary::default());
        for unit in self.units {
            let summary = unit.try_read_faults(report);
            total = total.zip(summary).map(|(total, summary)| total.and(summary));
        }
        total
    }

    /// Has every started unit send this message (an MSI's address and data) when it records a fault; `None`
    /// for none.
    ///
    /// Takes the locks of the units' fault registers, as [`read_faults`](Self::read_faults) does.
    pub fn set_fault_event(&self, message: Option<(u64, u32)>) {
        for unit in self.units {
            unit.set_fault_event(message);
        }
    }

    /// To be called before a device gets its own TLB switched on (PCIe ATS); `false` when that has to stay
    /// off: its unit has no support for it, no queue, or no room. Such a device is trusted to use only
    /// translations that it was given, and forgets them when its TLB is switched on. Its own id is meant:
    /// `device.id` is that of a physical function, or a virtual one's, whose physical function is
    /// `device.unit_of`.
    ///
    /// Takes the unit's lock, and waits for the unit.
    ///
    /// # Errors
    /// As [`attach`](RemappingHardware::attach); ATS then stays off.
    pub fn use_device_tlb(&self, device: RequesterId, max_pending: u8) -> Result<bool, HardwareError> {
        let unit = self.unit(device)?;
        let device = AtsDevice {
            source: device.id.source_id(),
            physical_function: device.unit_of.source_id(),
            max_pending,
            is_cut_off: false,
        };
        unit.lock().use_device_tlb(&self.frames, device)
    }

    /// Visits the devices that were cut off: they did not answer when their own TLBs were to forget
    /// something, and their translated requests are blocked since then, until their TLBs are
    /// [used](Self::use_device_tlb) or [dropped](Self::drop_device_tlb) anew. A device that goes on using its
    /// TLB makes faults.
    ///
    /// Takes the units' locks one after the other; `visit` is called under them.
    pub fn for_each_cut_off(&self, visit: &mut dyn FnMut(Sbdf)) {
        for unit in self.units {
            unit.lock().cut_off_devices().for_each(&mut *visit);
        }
    }

    /// To be called after a device's own TLB was switched off, or the device went away: translated requests
    /// are blocked again.
    ///
    /// Takes the unit's lock, and waits for the unit.
    ///
    /// # Errors
    /// As [`attach`](RemappingHardware::attach).
    pub fn drop_device_tlb(&self, device: RequesterId) -> Result<(), HardwareError> {
        self.unit(device)?.lock().drop_device_tlb(&self.frames, device.id)
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

/// [`attach`](RemappingHardware::attach) and [`detach`](RemappingHardware::detach) take the lock of the
/// requester's unit, and wait for the unit; [`flush`](RemappingHardware::flush) does so for the units that
/// [have the space](Unit::has_space) and for no others. Each wait for the hardware is bounded by
/// [`Setup::polls`]. The rest takes no lock and does not wait.
impl<R: Registers, F: FrameSource> RemappingHardware for Vtd<'_, R, F> {
    fn attach(&self, requester: RequesterId, space: SpaceId, root: DeviceRoot) -> Result<(), HardwareError> {
        self.unit(requester)?.lock().attach(&self.frames, requester.id, space, root)
    }

    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError> {
        self.unit(requester)?.lock().detach(&self.frames, requester.id)
    }

    fn flush(&self, space: SpaceId, flush: &Flush) -> Result<(), HardwareError> {
        let there = self.units.iter().filter(|unit| unit.has_space(space));
        all(there.map(|unit| unit.lock().flush(&self.frames, space, flush)))
    }

    fn check_translating(&self, requester: RequesterId) -> Result<(), HardwareError> {
        let unit = self.unit(requester)?;
        if unit.is_enabled() { Ok(()) } else { Err(HardwareError::NotTranslating { unit: unit.base() }) }
    }

    fn address_width(&self, requester: RequesterId) -> Option<u8> {
        self.unit_of(requester)?.address_width()
    }
}
