//! Xen's calls as the hypervisor's edge serves them: arguments in the caller's memory, one region a device.

use std::fmt::Display;
use std::mem::MaybeUninit;

use p2m::GfnRange;
use xen_iommu::abi::memory::{XENMEM_RDM_ALL, XENMEM_RESERVED_DEVICE_MEMORY_MAP};
use xen_iommu::abi::{
    AssignDevice, Domctl, E820Entry, Errno, Layout, Operation, ReservedDeviceMemory, ReservedDeviceMemoryMap,
};
use xen_iommu::hypercall::{
    Call, GuestFault, GuestMemory, Hypervisor, MemoryMaps, NoMemory, NotPopulated, Populate, domctl,
    memory_op,
};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::memory::{MemoryKind, MemoryRegion};
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::{Arena, DomId, Note, Sbdf};

use crate::frames;
use crate::measure::Measurements;
use crate::policy::{self, MOVED, Space, World};
use crate::report::Row;

const SIZES: [u32; 5] = [4, 64, 256, 1024, 4096];
const LAYOUTS: [(Layout, &str); 2] = [(Layout::Native, "64-bit"), (Layout::Compat, "compat")];
const GUEST: DomId = DomId(1);
const HARDWARE_DOMAIN: DomId = DomId(0);
/// Where the buffer begins; the argument is at 0.
const BUFFER: usize = 0x100;
/// Instructions beyond a call that does nothing: of a query, and for each of its entries.
const QUERY: u64 = 200;
const ENTRY: u64 = 25;

/// A caller's memory, mapped as it is.
struct Memory(Vec<u8>);

impl GuestMemory for Memory {
    fn is_guest_address(&self, address: u64) -> bool {
        address >> 47 == 0
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).map_err(|_| GuestFault)?;
        let from = self.0.get(start..start.wrapping_add(bytes.len())).ok_or(GuestFault)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        let start = usize::try_from(address).map_err(|_| GuestFault)?;
        let to = self.0.get_mut(start..start.wrapping_add(bytes.len())).ok_or(GuestFault)?;
        to.copy_from_slice(bytes);
        Ok(())
    }
}

/// A hypervisor that says yes, and keeps nothing.
struct Host;

impl Hypervisor for Host {
    fn has_domain(&self, _: DomId) -> bool {
        true
    }

    fn hear(&mut self, _: Note) {}

    fn refused(&mut self, _: &dyn Display) {}
}

impl MemoryMaps for Host {
    fn count(&self, _: DomId) -> u32 {
        0
    }

    fn entry(&self, _: DomId, _: u32) -> Option<E820Entry> {
        None
    }

    fn begin(&mut self, _: DomId, _: u32) -> Result<(), NoMemory> {
        Ok(())
    }

    fn add(&mut self, _: DomId, _: E820Entry) {}

    fn finish(&mut self, _: DomId) {}
}

impl Populate for Host {
    fn max_order(&self, _: DomId) -> u32 {
        9
    }

    fn populate(&mut self, _: DomId, _: GfnRange, _: u32) -> Result<(), NotPopulated> {
        Ok(())
    }
}

/// A machine with so many regions of 2 MiB, one a device.
fn machine(regions: u32) -> World {
    let mut arena = Arena::new(vec![MaybeUninit::uninit(); 8 << 20].leak());
    let memory = [MemoryRegion { start: 0, end: 1 << 39, kind: MemoryKind::Reserved }];
    let mut builder = RegistryBuilder::default();
    for index in 0..regions {
        let base = (16 << 30) + (u64::from(index) << 24);
        let devices = [Devices::Function(Sbdf::from_raw(index))];
        let record = Record::identity(base, base + (2 << 20) - 1, Origin::Hypervisor, &devices);
        policy::host(&memory).add_record(&record, &mut builder, &mut arena).unwrap();
    }
    let registry = builder.freeze(&mut arena).unwrap();
    let policy = policy::policy(registry, regions, &mut arena).unwrap();
    assert!(policy::add_all((&policy, regions)));
    policy
}

type Asked<'a> = (&'a World, &'a mut Memory, Layout, u64);

fn ask((world, memory, layout, command): Asked<'_>) -> Result<u64, Errno> {
    memory_op(world, &mut Host, Call { caller: HARDWARE_DOMAIN, memory, layout, argument: 0 }, command)
}

/// A caller's memory with the query in it.
fn query(layout: Layout, device: Option<Sbdf>, room: u32) -> Memory {
    let map = ReservedDeviceMemoryMap {
        flags: if device.is_none() { XENMEM_RDM_ALL } else { 0 },
        nr_entries: room,
        buffer: BUFFER as u64,
        pci: device.unwrap_or(MOVED).into(),
    };
    let mut memory = Memory(vec![0; BUFFER + ReservedDeviceMemory::SIZE * room as usize]);
    let argument = map.to_bytes(layout).unwrap();
    memory.0[..argument.len()].copy_from_slice(&argument);
    memory
}

fn null_case(layout: &str) -> String {
    format!("{layout}: a call that is not known")
}

fn device_case(layout: &str, regions: u32) -> String {
    format!("{layout}: query of a device, of {regions} regions")
}

fn all_case(layout: &str, regions: u32) -> String {
    format!("{layout}: query of all, {regions} regions")
}

fn queries(measurements: &mut Measurements, regions: u32, world: &World) {
    for (layout, name) in LAYOUTS {
        let command = XENMEM_RESERVED_DEVICE_MEMORY_MAP;
        if regions == SIZES[0] {
            let mut memory = query(layout, None, 0);
            let done = measurements.call(&null_case(name), ask, (world, &mut memory, layout, 63), |row| row);
            assert_eq!(done, Err(Errno::ENOSYS));
        }
        let device = Sbdf::from_raw(regions / 2);
        for (case, device, entries) in
            [(device_case(name, regions), Some(device), 1), (all_case(name, regions), None, regions)]
        {
            let mut memory = query(layout, device, regions);
            let done = measurements.call(&case, ask, (world, &mut memory, layout, command), |row| row);
            assert_eq!(done, Ok(0));
            assert_eq!(memory.0[4..8], entries.to_le_bytes());
        }
    }
}

fn give((world, memory): (&World, &mut Memory)) -> Result<(), Errno> {
    let call = Call { caller: HARDWARE_DOMAIN, memory, layout: Layout::Native, argument: 0 };
    domctl(world, &mut Host, call)
}

fn moves(measurements: &mut Measurements, regions: u32, world: &World) {
    world.create_domain(GUEST, Space::new().unwrap()).unwrap();
    let of = AssignDevice { dev: 0, flags: 0, machine_sbdf: MOVED.raw() };
    let argument = |operation| {
        Memory(Domctl { interface_version: 0x15, domain: GUEST.0, operation }.to_bytes().to_vec())
    };
    for (case, operation) in [
        ("assign by domctl, from the hardware domain", Operation::AssignDevice(of)),
        ("de-assign by domctl", Operation::DeassignDevice(of)),
        ("assign by domctl, from quarantine", Operation::AssignDevice(of)),
    ] {
        let case = format!("{case}: one region of 2 MiB, of {regions}");
        let done = measurements.call(&case, give, (world, &mut argument(operation)), |row| row);
        assert_eq!(done, Ok(()));
    }
}

/// Measures.
pub(crate) fn measure(measurements: &mut Measurements) {
    frames::provide(1024);
    for regions in SIZES {
        let world = machine(regions);
        queries(measurements, regions, &world);
        if regions == SIZES[0] || regions == SIZES[SIZES.len() - 1] {
            moves(measurements, regions, &world);
        }
    }
}

/// What the queries take beyond the call that does nothing.
pub(crate) fn derive(rows: &mut Vec<Row>) {
    let mut beyond = Vec::new();
    for (_, name) in LAYOUTS {
        for regions in SIZES {
            for (case, entries) in [(device_case(name, regions), 1), (all_case(name, regions), regions)] {
                let of = |case: &str| rows.iter().find(|row| row.case == case);
                if let (Some(row), Some(null)) = (of(&case), of(&null_case(name))) {
                    let bound = (QUERY + ENTRY * u64::from(entries)) as f64;
                    beyond.push(row.beyond(null, &format!("{case}, beyond that")).bound(bound));
                }
            }
        }
    }
    rows.extend(beyond);
}
