//! Devices that come and go, by physdev_op.

use testkit::hypercall::{HYPERVISOR_START, Host, Memory};
use testkit::world::check::Rules;
use testkit::world::devices::{A, ALL, G, PF, VF1, VF2, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, World, with_world};
use xen_iommu::abi::physdev::{
    PHYSDEVOP_MANAGE_PCI_ADD, PHYSDEVOP_MANAGE_PCI_ADD_EXT, PHYSDEVOP_MANAGE_PCI_REMOVE,
    PHYSDEVOP_PCI_DEVICE_ADD, PHYSDEVOP_PCI_DEVICE_REMOVE,
};
use xen_iommu::abi::{Errno, Layout, ManagePci, ManagePciExt, PciDevice, PciDeviceAdd};
use xen_iommu::hypercall::{Described, physdev_op};
use xen_iommu::{DomId, Mode, Owner, Sbdf};

const ARGUMENT: u64 = 0x1000;
const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);

fn ask_as<'f>(
    (world, host): (&World<'f>, &mut Host<'f>),
    caller: DomId,
    command: u32,
    bytes: &[u8],
) -> Result<(), Errno> {
    let mut memory = Memory::new(ARGUMENT, bytes.len());
    memory.put(ARGUMENT, bytes);
    // The upper half of the register is nobody's.
    let command = u64::from(command) | 7 << 32;
    let done = physdev_op(&world.policy, host, memory.call(caller, Layout::Native, ARGUMENT), command);
    assert!(memory.writes.is_empty());
    done
}

fn ask<'f>(on: (&World<'f>, &mut Host<'f>), command: u32, bytes: &[u8]) -> Result<(), Errno> {
    ask_as(on, HARDWARE_DOMAIN, command, bytes)
}

fn add(device: Sbdf, flags: u32, physical: Sbdf) -> Vec<u8> {
    let add = PciDeviceAdd {
        seg: device.segment(),
        bus: device.bus(),
        devfn: device.devfn(),
        flags,
        physfn_bus: physical.bus(),
        physfn_devfn: physical.devfn(),
    };
    add.to_bytes(Layout::Native).unwrap().to_vec()
}

fn named(device: Sbdf) -> Vec<u8> {
    PciDevice::from(device).to_bytes(Layout::Native).unwrap().to_vec()
}

fn managed(device: Sbdf) -> Vec<u8> {
    let named = ManagePci { bus: device.bus(), devfn: device.devfn() };
    named.to_bytes(Layout::Native).unwrap().to_vec()
}

fn managed_ext(device: Sbdf, is_extfn: u32, is_virtfn: u32, physical: Sbdf) -> Vec<u8> {
    let named = ManagePciExt {
        bus: device.bus(),
        devfn: device.devfn(),
        is_extfn,
        is_virtfn,
        physfn_bus: physical.bus(),
        physfn_devfn: physical.devfn(),
    };
    named.to_bytes(Layout::Native).unwrap().to_vec()
}

#[test]
fn a_device_comes_and_goes_by_each_of_the_commands() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        for device in ALL {
            let on = (world, &mut host);
            // Which are there already.
            ask(on, PHYSDEVOP_PCI_DEVICE_ADD, &add(device, 0, device)).unwrap();
        }
        assert!(host.described.is_empty());
        let ways = [
            (PHYSDEVOP_PCI_DEVICE_ADD, add(A, 0, A), PHYSDEVOP_PCI_DEVICE_REMOVE, named(A)),
            (PHYSDEVOP_MANAGE_PCI_ADD, managed(A), PHYSDEVOP_MANAGE_PCI_REMOVE, managed(A)),
            (PHYSDEVOP_MANAGE_PCI_ADD_EXT, managed_ext(A, 0, 0, A), PHYSDEVOP_MANAGE_PCI_REMOVE, managed(A)),
        ];
        for (come, come_bytes, go, go_bytes) in ways {
            ask((world, &mut host), go, &go_bytes).unwrap();
            assert_eq!(world.owner(A), None);
            assert_eq!(ask((world, &mut host), go, &go_bytes), Err(Errno::ENODEV));
            ask((world, &mut host), come, &come_bytes).unwrap();
            assert_eq!(world.owner(A), Some(HOME));
            assert_eq!(host.described.pop(), Some((A, Described::default())));
            world.check(Rules::STRICT);
        }
        // In another segment, which the old commands cannot name.
        let far = Sbdf::new(3, 4, 5, 6);
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &add(far, 1, far)).unwrap();
        let extended = Described { is_extended: true, ..Described::default() };
        assert_eq!(host.described.pop(), Some((far, extended)));
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_REMOVE, &named(far)).unwrap();
        assert_eq!(world.owner(far), None);
        // A guest's goes as well.
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_REMOVE, &named(A)).unwrap();
        assert_eq!(world.owner(A), None);
    });
}

#[test]
fn whose_virtual_function_it_is_comes_first() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        for function in [VF1, VF2, PF] {
            world.remove(function).unwrap();
        }
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &add(VF1, 2, PF)).unwrap();
        let of_pf = Described { physical: Some(PF), ..Described::default() };
        assert_eq!(host.described, [(PF, Described::default()), (VF1, of_pf)]);
        assert_eq!((world.owner(PF), world.owner(VF1)), (Some(HOME), Some(HOME)));
        // It is there now.
        ask((world, &mut host), PHYSDEVOP_MANAGE_PCI_ADD_EXT, &managed_ext(VF2, 1, 1, PF)).unwrap();
        assert_eq!(host.described[2..], [(VF2, Described { is_extended: true, ..of_pf })]);
        // Without the flag the place of a physical function is not looked at.
        world.remove(G).unwrap();
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &add(G, 0, PF)).unwrap();
        assert_eq!(host.described[3..], [(G, Described::default())]);
        world.remove(G).unwrap();
        ask((world, &mut host), PHYSDEVOP_MANAGE_PCI_ADD_EXT, &managed_ext(G, 0, 0, PF)).unwrap();
        assert_eq!(host.described[4..], [(G, Described::default())]);
    });
}

#[test]
fn the_proximity_domain_is_read_where_there_is_one() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        world.remove(G).unwrap();
        // Without the flag it need not be there.
        assert_eq!(ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &add(G, 4, G)), Err(Errno::EFAULT));
        assert_eq!(world.owner(G), None);
        let bytes = [&add(G, 4, G)[..], &7_u32.to_le_bytes()].concat();
        ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &bytes).unwrap();
        let near = Described { proximity: Some(7), ..Described::default() };
        assert_eq!(host.described, [(G, near)]);
    });
}

#[test]
fn each_case_of_the_table_has_its_number() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let nobody = Sbdf::new(0, 9, 9, 0);
        let commands = [
            (PHYSDEVOP_PCI_DEVICE_ADD, add(nobody, 0, nobody)),
            (PHYSDEVOP_PCI_DEVICE_REMOVE, named(A)),
            (PHYSDEVOP_MANAGE_PCI_ADD, managed(nobody)),
            (PHYSDEVOP_MANAGE_PCI_REMOVE, managed(A)),
            (PHYSDEVOP_MANAGE_PCI_ADD_EXT, managed_ext(nobody, 0, 0, nobody)),
        ];
        let before = world.snapshot();
        for (command, bytes) in commands {
            // The argument comes before who asks.
            let short = &bytes[..bytes.len() - 1];
            assert_eq!(ask_as((world, &mut host), GUEST, command, short), Err(Errno::EFAULT));
            assert_eq!(ask_as((world, &mut host), GUEST, command, &bytes), Err(Errno::EPERM));
            let mut memory = Memory::new(HYPERVISOR_START, 64);
            let call = memory.call(HARDWARE_DOMAIN, Layout::Native, HYPERVISOR_START);
            assert_eq!(physdev_op(&world.policy, &mut host, call, command.into()), Err(Errno::EFAULT));
            assert_eq!(ask((world, &mut host), command + 0x100, &bytes), Err(Errno::ENOSYS));
        }
        for (is_extfn, is_virtfn) in [(2, 0), (0, 2), (u32::MAX, 1)] {
            let bytes = managed_ext(A, is_extfn, is_virtfn, A);
            let command = PHYSDEVOP_MANAGE_PCI_ADD_EXT;
            assert_eq!(ask_as((world, &mut host), GUEST, command, &bytes), Err(Errno::EINVAL));
        }
        assert_eq!(world.snapshot(), before);
        assert!(host.refused.is_empty());
    });
}

#[test]
fn a_device_without_a_place_is_enomem_and_said() {
    with_world(machine(), |world| {
        let mut host = Host::new(world.frames);
        let mut failed = None;
        for number in 0..32 {
            let device = Sbdf::new(0, 8, number, 0);
            if let Err(error) = ask((world, &mut host), PHYSDEVOP_PCI_DEVICE_ADD, &add(device, 0, device)) {
                failed = Some((device, error));
                break;
            }
        }
        let (device, error) = failed.unwrap();
        assert_eq!(error, Errno::ENOMEM);
        assert_eq!(world.owner(device), None);
        assert_eq!(host.refused.len(), 1);
    });
}
