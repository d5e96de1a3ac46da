//! `XENMEM_reserved_device_memory_map` by its number: who is told what, and that nobody is waited for.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use testkit::hypercall::{Host, Memory};
use testkit::world::devices::{A, B, C, E, OF_A, OF_B, OF_D, OF_E, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, World, with_world};
use xen_iommu::abi::memory::{MEMOP_EXTENT_SHIFT, XENMEM_RDM_ALL, XENMEM_RESERVED_DEVICE_MEMORY_MAP};
use xen_iommu::abi::{Errno, Layout, ReservedDeviceMemory, ReservedDeviceMemoryMap};
use xen_iommu::hypercall::memory_op;
use xen_iommu::pci::Function;
use xen_iommu::{DomId, Mode, Note, Sbdf};

const ARGUMENT: u64 = 0x1000;
const BUFFER: u64 = 0x1100;
/// Longer than any machine takes; what waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is answered to `caller` about all, or about a device: first frame and number of frames.
fn ask<'f>(
    (world, host): (&World<'f>, &mut Host<'f>),
    caller: DomId,
    layout: Layout,
    device: Option<Sbdf>,
) -> Vec<(u64, u64)> {
    let mut memory = Memory::new(ARGUMENT, 0x1000);
    let map = ReservedDeviceMemoryMap {
        flags: if device.is_none() { XENMEM_RDM_ALL } else { 0 },
        nr_entries: 64,
        buffer: BUFFER,
        pci: device.unwrap_or(A).into(),
    };
    memory.put(ARGUMENT, &map.to_bytes(layout).unwrap());
    let call = memory.call(caller, layout, ARGUMENT);
    assert_eq!(memory_op(&world.policy, host, call, XENMEM_RESERVED_DEVICE_MEMORY_MAP), Ok(0));
    let size = ReservedDeviceMemory::size(layout);
    let entries = (0..u64::from(memory.word(ARGUMENT + 4))).map(|index| {
        let bytes = memory.get(BUFFER + index * size as u64, size);
        let entry = ReservedDeviceMemory::from_bytes(bytes, layout).unwrap();
        (entry.start_pfn, entry.nr_pages)
    });
    entries.collect()
}

#[test]
fn a_toolstack_sees_all_and_a_guest_what_its_own_devices_have() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        for layout in [Layout::Native, Layout::Compat] {
            let all = ask((world, &mut host), HARDWARE_DOMAIN, layout, None);
            assert_eq!(all.len(), 5);
            assert!(all.contains(&(OF_B.0, OF_D.1 - OF_B.0)), "{all:x?}");
            assert_eq!(ask((world, &mut host), GUEST, layout, None), []);
            assert_eq!(ask((world, &mut host), GUEST, layout, Some(A)), []);
            world.assign(&[A], GUEST, Mode::Strict).unwrap();
            let of_a = [(OF_A.0, OF_A.1 - OF_A.0)];
            assert_eq!(ask((world, &mut host), GUEST, layout, None), of_a);
            assert_eq!(ask((world, &mut host), GUEST, layout, Some(A)), of_a);
            assert_eq!(ask((world, &mut host), OTHER, layout, Some(A)), []);
            // One that the hypervisor calls a toolstack's.
            host.toolstacks = [OTHER].into();
            assert_eq!(ask((world, &mut host), OTHER, layout, None), all);
            host.toolstacks.clear();
            world.deassign(&[A], GUEST).unwrap();
        }
        // With those that hardware cannot tell from it.
        let of_e = ask((world, &mut host), HARDWARE_DOMAIN, Layout::Native, Some(E));
        assert_eq!(of_e[0], (OF_E.0, OF_E.1 - OF_E.0));
        assert_eq!(of_e.len(), 2);
    });
}

#[test]
fn the_command_is_what_xen_takes_from_the_register() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let mut ask = |layout, command| {
            let mut memory = Memory::new(ARGUMENT, 0x100);
            memory.bytes.fill(0);
            memory_op(&world.policy, &mut host, memory.call(HARDWARE_DOMAIN, layout, ARGUMENT), command)
        };
        let query = XENMEM_RESERVED_DEVICE_MEMORY_MAP;
        let extent = 1 << MEMOP_EXTENT_SHIFT;
        for layout in [Layout::Native, Layout::Compat] {
            assert_eq!(ask(layout, query), Ok(0));
            assert_eq!(ask(layout, query | extent), Err(Errno::EINVAL));
            for unknown in [0, 8, 10, 63] {
                assert_eq!(ask(layout, unknown), Err(Errno::ENOSYS));
            }
            // The two maps know no extent.
            for map in [9, 13] {
                assert_eq!(ask(layout, map | extent), Err(Errno::ENOSYS));
            }
        }
        assert_eq!(ask(Layout::Native, query | 1 << 32), Err(Errno::EINVAL));
        assert_eq!(ask(Layout::Compat, query | 1 << 32), Ok(0));
    });
}

/// Asks on another thread, and waits for the answers here.
fn answers_beside(world: &World<'_>) -> usize {
    thread::scope(|scope| {
        let (answered, answers) = mpsc::channel();
        scope.spawn(move || {
            let mut host = Host::new(world.frames);
            let all = ask((world, &mut host), HARDWARE_DOMAIN, Layout::Native, None);
            let of_b = ask((world, &mut host), HARDWARE_DOMAIN, Layout::Compat, Some(B));
            let of_e = ask((world, &mut host), GUEST, Layout::Native, Some(E));
            let _ = answered.send(all.len() + of_b.len() + of_e.len());
        });
        answers.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            // The scope would wait for ever.
            eprintln!("the query waits for a lock: {error}");
            std::process::abort();
        })
    })
}

#[test]
fn the_query_waits_for_no_lock_that_an_assignment_holds() {
    with_world(machine(), |world| {
        // The ownership lock, and a domain's tables below it.
        let held = world
            .policy
            .with_control(|_| world.policy.with_space(HARDWARE_DOMAIN, |_| answers_beside(world)).unwrap());
        assert_eq!(held, 6);
        // In the midst of an assignment, with what that holds.
        let mut beside = Vec::new();
        let mut hear = |note: Note| {
            assert!(matches!(note, Note::LeftWith { .. }), "{note}");
            beside.push(answers_beside(world));
        };
        world.policy.assign(&[B], GUEST, Mode::Relaxed, &mut hear).unwrap();
        assert_eq!(beside, [6]);
    });
}

#[test]
fn many_regions_are_told_whole_or_up_to_the_fault() {
    let regions = (0..100).map(|index| 0x1000 + 2 * index);
    let reserved = regions.clone().zip([A, B, E, C].into_iter().cycle());
    let reserved = reserved.map(|(start, device)| Reserved::of(start, start + 1, &[device])).collect();
    with_world(Machine::new([A, B, C, E].map(Function::endpoint).to_vec(), reserved), |world| {
        let mut host = Host::new(world.frames);
        for layout in [Layout::Native, Layout::Compat] {
            let size = ReservedDeviceMemory::size(layout) as u64;
            for (room, there) in
                [(100, 100), (64, 64), (101, 100), (7, 64), (100, 99), (100, 65), (100, 32), (100, 1)]
            {
                let mut memory = Memory::new(ARGUMENT, 0x100 + usize::try_from(there * size).unwrap());
                let map = ReservedDeviceMemoryMap {
                    flags: XENMEM_RDM_ALL,
                    nr_entries: room,
                    buffer: BUFFER,
                    pci: A.into(),
                };
                memory.put(ARGUMENT, &map.to_bytes(layout).unwrap());
                let call = memory.call(HARDWARE_DOMAIN, layout, ARGUMENT);
                let done = memory_op(&world.policy, &mut host, call, XENMEM_RESERVED_DEVICE_MEMORY_MAP);
                let (expected, count) = match (u64::from(room), there) {
                    (room, there) if room.min(100) > there => {
                        (Err(Errno::EFAULT), u32::try_from(room).unwrap())
                    }
                    (room, _) if room < 100 => (Err(Errno::ENOBUFS), 100),
                    _ => (Ok(0), 100),
                };
                assert_eq!((done, memory.word(ARGUMENT + 4)), (expected, count), "{room} {there}");
                for (index, start) in (0..there.min(room.into())).zip(regions.clone()) {
                    let bytes = memory.get(BUFFER + index * size, size as usize);
                    let entry = ReservedDeviceMemory::from_bytes(bytes, layout).unwrap();
                    assert_eq!((entry.start_pfn, entry.nr_pages), (start, 1));
                }
                let behind = memory.get(BUFFER, usize::try_from(there * size).unwrap());
                let behind = behind.iter().skip(room as usize * size as usize);
                assert!(behind.take(512).all(|byte| *byte == 0xcc));
            }
        }
    });
}
