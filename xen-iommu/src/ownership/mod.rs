//! Who owns which device, and with it which domain reaches which reserved region.
//!
//! # Rules
//! - A group has one owner at most; each member is with it or waits in quarantine. Who breaks that is
//!   refused, strictly; relaxed, what the group shares stays with the domain that has it, and nothing that
//!   hardware cannot tell or keep apart is torn.
//! - A region is mapped through the policy in one domain at most. When the last of its devices leaves, the
//!   mapping goes; the hardware domain is no exception.
//! - A member that waits does no DMA into what a guest holds: its DMA is switched off before the guest gets
//!   it ([`DeviceControl`]).
//! - What a domain maps on its own account is not ours to remove; a region that one reaches so cannot be
//!   given to another.
//! - A move maps the regions in the target, switches the requesters, flushes, and only then unmaps in the
//!   source (XSA-400). Quarantine tables hold the regions all the time, so that giving a device back needs no
//!   memory.
//!
//! # Locks
//! The ownership lock, then the presence lock, then one domain's table lock, then a unit's. No two of a kind.
//! The registry is read without a lock; owners, and who shares a requester id, under the presence lock, which
//! nobody holds to write while hardware is waited for. The feature `lock-order` checks that in tests.
//!
//! | call | locks | waits for hardware |
//! | --- | --- | --- |
//! | the query, [`Policy::owner`], [`Policy::is_quiesced`] and what else only looks | presence, to read | no |
//! | [`Policy::with_space`] | the domain's tables | no |
//! | [`Policy::flush_domain`] | the domain's tables, then units that know the domain | yes, those units |
//! | assign, de-assign, add, remove, create, destroy | ownership, and the others by turns | yes |
//!
//! None of these may be called from an interrupt that can interrupt another of them. For a fault's interrupt,
//! and at a crash, see [`vtd`](crate::vtd).

mod assign;
mod domains;
mod hardware;
mod lookup;
mod presence;
mod provide;
mod quarantine;
mod release;
mod removal;
mod rule;
mod suspect;
mod unresolved;
mod waiting;

use p2m::{AddressSpace, Run};

pub use lookup::Inseparable;
pub use unresolved::ScopeOutcome;

use crate::arena::{Arena, OutOfMemory};
use crate::control::DeviceControl;
use crate::error::{AssignError, DomainError, Holder};
use crate::group::{Grouping, Isolation};
use crate::lock::{Lock, Rank, SharedLock};
use crate::note::Note;
use crate::owner::Owner;
use crate::platform::{DomId, HardwareError, RemappingHardware, Sbdf};
use crate::present::{Device, Presence};
use crate::region::record::Region;
use crate::region::registry::Registry;
use domains::Domain;

/// How strictly a device's regions are to be provided, and its group kept together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All of them, or the device is refused.
    #[default]
    Strict,
    /// As far as nothing else is in the way (Xen: `XEN_DOMCTL_DEV_RDM_RELAXED`). What was skipped is
    /// reported. A region never gets into two domains by it, nor do devices that hardware cannot tell apart.
    Relaxed,
}

/// How many there may be at one time; places for them are made at boot.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Present functions, bridges included.
    pub devices: usize,
    /// Requester ids of present functions: one each, and those of phantom functions and bridges, counted for
    /// each function that shows them ([`Function::ids`](crate::pci::Function::ids)).
    pub requester_ids: usize,
    /// Domains, the hardware domain included.
    pub domains: usize,
}

/// What a policy is made of.
pub struct Setup<'m, S, H, C> {
    /// The reserved regions.
    pub registry: Registry<'m>,
    /// The remapping hardware.
    pub hardware: H,
    /// How the policy acts on PCI devices.
    pub control: C,
    /// The domain that owns what nobody else does, and its address space.
    pub hardware_domain: (DomId, S),
    /// What to do with devices that PCI does not keep apart.
    pub isolation: Isolation,
    /// How many there may be.
    pub capacity: Capacity,
}

/// The reserved-memory policy: regions, groups and owners. `S` is a domain's address space, `H` the remapping
/// hardware, `C` the control of devices.
pub struct Policy<'m, S, H, C> {
    registry: Registry<'m>,
    isolation: Isolation,
    hardware: H,
    hardware_domain: DomId,
    domains: &'m [Domain<S>],
    /// The ownership lock: who has it may change owners.
    ownership: Lock<C>,
    presence: SharedLock<Presence<'m, S>>,
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// A policy in which the hardware domain exists and no device is present yet. Places are cut from
    /// `arena`.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`.
    pub fn new(setup: Setup<'m, S, H, C>, arena: &mut Arena<'m>) -> Result<Self, OutOfMemory> {
        let Setup { registry, hardware, control, hardware_domain, isolation, capacity } = setup;
        let presence = Presence::new(capacity.devices, capacity.requester_ids, hardware_domain.0, arena)?;
        let domains: &'m [Domain<S>] = domains::places(capacity.domains.max(1), arena)?;
        let (hardware_domain, space) = hardware_domain;
        if let Some(first) = domains.first() {
            first.occupy(hardware_domain, space);
        }
        let ownership = Lock::new(Rank::Ownership, control);
        let presence = SharedLock::new(Rank::Presence, presence);
        Ok(Self { registry, isolation, hardware, hardware_domain, domains, ownership, presence })
    }

    /// The regions. Needs no lock.
    pub fn registry(&self) -> &Registry<'m> {
        &self.registry
    }

    /// The remapping hardware, which locks for itself: to read its faults, say.
    pub fn hardware(&self) -> &H {
        &self.hardware
    }

    /// The hardware domain.
    pub fn hardware_domain(&self) -> DomId {
        self.hardware_domain
    }

    /// What is done with devices that PCI does not keep apart.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Works on the control of devices under the ownership lock: no owner changes meanwhile, and no device
    /// comes or goes. What only looks may be called within.
    pub fn with_control<T>(&self, work: impl FnOnce(&mut C) -> T) -> T {
        work(&mut self.ownership.lock())
    }

    /// Makes a domain known, which has no devices yet.
    ///
    /// # Errors
    /// [`DomainError::Exists`], [`DomainError::Reserved`] or [`DomainError::NoPlace`]; `space` is dropped
    /// then.
    pub fn create_domain(&self, id: DomId, space: S) -> Result<(), DomainError> {
        let _ownership = self.ownership.lock();
        if id == DomId::IO {
            return Err(DomainError::Reserved(id));
        }
        if self.domain(id).is_some() {
            return Err(DomainError::Exists(id));
        }
        let free = self.domains.iter().find(|domain| domain.id().is_none()).ok_or(DomainError::NoPlace)?;
        free.occupy(id, space);
        Ok(())
    }

    /// Takes a domain's own devices into quarantine, and nobody else's, forgets it and returns its address
    /// space.
    ///
    /// # Errors
    /// [`DomainError`]; devices taken away before the one that failed stay in quarantine.
    pub fn destroy_domain(&self, id: DomId, notes: &mut dyn FnMut(Note)) -> Result<S, DomainError> {
        if id == self.hardware_domain {
            return Err(DomainError::HardwareDomain);
        }
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        let domain = self.domain(id).ok_or(DomainError::Unknown(id))?;
        self.fetch_back_from(&presence, domain)?;
        loop {
            let its = |device: &&Device| device.owner() == Owner::Domain(id);
            let Some(device) = presence.devices.all().find(its) else { break };
            self.transfer(&mut control, &presence, Owner::Quarantine, Mode::Relaxed)
                .and_then(|transfer| transfer.evict(device.sbdf(), notes))
                .map_err(DomainError::Device)?;
        }
        // Hardware that still holds translations of it could walk its tables after they are freed.
        hardware::flush(&self.hardware, domain)
            .map_err(|error| DomainError::NotFlushed { domain: id, error })?;
        domain.vacate().ok_or(DomainError::Unknown(id))
    }

    /// Works on a domain's address space under its table lock alone. `None` when there is no such domain.
    pub fn with_space<T>(&self, id: DomId, work: impl FnOnce(&mut S) -> T) -> Option<T> {
        let domain = self.domain(id)?;
        let mut space = domain.space.lock();
        // While the lock was waited for it may have gone, and its place be another's.
        space.as_mut().filter(|_| domain.id() == Some(id)).map(work)
    }

    /// Flushes what is owed for a domain's address space: what was changed by other means than the policy,
    /// and what could not be flushed before. Takes the domain's table lock, and waits only for units that
    /// know the domain.
    ///
    /// # Errors
    /// As for [`RemappingHardware::flush`]; it stays owed then.
    pub fn flush_domain(&self, id: DomId) -> Result<(), HardwareError> {
        self.domain(id).map_or(Ok(()), |domain| hardware::flush(&self.hardware, domain))
    }

    /// Gives devices to a domain, all or none, or with [`DomId::IO`] to quarantine. Those that it has already
    /// stay. They come from the hardware domain or from quarantine. The rest of their groups must be with the
    /// domain or in quarantine, or be named too.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn assign(
        &self,
        devices: &[Sbdf],
        domain: DomId,
        mode: Mode,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        self.give(devices, false, domain, mode, notes)
    }

    /// As [`assign`](Self::assign), and brings along those of the device's group that are the hardware
    /// domain's or wait in quarantine: for hypervisors that want a group moved without naming it.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn assign_group(
        &self,
        device: Sbdf,
        domain: DomId,
        mode: Mode,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        self.give(&[device], true, domain, mode, notes)
    }

    fn give(
        &self,
        devices: &[Sbdf],
        whole_groups: bool,
        domain: DomId,
        mode: Mode,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        self.check_free(&presence, devices, domain)?;
        self.transfer(&mut control, &presence, domain.into(), mode)?.run(devices, whole_groups, notes)
    }

    /// Whether [`assign`](Self::assign) would be refused for who owns what, or for a rejected region; whether
    /// memory and hardware allow it shows only when it is done.
    ///
    /// # Errors
    /// As for [`assign`](Self::assign).
    pub fn check_assign(&self, devices: &[Sbdf], domain: DomId, mode: Mode) -> Result<(), AssignError> {
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        self.check_free(&presence, devices, domain)?;
        self.transfer(&mut control, &presence, domain.into(), mode)?.check(devices)
    }

    /// Whether a device could be assigned, as Xen's `XEN_DOMCTL_test_assign_device` means it: it is present
    /// and no guest has it. (Xen: `device_assigned` in `xen/drivers/passthrough/pci.c`.)
    ///
    /// # Errors
    /// [`AssignError::UnknownDevice`] or [`AssignError::Elsewhere`].
    pub fn test_assign(&self, device: Sbdf) -> Result<(), AssignError> {
        match self.owner(device).ok_or(AssignError::UnknownDevice(device))? {
            Owner::Domain(id) if id != self.hardware_domain => {
                Err(AssignError::Elsewhere { device, owner: Owner::Domain(id) })
            }
            _ => Ok(()),
        }
    }

    /// Another domain's devices are not given away, the hardware domain's excepted.
    fn check_free(
        &self,
        presence: &Presence<'m, S>,
        devices: &[Sbdf],
        domain: DomId,
    ) -> Result<(), AssignError> {
        for sbdf in devices {
            let device = presence.devices.find(*sbdf).ok_or(AssignError::UnknownDevice(*sbdf))?;
            match device.owner() {
                Owner::Domain(owner) if owner != domain && owner != self.hardware_domain => {
                    return Err(AssignError::Elsewhere { device: *sbdf, owner: Owner::Domain(owner) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes devices from a domain into quarantine, all or none, or with [`DomId::IO`] from there back to the
    /// hardware domain. Nothing about the rest of their groups hinders giving back to quarantine.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn deassign(
        &self,
        devices: &[Sbdf],
        domain: DomId,
        notes: &mut dyn FnMut(Note),
    ) -> Result<(), AssignError> {
        let mut control = self.ownership.lock();
        let presence = self.presence.read();
        let from = Owner::from(domain);
        for sbdf in devices {
            let owner = presence.devices.find(*sbdf).ok_or(AssignError::UnknownDevice(*sbdf))?.owner();
            if owner != from {
                return Err(AssignError::NotOwned { device: *sbdf, domain: from, owner });
            }
        }
        let (target, mode) = match from {
            Owner::Quarantine => (Owner::Domain(self.hardware_domain), Mode::Strict),
            Owner::Domain(_) => (Owner::Quarantine, Mode::Relaxed),
        };
        self.transfer(&mut control, &presence, target, mode)?.run(devices, false, notes)
    }

    fn domain(&self, id: DomId) -> Option<&'m Domain<S>> {
        self.domains.iter().find(|domain| domain.id() == Some(id))
    }

    /// The domain's place of this number.
    fn domain_at(&self, number: Option<u32>) -> Option<&'m Domain<S>> {
        self.domains.get(number? as usize)
    }

    fn holder(&self, id: DomId) -> Holder {
        if id == self.hardware_domain { Holder::HardwareDomain(id) } else { Holder::Guest(id) }
    }

    /// A domain other than `target` that reaches the region on its own account.
    fn reached_elsewhere(&self, region: &Region<'m>, target: &Domain<S>) -> Option<(DomId, Run)> {
        let others = self.domains.iter().filter(|domain| domain.number != target.number);
        others.filter_map(|domain| Some((domain, domain.id()?))).find_map(|(domain, id)| {
            let run = domain.space.lock().as_ref()?.mapped_otherwise(region.range())?;
            Some((id, run))
        })
    }

    fn grouping<'s>(&'s self, presence: &'s Presence<'m, S>) -> Grouping<'s, 'm, S> {
        Grouping { registry: &self.registry, presence, isolation: self.isolation }
    }

    fn transfer<'s>(
        &'s self,
        control: &'s mut C,
        presence: &'s Presence<'m, S>,
        target: Owner,
        mode: Mode,
    ) -> Result<assign::Transfer<'s, 'm, S, H, C>, AssignError> {
        assign::Transfer::new(self, control, presence, target, mode)
    }
}
