//! From a table's bytes and the `rmrr=` option to registered regions and the hypercall's answers: one bad
//! entry costs one entry.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that fails ends in a panic"
)]

use std::cell::Cell;
use std::iter;
use std::mem::MaybeUninit;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use acpi_dmar::{Dmar, DrhdFlags};
use xen_iommu::abi::{Errno, Layout};
use xen_iommu::hypercall::{Caller, GuestFault, GuestMemory, reserved_device_memory_map};
use xen_iommu::region::choice::{self, Ignored};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::{Bar, Window};
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::{FramesInUse, KeepRam, MemoryKind, MemoryRegion, ReserveFrames};
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
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

/// What decodes on this machine: a unit's registers, configuration space, and the window of the USB
/// controller.
const WINDOWS: [Window; 3] = [
    Window::UnitRegisters { base: 0x1fed_9000, limit: 0x1fed_9fff },
    Window::ConfigSpace { base: 0x7000_0000, limit: 0x7fff_ffff },
    Window::Bar(Bar { device: USB, base: 0x6000_0000, limit: 0x6000_ffff }),
];

/// The unit of the graphics is one of 38 bits.
fn unit_width(devices: Devices) -> Option<u8> {
    Some(if devices.covers(IGD) { 38 } else { 48 })
}

fn host<F: ReserveFrames>(frames: &mut F) -> Host<'_, Pci, [MemoryRegion; 2], F> {
    Host { pci: &Pci, memory: &MEMORY, frames, address_width: 39, windows: &WINDOWS, unit_width: &unit_width }
}

/// Reads a table and an option, and hands over the registry and what was found, in words.
fn read(table: &[u8], option: &str, test: impl FnOnce(&Registry<'_>, &[String])) {
    read_with(&mut KeepRam, table, option, test);
}

fn read_with(
    frames: &mut impl ReserveFrames,
    table: &[u8],
    option: &str,
    test: impl FnOnce(&Registry<'_>, &[String]),
) {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut found = Vec::new();
    let mut host = host(frames);
    let mut report = |finding: Finding<'_>| {
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
    let scopes = ResolvedScopes::read(&dmar, &Pci, &mut arena).unwrap();
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut report).unwrap();
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
        let devices: Vec<Devices> = registry.regions().flat_map(|region| region.devices().to_vec()).collect();
        assert_eq!(devices, [Devices::Below { bridge: BRIDGE, first_bus: 3, last_bus: 5 }]);
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
        assert!(registry.regions().all(|region| region.devices().len() == 1));
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

#[test]
fn regions_of_the_option_that_overlap_are_both_kept() {
    let first = rmrr(0x3000_0000, 0x3000_1fff, 2);
    read(&table([first]), "30001-30002=0:14.0;30002=0:1c.0", |registry, found| {
        assert!(found.iter().all(|found| found.ends_with("accepted")), "{found:?}");
        assert_eq!(frames(registry, IGD), [(0x30000, 2)]);
        assert_eq!(frames(registry, USB), [(0x30001, 2)]);
        assert_eq!(registry.told([BRIDGE].into_iter()).map(|range| range.len()).collect::<Vec<_>>(), [3]);
    });
}

/// An allocator that gives all, and counts what it was asked for.
#[derive(Default)]
struct Counting(u64);

impl ReserveFrames for Counting {
    fn take_out_of_ram(&mut self, pages: p2m::MfnRange) -> Result<(), FramesInUse> {
        self.0 += pages.len();
        Ok(())
    }
}

#[test]
fn a_rejected_region_costs_no_ram() {
    // In RAM all of them: one whose scope leads through an endpoint, one without a scope, one beyond the bits
    // of its unit.
    let nowhere = StructureBuilder::rmrr(0, 0x10_0000, 0x10_ffff)
        .scope(ScopeBuilder::endpoint(0, &[(2, 0), (0, 0)]))
        .scope(ScopeBuilder::new(77.into(), 0, 0, &[(2, 0)]));
    let without = StructureBuilder::rmrr(0, 0x20_0000, 0x20_ffff);
    let mut allocator = Counting::default();
    read_with(&mut allocator, &table([nowhere, without]), "", |registry, found| {
        assert_eq!(registry.rejected().count(), 2, "{found:?}");
        assert!(found.iter().any(|found| found.contains("no bridge")), "{found:?}");
    });
    assert_eq!(allocator.0, 0);
    read_with(&mut allocator, &table([rmrr(0x10_0000, 0x10_ffff, 2)]), "", |registry, _| {
        assert_eq!(frames(registry, IGD), [(0x100, 16)]);
    });
    assert_eq!(allocator.0, 16);
}

#[test]
fn no_slip_maps_what_is_no_memory() {
    // The interrupt controller, the unit's registers, configuration space, another's window; its own is a
    // device's.
    let option = "fee00=0:2.0;1fed9=0:2.0;7abcd-7abce=0:2.0;60001=0:2.0;60001=0:14.0;60000=0:2.0,0:14.0";
    read(&table([]), option, |registry, found| {
        for (found, why) in found.iter().zip([
            "rejected: it is over the interrupts' range, 0xfee00000 to 0xfeefffff",
            "rejected: it is over the registers of the remapping unit at 0x1fed9000",
            "rejected: it is over the memory-mapped configuration space at 0x70000000",
            "rejected: it is over a window of 0000:00:14.0, 0x60000000 to 0x6000ffff",
            "accepted",
            "accepted",
        ]) {
            assert!(found.ends_with(why), "{found} is not {why}");
        }
        assert_eq!(frames(registry, IGD), [(0x60000, 1)]);
        assert_eq!(registry.regions_of(IGD).count(), 5, "those that were rejected are its own, too");
    });
    let in_table = rmrr(0xfee0_0000, 0xfee0_0fff, 2);
    read(&table([in_table]), "", |registry, found| {
        assert!(found[0].contains("interrupts"), "{found:?}");
        assert_eq!(frames(registry, IGD), []);
    });
}

#[test]
fn a_region_beyond_its_units_width_is_rejected() {
    let at = |device| rmrr(0x40_0000_0000, 0x40_0000_0fff, device);
    let both = at(0x14).scope(ScopeBuilder::endpoint(0, &[(2, 0)]));
    read(&table([at(2), at(0x14), both]), "4000000=0:2.0", |registry, found| {
        for number in [0, 2, 3] {
            assert!(found[number].contains("the 38 bits that the remapping unit"), "{found:?}");
        }
        assert_eq!(frames(registry, USB), [(0x400_0000, 1)]);
        assert_eq!(registry.rejected().count(), 3);
    });
}

#[test]
fn a_bridge_scope_that_ends_at_an_endpoint_means_that() {
    let odd = StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0fff).scope(ScopeBuilder::bridge(0, &[(2, 0)]));
    read(&table([odd]), "", |registry, found| {
        assert_eq!(
            found,
            ["[0x30000000, 0x30000fff]: repaired: bridge scope taken as the endpoint it names"]
        );
        assert_eq!(frames(registry, IGD), [(0x30000, 1)]);
    });
    let bridge =
        StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0fff).scope(ScopeBuilder::endpoint(0, &[(0x1c, 0)]));
    read(&table([bridge]), "", |registry, found| {
        assert_eq!(found, ["[0x30000000, 0x30000fff]: accepted"]);
        assert_eq!((frames(registry, BRIDGE), frames(registry, BELOW)), (vec![(0x30000, 1)], vec![]));
    });
}

/// [`Pci`], until it has been read so often; then nothing answers.
struct Vanishing(Cell<u32>);

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Vanishing {
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        match self.0.get().checked_sub(1) {
            None => u32::MAX,
            Some(left) => {
                self.0.set(left);
                // SAFETY: it touches nothing.
                unsafe { Pci.read(address, offset) }
            }
        }
    }

    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

#[test]
fn scopes_are_followed_once() {
    let through = StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0fff)
        .scope(ScopeBuilder::endpoint(0, &[(0x1c, 0), (0, 0)]))
        .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]))
        .scope(ScopeBuilder::endpoint(0, &[(2, 0)]));
    let unit = StructureBuilder::drhd(DrhdFlags::empty(), 0, 0x1fed_9000)
        .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)]));
    let bytes = table([unit, through]);
    let dmar = Dmar::parse(&bytes).unwrap();
    // Whatever of the machine goes while it is read: a scope means its device or nothing, never 00:00.0, and
    // all who ask are told the same.
    for reads in 0..32 {
        let pci = Vanishing(Cell::new(reads));
        let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
        let mut arena = Arena::new(&mut memory);
        let scopes = ResolvedScopes::read(&dmar, &pci, &mut arena).unwrap();
        let left = pci.0.replace(0);
        let mut builder = RegistryBuilder::default();
        let mut host = Host {
            pci: &pci,
            memory: &MEMORY,
            frames: &mut KeepRam,
            address_width: 39,
            windows: &WINDOWS,
            unit_width: &|_| None,
        };
        let mut unresolved = 0;
        let mut report = |finding: Finding<'_>| {
            unresolved += usize::from(matches!(finding, Finding::Unresolved { .. }));
        };
        host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut report).unwrap();
        let registry = builder.freeze(&mut arena).unwrap();
        let region = registry.regions().next().unwrap();
        let known = [
            Devices::Function(IGD),
            Devices::Function(BELOW),
            Devices::Below { bridge: BRIDGE, first_bus: 3, last_bus: 5 },
        ];
        assert!(region.devices().iter().all(|devices| known.contains(devices)), "{:?}", region.devices());
        assert_eq!(region.devices().len() + unresolved, 3);
        // The endpoint was named; whether it answered was seen then, and is not asked again.
        let seen =
            scopes.iter().any(|scope| scope.structure != 48 && scope.place.is_ok_and(|place| place.present));
        assert_eq!(region.verdict().to_string().starts_with("dormant"), !seen, "{reads} reads");
        if left > 0 {
            assert_eq!((region.devices(), seen), (&known[..], true));
        }
    }
}

#[test]
fn other_readers_and_the_hypervisor_submit_records() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut keep = KeepRam;
    let mut host = host(&mut keep);
    let range = |first, last| {
        [Devices::Requesters { first: Sbdf::new(0, first, 0, 0), last: Sbdf::new(0, last, 0, 7) }]
    };
    for (base, devices, verdict) in [
        (0x3000_0000, range(3, 4), "accepted"),
        (0x3000_1000, range(9, 9), "dormant: no device of it is present"),
        (
            0x7000_0000,
            range(3, 3),
            "rejected: it is over the memory-mapped configuration space at 0x70000000",
        ),
    ] {
        let record = Record::identity(base, base + 0xfff, Origin::Hypervisor, &devices);
        let region = host.add_record(&record, &mut builder, &mut arena).unwrap();
        assert_eq!(region.verdict().to_string(), verdict);
        assert_eq!((region.name(), region.access()), (record.name(), p2m::Access::READ_WRITE));
    }
    let registry = builder.freeze(&mut arena).unwrap();
    assert_eq!(registry.regions_of(BELOW).count(), 2);
    for (device, expected) in [
        (BELOW, vec![(0x30000, 1)]),
        (Sbdf::new(0, 4, 0, 7), vec![(0x30000, 1)]),
        (Sbdf::new(0, 4, 1, 0), vec![]),
        (Sbdf::new(1, 3, 0, 0), vec![]),
    ] {
        assert_eq!(frames(&registry, device), expected, "{device}");
    }
}

#[test]
fn the_first_dmar_that_can_be_read_counts() {
    let (first, second) = (table([rmrr(0x3000_0000, 0x3000_0fff, 2)]), table([]));
    let mut spoiled = first.clone();
    spoiled[9] ^= 1;
    let choose = |tables: &[&[u8]]| {
        let mut ignored = Vec::new();
        let chosen = choice::choose(tables.iter().copied(), &mut |number, why| ignored.push((number, why)));
        (chosen.map(|dmar| dmar.structures().count()), ignored)
    };
    assert_eq!(choose(&[]), (Err(IommuState::Absent), vec![]));
    assert_eq!(choose(&[&first]), (Ok(1), vec![]));
    assert_eq!(choose(&[&second, &first]), (Ok(0), vec![(1, Ignored::Further)]));
    let (chosen, ignored) = choose(&[&spoiled, &first, &spoiled]);
    assert_eq!(chosen, Ok(1));
    assert!(matches!(ignored[..], [(0, Ignored::Unreadable(_)), (2, Ignored::Further)]), "{ignored:?}");
    let (chosen, _) = choose(&[&spoiled, b"DMAR"]);
    let Err(IommuState::Unusable(Unusable::Table(error))) = chosen else { panic!("{chosen:?}") };
    assert!(error.to_string().contains("checksum"), "what is wrong with the first: {error}");
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

/// Calls with the argument at 0 and the buffer at [`BUFFER`], of 16-byte or 8-byte entries; returns the
/// result, `nr_entries`, and the memory.
fn call(
    registry: &Registry<'_>,
    abi: Layout,
    flags: u32,
    room: u32,
    device: Sbdf,
    size: usize,
) -> (Result<(), Errno>, u32, Vec<u8>) {
    let mut guest = Guest { bytes: vec![0xcc; size], read_only_from: usize::MAX };
    guest.bytes[0..4].copy_from_slice(&flags.to_le_bytes());
    guest.bytes[4..8].copy_from_slice(&room.to_le_bytes());
    guest.bytes[8..16].copy_from_slice(&BUFFER.to_le_bytes());
    let place = if abi == Layout::Native { 16 } else { 12 };
    guest.bytes[place..place + 2].copy_from_slice(&device.segment().to_le_bytes());
    guest.bytes[place + 2] = device.bus();
    guest.bytes[place + 3] = device.devfn();
    let caller = Caller::Privileged;
    let result = reserved_device_memory_map(registry, &mut guest, caller, abi, 0, 0, |_| iter::empty());
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
            let (result, count, bytes) = call(registry, Layout::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Ok(()), 3));
            assert_eq!(entries(&bytes, 3), [(0x30000, 1), (0x30002, 2), (0x30010, 1)]);
            assert!(bytes[48..].iter().all(|byte| *byte == 0xcc));
        }
        // Too small: what fits is written.
        for room in 0..3 {
            let (result, count, bytes) = call(registry, Layout::Native, 1, room, nobody, 0x100);
            assert_eq!((result, count), (Err(Errno::ENOBUFS), 3));
            assert!(bytes[16 * room as usize..].iter().all(|byte| *byte == 0xcc));
        }
        // By device.
        let (result, count, bytes) = call(registry, Layout::Native, 0, 8, IGD, 0x100);
        assert_eq!((result, count, entries(&bytes, 2)), (Ok(()), 2, vec![(0x30000, 1), (0x30010, 1)]));
        for device in [nobody, Sbdf::new(7, 0, 2, 0)] {
            for room in [0, 8] {
                let (result, count, _) = call(registry, Layout::Native, 0, room, device, 0x100);
                assert_eq!((result, count), (Ok(()), 0));
            }
        }
        // Unknown flags, alone or beside the known one: the argument is untouched.
        for flags in [2, 3, 1 << 31] {
            let (result, count, _) = call(registry, Layout::Native, flags, 8, IGD, 0x100);
            assert_eq!((result, count), (Err(Errno::EINVAL), 8));
        }
        // A buffer that ends within the second entry.
        let (result, count, bytes) = call(registry, Layout::Native, 1, 8, IGD, 0x58);
        assert_eq!((result, count, entries(&bytes, 1)), (Err(Errno::EFAULT), 8, vec![(0x30000, 1)]));
    });
}

#[test]
fn the_hypercall_refuses_what_cannot_be_read_or_written() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        let call = |guest: &mut Guest, start, argument| {
            let (caller, others) = (Caller::Privileged, |_| iter::empty());
            reserved_device_memory_map(registry, guest, caller, Layout::Native, start, argument, others)
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
        let (result, count, bytes) = call(registry, Layout::Compat, 1, 3, IGD, 0x100);
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
    let mut keep = KeepRam;
    let mut host = Host { address_width: 52, ..host(&mut keep) };
    let option = "30000=0:14.0;ffffffff=0:14.0;100000000=0:14.0";
    host.read_option(option, &mut builder, &mut arena, &mut |_| {}).unwrap();
    let registry = builder.freeze(&mut arena).unwrap();
    let (result, count, _) = call(&registry, Layout::Compat, 1, 8, USB, 0x100);
    assert_eq!((result, count), (Err(Errno::ERANGE), 2), "the two before it are written");
    let (result, count, _) = call(&registry, Layout::Compat, 1, 2, USB, 0x100);
    assert_eq!((result, count), (Err(Errno::ENOBUFS), 3), "without room for it, it only counts");
    let (result, count, _) = call(&registry, Layout::Native, 1, 8, USB, 0x100);
    assert_eq!((result, count), (Ok(()), 3));
}

#[test]
fn a_guest_is_told_what_is_its_own() {
    three_regions(|registry| {
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[0] = 1;
        guest.bytes[4] = 8;
        guest.bytes[8] = BUFFER as u8;
        let caller = Caller::Guest(DomId(1));
        let none = |_| iter::empty();
        let result = reserved_device_memory_map(registry, &mut guest, caller, Layout::Native, 0, 0, none);
        assert_eq!((result, guest.bytes[4]), (Ok(()), 0), "it has no device, so it has no region");
    });
}

#[test]
fn without_an_iommu_the_answer_is_empty_and_errors_are_errors() {
    for state in [IommuState::Absent, IommuState::Off, IommuState::Unusable(Unusable::NoUnit)] {
        let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
        let mut arena = Arena::new(&mut memory);
        let mut builder = RegistryBuilder::default();
        let option = "30000=0:2.0";
        host(&mut KeepRam).read_option(option, &mut builder, &mut arena, &mut |_| {}).unwrap();
        builder.set_iommu(state);
        let registry = builder.freeze(&mut arena).unwrap();
        for (flags, room) in [(0, 0), (0, 8), (1, 0), (1, 8)] {
            let (result, count, _) = call(&registry, Layout::Native, flags, room, IGD, 0x100);
            assert_eq!((result, count), (Ok(()), 0), "{state}");
        }
        let (result, count, _) = call(&registry, Layout::Native, 2, 8, IGD, 0x100);
        assert_eq!((result, count), (Err(Errno::EINVAL), 8));
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[8..16].copy_from_slice(&(1_u64 << 47).to_le_bytes());
        let mut call = |start, argument| {
            let (caller, none) = (Caller::Privileged, |_| iter::empty());
            reserved_device_memory_map(&registry, &mut guest, caller, Layout::Native, start, argument, none)
        };
        assert_eq!(
            (call(0, 0), call(0, 0x1000), call(1, 0)),
            (Err(Errno::EFAULT), Err(Errno::EFAULT), Err(Errno::EINVAL))
        );
    }
}

#[test]
fn regions_that_overlap_are_answered_as_one() {
    // One device's overlaps the other's, which has another within it; a third only touches.
    let structures = [
        rmrr(0x3000_4000, 0x3000_7fff, 0x14),
        rmrr(0x3000_0000, 0x3000_4fff, 2),
        rmrr(0x3000_5000, 0x3000_5fff, 2),
        rmrr(0x3000_8000, 0x3000_8fff, 2),
        rmrr(0x2000_0000, 0x2000_0fff, 0x14),
    ];
    read(&table(structures), "", |registry, _| {
        let entries = |flags, device| {
            let (result, count, bytes) = call(registry, Layout::Native, flags, 8, device, 0x100);
            assert_eq!(result, Ok(()));
            let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
            let words: Vec<_> = words.take(2 * count as usize).collect();
            words.chunks(2).map(|entry| (entry[0], entry[1])).collect::<Vec<_>>()
        };
        assert_eq!(entries(0, IGD), [(0x30000, 8), (0x30008, 1)]);
        assert_eq!(entries(0, USB), [(0x20000, 1), (0x30000, 8)], "lowest first, in either's whole");
        assert_eq!(entries(1, IGD), [(0x20000, 1), (0x30000, 8), (0x30008, 1)]);
        assert_eq!(frames(registry, IGD), [(0x30000, 5), (0x30005, 1), (0x30008, 1)], "mapped are its own");

        // With the functions that share its requester id.
        let mut guest = Guest { bytes: vec![0; 0x100], read_only_from: usize::MAX };
        guest.bytes[4] = 8;
        guest.bytes[8] = BUFFER as u8;
        guest.bytes[19] = USB.devfn();
        let others = |device| {
            assert_eq!(device, USB);
            [IGD, USB].into_iter()
        };
        let caller = Caller::Privileged;
        let result = reserved_device_memory_map(registry, &mut guest, caller, Layout::Native, 0, 0, others);
        assert_eq!((result, guest.bytes[4]), (Ok(()), 3));
    });
}
