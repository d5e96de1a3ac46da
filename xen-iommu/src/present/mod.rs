//! The devices that are present and the requester ids that their DMA carries: places in memory given at boot,
//! found by key.
//!
//! All fields that change are atomics, so that places can be shared; they change under the ownership lock
//! alone. What is in the tables at all changes under the presence lock too, which nothing holds while it
//! waits for hardware: so the query reads them beside an assignment.

mod devices;
mod requesters;
pub(crate) mod ring;

pub(crate) use devices::{Device, Devices, Part};
pub(crate) use requesters::{Joining, Requester, Requesters, Taken, requester_ids};

use core::sync::atomic::{AtomicU32, Ordering};

use crate::arena::{Arena, OutOfMemory};
use crate::platform::DomId;

/// Number of a place, and what links places of one kind; [`NONE`](crate::region::record::NONE) ends a list.
#[derive(Debug)]
pub(crate) struct Number(AtomicU32);

impl Number {
    pub(crate) const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// The number of a place, and that of the next free one behind it, of `capacity`.
fn numbered(index: usize, capacity: usize) -> (u32, u32) {
    let none = crate::region::record::NONE;
    let number = u32::try_from(index).unwrap_or(none);
    let next = number.saturating_add(1);
    (number, if next as usize >= capacity { none } else { next })
}

/// What the presence lock guards.
pub(crate) struct Presence<'m, S> {
    pub(crate) devices: Devices<'m>,
    pub(crate) requesters: Requesters<'m, S>,
}

impl<'m, S> Presence<'m, S> {
    /// Places for so many devices and requester ids; the hardware domain owns what appears.
    pub(crate) fn new(
        devices: usize,
        ids: usize,
        hardware_domain: DomId,
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let requesters = Requesters::new(devices.min(ids), ids, arena)?;
        Ok(Self { devices: Devices::new(devices, hardware_domain, arena)?, requesters })
    }

    /// Takes a device out, and its requester where that has no other and hardware has let it go; hands out
    /// the space of its quarantine then.
    pub(crate) fn forget(&mut self, device: &'m Device, requester: &'m Requester) -> Option<S> {
        self.requesters.remove_ids(requester, device.number);
        self.devices.remove(device);
        let count = if device.is_bridge() { &requester.bridges } else { &requester.users };
        count.set(count.get().saturating_sub(1));
        let is_unused = requester.count() == 0 && !requester.is_suspect();
        is_unused.then(|| self.requesters.remove(requester)).flatten()
    }
}
