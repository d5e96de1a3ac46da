//! XENMEM_reserved_device_memory_map, called with Xen's layouts in the memory of a domain.

use alloc::format;
use alloc::vec::Vec;

use xen_iommu::abi::{self, Errno};
use xen_iommu::{DomId, Mode, Sbdf};

use super::super::{Context, Outcome, ensure, text};
use super::world::{GUEST, GUEST_RAM, World};
use crate::host::{Caller, HARDWARE_DOMAIN};
use crate::memory::Shared;

/// Where the argument and the buffer lie in the calling domain's RAM.
const ARGUMENT: u64 = 0;
const BUFFER: u64 = 0x100;
/// Room for this many entries.
const ROOM: u32 = 128;

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
        Self { flags: abi::XENMEM_RDM_ALL, room: ROOM, device: Sbdf::new(0, 0, 0, 0), buffer: None };

    /// The regions of a device.
    pub fn of(device: Sbdf) -> Self {
        Self { flags: 0, device, ..Self::ALL }
    }
}

/// The frames of an entry: the first, and how many.
pub type Entry = (u64, u64);

/// Calls as `domain`, whose RAM begins at guest address `base`. Returns what the call returned, `nr_entries`, and the entries.
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
    let result =
        caller.hypercall(abi::HYPERVISOR_MEMORY_OP, abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP, base + ARGUMENT);
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

/// What each device that has a region is to be told; the others are to be told of none.
const EXPECTED: [(Sbdf, &[Entry]); 6] = [
    (Sbdf::new(0, 0, 3, 0), &[(0xffe4, 2)]),
    (Sbdf::new(0, 0, 4, 0), &[(0xffe8, 2)]),
    (Sbdf::new(0, 0, 5, 0), &[(0xffe8, 2)]),
    (Sbdf::new(0, 1, 1, 0), &[(0xffec, 1)]),
    (Sbdf::new(0, 0, 7, 0), &[(0xfff4, 2)]),
    (Sbdf::new(0, 0, 0x1d, 0), &[(0xe8, 8), (0xffd8, 10)]),
];

/// Every region once, in any order.
const ALL: [Entry; 6] = [(0xe8, 8), (0xffd8, 10), (0xffe4, 2), (0xffe8, 2), (0xffec, 1), (0xfff4, 2)];

/// Every device, all at once, and a guest that has one device.
pub fn query(world: &mut World) -> Outcome {
    let outcome = query_inner(world);
    world.restore(outcome)
}

fn query_inner(world: &mut World) -> Outcome {
    let answered = |query: Query| {
        let (result, count, mut entries) = ask(world, query);
        entries.sort_unstable();
        (result, count, entries)
    };
    // The machine's command line has one rmrr= option; a further one adds entries that are not known here.
    let has_more = world.machine.options.rmrr().count() > 1;
    let mut devices = Vec::new();
    world.host.policy.for_each_device(|device, _, _| devices.push(device));
    for device in devices.iter().copied() {
        let expected =
            EXPECTED.iter().find(|(named, _)| *named == device).map_or(&[][..], |(_, entries)| entries);
        let asked = if world.broken("rdm-query") { Sbdf::new(0, 0, 0x1e, 0) } else { device };
        let (result, count, entries) = answered(Query::of(asked));
        let told =
            if has_more { expected.iter().all(|entry| entries.contains(entry)) } else { entries == expected };
        ensure!(
            result == 0 && count as usize == entries.len() && told,
            "{device}: {result}, {count} entries, {entries:x?}"
        );
    }
    let (result, count, entries) = answered(Query::ALL);
    ensure!(
        result == 0
            && count as usize == entries.len()
            && (has_more || entries.len() == ALL.len())
            && ALL.iter().all(|entry| entries.contains(entry)),
        "all: {result}, {count} entries, {entries:x?}"
    );
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[Sbdf::new(0, 0, 3, 0)], Mode::Strict).map_err(text)?;
    let (result, _, own) = call(world, GUEST, (&ram, GUEST_RAM), Query::ALL);
    ensure!(result == 0 && own == [(0xffe4, 2)], "the guest is told {result}, {own:x?}");
    Ok(format!("{} devices and all {} regions; a guest is told its own only", devices.len(), count))
}

/// ENOBUFS, the entries that fit, and the count there is.
pub fn short(world: &mut World) -> Outcome {
    let (_, all, _) = ask(world, Query::ALL);
    let rooms = [0, 1, all - 1];
    for room in rooms {
        let room = if world.broken("rdm-short") { all } else { room };
        let (result, count, entries) = ask(world, Query { room, ..Query::ALL });
        ensure!(
            result == Errno::ENOBUFS.result() && count == all && entries.len() == room as usize,
            "room for {room}: {result}, {count} entries needed, {} written",
            entries.len()
        );
        let behind = world.host.ram.read64(BUFFER + u64::from(room) * 16);
        ensure!(
            behind == 0xcccc_cccc_cccc_cccc,
            "room for {room}: {behind:#x} was written behind the buffer"
        );
    }
    let (result, count, _) = ask(world, Query { room: 0, ..Query::of(Sbdf::new(0, 0, 0x1f, 0)) });
    ensure!(result == 0 && count == 0, "no room and no region: {result}, {count}");
    Ok(format!("{} (ENOBUFS) with room for {rooms:?}, {all} entries needed", Errno::ENOBUFS.result()))
}

/// EINVAL, with the argument untouched.
pub fn flags(world: &mut World) -> Outcome {
    for flags in [2, 3, 0x8000_0000] {
        let flags = if world.broken("rdm-flags") { 1 } else { flags };
        let (result, count, _) = ask(world, Query { flags, ..Query::ALL });
        ensure!(result == Errno::EINVAL.result() && count == ROOM, "flags {flags:#x}: {result}, {count}");
    }
    let ram = &world.host.ram;
    let mut caller = Caller { policy: &world.host.policy, domain: HARDWARE_DOMAIN, ram };
    let command = abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP | 1 << abi::MEMOP_EXTENT_SHIFT;
    let result = caller.hypercall(abi::HYPERVISOR_MEMORY_OP, command, 0);
    ensure!(result == Errno::EINVAL.result(), "a start extent: {result}");
    Ok(format!("{} (EINVAL)", Errno::EINVAL.result()))
}

/// EFAULT.
pub fn fault(world: &mut World) -> Outcome {
    let ram = &world.host.ram;
    let behind = ram.start() + ram.size();
    let spoilt = world.broken("rdm-fault").then(|| ram.start() + BUFFER);
    // In a hole of the domain's memory; and in the hypervisor's own half.
    for buffer in [behind, 0, 0xffff_8000_0000_0000] {
        let buffer = Some(spoilt.unwrap_or(buffer));
        let (result, count, _) = ask(world, Query { buffer, ..Query::ALL });
        ensure!(
            result == Errno::EFAULT.result() && count == ROOM,
            "buffer at {buffer:x?}: {result}, {count}"
        );
    }
    // Room for one entry before the domain's RAM ends.
    let (result, count, _) = ask(world, Query { buffer: Some(behind - 16), ..Query::ALL });
    ensure!(result == Errno::EFAULT.result() && count == ROOM, "a buffer that ends early: {result}, {count}");
    let mut caller = Caller { policy: &world.host.policy, domain: HARDWARE_DOMAIN, ram };
    let result =
        caller.hypercall(abi::HYPERVISOR_MEMORY_OP, abi::XENMEM_RESERVED_DEVICE_MEMORY_MAP, behind - 8);
    ensure!(result == Errno::EFAULT.result(), "an argument that ends early: {result}");
    Ok(format!("{} (EFAULT), nr_entries untouched", Errno::EFAULT.result()))
}
