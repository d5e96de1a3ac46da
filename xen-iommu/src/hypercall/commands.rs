//! memory_op's commands by their numbers.

use p2m::AddressSpace;
use xen_abi::memory::{
    XENMEM_MEMORY_MAP, XENMEM_POPULATE_PHYSMAP, XENMEM_RESERVED_DEVICE_MEMORY_MAP, XENMEM_SET_MEMORY_MAP,
    split_command,
};
use xen_abi::{Errno, Layout};

use super::hypervisor::{Call, Hypervisor};
use super::memory_map::{MemoryMaps, memory_map, set_memory_map};
use super::populate::{Populate, populate_physmap};
use super::{Caller, GuestMemory, reserved_device_memory_map};
use crate::control::DeviceControl;
use crate::ownership::Policy;
use crate::platform::RemappingHardware;

/// Serves `HYPERVISOR_memory_op`. `command` is its first argument, with the extent to start from above the
/// command's number; of a 32-bit caller's, 32 bits count. Returns what the hypercall returns.
///
/// # Errors
/// Those of the command: [`populate_physmap`], which has none, [`memory_map`], [`set_memory_map`],
/// [`reserved_device_memory_map`]. `ENOSYS`: another command, or a start extent for one of the two maps.
pub fn memory_op<S: AddressSpace, H: RemappingHardware, C: DeviceControl>(
    policy: &Policy<'_, S, H, C>,
    hypervisor: &mut (impl Hypervisor + MemoryMaps + Populate),
    call: Call<'_, impl GuestMemory>,
    command: u64,
) -> Result<u64, Errno> {
    let command = match call.layout {
        Layout::Native => command,
        Layout::Compat => command & u64::from(u32::MAX),
    };
    match split_command(command) {
        (XENMEM_POPULATE_PHYSMAP, start_extent) => {
            Ok(populate_physmap(policy, hypervisor, call, start_extent))
        }
        (XENMEM_RESERVED_DEVICE_MEMORY_MAP, start_extent) => {
            let Call { caller, memory, layout, argument } = call;
            let is_toolstack = hypervisor.is_toolstack(caller, policy.hardware_domain());
            let caller = if is_toolstack { Caller::Privileged } else { Caller::Guest(caller) };
            let (registry, others) = (policy.registry(), |device| policy.inseparable(device));
            reserved_device_memory_map(registry, memory, caller, layout, start_extent, argument, others)?;
            Ok(0)
        }
        (XENMEM_MEMORY_MAP, 0) => memory_map(hypervisor, call).map(|()| 0),
        (XENMEM_SET_MEMORY_MAP, 0) => set_memory_map(policy, hypervisor, call).map(|()| 0),
        _ => Err(Errno::ENOSYS),
    }
}
