//! One remapping unit: what it can do, its tables, and its translation switched on and off.

use core::sync::atomic::{AtomicU64, Ordering};

use p2m::{FrameSource, Mfn, PageSize};

use crate::lock::{Guard, Lock, Rank};
use crate::platform::{HardwareError, Sbdf, SpaceId};
use crate::vtd::coverage::{Closeness, Coverage, Coverages};
use crate::vtd::device_tlb::DeviceTlbSlot;
use crate::vtd::domains::{DomainSlot, Domains};
use crate::vtd::fault::{self, Fault, FaultSummary};
use crate::vtd::invalidate::{Access, Request, Way};
use crate::vtd::registers::{
    CAP, Capability, ECAP, ExtendedCapability, GCMD, GSTS, Global, PMEN, PMEN_ENABLE, PMEN_STATUS, RTADDR,
    Registers, VER, Version,
};
use crate::vtd::tables::{AtOnce, DomainId, context_table};

/// What a unit is made of: its registers, and memory that the hypervisor provides for as long as there is the
/// unit.
pub struct Setup<'m, R> {
    /// The physical address of the registers; for messages.
    pub base: u64,
    /// How many bytes of registers are mapped: 4096 at least, and what the DRHD structure's size field says
    /// (§8.3).
    pub window: u32,
    /// Access to them.
    pub registers: R,
    /// The DRHD structure's segment.
    pub segment: u16,
    /// What the unit translates.
    pub coverage: &'m mut [Coverage],
    /// One for each domain id that may be in use at once, and one more.
    pub domains: &'m mut [DomainSlot],
    /// Room for the devices whose own TLBs may be in use; may be empty.
    pub device_tlbs: &'m mut [DeviceTlbSlot],
    /// How often to look for something the unit has to do, with a [`Registers::relax`] in between, before
    /// giving up.
    pub polls: u32,
    /// Whether to use the invalidation queue where there is one. Units of version 6 and up have nothing else.
    pub queue: bool,
    /// How context entries are replaced.
    pub replacement: Replacement,
}

/// How a context entry that is in use is replaced by another (see [`tables`](crate::vtd::tables)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replacement {
    /// Both words at once, where the CPU has `cmpxchg16b`; else one after the other.
    #[default]
    AtOnce,
    /// One after the other: for tables that are mapped uncached, where locked instructions lock the whole
    /// bus, or are forbidden (Intel SDM Vol. 3, "UC-lock disable").
    ByWords,
}

/// Why a unit cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// There is no unit at this address: a register that is never so reads as all zeros or all ones.
    #[error("there is no remapping unit at {base:#x}: its {register} reads as {value:#x}")]
    NotThere {
        /// The address.
        base: u64,
        /// Which register.
        register: &'static str,
        /// What it reads as.
        value: u64,
    },
    /// The unit's registers say something that cannot be worked with.
    #[error("the remapping unit at {base:#x} cannot be used: {problem} (register {value:#x})")]
    Unusable {
        /// The unit's register base.
        base: u64,
        /// What is wrong.
        problem: &'static str,
        /// The register that says so.
        value: u64,
    },
    /// The unit does not do as told.
    #[error("{0}")]
    Hardware(#[from] HardwareError),
}

/// A remapping unit. It translates nothing before it is started and enabled.
///
/// What it is ([`base`](Self::base), [`covers`](Self::covers), what it can do) is asked without a lock.
pub struct Unit<'m, R> {
    pub(super) base: u64,
    window: u32,
    pub(super) registers: R,
    pub(super) polls: u32,
    queue: bool,
    pub(super) at_once: Option<AtOnce>,
    pub(super) coverage: Coverages<'m>,
    pub(super) domains: Domains<'m>,
    /// CAP and ECAP while it is started, 0 otherwise: neither is 0 where there is a unit.
    capability: AtomicU64,
    extended: AtomicU64,
    /// For the fault registers, which nothing else touches: faults can be read while somebody waits for the
    /// unit.
    faults: Lock<()>,
    state: Lock<State<'m>>,
}

/// What a unit's lock guards, beside its registers and tables.
pub(super) struct State<'m> {
    pub(super) live: Option<Live>,
    pub(super) device_tlbs: &'m mut [DeviceTlbSlot],
    /// A change of a context entry failed: what is cached is not known until one of everything succeeds.
    pub(super) in_doubt: bool,
}

/// What a started unit has besides.
pub(super) struct Live {
    pub(super) capability: Capability,
    pub(super) extended: ExtendedCapability,
    pub(super) root: Mfn,
    pub(super) way: Way,
    /// The domain id for entries that are between two (see [`crate::vtd::tables`]); only where they cannot be
    /// replaced at once.
    pub(super) transit: Option<DomainId>,
}

/// A unit whose lock is held.
pub(super) struct Locked<'u, 'm, R> {
    pub(super) unit: &'u Unit<'m, R>,
    pub(super) state: Guard<'u, State<'m>>,
}

impl<'m, R: Registers> Unit<'m, R> {
    /// Takes the memory; does not touch the hardware yet.
    #[must_use]
    pub fn new(setup: Setup<'m, R>) -> Self {
        let state = State { live: None, device_tlbs: setup.device_tlbs, in_doubt: false };
        Self {
            base: setup.base,
            window: setup.window,
            registers: setup.registers,
            polls: setup.polls,
            queue: setup.queue,
            at_once: match setup.replacement {
                Replacement::AtOnce => AtOnce::detect(),
                Replacement::ByWords => None,
            },
            coverage: Coverages::new(setup.segment, setup.coverage),
            domains: Domains::new(setup.domains),
            capability: AtomicU64::new(0),
            extended: AtomicU64::new(0),
            faults: Lock::new(Rank::Faults, ()),
            state: Lock::new(Rank::Unit, state),
        }
    }

    pub(super) fn lock(&self) -> Locked<'_, 'm, R> {
        Locked { unit: self, state: self.state.lock() }
    }

    /// The physical address of the registers.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Whether its scopes name a function, or its segment is all its own.
    #[must_use]
    pub fn covers(&self, function: Sbdf) -> bool {
        self.closeness(function).is_some()
    }

    pub(super) fn closeness(&self, function: Sbdf) -> Option<Closeness> {
        self.coverage.closeness(function)
    }

    /// Whether it was started, so that the requesters it covers can be attached.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.capabilities().is_some()
    }

    /// What it can do, once it is started.
    #[must_use]
    pub fn capabilities(&self) -> Option<(Capability, ExtendedCapability)> {
        let capability = self.capability.load(Ordering::Acquire);
        let extended = self.extended.load(Ordering::Relaxed);
        (capability != 0)
            .then(|| (Capability::from_bits(capability), ExtendedCapability::from_bits(extended)))
    }

    /// The largest second-stage page it knows, once it is started.
    #[must_use]
    pub fn largest_page(&self) -> Option<PageSize> {
        Some(match self.capabilities()?.0.large_pages() & 0b11 {
            0b11 => PageSize::Size1G,
            0b01 => PageSize::Size2M,
            _ => PageSize::Size4K,
        })
    }

    /// Whether it walks tables of so many levels, once it is started.
    #[must_use]
    pub fn walks(&self, levels: u8) -> bool {
        self.capabilities().is_some_and(|(capability, _)| walks(capability, levels))
    }

    /// The width in bits of the guest addresses that it translates, once it is started: what it says (MGAW),
    /// and what tables of the most levels that it walks have room for.
    #[must_use]
    pub fn address_width(&self) -> Option<u8> {
        let (capability, _) = self.capabilities()?;
        let levels = (3..=5).rev().find(|levels| walks(capability, *levels))?;
        let table = levels.saturating_mul(9).saturating_add(12);
        Some(capability.guest_width().saturating_add(1).min(table))
    }

    /// Whether it was started and translates now. Reads a register, and takes no lock.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        // Where a unit has gone, reads give all ones.
        let status = self.registers.read32(GSTS);
        self.is_started()
            && status != u32::MAX
            && Global::from_bits_retain(status).contains(Global::TRANSLATION)
    }

    /// Whether a device of `space` is attached here, or something of it may still be cached. Takes no lock.
    #[must_use]
    pub fn has_space(&self, space: SpaceId) -> bool {
        self.domains.id_of(space).is_some()
    }

    /// Looks at what the unit is, gives it an empty root table, which blocks all DMA once translation is on,
    /// and empties its caches. Translation that firmware or a boot loader left on is switched off first, and
    /// what was recorded of faults before is dropped.
    ///
    /// # Errors
    /// [`UnitError`]; the unit is then not started.
    pub(super) fn start(&self, frames: &impl FrameSource) -> Result<(), UnitError> {
        let mut state = self.state.lock();
        if state.live.is_some() {
            return Ok(());
        }
        let (capability, extended) = self.identify()?;
        let access = self.access(capability);
        if access.status().contains(Global::TRANSLATION) {
            access.command("translation off", Global::empty(), Global::TRANSLATION)?;
        }
        if access.status().contains(Global::QUEUE) {
            access.command("invalidation queue off", Global::empty(), Global::QUEUE)?;
        }
        {
            let _faults = self.faults.lock();
            fault::discard(&self.registers, capability);
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
        let transit = self.domains.reset(ids, self.at_once.is_none());
        let mut live = Live { capability, extended, root, way, transit };
        if let Err(error) = take_root_table(&access, &mut live, frames) {
            // With translation off nothing is read through the root table, so it can be given back.
            let _ = live.way.tear_down(&access, frames);
            frames.free(root);
            return Err(error.into());
        }
        state.live = Some(live);
        state.in_doubt = false;
        self.extended.store(extended.into_bits(), Ordering::Relaxed);
        self.capability.store(capability.into_bits(), Ordering::Release);
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

    /// Switches translation on: from now on DMA that is not attached is blocked. Then switches off the
    /// protected memory regions that a boot loader may have set up, which translation replaces (§11.4.8.1).
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`]; nothing, if the unit is not started.
    pub(super) fn enable(&self) -> Result<(), HardwareError> {
        let state = self.state.lock();
        let Some(live) = &state.live else { return Ok(()) };
        let access = self.access(live.capability);
        access.flush_write_buffer()?;
        access.command("translation on", Global::TRANSLATION, Global::empty())?;
        if live.capability.protected_low() || live.capability.protected_high() {
            self.registers.write32(PMEN, self.registers.read32(PMEN) & !PMEN_ENABLE);
            access.wait("protected memory off", || Ok(self.registers.read32(PMEN) & PMEN_STATUS == 0))?;
        }
        Ok(())
    }

    /// Switches translation off: DMA goes through as it is.
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`].
    pub(super) fn disable(&self) -> Result<(), HardwareError> {
        self.disable_locked(&self.state.lock())
    }

    fn disable_locked(&self, state: &State<'_>) -> Result<(), HardwareError> {
        let Some(live) = &state.live else { return Ok(()) };
        let access = self.access(live.capability);
        access.command("translation off", Global::empty(), Global::TRANSLATION)
    }

    /// Gives the command to switch translation off and does not wait for it; `false` when somebody has the
    /// unit.
    pub(super) fn try_disable(&self) -> bool {
        let Some(state) = self.state.try_lock() else { return false };
        if state.live.is_some() {
            let status = Global::from_bits_retain(self.registers.read32(GSTS));
            let states = status.difference(Global::ONE_SHOT).difference(Global::TRANSLATION);
            self.registers.write32(GCMD, states.bits());
        }
        true
    }

    /// Switches everything off and gives all frames back.
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`]; frames that the unit may still use are then kept.
    pub(super) fn stop(&self, frames: &impl FrameSource) -> Result<(), HardwareError> {
        let mut state = self.state.lock();
        self.disable_locked(&state)?;
        let Some(live) = state.live.take() else { return Ok(()) };
        self.capability.store(0, Ordering::Release);
        live.way.tear_down(&self.access(live.capability), frames)?;
        if let Some(root) = frames.table(live.root) {
            for bus in 0..=u8::MAX {
                if let Some(table) = context_table(root, bus) {
                    frames.free(table);
                }
            }
        }
        frames.free(live.root);
        self.domains.reset(0, false);
        state.device_tlbs.fill(DeviceTlbSlot::new());
        Ok(())
    }

    /// Reads and frees the fault registers.
    pub(super) fn read_faults(&self, report: &mut dyn FnMut(&Fault)) -> FaultSummary {
        let _faults = self.faults.lock();
        self.read_faults_locked(report)
    }

    /// The same; `None` when somebody else does it now.
    pub(super) fn try_read_faults(&self, report: &mut dyn FnMut(&Fault)) -> Option<FaultSummary> {
        let _faults = self.faults.try_lock()?;
        Some(self.read_faults_locked(report))
    }

    fn read_faults_locked(&self, report: &mut dyn FnMut(&Fault)) -> FaultSummary {
        let Some((capability, _)) = self.capabilities() else { return FaultSummary::default() };
        fault::read_all(&self.registers, capability, self.base, self.coverage.segment(), report)
    }

    /// Has the unit send this message (an MSI's address and data) when it records a fault; `None` for none.
    pub(super) fn set_fault_event(&self, message: Option<(u64, u32)>) {
        let _faults = self.faults.lock();
        if self.is_started() {
            fault::set_event(&self.registers, message);
        }
    }

    /// What an operation needs to know; the unit's caches and tables are elsewhere.
    pub(super) fn access(&self, capability: Capability) -> Access<'_, R> {
        Access { registers: &self.registers, base: self.base, capability, polls: self.polls }
    }
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
