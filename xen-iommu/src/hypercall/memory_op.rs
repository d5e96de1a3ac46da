//! `XENMEM_reserved_device_memory_map`: which frames are reserved for a device, or for all.
//!
//! Answers as Xen does (`xen/common/memory.c`, and observed), but for three things. An unprivileged domain is told of the regions that it has mapped for
//! its own devices, not of the machine's. Regions that overlap or share a page are told of as one range, lowest first. And `nr_entries` is left alone when
//! the call fails with `EFAULT`.
//!
//! The registry is read without a lock: no assignment can hold this up.

use core::iter;

use p2m::MfnRange;

use super::GuestMemory;
use crate::abi::{Abi, Errno, ReservedDeviceMemory, ReservedDeviceMemoryMap, XENMEM_RDM_ALL};
use crate::platform::{DomId, Sbdf};
use crate::region::record::Region;
use crate::region::registry::{Cluster, Registry};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A domain that may know all of the machine's regions: the hardware domain, or another that builds domains.
    Privileged,
    /// Another domain.
    Guest(DomId),
}

/// Serves the hypercall. `argument` is the guest address of a `struct xen_reserved_device_memory_map` in the layout of `abi`; `start_extent` are the bits
/// above memory_op's command. The entries are what [`Registry::told`] says of the device that is asked about and of `others` that go with it, as they
/// share a requester id; or of all under [`XENMEM_RDM_ALL`].
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
    abi: Abi,
    start_extent: u64,
    argument: u64,
    others: impl FnOnce(Sbdf) -> I,
) -> Result<(), Errno> {
    if start_extent != 0 {
        return Err(Errno::EINVAL);
    }
    let mut bytes = [0; 24];
    let read = bytes.get_mut(..ReservedDeviceMemoryMap::size(abi)).ok_or(Errno::EFAULT)?;
    memory.read(argument, read).map_err(|_| Errno::EFAULT)?;
    let map = ReservedDeviceMemoryMap::from_bytes(&bytes, abi);
    if !memory.is_guest_address(map.buffer) {
        return Err(Errno::EFAULT);
    }
    if map.flags & !XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL);
    }

    let mut answer = Answer { memory, abi, map, count: 0 };
    let written = if map.flags & XENMEM_RDM_ALL != 0 {
        answer.write(registry.active_clusters(), caller)
    } else {
        let device = u32::from(map.segment) << 16 | u32::from(map.bus) << 8 | u32::from(map.devfn);
        let device = Sbdf::from_raw(device);
        answer.write(registry.clusters_of(iter::once(device).chain(others(device))), caller)
    };
    let (count, memory) = (answer.count, answer.memory);
    if written == Err(Errno::EFAULT) {
        return written;
    }
    let nr_entries = argument.checked_add(ReservedDeviceMemoryMap::NR_ENTRIES_OFFSET).ok_or(Errno::EFAULT)?;
    memory.write(nr_entries, &count.to_le_bytes()).map_err(|_| Errno::EFAULT)?;
    written?;
    if count > map.nr_entries { Err(Errno::ENOBUFS) } else { Ok(()) }
}

struct Answer<'a, M> {
    memory: &'a mut M,
    abi: Abi,
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
        let is_told = move |region: &Region<'_>| match caller {
            Caller::Privileged => true,
            Caller::Guest(id) => region.owner() == Some(id),
        };
        for range in clusters.flat_map(|cluster| cluster.union(is_told)) {
            if self.count < self.map.nr_entries {
                self.write_entry(range)?;
            }
            self.count = self.count.saturating_add(1);
        }
        Ok(())
    }

    fn write_entry(&mut self, range: MfnRange) -> Result<(), Errno> {
        let entry = ReservedDeviceMemory { start_pfn: range.start().raw(), nr_pages: range.len() };
        let bytes = entry.to_bytes(self.abi).ok_or(Errno::ERANGE)?;
        let size = ReservedDeviceMemory::size(self.abi);
        let offset = u64::from(self.count).checked_mul(size as u64).ok_or(Errno::EFAULT)?;
        let address = self.map.buffer.checked_add(offset).ok_or(Errno::EFAULT)?;
        let bytes = bytes.get(..size).ok_or(Errno::EFAULT)?;
        self.memory.write(address, bytes).map_err(|_| Errno::EFAULT)
    }
}
