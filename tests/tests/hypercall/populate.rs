//! Memory for a domain, kept off its devices' regions.

use p2m::{Gfn, GfnRange};
use testkit::hypercall::{HYPERVISOR_START, Host, Memory};
use testkit::world::devices::{A, B, OF_A, OF_B, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, World, with_world};
use xen_iommu::abi::memory::{MEMOP_EXTENT_SHIFT, XENMEM_POPULATE_PHYSMAP};
use xen_iommu::abi::{DOMID_IO, DOMID_SELF, Layout, MemoryReservation};
use xen_iommu::hypercall::{memory_op, populate_physmap};
use xen_iommu::{DomId, Mode};

const ARGUMENT: u64 = 0x1000;
const LIST: u64 = 0x1100;

fn asked(domain: u16, count: u64, order: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: LIST,
        nr_extents: count,
        extent_order: order,
        mem_flags: 5,
        domid: domain,
    }
}

/// How many extents were done.
fn populate<'f>(
    (world, host): (&World<'f>, &mut Host<'f>),
    (caller, layout, from): (DomId, Layout, u64),
    asked: MemoryReservation,
    frames: &[u64],
) -> u64 {
    let mut memory = Memory::new(ARGUMENT, 0x1000);
    memory.put(ARGUMENT, &asked.to_bytes(layout).unwrap());
    for (address, frame) in (LIST..).step_by(layout.word_size()).zip(frames) {
        memory.put(address, &frame.to_le_bytes()[..layout.word_size()]);
    }
    let call = memory.call(caller, layout, ARGUMENT);
    let command = XENMEM_POPULATE_PHYSMAP | from << MEMOP_EXTENT_SHIFT;
    let done = memory_op(&world.policy, host, call, command).unwrap();
    assert!(memory.writes.is_empty());
    done
}

fn range(start: u64, frames: u64) -> GfnRange {
    GfnRange::with_len(Gfn::new(start), frames).unwrap()
}

#[test]
fn extents_are_done_in_order_and_counted() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        for layout in [Layout::Native, Layout::Compat] {
            for (domid, caller, domain) in
                [(GUEST.0, HARDWARE_DOMAIN, GUEST), (DOMID_SELF, GUEST, GUEST), (OTHER.0, OTHER, OTHER)]
            {
                let done = populate((world, &mut host), (caller, layout, 0), asked(domid, 3, 2), &[8, 4, 16]);
                assert_eq!(done, 3);
                let all = [range(8, 4), range(4, 4), range(16, 4)].map(|gfns| (domain, gfns, 5));
                assert_eq!(host.populated, all);
                host.populated.clear();
                // From the second on.
                let done = populate((world, &mut host), (caller, layout, 1), asked(domid, 3, 2), &[8, 4, 16]);
                assert_eq!((done, &host.populated[..]), (3, &all[1..]));
                host.populated.clear();
            }
        }
        // Memory for two.
        host.extents_left = 2;
        let caller = (HARDWARE_DOMAIN, Layout::Native, 0);
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 3, 0), &[1, 2, 3]), 2);
    });
}

#[test]
fn what_is_wrong_does_nothing_and_has_no_number() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let native = (HARDWARE_DOMAIN, Layout::Native, 0);
        let list = [1, 2, 3, 4];
        let good = asked(GUEST.0, 2, 0);
        let wrong = [
            (native, asked(77, 2, 0)),
            (native, asked(DOMID_IO, 2, 0)),
            ((GUEST, Layout::Native, 0), asked(OTHER.0, 2, 0)),
            ((GUEST, Layout::Native, 0), asked(GUEST.0, 2, 10)),
            (native, asked(GUEST.0, 2, 19)),
            (native, asked(GUEST.0, 2, 64)),
            (native, asked(GUEST.0, 2, u32::MAX)),
            (native, asked(GUEST.0, 1 << 26, 0)),
            (native, asked(GUEST.0, u64::MAX, 0)),
            (native, asked(GUEST.0, 0, 0)),
            (native, MemoryReservation { extent_start: HYPERVISOR_START, ..good }),
            (native, MemoryReservation { extent_start: HYPERVISOR_START - 8, ..good }),
            (native, MemoryReservation { extent_start: HYPERVISOR_START - 15, ..good }),
            (native, MemoryReservation { extent_start: u64::MAX - 8, ..good }),
            (native, MemoryReservation { extent_start: 0x9000, ..good }),
            ((HARDWARE_DOMAIN, Layout::Native, 2), good),
        ];
        for (caller, asked) in wrong {
            assert_eq!(populate((world, &mut host), caller, asked, &list), caller.2, "{asked:x?}");
            assert_eq!(host.populated, []);
        }
        assert_eq!(populate((world, &mut host), (GUEST, Layout::Native, 0), asked(GUEST.0, 2, 9), &list), 2);
        assert_eq!(populate((world, &mut host), native, asked(GUEST.0, 2, 18), &list), 2);
        // Beyond what can be counted on the one hand, and as far as it goes on the other.
        assert_eq!(populate((world, &mut host), native, asked(GUEST.0, 1, 1), &[u64::MAX]), 0);
        let most = asked(GUEST.0, (1 << 26) - 1, 0);
        host.populated.clear();
        assert_eq!(populate((world, &mut host), native, most, &list), (0x1000 - 0x100) / 8);
        for (layout, length) in [(Layout::Native, 32), (Layout::Compat, 20)] {
            let mut short = Memory::new(ARGUMENT, length - 1);
            short.bytes.fill(0);
            let call = short.call(HARDWARE_DOMAIN, layout, ARGUMENT);
            assert_eq!(populate_physmap(&world.policy, &mut host, call, 7), 7);
        }
    });
}

#[test]
fn regions_of_the_domains_devices_are_kept_free() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let caller = (HARDWARE_DOMAIN, Layout::Native, 0);
        let list = [1, OF_A.1 - 1, 2];
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 3, 0), &list), 3, "nobody's yet");
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 3, 0), &list), 1);
        let why = host.refused.pop().unwrap();
        assert!(why.starts_with("d1 was to get memory at guest frames 0x100f to 0x1010, where"), "{why}");
        // Up to it and from its end on; a large extent around it is refused.
        let beside = [OF_A.0 - 1, OF_A.1];
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 2, 0), &beside), 2);
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 1, 9), &[OF_A.0]), 0);
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 1, 4), &[OF_A.0 - 16]), 1);
        // Another domain has none there.
        assert_eq!(populate((world, &mut host), caller, asked(OTHER.0, 3, 0), &list), 3);
        world.deassign(&[A], GUEST).unwrap();
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 3, 0), &list), 3);
        // A region that is another's is not the guest's by a relaxed assignment.
        world.assign(&[B], GUEST, Mode::Relaxed).unwrap();
        assert_eq!(populate((world, &mut host), caller, asked(GUEST.0, 1, 0), &[OF_B.0]), 1);
    });
}
