//! Memory maps: what a guest is told of its memory, and that it is never told that a region is RAM.

use testkit::hypercall::{HYPERVISOR_START, Host, Memory};
use testkit::world::devices::{A, OF_A, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, World, with_world};
use xen_iommu::abi::memory::{E820_RAM, E820_RESERVED, XENMEM_MEMORY_MAP, XENMEM_SET_MEMORY_MAP};
use xen_iommu::abi::{DOMID_IO, DOMID_SELF, E820Entry, Errno, ForeignMemoryMap, Layout, MemoryMap};
use xen_iommu::hypercall::{MAX_ENTRIES, memory_op};
use xen_iommu::{DomId, Mode};

const ARGUMENT: u64 = 0x1000;
const BUFFER: u64 = 0x1100;
const BOTH: [Layout; 2] = [Layout::Native, Layout::Compat];

fn ram(addr: u64, size: u64) -> E820Entry {
    E820Entry { addr, size, kind: E820_RAM }
}

fn memory(entries: &[E820Entry]) -> Memory {
    let mut memory = Memory::new(ARGUMENT, 0x8000);
    for (address, entry) in (BUFFER..).step_by(20).zip(entries) {
        memory.put(address, &entry.to_bytes(Layout::Native).unwrap());
    }
    memory
}

fn set_in<'f>(
    (world, host): (&World<'f>, &mut Host<'f>),
    caller: DomId,
    layout: Layout,
    memory: &mut Memory,
    (domid, nr_entries, buffer): (u16, u32, u64),
) -> Result<u64, Errno> {
    let map = ForeignMemoryMap { domid, map: MemoryMap { nr_entries, buffer } };
    memory.put(ARGUMENT, &map.to_bytes(layout).unwrap());
    let call = memory.call(caller, layout, ARGUMENT);
    let done = memory_op(&world.policy, host, call, XENMEM_SET_MEMORY_MAP);
    assert!(memory.writes.is_empty());
    done
}

fn set<'f>(
    on: (&World<'f>, &mut Host<'f>),
    caller: DomId,
    domain: u16,
    entries: &[E820Entry],
) -> Result<u64, Errno> {
    let count = u32::try_from(entries.len()).unwrap();
    set_in(on, caller, Layout::Native, &mut memory(entries), (domain, count, BUFFER))
}

/// The number that comes back, `nr_entries`, and the buffer.
fn get<'f>(
    (world, host): (&World<'f>, &mut Host<'f>),
    layout: Layout,
    room: u32,
    buffer: u64,
) -> (Result<u64, Errno>, u32, Memory) {
    let mut memory = Memory::new(ARGUMENT, 0x8000);
    let map = MemoryMap { nr_entries: room, buffer };
    memory.put(ARGUMENT, &map.to_bytes(layout).unwrap());
    let done = memory_op(&world.policy, host, memory.call(GUEST, layout, ARGUMENT), XENMEM_MEMORY_MAP);
    (done, memory.word(ARGUMENT), memory)
}

#[test]
fn a_map_that_was_set_is_told_as_far_as_there_is_room() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let entries = [
            ram(0, 0xa0000),
            E820Entry { addr: 0xa0000, size: 0x60000, kind: E820_RESERVED },
            ram(1 << 20, 1 << 20),
        ];
        assert_eq!(get((world, &mut host), Layout::Native, 8, BUFFER).0, Err(Errno::ENOSYS));
        for layout in BOTH {
            host.maps.clear();
            let set = (GUEST.0, 3, BUFFER);
            let done = set_in((world, &mut host), HARDWARE_DOMAIN, layout, &mut memory(&entries), set);
            assert_eq!(done, Ok(0));
            assert_eq!(host.maps[&GUEST], entries);
            for room in [0, 1, 2, 3, 4, u32::MAX] {
                let (done, count, memory) = get((world, &mut host), layout, room, BUFFER);
                let told = room.min(3);
                assert_eq!((done, count), (Ok(0), told));
                for (address, entry) in (BUFFER..).step_by(20).zip(&entries[..told as usize]) {
                    assert_eq!(memory.get(address, 20), &entry.to_bytes(Layout::Native).unwrap()[..]);
                }
                assert!(memory.get(BUFFER + 20 * u64::from(told), 20).iter().all(|byte| *byte == 0xcc));
            }
        }
        // An empty one is none.
        assert_eq!(set((world, &mut host), GUEST, DOMID_SELF, &[]), Ok(0));
        assert_eq!(get((world, &mut host), Layout::Native, 8, BUFFER).0, Err(Errno::ENOSYS));
    });
}

#[test]
fn a_map_that_cannot_be_read_or_written_is_efault() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let old = vec![ram(0, 0x1000); 2];
        host.maps.insert(GUEST, old.clone());
        for buffer in [0x20, HYPERVISOR_START, u64::MAX - 8] {
            let (done, count, _) = get((world, &mut host), Layout::Native, 2, buffer);
            assert_eq!((done, count), (Err(Errno::EFAULT), 2), "nr_entries is as it was");
            let mut from = memory(&[]);
            let done =
                set_in((world, &mut host), HARDWARE_DOMAIN, Layout::Native, &mut from, (GUEST.0, 1, buffer));
            assert_eq!(done, Err(Errno::EFAULT));
            assert_eq!(host.maps[&GUEST], old);
        }
        // Nothing to write needs no buffer.
        assert_eq!(get((world, &mut host), Layout::Native, 0, HYPERVISOR_START).0, Ok(0));
        for (layout, get_bytes, set_bytes) in [(Layout::Native, 16, 24), (Layout::Compat, 8, 12)] {
            for (command, length) in [(XENMEM_MEMORY_MAP, get_bytes), (XENMEM_SET_MEMORY_MAP, set_bytes)] {
                let mut short = Memory::new(ARGUMENT, length - 1);
                short.bytes.fill(0);
                let call = short.call(GUEST, layout, ARGUMENT);
                assert_eq!(memory_op(&world.policy, &mut host, call, command), Err(Errno::EFAULT));
            }
        }
        let mut read_only = memory(&[]);
        read_only
            .put(ARGUMENT, &MemoryMap { nr_entries: 2, buffer: BUFFER }.to_bytes(Layout::Native).unwrap());
        read_only.read_only_from = Some(BUFFER + 40);
        let call = read_only.call(GUEST, Layout::Native, ARGUMENT);
        assert_eq!(memory_op(&world.policy, &mut host, call, XENMEM_MEMORY_MAP), Ok(0));
        read_only.read_only_from = Some(BUFFER + 20);
        let call = read_only.call(GUEST, Layout::Native, ARGUMENT);
        assert_eq!(memory_op(&world.policy, &mut host, call, XENMEM_MEMORY_MAP), Err(Errno::EFAULT));
    });
}

#[test]
fn who_may_set_which_map_in_xens_order() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let entries = [ram(0, 0x1000)];
        assert_eq!(set((world, &mut host), GUEST, DOMID_SELF, &entries), Ok(0));
        assert_eq!(set((world, &mut host), GUEST, GUEST.0, &entries), Ok(0));
        assert_eq!(set((world, &mut host), HARDWARE_DOMAIN, OTHER.0, &entries), Ok(0));
        assert_eq!(set((world, &mut host), GUEST, OTHER.0, &entries), Err(Errno::EPERM));
        for domain in [77, DOMID_IO] {
            assert_eq!(set((world, &mut host), GUEST, domain, &entries), Err(Errno::ESRCH));
        }
        let mut long = memory(&vec![ram(0, 1); MAX_ENTRIES as usize]);
        let asked = (77, MAX_ENTRIES + 1, BUFFER);
        let done = set_in((world, &mut host), GUEST, Layout::Native, &mut long, asked);
        assert_eq!(done, Err(Errno::EINVAL), "the length comes before the domain");
        let asked = (GUEST.0, MAX_ENTRIES, BUFFER);
        assert_eq!(set_in((world, &mut host), GUEST, Layout::Native, &mut long, asked), Ok(0));
        assert_eq!(host.maps[&GUEST].len(), MAX_ENTRIES as usize);
        host.room_for_maps = 1;
        assert_eq!(set_in((world, &mut host), GUEST, Layout::Native, &mut long, asked), Err(Errno::ENOMEM));
    });
}

#[test]
fn no_map_says_that_a_region_of_the_domains_is_ram() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let (start, end) = (OF_A.0 << 12, OF_A.1 << 12);
        let over = [
            ram(start, 1),
            ram(end - 1, 1),
            ram(0, start + 1),
            ram(end - 1, u64::MAX),
            ram(start - 0x1000, 0x10_0000),
            ram(start + 0x1800, 0x10),
        ];
        let beside = [
            ram(0, start),
            ram(end, 0x1000),
            ram(start, 0),
            E820Entry { kind: E820_RESERVED, ..ram(start, end - start) },
        ];
        // As long as it has no device there, all is well.
        for entry in over.into_iter().chain(beside) {
            assert_eq!(set((world, &mut host), HARDWARE_DOMAIN, GUEST.0, &[entry]), Ok(0));
        }
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        let old = host.maps[&GUEST].clone();
        for entry in over {
            let refused = set((world, &mut host), HARDWARE_DOMAIN, GUEST.0, &[ram(0, 1), entry]);
            assert_eq!(refused, Err(Errno::EINVAL), "{entry:x?}");
            let why = host.refused.pop().unwrap();
            assert!(why.starts_with("d1's memory map has RAM at guest frame 0x10"), "{why}");
            assert_eq!(host.maps[&GUEST], old);
            assert_eq!(set((world, &mut host), HARDWARE_DOMAIN, OTHER.0, &[entry]), Ok(0));
        }
        assert_eq!(set((world, &mut host), HARDWARE_DOMAIN, GUEST.0, &beside), Ok(0));
    });
}
