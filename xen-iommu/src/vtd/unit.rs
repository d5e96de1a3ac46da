//! One remapping unit: what it can do, its tables, and its translation switched on and off.

use core::fmt;

use p2m::{FrameSource, Mfn, PageSize};

use crate::platform::{HardwareError, Sbdf};
use crate::vtd::coverage::{Closeness, Coverage, Coverages};
use crate::vtd::domains::{DomainSlot, Domains};
use crate::vtd::fault::{self, Fault, FaultSummary};
use crate::vtd::invalidate::{Access, AtsDevice, Request, Way};
use crate::vtd::registers::{
    CAP, Capability, ECAP, ExtendedCapability, GSTS, Global, PMEN, PMEN_ENABLE, PMEN_STATUS, RTADDR,
    Registers, VER, Version,
};
use crate::vtd::tables::{AtOnce, DomainId, context_table};

/// What a unit is made of: its registers, and memory that the hypervisor provides for as long as there is the unit.
pub struct Setup<'m, R> {
    /// The physical address of the registers; for messages.
    pub base: u64,
    /// How many bytes of registers are mapped: 4096 at least, and what the DRHD structure's size field says (§8.3).
    pub window: u32,
    /// Access to them.
    pub registers: R,
    /// The DRHD structure's segment.
    pub segment: u16,
    /// What the unit translates.
    pub coverage: &'m mut [Coverage],
    /// One for each domain id that may be in use at once, and one more.
    pub domains: &'m mut [DomainSlot],
    /// One bit for each of `domains`.
    pub domain_ids: &'m mut [u64],
    /// Room for the devices whose own TLBs may be in use; may be empty.
    pub device_tlbs: &'m mut [Option<AtsDevice>],
    /// How often to look for something the unit has to do, with a [`Registers::relax`] in between, before giving up.
    pub polls: u32,
    /// Whether to use the invalidation queue where there is one. Units of version 6 and up have nothing else.
    pub queue: bool,
}

/// Why a unit cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitError {
    /// There is no unit at this address: a register that is never so reads as all zeros or all ones.
    NotThere {
        /// The address.
        base: u64,
        /// Which register.
        register: &'static str,
        /// What it reads as.
        value: u64,
    },
    /// The unit's registers say something that cannot be worked with.
    Unusable {
        /// The unit's register base.
        base: u64,
        /// What is wrong.
        problem: &'static str,
        /// The register that says so.
        value: u64,
    },
    /// The unit does not do as told.
    Hardware(HardwareError),
}

impl From<HardwareError> for UnitError {
    fn from(error: HardwareError) -> Self {
        Self::Hardware(error)
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotThere { base, register, value } => {
                write!(f, "there is no remapping unit at {base:#x}: its {register} reads as {value:#x}")
            }
            Self::Unusable { base, problem, value } => {
                write!(f, "the remapping unit at {base:#x} cannot be used: {problem} (register {value:#x})")
            }
            Self::Hardware(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl core::error::Error for UnitError {}

/// A remapping unit. It translates nothing before it is started and enabled.
pub struct Unit<'m, R> {
    pub(super) base: u64,
    window: u32,
    pub(super) registers: R,
    pub(super) polls: u32,
    queue: bool,
    pub(super) at_once: Option<AtOnce>,
    pub(super) coverage: Coverages<'m>,
    pub(super) domains: Domains<'m>,
    pub(super) device_tlbs: &'m mut [Option<AtsDevice>],
    pub(super) live: Option<Live>,
    /// An invalidation failed: what is cached is not known until one of everything succeeds.
    pub(super) in_doubt: bool,
}

/// What a started unit has besides.
pub(super) struct Live {
    pub(super) capability: Capability,
    pub(super) extended: ExtendedCapability,
    pub(super) root: Mfn,
    pub(super) way: Way,
    /// The domain id for entries that are between two (see [`crate::vtd::tables`]); only where they cannot be replaced at once.
    pub(super) transit: Option<DomainId>,
}

impl<'m, R: Registers> Unit<'m, R> {
    /// Takes the memory; does not touch the hardware yet.
    #[must_use]
    pub fn new(setup: Setup<'m, R>) -> Self {
        Self {
            base: setup.base,
            window: setup.window,
            registers: setup.registers,
            polls: setup.polls,
            queue: setup.queue,
            at_once: AtOnce::detect(),
            coverage: Coverages::new(setup.segment, setup.coverage),
            domains: Domains::new(setup.domains, setup.domain_ids),
            device_tlbs: setup.device_tlbs,
            live: None,
            in_doubt: false,
        }
    }

    /// The physical address of the registers.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether it was started, so that the requesters it covers can be attached.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.live.is_some()
    }

    /// What it can do, once it is started.
    #[must_use]
    pub fn capabilities(&self) -> Option<(Capability, ExtendedCapability)> {
        self.live.as_ref().map(|live| (live.capability, live.extended))
    }

    /// The largest second-stage page it knows, once it is started.
    #[must_use]
    pub fn largest_page(&self) -> Option<PageSize> {
        Some(match self.live.as_ref()?.capability.large_pages() & 0b11 {
            0b11 => PageSize::Size1G,
            0b01 => PageSize::Size2M,
            _ => PageSize::Size4K,
        })
    }

    /// Whether it walks tables of so many levels, once it is started.
    #[must_use]
    pub fn walks(&self, levels: u8) -> bool {
        self.live.as_ref().is_some_and(|live| walks(live.capability, levels))
    }

    pub(crate) fn closeness(&self, source: Sbdf) -> Option<Closeness> {
        self.coverage.closeness(source)
    }

    /// Looks at what the unit is, gives it an empty root table, which blocks all DMA once translation is on, and empties its caches. Translation that
    /// firmware or a boot loader left on is switched off first.
    ///
    /// # Errors
    /// [`UnitError`]; the unit is then not started.
    pub fn start(&mut self, frames: &impl FrameSource) -> Result<(), UnitError> {
        if self.live.is_some() {
            return Ok(());
        }
        let (capability, extended) = self.identify()?;
        let access = access(self.base, &self.registers, capability, self.polls);
        if access.status().contains(Global::TRANSLATION) {
            access.command("translation off", Global::empty(), Global::TRANSLATION)?;
        }
        if access.status().contains(Global::QUEUE) {
            access.command("invalidation queue off", Global::empty(), Global::QUEUE)?;
        }
        let root = frames.allocate().ok_or(HardwareError::NoFrames)?;
        let way = match Way::set_up(&access, extended, self.queue, frames) {
            Ok(way) => way,
            Err(error) => {
                frames.free(root);
                return Err(error.into());
            }
        };
        // ND (§11.4.2): 2^(4 + 2·ND) ids; 7 is reserved, and no field of an id has more than 16 bits.
        let ids = 1usize << u32::from(capability.domain_ids()).saturating_mul(2).saturating_add(4).min(16);
        self.domains.reset(ids);
        let transit = if self.at_once.is_some() { None } else { self.domains.reserve() };
        let mut live = Live { capability, extended, root, way, transit };
        if let Err(error) = take_root_table(&access, &mut live, frames) {
            // With translation off nothing is read through the root table, so it can be given back.
            let _ = live.way.tear_down(&access, frames);
            frames.free(root);
            return Err(error.into());
        }
        self.live = Some(live);
        self.in_doubt = false;
        Ok(())
    }

    fn identify(&self) -> Result<(Capability, ExtendedCapability), UnitError> {
        let there = |register, value, ones| {
            if value == 0 || value == ones {
                Err(UnitError::NotThere { base: self.base, register, value })
            } else {
                Ok(value)
            }
        };
        let version = there("version", u64::from(self.registers.read32(VER)), u64::from(u32::MAX))?;
        let cap = there("capability register", self.registers.read64(CAP), u64::MAX)?;
        let ecap = there("extended capability register", self.registers.read64(ECAP), u64::MAX)?;
        let (capability, extended) = (Capability::from_bits(cap), ExtendedCapability::from_bits(ecap));
        let unusable = |problem, value| Err(UnitError::Unusable { base: self.base, problem, value });
        let major = Version::from_bits((version & u64::from(u32::MAX)) as u32).major();
        if major == 0 {
            return unusable("its major version is 0", version);
        }
        if !(3..=5).any(|levels| walks(capability, levels)) {
            return unusable("it walks tables of neither 3, 4 nor 5 levels", cap);
        }
        let faults = u32::from(capability.fault_registers()).saturating_add(1) << 4;
        if (u32::from(capability.fault_offset()) << 4).saturating_add(faults) > self.window {
            return unusable("its fault registers lie beyond the mapped ones", cap);
        }
        let queue = self.queue && extended.queue();
        if !queue && (u32::from(extended.iotlb_offset()) << 4).saturating_add(16) > self.window {
            return unusable("its IOTLB registers lie beyond the mapped ones", ecap);
        }
        if !queue && major >= 6 {
            return unusable(
                "it has no register-based invalidation (version 6) and the queue is not used",
                version,
            );
        }
        Ok((capability, extended))
    }

    /// Switches translation on: from now on DMA that is not attached is blocked. Then switches off the protected memory regions that a boot loader
    /// may have set up, which translation replaces (§11.4.8.1).
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`]; nothing, if the unit is not started.
    pub fn enable(&mut self) -> Result<(), HardwareError> {
        let Some(live) = &self.live else { return Ok(()) };
        let access = access(self.base, &self.registers, live.capability, self.polls);
        access.flush_write_buffer()?;
        access.command("translation on", Global::TRANSLATION, Global::empty())?;
        if live.capability.protected_low() || live.capability.protected_high() {
            let enabled = self.registers.read32(PMEN);
            if enabled & PMEN_ENABLE != 0 {
                self.registers.write32(PMEN, enabled & !PMEN_ENABLE);
                access.wait("protected memory off", || Ok(self.registers.read32(PMEN) & PMEN_STATUS == 0))?;
            }
        }
        Ok(())
    }

    /// Switches translation off: DMA goes through as it is.
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`].
    pub fn disable(&mut self) -> Result<(), HardwareError> {
        let Some(live) = &self.live else { return Ok(()) };
        access(self.base, &self.registers, live.capability, self.polls).command(
            "translation off",
            Global::empty(),
            Global::TRANSLATION,
        )
    }

    /// Whether translation is on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        Global::from_bits_retain(self.registers.read32(GSTS)).contains(Global::TRANSLATION)
    }

    /// Switches everything off and gives all frames back.
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`]; frames that the unit may still use are then kept.
    pub fn stop(&mut self, frames: &impl FrameSource) -> Result<(), HardwareError> {
        self.disable()?;
        let Some(live) = self.live.take() else { return Ok(()) };
        let access = access(self.base, &self.registers, live.capability, self.polls);
        live.way.tear_down(&access, frames)?;
        if let Some(root) = frames.table(live.root) {
            for bus in 0..=u8::MAX {
                if let Some(table) = context_table(root, bus) {
                    frames.free(table);
                }
            }
        }
        frames.free(live.root);
        self.domains.reset(0);
        self.device_tlbs.fill(None);
        Ok(())
    }

    /// Reads and frees the fault registers.
    pub fn read_faults(&mut self, report: &mut dyn FnMut(&Fault)) -> FaultSummary {
        let Some(live) = &self.live else { return FaultSummary::default() };
        fault::read_all(&self.registers, live.capability, self.base, self.coverage.segment(), report)
    }

    /// Has the unit send this message (an MSI's address and data) when it records a fault; `None` for none.
    pub fn set_fault_event(&mut self, message: Option<(u64, u32)>) {
        if self.live.is_some() {
            fault::set_event(&self.registers, message);
        }
    }

    /// What an operation needs to know; the unit's caches and tables are elsewhere.
    pub(super) fn access(&self, capability: Capability) -> Access<'_, R> {
        access(self.base, &self.registers, capability, self.polls)
    }

    /// As on a CPU without `cmpxchg16b`.
    #[cfg(any(test, feature = "model"))]
    #[must_use]
    pub fn without_cmpxchg16b(mut self) -> Self {
        self.at_once = None;
        self
    }
}

pub(super) fn access<R>(base: u64, registers: &R, capability: Capability, polls: u32) -> Access<'_, R> {
    Access { registers, base, capability, polls }
}

/// SAGAW (§11.4.2): bit 1 for 3 levels, and so on.
pub(super) fn walks(capability: Capability, levels: u8) -> bool {
    (3..=5).contains(&levels) && capability.levels() & 1u8 << levels.saturating_sub(2) != 0
}

/// Gives the unit its root table and empties its caches, which the change of the root table does not (§6.6).
fn take_root_table<R: Registers>(
    access: &Access<'_, R>,
    live: &mut Live,
    frames: &impl FrameSource,
) -> Result<(), HardwareError> {
    let (Some(table), Some(address)) = (frames.table(live.root), live.root.address()) else {
        return Err(HardwareError::NoFrames);
    };
    if !live.extended.coherent() {
        access.registers.write_back(&table.0);
    }
    access.flush_write_buffer()?;
    // The translation table mode, bits 10 and 11, is 0: legacy.
    access.registers.write64(RTADDR, address);
    access.command("taking over the root table", Global::ROOT_TABLE, Global::empty())?;
    live.way.run(access, frames, Request::ContextGlobal)?;
    live.way.run(access, frames, Request::IotlbGlobal)
}
