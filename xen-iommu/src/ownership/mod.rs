//! Who owns which device, and with it which domain reaches which reserved region.
//!
//! # Rules
//! - A region is mapped through the policy in one domain at most: the one that its devices belong to. When the last of them leaves, the mapping goes;
//!   the hardware domain is no exception.
//! - A group moves as a whole or not at all.
//! - What a domain maps on its own account is not ours to remove; a region that one reaches so cannot be given to another.
//! - A move maps the regions in the target, switches the requesters, flushes, and only then unmaps in the source (XSA-400). Quarantine tables hold the
//!   regions all the time, so that giving a device back needs no memory.
//!
//! # Locks
//! The ownership lock first, then one domain's table lock; never two table locks. The registry, and owners in it, are read without a lock. The feature
//! `lock-order` checks that in tests.

mod bridges;
mod hotplug;
mod release;
mod transfer;
mod uncertain;

use p2m::faults::{Fault, is_broken};
use p2m::{AddressSpace, Run};

pub use bridges::LateScope;

use crate::arena::{Arena, OutOfMemory};
use crate::device::{self, Device, Devices, Domain, Owner, Requesters};
use crate::error::{AssignError, DomainError, Note};
use crate::group::{Grouping, Link};
use crate::lock::{Lock, Rank};
use crate::pci::class::{DeviceClass, RelaxError};
use crate::platform::{DomId, RemappingHardware, Sbdf};
use crate::region::registry::{Region, Registry, Scope};

/// What to do when one device of a group is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupPolicy {
    /// Refuse, unless all its present members are named together. Xen refuses too.
    #[default]
    Refuse,
    /// Move the whole group.
    MoveWhole,
}

/// How strictly a device's regions are to be provided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// All of them, or the device is refused.
    #[default]
    Strict,
    /// As far as nothing else is in the way (Xen: `XEN_DOMCTL_DEV_RDM_RELAXED`). What was skipped is reported. A region never gets into two domains
    /// by it, nor do devices of one requester id.
    Relaxed,
}

/// How many there may be at one time; places for them are made at boot.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Present devices.
    pub devices: usize,
    /// Requester ids of present devices: at most as many as devices.
    pub requesters: usize,
    /// Domains, the hardware domain included.
    pub domains: usize,
}

/// The reserved-memory policy: regions, groups and owners. `S` is a domain's address space, `H` the remapping hardware.
pub struct Policy<'m, S, H> {
    registry: Registry<'m>,
    groups: GroupPolicy,
    hardware_domain: DomId,
    domains: &'m [Domain<S>],
    state: Lock<State<'m, S, H>>,
}

/// What the ownership lock guards.
struct State<'m, S, H> {
    hardware: H,
    devices: Devices<'m>,
    requesters: Requesters<'m, S>,
}

impl<'m, S: AddressSpace, H: RemappingHardware> Policy<'m, S, H> {
    /// A policy in which the hardware domain exists and no device is present so far. Places for `capacity` are cut from `arena`.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`.
    pub fn new(
        registry: Registry<'m>,
        groups: GroupPolicy,
        hardware: H,
        (hardware_domain, space): (DomId, S),
        capacity: Capacity,
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let devices = Devices::new(capacity.devices, arena)?;
        let requesters = Requesters::new(capacity.requesters, arena)?;
        let domains: &'m [Domain<S>] = device::domains(capacity.domains.max(1), arena)?;
        if let Some(first) = domains.first() {
            first.occupy(hardware_domain, space);
        }
        let state = Lock::new(Rank::Ownership, State { hardware, devices, requesters });
        Ok(Self { registry, groups, hardware_domain, domains, state })
    }

    /// The regions. Needs no lock.
    pub fn registry(&self) -> &Registry<'m> {
        &self.registry
    }

    /// The hardware domain.
    pub fn hardware_domain(&self) -> DomId {
        self.hardware_domain
    }

    /// Makes a domain known, which has no devices yet.
    ///
    /// # Errors
    /// [`DomainError::Exists`] or [`DomainError::NoPlace`]; `space` is dropped then.
    pub fn create_domain(&self, id: DomId, space: S) -> Result<(), DomainError<'m>> {
        let _state = self.state.lock();
        if self.domain(id).is_some() {
            return Err(DomainError::Exists(id));
        }
        let free = self.domains.iter().find(|domain| domain.id().is_none()).ok_or(DomainError::NoPlace)?;
        free.occupy(id, space);
        Ok(())
    }

    /// Takes a domain's devices into quarantine, forgets it and returns its address space.
    ///
    /// # Errors
    /// [`DomainError`]; devices taken away before the one that failed stay in quarantine.
    pub fn destroy_domain(&self, id: DomId, notes: &mut dyn FnMut(Note<'m>)) -> Result<S, DomainError<'m>> {
        if id == self.hardware_domain {
            return Err(DomainError::HardwareDomain);
        }
        let mut state = self.state.lock();
        let domain = self.domain(id).ok_or(DomainError::Unknown(id))?;
        self.fetch_back_from(&mut state, domain)?;
        loop {
            let is_left =
                |device: &&Device| device.owner() == Owner::Domain(id) && !is_broken(Fault::ForgetDevices);
            let left = state.devices.all().find(is_left);
            let Some(sbdf) = left.map(Device::sbdf) else { break };
            self.transfer(&mut state)
                .run(&[sbdf], true, Owner::Quarantine, Mode::Strict, notes)
                .map_err(DomainError::Device)?;
        }
        domain.vacate().ok_or(DomainError::Unknown(id))
    }

    /// Works on a domain's address space under its table lock alone. `None` when there is no such domain.
    pub fn with_space<T>(&self, id: DomId, work: impl FnOnce(&mut S) -> T) -> Option<T> {
        self.domain(id)?.space.lock().as_mut().map(work)
    }

    /// Flushes what has been changed in a domain's address space by other means than the policy.
    ///
    /// # Errors
    /// As for [`RemappingHardware::flush`]; nothing is confirmed to the address space then.
    pub fn flush_domain(&self, id: DomId) -> Result<(), crate::HardwareError> {
        let state = self.state.lock();
        self.domain(id).map_or(Ok(()), |domain| transfer::flush(&state.hardware, domain))
    }

    /// Works on the remapping hardware under the ownership lock: to read its faults, say.
    pub fn with_hardware<T>(&self, work: impl FnOnce(&H) -> T) -> T {
        work(&self.state.lock().hardware)
    }

    /// Gives devices to a domain, all or none. Those that it has already stay. They come from the hardware domain or from quarantine, and bring their
    /// groups along or are refused, as [`GroupPolicy`] says.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn assign(
        &self,
        devices: &[Sbdf],
        domain: DomId,
        mode: Mode,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let mut state = self.state.lock();
        let transfer = self.transfer(&mut state);
        self.check_free(&transfer, devices, domain)?;
        transfer.run(devices, self.groups == GroupPolicy::MoveWhole, Owner::Domain(domain), mode, notes)
    }

    /// Whether [`assign`](Self::assign) would be refused for who owns what; whether memory and hardware allow it shows only when it is done.
    ///
    /// # Errors
    /// As for [`assign`](Self::assign).
    pub fn test_assign(&self, devices: &[Sbdf], domain: DomId, mode: Mode) -> Result<(), AssignError<'m>> {
        let mut state = self.state.lock();
        let transfer = self.transfer(&mut state);
        self.check_free(&transfer, devices, domain)?;
        transfer.test(devices, self.groups == GroupPolicy::MoveWhole, Owner::Domain(domain), mode)
    }

    /// Another domain's devices are not given away, the hardware domain's excepted.
    fn check_free(
        &self,
        transfer: &transfer::Transfer<'_, 'm, S, H>,
        devices: &[Sbdf],
        domain: DomId,
    ) -> Result<(), AssignError<'m>> {
        for sbdf in devices {
            match transfer.find(*sbdf)?.owner() {
                Owner::Domain(owner) if owner != domain && owner != self.hardware_domain => {
                    return Err(AssignError::Elsewhere { device: *sbdf, owner: Owner::Domain(owner) });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes devices from a domain into quarantine, all or none.
    ///
    /// # Errors
    /// [`AssignError`].
    pub fn deassign(
        &self,
        devices: &[Sbdf],
        domain: DomId,
        notes: &mut dyn FnMut(Note<'m>),
    ) -> Result<(), AssignError<'m>> {
        let mut state = self.state.lock();
        let transfer = self.transfer(&mut state);
        for sbdf in devices {
            let owner = transfer.find(*sbdf)?.owner();
            if owner != Owner::Domain(domain) {
                return Err(AssignError::Elsewhere { device: *sbdf, owner });
            }
        }
        transfer.run(devices, self.groups == GroupPolicy::MoveWhole, Owner::Quarantine, Mode::Strict, notes)
    }

    /// Who owns a device; `None` when it is not present.
    pub fn owner(&self, device: Sbdf) -> Option<Owner> {
        self.state.lock().devices.find(device).map(Device::owner)
    }

    /// Lets the regions of a USB controller be left out where they are in the way, also of strict moves, until the device is removed: for hypervisors
    /// whose administrator says so. It is off unless called. What is left out comes as a [`Note`], as under [`Mode::Relaxed`].
    ///
    /// # Errors
    /// [`RelaxError`], for graphics above all: what they show pictures from is never left out silently.
    pub fn relax(&self, device: Sbdf, class: DeviceClass) -> Result<(), RelaxError> {
        let state = self.state.lock();
        let place = state.devices.find(device).ok_or(RelaxError::UnknownDevice(device))?;
        match class {
            DeviceClass::Usb => place.set_relaxable(true),
            DeviceClass::Graphics => return Err(RelaxError::Graphics(device)),
            DeviceClass::Other => return Err(RelaxError::Other(device)),
        }
        Ok(())
    }

    /// Visits the present devices, lowest first, with the requester id that their DMA carries.
    pub fn for_each_device(&self, mut visit: impl FnMut(Sbdf, Sbdf, Owner)) {
        let state = self.state.lock();
        for device in state.devices.all() {
            let source = state.requesters.of(device).map_or(device.sbdf(), |requester| requester.source());
            visit(device.sbdf(), source, device.owner());
        }
    }

    /// Visits the members of a device's group, itself first. With each: what links it directly to the device, where something does.
    pub fn for_each_in_group(&self, device: Sbdf, mut visit: impl FnMut(Sbdf, Option<Link<'m>>)) {
        let state = self.state.lock();
        let grouping = self.grouping(&state);
        let Some(device) = state.devices.find(device) else { return };
        for member in grouping.members(device) {
            let link = (member.number != device.number).then(|| grouping.link(device, member)).flatten();
            visit(member.sbdf(), link);
        }
    }

    /// Whether a device of the region is present. An accepted region without one is dormant.
    pub fn has_present_device(&self, region: &Region<'m>) -> bool {
        let state = self.state.lock();
        let mut users = state.devices_of(&self.registry, region);
        users.next().is_some()
    }

    fn domain(&self, id: DomId) -> Option<&'m Domain<S>> {
        self.domains.iter().find(|domain| domain.id() == Some(id))
    }

    /// A domain other than `target` that reaches the region on its own account.
    fn reached_elsewhere(&self, region: &Region<'m>, target: &Domain<S>) -> Option<(DomId, Run)> {
        let others = self.domains.iter().filter(|domain| domain.number != target.number);
        others.filter(|_| !is_broken(Fault::IgnoreReached)).find_map(|domain| {
            let run = domain.space.lock().as_ref()?.mapped_otherwise(region.range())?;
            Some((domain.id()?, run))
        })
    }

    fn grouping<'s>(&'s self, state: &'s State<'m, S, H>) -> Grouping<'s, 'm, S> {
        Grouping { registry: &self.registry, devices: &state.devices, requesters: &state.requesters }
    }

    fn transfer<'s>(&'s self, state: &'s mut State<'m, S, H>) -> transfer::Transfer<'s, 'm, S, H> {
        transfer::Transfer::new(self, state)
    }
}

impl<'m, S, H> State<'m, S, H> {
    /// The present devices of a region. One that several of its scopes cover comes several times.
    fn devices_of<'s>(
        &'s self,
        registry: &'s Registry<'m>,
        region: &'s Region<'m>,
    ) -> impl Iterator<Item = &'m Device> + 's {
        registry.scopes_of(region).flat_map(|scope| {
            let (bridge, below) = match scope {
                Scope::Function(function) => (function, None),
                Scope::Below { bridge, first_bus, last_bus } => {
                    let first = Sbdf::new(bridge.segment(), first_bus, 0, 0);
                    (bridge, Some((first, Sbdf::new(bridge.segment(), last_bus, 0x1f, 7))))
                }
            };
            let below = below.into_iter().flat_map(|(first, last)| self.devices.between(first, last));
            self.devices.find(bridge).into_iter().chain(below)
        })
    }
}
