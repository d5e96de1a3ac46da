//! `XENMEM_memory_map` and `XENMEM_set_memory_map`: what a guest is told of its own memory
//! (`xen/arch/x86/mm.c`). The maps are the hypervisor's.
//!
//! Otherwise than in Xen a map cannot say that there is RAM where a reserved region is mapped for one of the
//! domain's devices: the guest would put its data into the firmware's memory.

use p2m::{AddressSpace, Gfn, GfnRange, Mfn, MfnRange, P2mType};
use xen_abi::memory::E820_RAM;
use xen_abi::{E820Entry, Errno, ForeignMemoryMap, Layout, MemoryMap};

use super::GuestMemory;
use super::hypervisor::{Call, Hypervisor, any_domain, element};
use crate::control::DeviceControl;
use crate::ownership::Policy;
use crate::platform::{DomId, RemappingHardware};
use crate::region::record::RegionName;

/// The most entries that a map may have (Xen's `E820MAX`).
pub const MAX_ENTRIES: u32 = 1024;

/// There is no memory for a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// The domains' memory maps. They stay as they are while a call holds this.
pub trait MemoryMaps {
    /// How many entries the map of a domain has; 0 where none was set.
    fn count(&self, domain: DomId) -> u32;

    /// An entry of a domain's map; `None` beyond its end.
    fn entry(&self, domain: DomId, index: u32) -> Option<E820Entry>;

    /// Makes room for a new map of a domain, of so many entries, beside the one that it has. An earlier one
    /// that was not finished is forgotten.
    ///
    /// # Errors
    /// [`NoMemory`].
    fn begin(&mut self, domain: DomId, count: u32) -> Result<(), NoMemory>;

    /// Adds an entry to the new map.
    fn add(&mut self, domain: DomId, entry: E820Entry);

    /// The new map takes the old one's place. What was begun and never comes here is forgotten.
    fn finish(&mut self, domain: DomId);
}

/// Serves `XENMEM_memory_map` about the caller's own map: as many entries as fit, and `nr_entries` says how
/// many; too little room is no error.
///
/// # Errors
/// `EFAULT`: the argument or the buffer cannot be read or written; entries before the fault stand. `ENOSYS`:
/// no map was set.
pub fn memory_map(maps: &impl MemoryMaps, mut call: Call<'_, impl GuestMemory>) -> Result<(), Errno> {
    let mut bytes = [0; MemoryMap::SIZE];
    let read = bytes.get_mut(..MemoryMap::size(call.layout)).ok_or(Errno::EFAULT)?;
    call.read(call.argument, read)?;
    let map = MemoryMap::from_bytes(&bytes, call.layout).map_err(|_| Errno::EFAULT)?;
    let count = maps.count(call.caller);
    if count == 0 {
        return Err(Errno::ENOSYS);
    }
    let told = count.min(map.nr_entries);
    for index in 0..told {
        let entry = maps.entry(call.caller, index).unwrap_or_default();
        let entry = entry.to_bytes(Layout::Native).map_err(|_| Errno::EFAULT)?;
        call.write(element(map.buffer, index.into(), entry.len())?, &entry)?;
    }
    let nr_entries = MemoryMap::offsets(call.layout).nr_entries;
    call.write(element(call.argument, 1, nr_entries)?, &told.to_le_bytes())?;
    Ok(())
}

/// Serves `XENMEM_set_memory_map`. The old map stays unless this succeeds.
///
/// # Errors
/// - `EFAULT`: the argument or the entries cannot be read.
/// - `EINVAL`: more than [`MAX_ENTRIES`], or RAM where one of the domain's devices has a region mapped.
/// - `ESRCH`: there is no such domain.
/// - `EPERM`: the caller may not.
/// - `ENOMEM`: no memory for the map.
pub fn set_memory_map<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + MemoryMaps),
    mut call: Call<'_, impl GuestMemory>,
) -> Result<(), Errno> {
    let mut bytes = [0; ForeignMemoryMap::SIZE];
    let read = bytes.get_mut(..ForeignMemoryMap::size(call.layout)).ok_or(Errno::EFAULT)?;
    call.read(call.argument, read)?;
    let ForeignMemoryMap { domid, map } =
        ForeignMemoryMap::from_bytes(&bytes, call.layout).map_err(|_| Errno::EFAULT)?;
    if map.nr_entries > MAX_ENTRIES {
        return Err(Errno::EINVAL);
    }
    let domain = any_domain(hypervisor, domid, call.caller).ok_or(Errno::ESRCH)?;
    if !hypervisor.may_change_memory(call.caller, domain, policy.hardware_domain()) {
        return Err(Errno::EPERM);
    }
    hypervisor.begin(domain, map.nr_entries).map_err(|NoMemory| Errno::ENOMEM)?;
    for index in 0..map.nr_entries {
        let mut bytes = [0; E820Entry::SIZE];
        call.read(element(map.buffer, index.into(), E820Entry::SIZE)?, &mut bytes)?;
        let entry = E820Entry::from_bytes(&bytes, Layout::Native).map_err(|_| Errno::EFAULT)?;
        if let Some((gfn, region)) = over_region(policy, domain, &entry) {
            hypervisor.refused(&format_args!(
                "{domain}'s memory map has RAM at guest frame {gfn}, where {region} is mapped"
            ));
            return Err(Errno::EINVAL);
        }
        hypervisor.add(domain, entry);
    }
    hypervisor.finish(domain);
    Ok(())
}

/// The first frame of the entry's RAM in a region of the domain's, as far as that is mapped: what a relaxed
/// assignment left out is the guest's RAM.
fn over_region<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    domain: DomId,
    entry: &E820Entry,
) -> Option<(Gfn, RegionName)> {
    let last = entry.size.checked_sub(1).map(|more| entry.addr.saturating_add(more))?;
    if entry.kind != E820_RAM {
        return None;
    }
    let end = Mfn::containing(last).raw().saturating_add(1);
    let pages = MfnRange::new(Mfn::containing(entry.addr), Mfn::new(end))?;
    let regions = policy.registry().overlapping(pages).filter(|region| region.owner() == Some(domain));
    let meets = regions.filter_map(|region| {
        let both = region.range().intersection(&pages)?;
        let gfns = GfnRange::new(Gfn::new(both.start().raw()), Gfn::new(both.end().raw()))?;
        let gfn = policy.with_space(domain, |space| first_mapped(space, gfns))??;
        Some((gfn, region.name()))
    });
    meets.min_by_key(|(gfn, _)| *gfn)
}

/// The first frame that leads to the same machine frame as a device's memory.
fn first_mapped(space: &impl AddressSpace, gfns: GfnRange) -> Option<Gfn> {
    let mut left = gfns.start();
    while left < gfns.end() {
        let run = space.look_up(left);
        if run.entry.p2m_type == P2mType::MmioDirect {
            return Some(left);
        }
        left = run.gfns.end().max(Gfn::new(left.raw().saturating_add(1)));
    }
    None
}
