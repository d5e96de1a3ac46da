//! From a table's bytes and the `rmrr=` option to registered regions and the hypercall's answers: one bad entry costs one entry.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails ends in a panic"
)]

use std::mem::MaybeUninit;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use acpi_dmar::verdict::{KeepRam, MemoryKind, MemoryRegion};
use acpi_dmar::{Dmar, DrhdFlags};
use xen_iommu::abi::{Abi, Errno};
use xen_iommu::hypercall::{Caller, GuestFault, GuestMemory, reserved_device_memory_map};
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::registry::{Registry, RegistryBuilder, Scope};
use xen_iommu::{Arena, DomId, Sbdf};

const IGD: Sbdf = Sbdf::new(0, 0, 2, 0);
const USB: Sbdf = Sbdf::new(0, 0, 0x14, 0);
const BRIDGE: Sbdf = Sbdf::new(0, 0, 0x1c, 0);
const BELOW: Sbdf = Sbdf::new(0, 3, 0, 0);

/// 00:02.0, 00:14.0, and 00:1c.0, a bridge to buses 3 to 5 with 03:00.0 below it.
struct Pci;

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Pci {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let sbdf = Sbdf::from(address);
        match (sbdf, offset) {
            (IGD | USB | BELOW, 0) => 0x1234_8086,
            (BRIDGE, 0) => 0x5678_8086,
            (BRIDGE, 0x8) => 0x0604_0000,
            (BRIDGE, 0xc) => 0x0001_0000,
            (BRIDGE, 0x18) => 0x0005_0300,
            (IGD | USB | BELOW | BRIDGE, _) => 0,
            _ => u32::MAX,
        }
    }

    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

const MEMORY: [MemoryRegion; 2] = [
    MemoryRegion { start: 0, end: 0x1000_0000, kind: MemoryKind::Ram },
    MemoryRegion { start: 0x1000_0000, end: 0x8000_0000, kind: MemoryKind::Reserved },
];

/// Reads a table and an option, and hands over the registry and what was found, in words.
fn read(table: &[u8], option: &str, test: impl FnOnce(&Registry<'_>, &[String])) {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut found = Vec::new();
    let mut host = Host { pci: &Pci, memory: &MEMORY, frames: &mut KeepRam, address_width: 39 };
    let mut report = |finding: Finding<'_, '_>| {
        found.push(match finding {
            Finding::Region(region) => format!("{region}: {}", region.verdict()),
            Finding::BadStructure(error) => error.to_string(),
            Finding::BadScope { error, .. } => error.to_string(),
            Finding::Unresolved { error, .. } => error.to_string(),
            Finding::BadOption(error) => error.to_string(),
            Finding::Structure { kind, .. } => kind.to_string(),
        });
    };
    let dmar = Dmar::parse(table).unwrap();
    host.read_dmar(&dmar, &mut builder, &mut arena, &mut report).unwrap();
    if !option.is_empty() {
        host.read_option(option, &mut builder, &mut arena, &mut report).unwrap();
    }
    test(&builder.freeze(&mut arena).unwrap(), &found);
}

fn table(structures: impl IntoIterator<Item = StructureBuilder>) -> Vec<u8> {
    structures.into_iter().fold(TableBuilder::new().host_address_width(39), TableBuilder::structure).build()
}

fn rmrr(base: u64, limit: u64, device: u8) -> StructureBuilder {
    StructureBuilder::rmrr(0, base, limit).scope(ScopeBuilder::endpoint(0, &[(device, 0)]))
}

/// The frames that a device is told of, whether accepted or not.
fn frames(registry: &Registry<'_>, device: Sbdf) -> Vec<(u64, u64)> {
    let accepted = registry.regions_of(device).filter(|region| region.rejection().is_none());
    accepted.map(|region| (region.range().start().raw(), region.range().len())).collect()
}

#[test]
fn a_bad_region_costs_itself_and_nothing_else() {
    let bad = [
        (rmrr(0x2000_2000, 0x2000_1fff, 2), "above its limit"),
        (rmrr(0x2000_0000, 0x80_0000_0000, 2), "host address width"),
        (rmrr(0x0100_0000, 0x0100_0fff, 2), "RAM"),
        (StructureBuilder::rmrr(0, 0x2000_0000, 0x2000_0fff), "no device scope"),
    ];
    for (bad, why) in bad {
        let good = || rmrr(0x3000_0000, 0x3000_0fff, 0x14);
        read(&table([good(), bad, rmrr(0x3000_2000, 0x3000_2fff, 0x14)]), "", |registry, found| {
            assert!(found[1].contains("rejected") && found[1].contains(why), "{found:?}");
            assert_eq!(frames(registry, USB), [(0x30000, 1), (0x30002, 1)], "{why}");
            assert_eq!(frames(registry, IGD), [], "{why}");
            assert_eq!(registry.rejected().count(), 1, "{why}");
        });
    }
}

#[test]
fn overlapping_regions_are_both_kept() {
    read(
        &table([rmrr(0x3000_0000, 0x3000_2fff, 0x14), rmrr(0x3000_2000, 0x3000_3fff, 2)]),
        "",
        |registry, _| {
            assert_eq!(frames(registry, USB), [(0x30000, 3)]);
            assert_eq!(frames(registry, IGD), [(0x30002, 2)]);
            let range = p2m::MfnRange::with_len(p2m::Mfn::new(0x30002), 1).unwrap();
            assert_eq!(registry.overlapping(range).count(), 2);
        },
    );
}

#[test]
fn limits_are_inclusive_and_odd_edges_are_widened() {
    // Xen takes a limit of 7fff1000 as exclusive and leaves the frame out.
    read(&table([rmrr(0x3fff_0800, 0x3fff_1000, 2)]), "", |registry, found| {
        assert!(found[0].contains("repaired"), "{found:?}");
        assert_eq!(frames(registry, IGD), [(0x3fff0, 2)]);
    });
}

#[test]
fn a_bridge_means_all_below_it() {
    let below =
        StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0fff).scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]));
    read(&table([below]), "", |registry, _| {
        let scopes: Vec<Scope> = registry.regions().flat_map(|region| region.scopes().to_vec()).collect();
        assert_eq!(scopes, [Scope::Below { bridge: BRIDGE, first_bus: 3, last_bus: 5 }]);
        for device in [BRIDGE, BELOW, Sbdf::new(0, 5, 0x1f, 7)] {
            assert_eq!(frames(registry, device), [(0x30000, 1)], "{device}");
        }
        for device in [IGD, Sbdf::new(0, 6, 0, 0), Sbdf::new(1, 3, 0, 0)] {
            assert_eq!(frames(registry, device), [], "{device}");
        }
    });
}

#[test]
fn absent_and_repeated_devices() {
    let absent = rmrr(0x3000_0000, 0x3000_0fff, 9);
    let twice = rmrr(0x3000_2000, 0x3000_2fff, 2).scope(ScopeBuilder::endpoint(0, &[(2, 0)]));
    read(&table([absent, twice]), "", |registry, found| {
        assert!(found[0].contains("dormant"), "{found:?}");
        // It is answered for all the same: the device may come.
        assert_eq!(frames(registry, Sbdf::new(0, 0, 9, 0)), [(0x30000, 1)]);
        assert_eq!(frames(registry, IGD), [(0x30002, 1)]);
        assert!(registry.regions().all(|region| region.scopes().len() == 1));
    });
}

#[test]
fn damaged_structures_and_odd_devices_hide_nothing() {
    let first = rmrr(0x3000_0000, 0x3000_0fff, 0).scope(ScopeBuilder::endpoint(0, &[(2, 0)]));
    let bad_scope = rmrr(0x3000_2000, 0x3000_2fff, 0x14).scope(ScopeBuilder::endpoint(0, &[(0x3f, 0)]));
    let unit = StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_0000);
    read(&table([unit, first, StructureBuilder::raw(99, &[0; 8]), bad_scope]), "", |registry, found| {
        // 00:00.0 does not end a list.
        assert_eq!(frames(registry, IGD), [(0x30000, 1)]);
        assert_eq!(frames(registry, USB), [(0x30002, 1)]);
        assert!(found.iter().any(|found| found.contains("no bus can have")), "{found:?}");
    });
}

#[test]
fn an_error_in_the_option_costs_its_region() {
    read(&table([]), "30000=0:2.0;zz=0:2.0;30002-30003=0:14.0", |registry, found| {
        assert!(found[1].contains("character 13"), "{found:?}");
        assert_eq!(frames(registry, IGD), [(0x30000, 1)]);
        assert_eq!(frames(registry, USB), [(0x30002, 2)]);
    });
}

/// A guest's memory from address 0, with a hole behind it; addresses from 2^47 on are the hypervisor's.
struct Guest {
    bytes: Vec<u8>,
    /// Writes from here on fault.
    read_only_from: usize,
}

impl GuestMemory for Guest {
    fn is_guest_address(&self, address: u64) -> bool {
        address >> 47 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        bytes.copy_from_slice(self.bytes.get(start..start + bytes.len()).ok_or(GuestFault)?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        if start + bytes.len() > self.read_only_from {
            return Err(GuestFault);
        }
        self.bytes.get_mut(start..start + bytes.len()).ok_or(GuestFault)?.copy_from_slice(bytes);
        Ok(())
    }
}

const BUFFER: u64 = 0x40;

/// Calls with the argument at 0 and the buffer at [`BUFFER`], of 16-byte or 8-byte entries; returns the result, `nr_entries`, and the memory.
fn call(
    registry: &Registry<'_>,
    abi: Abi,
    flags: u32,
    room: u32,
    device: Sbdf,
    size: usize,
) -> (Result<(), Errno>, u32, Vec<u8>) {
    let mut guest = Guest { bytes: vec![0xcc; size], read_only_from: usize::MAX };
    guest.bytes[0..4].copy_from_slice(&flags.to_le_bytes());
    guest.bytes[4..8].copy_from_slice(&room.to_le_bytes());
    guest.bytes[8..16].copy_from_slice(&BUFFER.to_le_bytes());
    let place = if abi == Abi::Native { 16 } else { 12 };
    guest.bytes[place..place + 2].copy_from_slice(&device.segment().to_le_bytes());
    guest.bytes[place + 2] = device.bus();
    guest.bytes[place + 3] = device.devfn();
    let result = reserved_device_memory_map(registry, &mut guest, Caller::Privileged, abi, 0, 0);
    let count = u32::from_le_bytes(guest.bytes[4..8].try_into().unwrap());
    (result, count, guest.bytes.split_off(BUFFER as usize))
}

fn three_regions(test: impl FnOnce(&Registry<'_>)) {
    let structures = [
        rmrr(0x3000_0000, 0x3000_0fff, 2),
        rmrr(0x3000_2000, 0x3000_3fff, 0x14),
        rmrr(0x3001_0000, 0x3001_0fff, 2),
    ];
    read(&table(structures), "", |registry, _| test(registry));
}

#[test]
fn the_hypercall_answers_as_xen_does() {
    three_regions(|registry| {
        let nobody = Sbdf::new(0, 0, 1, 0);
        let entries = |bytes: &[u8], count: usize| -> Vec<(u64, u64)> {
            let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
            (0..count).map(|index| (word(index * 16), word(index * 16 + 8))).collect()
        };
        // All, exact and with room to spare: the rest of the buffer is left alone.
        for room in [3, 4, u32::MAX] {
            let (result, count, bytes) = call(registry, Abi::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Ok(()), 3));
            assert_eq!(entries(&bytes, 3), [(0x30000, 1), (0x30002, 2), (0x30010, 1)]);
            assert!(bytes[48..].iter().all(|byte| *byte == 0xcc));
        }
        // Too small: what fits is written.
        for room in 0..3 {
            let (result, count, bytes) = call(registry, Abi::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Err(Errno::ENOBUFS), 3));
            assert!(bytes[16 * room as usize..].iter().all(|byte| *byte == 0xcc));
        }
        // By device.
        let (result, count, bytes) = call(registry, Abi::Native, 0, 8, IGD, 0x100);
        assert_eq!((result, count, entries(&bytes, 2)), (Ok(()), 2, vec![(0x30000, 1), (0x30010, 1)]));
        for device in [nobody, Sbdf::new(7, 0, 2, 0)] {
            for room in [0, 8] {
                let (result, count, _) = call(registry, Abi::Native, 0, room, device, 0x100);
                assert_eq!((result, count), (Ok(()), 0));
            }
        }
        // Unknown flags, alone or beside the known one: the argument is untouched.
        for flags in [2, 3, 1 << 31] {
            let (result, count, _) = call(registry, Abi::Native, flags, 8, IGD, 0x100);
            assert_eq!((result, count), (Err(Errno::EINVAL), 8));
        }
        // A buffer that ends within the second entry.
        let (result, count, bytes) = call(registry, Abi::Native, 1, 8, IGD, 0x58);
        assert_eq!((result, count, entries(&bytes, 1)), (Err(Errno::EFAULT), 8, vec![(0x30000, 1)]));
    });
}

#[test]
fn the_hypercall_refuses_what_cannot_be_read_or_written() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        let call = |guest: &mut Guest, start, argument| {
            reserved_device_memory_map(registry, guest, Caller::Privileged, Abi::Native, start, argument)
        };
        // A start extent is refused before the argument is looked at.
        assert_eq!(call(&mut guest, 1, u64::MAX >> 20), Err(Errno::EINVAL));
        assert_eq!(call(&mut guest, 0, 0x1000), Err(Errno::EFAULT));
        // The hypervisor's own address as the buffer: looked at before the flags, and with nothing to write.
        guest.bytes[0] = 2;
        guest.bytes[8..16].copy_from_slice(&(1_u64 << 47).to_le_bytes());
        assert_eq!(call(&mut guest, 0, 0), Err(Errno::EFAULT));
        // A faulting buffer and nothing to write.
        guest.bytes[0] = 0;
        guest.bytes[8..16].copy_from_slice(&0x1000_u64.to_le_bytes());
        assert_eq!(call(&mut guest, 0, 0), Ok(()));
        // An argument that cannot be written back.
        guest.bytes[0] = 1;
        guest.read_only_from = 0;
        assert_eq!(call(&mut guest, 0, 0), Err(Errno::EFAULT));
    });
}

#[test]
fn a_32_bit_caller_gets_32_bit_entries_or_erange() {
    three_regions(|registry| {
        let (result, count, bytes) = call(registry, Abi::Compat, 1, 3, IGD, 0x100);
        assert_eq!((result, count), (Ok(()), 3));
        let words: Vec<u32> =
            bytes[..24].chunks(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [0x30000, 1, 0x30002, 2, 0x30010, 1]);
        assert!(bytes[24..].iter().all(|byte| *byte == 0xcc));
    });
}

#[test]
fn a_start_frame_beyond_32_bits_is_erange_for_32_bit_callers() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut host = Host { pci: &Pci, memory: &MEMORY, frames: &mut KeepRam, address_width: 52 };
    host.read_option("30000=0:2.0;ffffffff=0:2.0;100000000=0:2.0", &mut builder, &mut arena, &mut |_| {})
        .unwrap();
    let registry = builder.freeze(&mut arena).unwrap();
    let (result, count, _) = call(&registry, Abi::Compat, 1, 8, IGD, 0x100);
    assert_eq!((result, count), (Err(Errno::ERANGE), 2), "the two before it are written");
    let (result, count, _) = call(&registry, Abi::Compat, 1, 2, IGD, 0x100);
    assert_eq!((result, count), (Err(Errno::ENOBUFS), 3), "without room for it, it only counts");
    let (result, count, _) = call(&registry, Abi::Native, 1, 8, IGD, 0x100);
    assert_eq!((result, count), (Ok(()), 3));
}

#[test]
fn a_guest_is_told_what_is_its_own() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[0] = 1;
        guest.bytes[4] = 8;
        guest.bytes[8] = BUFFER as u8;
        let result =
            reserved_device_memory_map(registry, &mut guest, Caller::Guest(DomId(1)), Abi::Native, 0, 0);
        assert_eq!((result, guest.bytes[4]), (Ok(()), 0), "it has no device, so it has no region");
    });
}
