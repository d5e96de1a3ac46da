//! Regions of a table: what is made of each, and which table counts.

use std::cell::Cell;
use std::mem::MaybeUninit;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use acpi_dmar::{Dmar, DrhdFlags};
use testkit::bus::Bus;
use xen_iommu::region::choice::{self, Ignored};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::{FramesInUse, KeepRam, ReserveFrames};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{Arena, Sbdf};

use crate::kit::{BELOW, BRIDGE, IGD, MEMORY, USB, WINDOWS, bus, frames, read, read_with, rmrr, table};

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
    let odd = StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0ffe).scope(ScopeBuilder::bridge(0, &[(2, 0)]));
    read(&table([odd]), "", |_, found| {
        let repairs = "limit widened to its page's end, bridge scope taken as the endpoint it names";
        assert_eq!(found, [format!("[0x30000000, 0x30000ffe]: repaired: {repairs}")]);
    });
    let bridge =
        StructureBuilder::rmrr(0, 0x3000_0000, 0x3000_0fff).scope(ScopeBuilder::endpoint(0, &[(0x1c, 0)]));
    read(&table([bridge]), "", |registry, found| {
        assert_eq!(found, ["[0x30000000, 0x30000fff]: accepted"]);
        assert_eq!((frames(registry, BRIDGE), frames(registry, BELOW)), (vec![(0x30000, 1)], vec![]));
    });
}

/// A bus, until it has been read so often; then nothing answers.
struct Vanishing {
    bus: Bus,
    left: Cell<u32>,
}

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Vanishing {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        match self.left.get().checked_sub(1) {
            None => u32::MAX,
            Some(left) => {
                self.left.set(left);
                // SAFETY: it touches nothing.
                unsafe { self.bus.read(address, offset) }
            }
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
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
        let pci = Vanishing { bus: bus(), left: Cell::new(reads) };
        let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
        let mut arena = Arena::new(&mut memory);
        let scopes = ResolvedScopes::read(&dmar, &pci, &mut arena).unwrap();
        let left = pci.left.replace(0);
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
