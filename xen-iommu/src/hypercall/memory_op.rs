//! `XENMEM_reserved_device_memory_map`: which frames are reserved for a device, or for all.
//!
//! Answers as Xen does (`xen/common/memory.c`, and observed), but for three things. An unprivileged domain is
//! told of the regions that it has mapped for its own devices, not of the machine's. Regions that overlap or
//! share a page are told of as one range, lowest first. And `nr_entries` is left alone when the call fails
//! with `EFAULT`.
//!
//! The registry is read without a lock: no assignment can hold this up.

use core::iter;

use p2m::MfnRange;
use xen_abi::memory::{XENMEM_RDM_ALL, compat, native};
use xen_abi::zerocopy::transmute;
use xen_abi::{Errno, Layout, ReservedDeviceMemory, ReservedDeviceMemoryMap};

use super::GuestMemory;
use super::hypervisor::element;
use crate::platform::{DomId, Sbdf};
use crate::region::record::Region;
use crate::region::registry::{Cluster, Registry};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A domain that may know all of the machine's regions: the hardware domain, or another that builds
    /// domains.
    Privileged,
    /// Another domain.
    Guest(DomId),
}

/// Serves the hypercall. `argument` is the guest address of a `struct xen_reserved_device_memory_map` in
/// `layout`; `start_extent` are the bits above memory_op's command. The entries are what [`Registry::told`]
/// says of the device that is asked about and of `others` that go with it, as they share a requester id; or
/// of all under [`XENMEM_RDM_ALL`].
///
/// # Errors
/// - `EINVAL`: `start_extent` is not 0 (the argument is not looked at then), or a flag is unknown.
/// - `EFAULT`: the argument or the buffer cannot be read or written, or the buffer is not the guest's.
/// - `ENOBUFS`: the buffer is too small. What fits is written, and `nr_entries` says how many there are.
/// - `ERANGE`: a number does not fit a 32-bit caller's entry. `nr_entries` says how many were written before.
pub fn reserved_device_memory_map<I: Iterator<Item = Sbdf> + Clone>(
    registry: &Registry<'_>,
    memory: &mut impl GuestMemory,
    caller: Caller,
    layout: Layout,
    start_extent: u64,
    argument: u64,
    others: impl FnOnce(Sbdf) -> I,
) -> Result<(), Errno> {
    if start_extent != 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; ReservedDeviceMemoryMap::SIZE];
    let read = bytes.get_mut(..ReservedDeviceMemoryMap::size(layout)).ok_or(Errno::EFAULT)?;
    memory.read(argument, read).map_err(|_| Errno::EFAULT)?;
    let map = ReservedDeviceMemoryMap::from_bytes(&bytes, layout).map_err(|_| Errno::EFAULT)?;
    if !memory.is_guest_address(map.buffer) {
        return Err(Errno::EFAULT);
    }
    if map.flags & !XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL);
    }

    let mut answer = Answer { memory, layout, map, count: 0 };
    let written = if map.flags & XENMEM_RDM_ALL != 0 {
        answer.write(registry.active_clusters(), caller)
    } else {
        let device = Sbdf::from(map.pci);
        let others = others(device).filter(|other| *other != device);
        // Most devices are alone with their ids, and need no second look at who else has them.
        if others.clone().next().is_none() {
            answer.write(registry.clusters_of(iter::once(device)), caller)
        } else {
            answer.write(registry.clusters_of(iter::once(device).chain(others)), caller)
        }
    };
    let (count, memory) = (answer.count, answer.memory);
    if written == Err(Errno::EFAULT) {
        return written;
    }
    let nr_entries = ReservedDeviceMemoryMap::offsets(layout).nr_entries;
    let nr_entries = argument.checked_add(nr_entries as u64).ok_or(Errno::EFAULT)?;
    memory.write(nr_entries, &count.to_le_bytes()).map_err(|_| Errno::EFAULT)?;
    written?;
    if count > map.nr_entries { Err(Errno::ENOBUFS) } else { Ok(()) }
}

/// Entries that are written at once.
const BATCH: usize = 32;

struct Answer<'a, M> {
    memory: &'a mut M,
    layout: Layout,
    map: ReservedDeviceMemoryMap,
    /// Entries so far, written or not.
    count: u32,
}

impl<M: GuestMemory> Answer<'_, M> {
    fn write<'m>(
        &mut self,
        clusters: impl Iterator<Item = &'m Cluster<'m>>,
        caller: Caller,
    ) -> Result<(), Errno> {
        match caller {
            Caller::Privileged => self.write_ranges(clusters.map(|cluster| cluster.range)),
            Caller::Guest(id) => {
                let is_told = move |region: &Region<'_>| region.owner() == Some(id);
                self.write_ranges(clusters.flat_map(|cluster| cluster.union(is_told)))
            }
        }
    }

    fn write_ranges(&mut self, ranges: impl Iterator<Item = MfnRange>) -> Result<(), Errno> {
        match self.layout {
            Layout::Native => self.write_entries(ranges, |entry| {
                let bytes: [u8; size_of::<native::ReservedDeviceMemory>()] =
                    transmute!(native::ReservedDeviceMemory::from(entry));
                Ok(bytes)
            }),
            Layout::Compat => self.write_entries(ranges, |entry| {
                let entry = compat::ReservedDeviceMemory::try_from(entry).map_err(|_| Errno::ERANGE)?;
                let bytes: [u8; size_of::<compat::ReservedDeviceMemory>()] = transmute!(entry);
                Ok(bytes)
            }),
        }
    }

    fn write_entries<const SIZE: usize>(
        &mut self,
        ranges: impl Iterator<Item = MfnRange>,
        encode: impl Fn(ReservedDeviceMemory) -> Result<[u8; SIZE], Errno>,
    ) -> Result<(), Errno> {
        let mut waiting = [[0; SIZE]; BATCH];
        let mut length = 0_usize;
        let mut told = Ok(());
        for range in ranges {
            if self.count < self.map.nr_entries {
                if length >= BATCH {
                    self.flush(&waiting)?;
                    length = 0;
                }
                let entry = ReservedDeviceMemory { start_pfn: range.start().raw(), nr_pages: range.len() };
                match (waiting.get_mut(length), encode(entry)) {
                    (Some(place), Ok(bytes)) => *place = bytes,
                    (_, error) => {
                        told = error.map(drop);
                        break;
                    }
                }
                length = length.wrapping_add(1);
            }
            self.count = self.count.saturating_add(1);
        }
        // What was told before an error stands.
        self.flush(waiting.get(..length).unwrap_or_default())?;
        told
    }

    /// Writes the entries that come before the one that is next; what does not fit the guest's memory as a
    /// whole, entry by entry up to the fault.
    fn flush<const SIZE: usize>(&mut self, entries: &[[u8; SIZE]]) -> Result<(), Errno> {
        if entries.is_empty() {
            return Ok(());
        }
        let next = u64::from(self.count.min(self.map.nr_entries));
        let first = next.saturating_sub(entries.len() as u64);
        let address = element(self.map.buffer, first, SIZE)?;
        if self.memory.write(address, entries.as_flattened()).is_ok() {
            return Ok(());
        }
        for (index, entry) in (first..).zip(entries) {
            let address = element(self.map.buffer, index, SIZE)?;
            self.memory.write(address, entry)?;
        }
        Ok(())
    }
}
