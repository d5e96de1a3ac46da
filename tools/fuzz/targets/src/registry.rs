//! From a table's bytes to registered regions and the hypercall's answers, beside looking at every region.

use std::mem::MaybeUninit;

use acpi_dmar::{Dmar, Structure};
use p2m::{Mfn, MfnRange};
use rdm::machine::PciTree;
use xen_iommu::abi::{Errno, Layout};
use xen_iommu::hypercall::{Caller, GuestFault, GuestMemory, reserved_device_memory_map};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::record::Region;
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{Arena, Sbdf};

use crate::machine::split;

/// Comparing each with each is for so many.
const FEW: usize = 48;

/// Takes the bytes for a table and a machine.
pub fn registry(data: &[u8]) {
    let mut data = data.to_vec();
    let Some((table, mut machine)) = split(&mut data) else { return };
    let Some(dmar) = Dmar::parse_lenient(table, |_| {}) else { return };
    let pci = PciTree::of(machine.config_spaces());
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let (mut read, mut all) = (0, Vec::new());
    let mut host = Host {
        pci: &pci,
        memory: &machine.memory[..],
        frames: &mut machine.allocator,
        address_width: dmar.host_address_width(),
        windows: &|visit: &mut dyn FnMut(Window)| units(&dmar).for_each(visit),
        unit_width: &|_| None,
    };
    let Ok(scopes) = ResolvedScopes::read(&dmar, &pci, &mut arena) else { return };
    let done = host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut |finding| match finding {
        Finding::Structure { .. } | Finding::BadStructure(_) => read += 1,
        Finding::Region(region) => {
            read += 1;
            all.push(region);
        }
        Finding::BadScope { .. } | Finding::Unresolved { .. } | Finding::BadOption(_) => {}
    });
    let Ok(registry) = done.and_then(|()| builder.freeze(&mut arena)) else { return };
    assert_eq!(read, dmar.structures().count(), "a structure without a finding");
    let regions = dmar.structures().flatten().filter(|structure| matches!(structure, Structure::Rmrr(_)));
    assert_eq!(all.len(), regions.count());

    let (rejected, mut accepted): (Vec<_>, Vec<_>) =
        all.iter().copied().partition(|region| region.rejection().is_some());
    accepted.sort_by_key(|region| region.range().start());
    assert!(same(registry.regions().collect(), &accepted));
    assert!(registry.regions().is_sorted_by_key(|region| region.range().start()));
    assert!(same(registry.rejected().collect(), &rejected));
    for region in &accepted {
        assert_eq!(Some(region.range()), region.verdict().pages());
        assert!(!region.range().is_empty());
        // No guest may reach interrupts or a unit's registers.
        assert!(region.range().end().raw() <= 0xfee00 || region.range().start().raw() >= 0xfef00);
        let no_devices = || std::iter::empty::<Devices>();
        let forbidden = units(&dmar).take(FEW).find_map(|unit| unit.check(region.range(), no_devices()));
        assert_eq!(forbidden, None, "{region} was accepted");
    }
    check_overlaps(&registry, &accepted);
    check_devices(&registry, &all, &pci);
}

/// The registers of the table's units.
fn units<'d>(dmar: &Dmar<'d>) -> impl Iterator<Item = Window> + use<'d> {
    dmar.structures().flatten().filter_map(|structure| match structure {
        Structure::Drhd(drhd) => {
            let base = drhd.register_base();
            Some(Window::UnitRegisters { base, limit: base.saturating_add(drhd.register_bytes() - 1) })
        }
        _ => None,
    })
}

/// The same regions, in any order, none twice.
fn same(mut one: Vec<&Region<'_>>, other: &[&Region<'_>]) -> bool {
    let mut other: Vec<_> = other.iter().map(|region| std::ptr::from_ref(*region).addr()).collect();
    other.sort_unstable();
    one.sort_by_key(|region| std::ptr::from_ref(*region).addr());
    one.iter().map(|region| std::ptr::from_ref(*region).addr()).eq(other)
}

fn check_overlaps(registry: &Registry<'_>, accepted: &[&Region<'_>]) {
    for region in accepted.iter().take(FEW) {
        let (start, end) = (region.range().start().raw(), region.range().end().raw());
        let middle = start + (end - start) / 2;
        for (start, end) in
            [(start, end), (start, start + 1), (end - 1, end), (end, end + 1), (0, start), (middle, end + 2)]
        {
            let range = MfnRange::new(Mfn::new(start), Mfn::new(end)).unwrap();
            let found: Vec<_> = registry.overlapping(range).collect();
            assert!(found.is_sorted_by(|one, next| one.range().start() >= next.range().start()));
            let expected: Vec<_> =
                accepted.iter().copied().filter(|region| region.range().overlaps(&range)).collect();
            assert!(same(found, &expected), "not what overlaps {range}");
        }
    }
}

/// Each device that a scope or the machine has, and its neighbours, has the regions whose scopes cover it.
fn check_devices(registry: &Registry<'_>, all: &[&Region<'_>], pci: &PciTree) {
    let named = all.iter().flat_map(|region| region.devices()).take(FEW).flat_map(|devices| match *devices {
        Devices::Function(function) => [function; 3],
        Devices::Below { bridge, first_bus, last_bus } => [
            bridge,
            Sbdf::new(bridge.segment(), first_bus, 1, 0),
            Sbdf::new(bridge.segment(), last_bus, 0, 7),
        ],
        // No DMAR names one.
        Devices::Requesters { first, last } => [first, last, last],
    });
    let mut devices: Vec<_> = named.chain(pci.addresses().take(FEW).map(Sbdf::from)).collect();
    devices.extend(devices.clone().iter().map(|device| Sbdf::from_raw(device.raw().wrapping_add(1))));
    devices.sort_unstable();
    devices.dedup();
    let clusters = clusters(registry);
    for device in devices {
        let found: Vec<_> = registry.regions_of(device).collect();
        let covers = |region: &&Region<'_>| region.devices().iter().any(|devices| devices.covers(device));
        let expected: Vec<_> = all.iter().copied().filter(covers).collect();
        assert!(same(found.clone(), &expected), "not the regions of {device}");
        assert!(found.is_sorted_by_key(|region| region.record().base));
        let is_its = |cluster: &MfnRange| found.iter().any(|region| region.range().overlaps(cluster));
        let expected: Vec<_> = clusters.iter().copied().filter(is_its).collect();
        check_answer(registry, 0, device, &expected);
    }
    check_answer(registry, 1, Sbdf::from_raw(0), &clusters);
}

/// The accepted regions, those put together that overlap, lowest first.
fn clusters(registry: &Registry<'_>) -> Vec<MfnRange> {
    let mut all: Vec<MfnRange> = Vec::new();
    for region in registry.regions() {
        match all.last_mut() {
            Some(last) if last.overlaps(&region.range()) => *last = last.hull(&region.range()),
            _ => all.push(region.range()),
        }
    }
    all
}

/// The answer is these ranges, with room for all of them and with room for all but one.
fn check_answer(registry: &Registry<'_>, flags: u32, device: Sbdf, expected: &[MfnRange]) {
    let mut rooms = vec![expected.len()];
    rooms.extend(expected.len().checked_sub(1));
    for room in rooms {
        let mut guest = Guest(vec![0xcc; 24 + 16 * (room + 1)]);
        let count = u32::try_from(room).unwrap();
        guest.0[..4].copy_from_slice(&flags.to_le_bytes());
        guest.0[4..8].copy_from_slice(&count.to_le_bytes());
        guest.0[8..16].copy_from_slice(&24_u64.to_le_bytes());
        guest.0[16..18].copy_from_slice(&device.segment().to_le_bytes());
        guest.0[18..20].copy_from_slice(&[device.bus(), device.devfn()]);
        let (caller, others) = (Caller::Privileged, |_| std::iter::empty());
        let done = reserved_device_memory_map(registry, &mut guest, caller, Layout::Native, 0, 0, others);
        assert_eq!(done, if room < expected.len() { Err(Errno::ENOBUFS) } else { Ok(()) });
        assert_eq!(guest.0[4..8], u32::try_from(expected.len()).unwrap().to_le_bytes());
        let (entries, behind) = guest.0[24..].split_at(16 * room);
        for (entry, range) in entries.as_chunks::<16>().0.iter().zip(expected) {
            assert_eq!(entry[..8], range.start().raw().to_le_bytes());
            assert_eq!(entry[8..], range.len().to_le_bytes());
        }
        assert!(behind.iter().all(|byte| *byte == 0xcc), "more was written than there is room for");
    }
}

/// A guest's memory from address 0.
struct Guest(Vec<u8>);

impl GuestMemory for Guest {
    fn is_guest_address(&self, address: u64) -> bool {
        address >> 47 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        bytes.copy_from_slice(self.0.get(start..start + bytes.len()).ok_or(GuestFault)?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).unwrap();
        self.0.get_mut(start..start + bytes.len()).ok_or(GuestFault)?.copy_from_slice(bytes);
        Ok(())
    }
}
