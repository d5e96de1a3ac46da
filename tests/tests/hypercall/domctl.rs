//! Giving devices away and taking them back, by domctl.

use testkit::hypercall::{HYPERVISOR_START, Host, Memory};
use testkit::world::check::Rules;
use testkit::world::devices::{A, B, C, D, E, F, G, H, J, OF_A, OF_B, P, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, World, with_world};
use xen_iommu::abi::{
    AssignDevice, DOMID_INVALID, DOMID_IO, DOMID_SELF, Domctl, Errno, GetDeviceGroup, Layout, Operation,
};
use xen_iommu::hypercall::{GroupMove, domctl};
use xen_iommu::region::iommu_state::IommuState;
use xen_iommu::{DomId, Isolation, Note, Owner, Sbdf};

/// Where the argument is, and an array.
const ARGUMENT: u64 = 0x1000;
const ARRAY: u64 = 0x1800;
const VERSION: u32 = 0x15;
const NOBODY: Sbdf = Sbdf::new(0, 9, 9, 0);

fn memory() -> Memory {
    Memory::new(ARGUMENT, 0x1000)
}

fn assign(device: Sbdf, flags: u32) -> Operation {
    Operation::AssignDevice(of(device, flags))
}

fn test(device: Sbdf, flags: u32) -> Operation {
    Operation::TestAssignDevice(of(device, flags))
}

fn deassign(device: Sbdf, flags: u32) -> Operation {
    Operation::DeassignDevice(of(device, flags))
}

fn of(device: Sbdf, flags: u32) -> AssignDevice {
    AssignDevice { dev: 0, flags, machine_sbdf: device.raw() }
}

fn with(world: &World<'_>, test: impl FnOnce(&mut Asked<'_, '_>)) {
    test(&mut Asked { world, host: Host::new(world.frames), caller: HARDWARE_DOMAIN });
}

/// A toolstack.
struct Asked<'w, 'f> {
    world: &'w World<'f>,
    host: Host<'f>,
    caller: DomId,
}

impl Asked<'_, '_> {
    fn ask_in(&mut self, memory: &mut Memory) -> Result<(), Errno> {
        let call = memory.call(self.caller, Layout::Native, ARGUMENT);
        domctl(&self.world.policy, &mut self.host, call)
    }

    fn ask(&mut self, domain: u16, operation: Operation) -> Result<(), Errno> {
        let mut memory = memory();
        let argument = Domctl { interface_version: VERSION, domain, operation }.to_bytes();
        memory.put(ARGUMENT, &argument);
        let done = self.ask_in(&mut memory);
        assert!(memory.writes.is_empty(), "nothing comes back but the number");
        assert_eq!(memory.reads.len(), 1);
        done
    }

    /// The group's answer: the number, how many, and the entries.
    fn group(&mut self, domain: u16, device: Sbdf, room: u32) -> (Result<(), Errno>, u32, Vec<u32>) {
        let mut memory = memory();
        let of = GetDeviceGroup {
            machine_sbdf: device.raw(),
            max_sdevs: room,
            num_sdevs: 0xcccc_cccc,
            sdev_array: ARRAY,
        };
        let operation = Operation::GetDeviceGroup(of);
        let argument = Domctl { interface_version: VERSION, domain, operation }.to_bytes();
        memory.put(ARGUMENT, &argument);
        let done = self.ask_in(&mut memory);
        let count = memory.word(ARGUMENT + 24);
        let entries: Vec<u32> = (0..64).map(|index| memory.word(ARRAY + 4 * index)).collect();
        let mut entries: Vec<_> = entries.into_iter().take_while(|entry| *entry != 0xcccc_cccc).collect();
        // No order is promised.
        entries.sort_unstable();
        assert_eq!(memory.get(ARGUMENT, 24), &argument[..24], "num_sdevs alone comes back");
        (done, count, entries)
    }
}

#[test]
fn each_case_of_the_table_has_its_number() {
    with_world(machine(), |world| {
        with(world, |asked| {
            let (guest, other) = (GUEST.0, OTHER.0);
            let mut is = |domain, operation, errno| {
                let before = world.snapshot();
                assert_eq!(asked.ask(domain, operation), Err(errno), "d{domain}, {operation:?}");
                assert_eq!(world.snapshot(), before);
            };
            let (unknown, reserved) = (77, DOMID_SELF);
            for domain in [unknown, reserved, DOMID_INVALID] {
                is(domain, assign(A, 0), Errno::ESRCH);
                is(domain, deassign(A, 0), Errno::ESRCH);
            }
            for domain in [unknown, DOMID_IO, reserved] {
                is(domain, test(A, 0), Errno::ESRCH);
                is(domain, Operation::GetDeviceGroup(GetDeviceGroup::default()), Errno::ESRCH);
                is(domain, Operation::Other { cmd: 1, u: [0; 128] }, Errno::ESRCH);
            }
            is(guest, Operation::Other { cmd: 1, u: [0; 128] }, Errno::ENOSYS);
            // Who calls does not give to himself, whatever else is wrong.
            for operation in [assign(NOBODY, 9), test(NOBODY, 9), deassign(NOBODY, 9)] {
                is(HARDWARE_DOMAIN.0, operation, Errno::EINVAL);
            }
            // Not PCI comes before flags.
            let of_tree = AssignDevice { dev: 1, flags: 9, machine_sbdf: A.raw() };
            is(guest, Operation::AssignDevice(of_tree), Errno::ENODEV);
            is(guest, Operation::TestAssignDevice(of_tree), Errno::ENODEV);
            is(guest, Operation::DeassignDevice(of_tree), Errno::ENODEV);
            for flags in [2, 3, 1 << 31] {
                is(guest, assign(NOBODY, flags), Errno::EINVAL);
            }
            for flags in [1, 2] {
                is(guest, test(A, flags), Errno::EINVAL);
                is(guest, deassign(A, flags), Errno::EINVAL);
            }
            is(guest, assign(NOBODY, 0), Errno::ENODEV);
            is(guest, deassign(NOBODY, 0), Errno::ENODEV);
            is(guest, test(NOBODY, 0), Errno::EINVAL);
            is(guest, deassign(A, 0), Errno::ENODEV);
            is(DOMID_IO, deassign(A, 0), Errno::ENODEV);
            // Its region was rejected; a group of which the hardware domain has the rest.
            is(guest, assign(H, 0), Errno::EPERM);
            is(guest, assign(B, 0), Errno::EPERM);
            asked.ask(guest, assign(A, 0)).unwrap();
            let mut is = |domain, operation, errno| {
                assert_eq!(asked.ask(domain, operation), Err(errno), "d{domain}, {operation:?}");
            };
            is(other, assign(A, 1), Errno::EBUSY);
            is(guest, assign(A, 0), Errno::EBUSY);
            is(DOMID_IO, assign(A, 1), Errno::EBUSY);
            is(other, test(A, 0), Errno::EINVAL);
            is(DOMID_INVALID, test(A, 0), Errno::EINVAL);
            is(other, deassign(A, 0), Errno::ENODEV);
            asked.ask(DOMID_INVALID, test(G, 0)).unwrap();
            asked.ask(guest, deassign(A, 0)).unwrap();
            world.check(Rules::STRICT);
        });
    });
}

#[test]
fn what_the_hypervisor_says_of_domains_has_its_number() {
    with_world(machine(), |world| {
        with(world, |asked| {
            asked.host.dying = [GUEST].into();
            assert_eq!(asked.ask(GUEST.0, assign(A, 0)), Err(Errno::EINVAL));
            assert_eq!(asked.ask(GUEST.0, test(A, 0)), Ok(()), "as in Xen");
            asked.host.dying.clear();
            asked.host.movable = [GUEST].into();
            assert_eq!(asked.ask(GUEST.0, assign(NOBODY, 0)), Err(Errno::ENODEV), "the device comes first");
            assert_eq!(asked.ask(GUEST.0, assign(A, 0)), Err(Errno::EXDEV));
            asked.ask(DOMID_IO, assign(A, 0)).unwrap();
            asked.host.movable.clear();
            asked.host.without_iommu = [GUEST].into();
            for operation in [assign(A, 0), test(A, 0), deassign(A, 0), assign(NOBODY, 9)] {
                assert_eq!(asked.ask(GUEST.0, operation), Err(Errno::EOPNOTSUPP));
            }
            assert_eq!(asked.group(GUEST.0, B, 8).0, Err(Errno::EOPNOTSUPP));
            asked.ask(OTHER.0, assign(A, 0)).unwrap();
        });
    });
}

#[test]
fn without_an_iommu_no_command_is_supported() {
    let without = Machine { iommu: IommuState::Off, ..machine() };
    with_world(without, |world| {
        with(world, |asked| {
            for operation in [assign(A, 9), test(A, 9), deassign(NOBODY, 0)] {
                assert_eq!(asked.ask(GUEST.0, operation), Err(Errno::EOPNOTSUPP));
            }
            for operation in [assign(A, 0), deassign(A, 0)] {
                assert_eq!(asked.ask(DOMID_IO, operation), Err(Errno::EOPNOTSUPP));
            }
            assert_eq!(asked.ask(DOMID_INVALID, test(A, 0)), Err(Errno::EOPNOTSUPP));
            assert_eq!(asked.ask(77, assign(A, 0)), Err(Errno::ESRCH), "the domain comes first");
        });
    });
}

#[test]
fn versions_callers_and_memory_are_looked_at_in_xens_order() {
    with_world(machine(), |world| {
        with(world, |asked| {
            let ask = |asked: &mut Asked<'_, '_>, version, domain, length| {
                let operation = assign(A, 0);
                let bytes = Domctl { interface_version: version, domain, operation }.to_bytes();
                let mut memory = Memory::new(ARGUMENT, length);
                memory.bytes.copy_from_slice(&bytes[..length]);
                asked.ask_in(&mut memory)
            };
            asked.caller = GUEST;
            assert_eq!(ask(asked, 0x14, 77, 143), Err(Errno::EFAULT));
            for version in [0, 0x14, 0x19, u32::MAX] {
                assert_eq!(ask(asked, version, 77, 144), Err(Errno::EACCES));
            }
            assert_eq!(ask(asked, 0x15, 77, 144), Err(Errno::ESRCH));
            assert_eq!(ask(asked, 0x15, OTHER.0, 144), Err(Errno::EPERM));
            assert_eq!(asked.ask(OTHER.0, Operation::Other { cmd: 1, u: [0; 128] }), Err(Errno::EPERM));
            asked.host.toolstacks = [GUEST].into();
            for version in 0x15..=0x18 {
                ask(asked, version, OTHER.0, 144).unwrap();
                asked.ask(OTHER.0, deassign(A, 0)).unwrap();
            }
            // An argument in the hypervisor's memory, or one that reaches into it.
            for argument in [HYPERVISOR_START, HYPERVISOR_START - 143, u64::MAX - 8] {
                let mut memory = Memory::new(argument & !0xfff, 0x2000);
                let call = memory.call(GUEST, Layout::Compat, argument);
                assert_eq!(domctl(&world.policy, &mut asked.host, call), Err(Errno::EFAULT));
                assert!(memory.reads.is_empty());
            }
        });
    });
}

#[test]
fn strict_and_relaxed_are_what_the_flag_says() {
    with_world(machine(), |world| {
        with(world, |asked| {
            assert_eq!(asked.ask(GUEST.0, assign(B, 0)), Err(Errno::EPERM));
            assert!(asked.host.refused[0].contains("must stay together"), "{:?}", asked.host.refused);
            asked.ask(GUEST.0, assign(B, 1)).unwrap();
            assert!(matches!(asked.host.notes[..], [Note::LeftWith { .. }]), "{:?}", asked.host.notes);
            assert!(!world.maps(GUEST, OF_B.0));
            world.check(Rules::RELAXED);
        });
    });
}

#[test]
fn xl_gives_a_group_away_by_way_of_domid_io() {
    with_world(machine(), |world| {
        with(world, |asked| {
            for member in [B, C, D] {
                asked.ask(DOMID_IO, assign(member, 1)).unwrap();
                // Again is no error: it waits there.
                asked.ask(DOMID_IO, assign(member, 1)).unwrap();
                assert_eq!(world.owner(member), Some(Owner::Quarantine));
            }
            for member in [B, C, D] {
                asked.ask(DOMID_INVALID, test(member, 0)).unwrap();
                asked.ask(GUEST.0, assign(member, 0)).unwrap();
                world.check(Rules::STRICT);
            }
            assert!(world.maps(GUEST, OF_B.0));
            for member in [C, B, D] {
                asked.ask(GUEST.0, deassign(member, 0)).unwrap();
                assert_eq!(world.owner(member), Some(Owner::Quarantine));
            }
            for member in [C, B, D] {
                asked.ask(DOMID_IO, deassign(member, 0)).unwrap();
                assert_eq!(world.owner(member), Some(Owner::Domain(HARDWARE_DOMAIN)));
            }
            world.check(Rules::STRICT);
        });
    });
}

#[test]
fn a_group_moves_whole_where_the_hypervisor_says_so() {
    with_world(machine(), |world| {
        with(world, |asked| {
            asked.host.group_move = GroupMove::Whole;
            asked.ask(GUEST.0, assign(B, 0)).unwrap();
            for member in [B, C, D] {
                assert_eq!(world.owner(member), Some(Owner::Domain(GUEST)));
                // The toolstack goes on to name the others.
                asked.ask(GUEST.0, assign(member, 0)).unwrap();
                assert_eq!(asked.ask(OTHER.0, assign(member, 0)), Err(Errno::EBUSY));
            }
            assert!(asked.host.notes.contains(&Note::MovedAlong(C)), "{:?}", asked.host.notes);
            // To quarantine alone.
            asked.ask(DOMID_IO, assign(E, 1)).unwrap();
            assert_eq!(world.owner(J), Some(Owner::Domain(HARDWARE_DOMAIN)));
            assert_eq!(world.owner(E), Some(Owner::Quarantine));
        });
    });
}

#[test]
fn the_group_is_who_belongs_together_as_xen_lays_it_out() {
    with_world(machine(), |world| {
        with(world, |asked| {
            let entry = |device: Sbdf| device.raw() << 8;
            // Whoever has them, and whichever domain is named.
            asked.ask(DOMID_IO, assign(C, 1)).unwrap();
            for domain in [HARDWARE_DOMAIN.0, GUEST.0] {
                assert_eq!(asked.group(domain, B, 8), (Ok(()), 2, vec![entry(C), entry(D)]));
            }
            assert_eq!(asked.group(0, E, 2), (Ok(()), 2, vec![entry(J), entry(F)]));
            assert_eq!(entry(E), 0x01_0800, "bus in bits 16 to 23, device and function below");
            // What does not fit is left out.
            let (done, count, listed) = asked.group(0, B, 1);
            assert_eq!((done, count), (Ok(()), 1));
            assert!(listed == [entry(C)] || listed == [entry(D)], "{listed:x?}");
            for room in [0, 1 << 31, u32::MAX] {
                assert_eq!(asked.group(0, B, room), (Ok(()), 0, vec![]));
            }
            assert_eq!(asked.group(0, B, i32::MAX.unsigned_abs()).1, 2);
            // Alone, and not there.
            for device in [A, G, P, NOBODY, Sbdf::new(7, 0, 5, 0)] {
                assert_eq!(asked.group(0, device, 8), (Ok(()), 0, vec![]));
            }
        });
    });
}

#[test]
fn a_group_of_many_is_listed_whole() {
    // More than are looked up at once, in a group for want of isolation; the last in another segment.
    let mut devices: Vec<_> =
        (0..80).map(|n| xen_iommu::pci::Function::endpoint(Sbdf::new(0, 2, n / 8, n % 8))).collect();
    let first = devices[0].sbdf;
    let region = testkit::world::Reserved::of(0x1000, 0x1001, &[first, Sbdf::new(1, 0, 0, 0)]);
    devices.iter_mut().for_each(|device| device.isolation = first);
    devices.push(xen_iommu::pci::Function::endpoint(Sbdf::new(1, 0, 0, 0)));
    let many = Machine { isolation: Isolation::Require, ..Machine::new(devices, vec![region]) };
    with_world(
        Machine { capacity: xen_iommu::Capacity { requester_ids: 200, ..many.capacity }, ..many },
        |world| {
            with(world, |asked| {
                let all = |asked: u8, room: u8| -> Vec<u32> {
                    let others = (0..80_u8).filter(|n| *n != asked);
                    others.take(room.into()).map(|n| Sbdf::new(0, 2, n / 8, n % 8).raw() << 8).collect()
                };
                for room in [64_u8, 63, 33, 32, 31] {
                    let (done, count, mut entries) = asked.group(0, first, room.into());
                    assert_eq!((done, count, entries.len()), (Ok(()), room.into(), usize::from(room)));
                    entries.dedup();
                    assert_eq!(entries.len(), usize::from(room));
                    assert!(entries.iter().all(|entry| all(0, 79).contains(entry)));
                }
                let (_, count, _) = asked.group(0, first, 200);
                assert_eq!(count, 79);
                assert_eq!(
                    asked.group(0, Sbdf::new(1, 0, 0, 0), 8).1,
                    0,
                    "no entry can name another segment"
                );
            });
        },
    );
}

#[test]
fn a_group_that_cannot_be_written_has_none() {
    with_world(machine(), |world| {
        with(world, |asked| {
            let ask = |asked: &mut Asked<'_, '_>, array, read_only_from| {
                let mut memory = memory();
                memory.read_only_from = read_only_from;
                let of =
                    GetDeviceGroup { machine_sbdf: B.raw(), max_sdevs: 8, num_sdevs: 7, sdev_array: array };
                let operation = Operation::GetDeviceGroup(of);
                memory.put(ARGUMENT, &Domctl { interface_version: VERSION, domain: 0, operation }.to_bytes());
                let done = asked.ask_in(&mut memory);
                (done, memory.word(ARGUMENT + 24))
            };
            for array in [0x3000, 0x2000 - 4, HYPERVISOR_START, u64::MAX - 2] {
                assert_eq!(ask(asked, array, None), (Err(Errno::EFAULT), 0), "{array:#x}");
            }
            assert_eq!(ask(asked, ARRAY, Some(ARRAY + 4)), (Err(Errno::EFAULT), 0));
            assert_eq!(ask(asked, ARRAY, Some(ARGUMENT)), (Err(Errno::EFAULT), 7));
        });
    });
}

#[test]
fn a_failure_of_the_hardware_has_its_number_and_changes_nothing() {
    with_world(machine(), |world| {
        with(world, |asked| {
            asked.ask(DOMID_IO, assign(A, 0)).unwrap();
            let before = world.snapshot();
            world.fail_after(0);
            assert_eq!(asked.ask(GUEST.0, assign(A, 0)), Err(Errno::ETIMEDOUT));
            assert_eq!(world.snapshot(), before);
            assert_eq!(asked.host.refused.len(), 1);
            assert!(!world.maps(GUEST, OF_A.0));
        });
    });
}
