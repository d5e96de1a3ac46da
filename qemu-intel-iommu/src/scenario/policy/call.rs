//! XENMEM_reserved_device_memory_map, called with Xen's layouts in the memory of a domain.

use alloc::vec::Vec;

use xen_iommu::abi::{self, Errno};
use xen_iommu::{DomId, Sbdf};

use super::world::World;
use crate::host::{Caller, HARDWARE_DOMAIN};
use crate::memory::Shared;

/// Where the argument and the buffer lie in the calling domain's RAM.
const ARGUMENT: u64 = 0;
pub const BUFFER: u64 = 0x100;
/// Room for this many entries.
pub const ROOM: u32 = 128;

/// What a call is to be like.
#[derive(Clone, Copy)]
pub struct Query {
    /// Its flags.
    pub flags: u32,
    /// Room in the buffer, in entries.
    pub room: u32,
    /// Its device.
    pub device: Sbdf,
    /// The buffer's guest address; none for one that is there.
    pub buffer: Option<u64>,
}

impl Query {
    /// All regions.
    pub const ALL: Self =
        Self { flags: abi::memory::XENMEM_RDM_ALL, room: ROOM, device: Sbdf::new(0, 0, 0, 0), buffer: None };

    /// The regions of a device.
    pub fn of(device: Sbdf) -> Self {
        Self { flags: 0, device, ..Self::ALL }
    }
}

/// The frames of an entry: the first, and how many.
pub type Entry = (u64, u64);

/// Calls as `domain`, whose RAM begins at guest address `base`. Returns what the call returned, `nr_entries`,
/// and the entries.
pub fn call(
    world: &World,
    domain: DomId,
    (ram, base): (&Shared, u64),
    query: Query,
) -> (i64, u32, Vec<Entry>) {
    ram.fill(0, 0x1000, 0xcc);
    ram.write32(ARGUMENT, query.flags);
    ram.write32(ARGUMENT + 4, query.room);
    ram.write64(ARGUMENT + 8, query.buffer.unwrap_or(base + BUFFER));
    ram.write32(
        ARGUMENT + 16,
        u32::from(query.device.segment())
            | u32::from(query.device.bus()) << 16
            | u32::from(query.device.devfn()) << 24,
    );
    let mut caller = Caller { policy: &world.host.policy, domain, ram };
    let result = caller.hypercall(
        abi::HYPERVISOR_MEMORY_OP,
        abi::memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP,
        base + ARGUMENT,
    );
    let count = ram.read32(ARGUMENT + 4);
    let written = count.min(query.room).min(ROOM);
    let entry = |index: u32| {
        let at = BUFFER + u64::from(index) * 16;
        (ram.read64(at), ram.read64(at + 8))
    };
    let is_answer = result == 0 || result == Errno::ENOBUFS.result();
    (result, count, if is_answer { (0..written).map(entry).collect() } else { Vec::new() })
}

/// Calls as the hardware domain.
pub fn ask(world: &World, query: Query) -> (i64, u32, Vec<Entry>) {
    let ram = &world.host.ram;
    call(world, HARDWARE_DOMAIN, (ram, ram.start()), query)
}
