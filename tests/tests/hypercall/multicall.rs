//! Several calls in one.

use testkit::hypercall::trial::serve;
use testkit::hypercall::{HYPERVISOR_START, Host, Memory};
use testkit::world::devices::machine;
use testkit::world::{HARDWARE_DOMAIN, with_world};
use xen_iommu::abi::{
    Errno, HYPERVISOR_MEMORY_OP, HYPERVISOR_MULTICALL, Layout, MulticallEntry, ReservedDeviceMemoryMap,
};
use xen_iommu::hypercall::multicall;

const LIST: u64 = 0x1000;
const BOTH: [Layout; 2] = [Layout::Native, Layout::Compat];

fn list(layout: Layout, entries: &[MulticallEntry]) -> Memory {
    let size = MulticallEntry::size(layout);
    let mut memory = Memory::new(LIST, 0x1000);
    for (address, entry) in (LIST..).step_by(size).zip(entries) {
        memory.put(address, &entry.to_bytes(layout).unwrap());
    }
    memory
}

fn entry(op: u64) -> MulticallEntry {
    MulticallEntry { op, result: 0x5a, args: [op, 2, 3, 4, 5, 6] }
}

#[test]
fn each_call_is_made_and_its_result_written_where_it_belongs() {
    for layout in BOTH {
        let mut memory = list(layout, &[entry(12), entry(33), entry(13)]);
        let mut made = Vec::new();
        let call = memory.call(HARDWARE_DOMAIN, layout, LIST);
        // Of the count 32 bits are looked at.
        let done = multicall(call, 3 | 1 << 32, |_, op, args| {
            made.push((op, args));
            i64::try_from(op).unwrap() - 20
        });
        assert_eq!(done, Ok(()));
        assert_eq!(made, [12, 33, 13].map(|op| (op, [op, 2, 3, 4, 5, 6])));
        let size = MulticallEntry::size(layout);
        for (address, op) in (LIST..).step_by(size).zip([12, 33, 13]) {
            let after = MulticallEntry::from_bytes(memory.get(address, size), layout).unwrap();
            assert_eq!(after, MulticallEntry { result: i64::try_from(op).unwrap() - 20, ..entry(op) });
        }
        assert!(memory.get(LIST + 3 * size as u64, 64).iter().all(|byte| *byte == 0xcc));
        assert!(memory.writes.iter().all(|write| write.bytes.len() == layout.word_size()));
    }
}

#[test]
fn a_list_that_cannot_be_read_or_written_ends_there() {
    for layout in BOTH {
        let size = MulticallEntry::size(layout);
        let mut made = 0;
        let mut run = |memory: &mut Memory, list: u64, count: u64| {
            made = 0;
            let done = multicall(memory.call(HARDWARE_DOMAIN, layout, list), count, |_, _, _| {
                made += 1;
                0
            });
            (done, made)
        };
        let mut memory = Memory::new(LIST, 3 * size - 1);
        assert_eq!(run(&mut memory, LIST, 3), (Err(Errno::EFAULT), 2));
        memory.read_only_from = Some(LIST + size as u64);
        assert_eq!(run(&mut memory, LIST, 3), (Err(Errno::EFAULT), 2), "made, and its result lost");
        // A list that reaches into the hypervisor's memory is no list at all.
        let last = HYPERVISOR_START - size as u64;
        let mut high = Memory::new(last - 64, 64 + size);
        assert_eq!(run(&mut high, last, 1), (Ok(()), 1));
        assert_eq!(run(&mut high, last, 2), (Err(Errno::EFAULT), 0));
        assert_eq!(run(&mut high, u64::MAX - 8, 1), (Err(Errno::EFAULT), 0));
        assert_eq!(run(&mut high, 0, 0), (Ok(()), 0));
        for nowhere in [HYPERVISOR_START, HYPERVISOR_START + 8] {
            assert_eq!(run(&mut high, nowhere, 0), (Ok(()), 0));
        }
    }
}

#[test]
fn libxenctrls_query_comes_in_one() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let argument = LIST + 0x800;
        let query = MulticallEntry { op: HYPERVISOR_MEMORY_OP, result: 0, args: [27, argument, 0, 0, 0, 0] };
        let within = MulticallEntry { op: HYPERVISOR_MULTICALL, ..query };
        let mut memory = list(Layout::Native, &[query, within]);
        let map = ReservedDeviceMemoryMap { flags: 1, ..ReservedDeviceMemoryMap::default() };
        memory.put(argument, &map.to_bytes(Layout::Native).unwrap());
        let call = memory.call(HARDWARE_DOMAIN, Layout::Native, LIST);
        assert_eq!(serve(world, &mut host, call, (HYPERVISOR_MULTICALL, 2)), 0);
        let result = |index: u64| {
            MulticallEntry::from_bytes(memory.get(LIST + index * 64, 64), Layout::Native).unwrap().result
        };
        assert_eq!([result(0), result(1)], [Errno::ENOBUFS.result(), Errno::EINVAL.result()]);
        assert_eq!(memory.word(argument + 4), 5);
    });
}
