//! `XENMEM_populate_physmap`: memory for a domain, kept off its devices' reserved regions
//! (`xen/common/memory.c`). Where the memory comes from is the hypervisor's.

use p2m::{AddressSpace, Gfn, GfnRange, Mfn, MfnRange};
use xen_abi::MemoryReservation;
use xen_abi::memory::MEMOP_EXTENT_SHIFT;

use super::GuestMemory;
use super::hypervisor::{Call, Hypervisor, any_domain, element};
use crate::control::DeviceControl;
use crate::ownership::Policy;
use crate::platform::{DomId, RemappingHardware};

/// The most extents of a call: what still fits above the command when it goes on after an interruption.
const MAX_EXTENTS: u64 = u32::MAX as u64 >> MEMOP_EXTENT_SHIFT;

/// An extent was not populated: no memory, something is there, or the call is to go on later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotPopulated;

/// Where memory for domains comes from.
pub trait Populate {
    /// The largest order that `caller` may ask for (Xen's `memop-max-order=`).
    fn max_order(&self, caller: DomId) -> u32;

    /// Puts memory at `gfns`, an extent that meets no region of the domain's devices. `mem_flags` are the
    /// caller's, unchecked.
    ///
    /// # Errors
    /// [`NotPopulated`]; nothing has changed then. The call ends there, and returns how many extents it did.
    fn populate(&mut self, domain: DomId, gfns: GfnRange, mem_flags: u32) -> Result<(), NotPopulated>;
}

/// Serves `XENMEM_populate_physmap` for a domain whose guest frames are translated. Returns how many extents
/// are done, those before `start_extent` counted: as in Xen there is no error number, a call that failed
/// returns less than it was asked for.
///
/// An extent that meets a region of one of the domain's devices ends the call before it. (Xen lets it fail
/// when the page is entered, and crashes the domain. Where a relaxed assignment has left the region out, Xen
/// puts the memory there, and the device writes to it.)
pub fn populate_physmap<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + Populate),
    mut call: Call<'_, impl GuestMemory>,
    start_extent: u64,
) -> u64 {
    let mut done = start_extent;
    // The count is the answer, whatever ended the call.
    let _ = extents(policy, hypervisor, &mut call, &mut done);
    done
}

/// Does extents from `done` on, and counts them there; `None` where it ends before the last.
fn extents<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + Populate),
    call: &mut Call<'_, impl GuestMemory>,
    done: &mut u64,
) -> Option<()> {
    let mut bytes = [0; MemoryReservation::SIZE];
    call.read(call.argument, bytes.get_mut(..MemoryReservation::size(call.layout))?).ok()?;
    let asked = MemoryReservation::from_bytes(&bytes, call.layout).ok()?;
    let domain = any_domain(hypervisor, asked.domid, call.caller)?;
    let may = hypervisor.may_change_memory(call.caller, domain, policy.hardware_domain());
    let frames = 1_u64.checked_shl(asked.extent_order)?;
    let fits = asked.nr_extents <= MAX_EXTENTS && asked.extent_order <= hypervisor.max_order(call.caller);
    if !may || !fits {
        return None;
    }
    let size = call.layout.word_size();
    // The whole list is to be the guest's before any of it is used.
    let last = element(asked.extent_start, asked.nr_extents.checked_sub(1)?, size).ok()?;
    let is_guests = |address| call.memory.is_guest_address(address);
    if !is_guests(asked.extent_start) || !is_guests(last.checked_add(size as u64)?.checked_sub(1)?) {
        return None;
    }
    while *done < asked.nr_extents {
        let mut word = [0; 8];
        call.read(element(asked.extent_start, *done, size).ok()?, word.get_mut(..size)?).ok()?;
        let start = u64::from_le_bytes(word);
        let gfns = GfnRange::new(Gfn::new(start), Gfn::new(start.checked_add(frames)?))?;
        check_kept_free(policy, hypervisor, domain, gfns)?;
        hypervisor.populate(domain, gfns, asked.mem_flags).ok()?;
        *done = done.checked_add(1)?;
    }
    Some(())
}

/// `None`, and a line for the log, where the extent meets a region of one of the domain's devices.
fn check_kept_free<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut impl Hypervisor,
    domain: DomId,
    gfns: GfnRange,
) -> Option<()> {
    let pages = MfnRange::new(Mfn::new(gfns.start().raw()), Mfn::new(gfns.end().raw()))?;
    let mut regions = policy.registry().overlapping(pages);
    let Some(region) = regions.find(|region| region.owner() == Some(domain)) else { return Some(()) };
    let (start, end, name) = (gfns.start(), gfns.end(), region.name());
    hypervisor.refused(&format_args!(
        "{domain} was to get memory at guest frames {start} to {end}, where {name} is kept free for a device"
    ));
    None
}
