//! What XENMEM_reserved_device_memory_map answers.

use alloc::format;

use xen_iommu::abi::{self, Errno};
use xen_iommu::{Mode, Sbdf};

use super::call::{BUFFER, Entry, Query, ROOM, ask, call};
use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::host::{Caller, HARDWARE_DOMAIN, UHCI};
use crate::scenario::layout::{BEHIND, NVME, OWN, SHARED};
use crate::scenario::step::{Context, Outcome};

/// What each device that has a region is to be answered; for the others there is none.
const EXPECTED: [(Sbdf, &[Entry]); 7] = [
    (OWN, &[(0xffe4, 2)]),
    (SHARED[0], &[(0xffe8, 2)]),
    (SHARED[1], &[(0xffe8, 2)]),
    (BEHIND[0], &[(0xffec, 1)]),
    // Hardware cannot tell it from the one before.
    (BEHIND[1], &[(0xffec, 1)]),
    (NVME, &[(0xfff4, 2)]),
    (UHCI, &[(0xe8, 8), (0xffd8, 10)]),
];

/// Every region once, lowest first.
const ALL: [Entry; 6] = [(0xe8, 8), (0xffd8, 10), (0xffe4, 2), (0xffe8, 2), (0xffec, 1), (0xfff4, 2)];

/// Every device, all at once, and a guest that has one device.
pub fn query(world: &mut World) -> Outcome {
    // The machine's command line has one rmrr= option; a further one adds entries that are not known here.
    let has_more = world.inventory.options.rmrr().count() > 1;
    let devices = world.devices();
    for device in devices.iter().copied() {
        let expected =
            EXPECTED.iter().find(|(named, _)| *named == device).map_or(&[][..], |(_, entries)| entries);
        let asked = if world.broken("rdm-query") { Sbdf::new(0, 0, 0x1e, 0) } else { device };
        let (result, count, entries) = ask(world, Query::of(asked));
        let told =
            if has_more { expected.iter().all(|entry| entries.contains(entry)) } else { entries == expected };
        ensure!(
            result == 0 && count as usize == entries.len() && told && entries.is_sorted(),
            "{device}: {result}, {count} entries, {entries:x?}"
        );
    }
    let (result, count, entries) = ask(world, Query::ALL);
    ensure!(
        result == 0
            && count as usize == entries.len()
            && entries.is_sorted()
            && (has_more || entries.len() == ALL.len())
            && ALL.iter().all(|entry| entries.contains(entry)),
        "all: {result}, {count} entries, {entries:x?}"
    );
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
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
        let after = world.host.ram.read64(BUFFER + u64::from(room) * 16);
        ensure!(after == 0xcccc_cccc_cccc_cccc, "room for {room}: {after:#x} was written after the buffer");
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
    let command = abi::memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP | 1 << abi::memory::MEMOP_EXTENT_SHIFT;
    let result = caller.hypercall(abi::HYPERVISOR_MEMORY_OP, command, 0);
    ensure!(result == Errno::EINVAL.result(), "a start extent: {result}");
    Ok(format!("{} (EINVAL)", Errno::EINVAL.result()))
}

/// EFAULT.
pub fn unreadable(world: &mut World) -> Outcome {
    let ram = &world.host.ram;
    let end = ram.start() + ram.size();
    let spoilt = world.broken("rdm-fault").then(|| ram.start() + BUFFER);
    // In a hole of the domain's memory; and in the hypervisor's own half.
    for buffer in [end, 0, 0xffff_8000_0000_0000] {
        let buffer = Some(spoilt.unwrap_or(buffer));
        let (result, count, _) = ask(world, Query { buffer, ..Query::ALL });
        ensure!(
            result == Errno::EFAULT.result() && count == ROOM,
            "buffer at {buffer:x?}: {result}, {count}"
        );
    }
    // Room for one entry before the domain's RAM ends.
    let (result, count, _) = ask(world, Query { buffer: Some(end - 16), ..Query::ALL });
    ensure!(result == Errno::EFAULT.result() && count == ROOM, "a buffer that ends early: {result}, {count}");
    let mut caller = Caller { policy: &world.host.policy, domain: HARDWARE_DOMAIN, ram };
    let result =
        caller.hypercall(abi::HYPERVISOR_MEMORY_OP, abi::memory::XENMEM_RESERVED_DEVICE_MEMORY_MAP, end - 8);
    ensure!(result == Errno::EFAULT.result(), "an argument that ends early: {result}");
    Ok(format!("{} (EFAULT), nr_entries untouched", Errno::EFAULT.result()))
}
