//! The policy on a machine as large as they get: 4,096 regions, 65,536 devices.
//!
//! The remapping hardware returns at once, so that what is counted is the policy with p2m's tables.
//! Quarantines of devices that are never moved hold nothing: their tables would be half a gigabyte, and are
//! p2m's matter.

use std::mem::MaybeUninit;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use p2m::{
    Access, AddressSpace, DeviceRoot, Entry, Flush, Gfn, GfnRange, Identity, IdentityError, Mfn, MfnRange,
    OnConflict, PageSize, Run, SecondLevel, Seen, Table,
};
use xen_iommu::pci::Function;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::{Bar, Window};
use xen_iommu::region::intake::Host;
use xen_iommu::region::memory::{KeepRam, MemoryKind, MemoryRegion};
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{
    Arena, Capacity, DeviceControl, DomId, HardwareError, Isolation, Mode, NotQuiesced, Policy,
    RemappingHardware, RequesterId, Sbdf, Setup, SpaceId,
};

use crate::frames::{self, DirectMap};
use crate::measure::Measurements;
use crate::report::Row;

const REGIONS: u32 = 4096;
const DEVICES: u32 = 65536;
/// Devices of a region.
const SHARING: u32 = DEVICES / REGIONS;
/// The size that is the target, and smaller ones to see how the cost grows.
const PARTS: [u32; 3] = [16, 4, 1];
/// Bytes of the memory given at boot that it may take.
const MEMORY: usize = 24 << 20;
/// Instructions of a look-up, and of moving a device there and back.
const LOOK_UP: f64 = 150.0;
const MOVE: f64 = 15_000.0;

/// The device with regions of its own: three of 64 MiB.
pub(crate) const MOVED: Sbdf = Sbdf::from_raw(0);
const OWN_REGIONS: u64 = 3;
const MIB: u64 = 1 << 20;

/// Where region number `index` is.
fn region(index: u32) -> (u64, u64) {
    let index = u64::from(index);
    let (base, size) = if index < OWN_REGIONS {
        ((1 + index) << 30, 64 * MIB)
    } else {
        // Every eighth reaches into the next one.
        ((16 << 30) + index * 16 * MIB, if index.is_multiple_of(8) { 18 * MIB } else { 2 * MIB })
    };
    (base, base + size - 1)
}

/// The numbers of the devices that region number `index` is for.
fn devices_of(index: u32) -> std::ops::Range<u32> {
    if u64::from(index) < OWN_REGIONS { 0..1 } else { index * SHARING..(index + 1) * SHARING }
}

/// Firmware's table.
fn dmar(regions: u32) -> Vec<u8> {
    (0..regions)
        .fold(TableBuilder::new(), |table, index| {
            let (base, limit) = region(index);
            table.structure(devices_of(index).map(Sbdf::from_raw).fold(
                StructureBuilder::rmrr(0, base, limit),
                |rmrr, device| {
                    rmrr.scope(ScopeBuilder::endpoint(device.bus(), &[(device.device(), device.function())]))
                },
            ))
        })
        .build()
}

/// Configuration space in which every function is there.
pub(crate) struct Pci;

impl ConfigRegionAccess for Pci {
    #[allow(unsafe_code, reason = "the trait's method")]
    // SAFETY: any address and offset will do: nothing is touched.
    unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
        if offset == 0 { 0x11e8_1234 } else { 0 }
    }

    #[allow(unsafe_code, reason = "the trait's method")]
    // SAFETY: any address and offset will do: nothing is touched.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// Remapping hardware that is done at once.
pub(crate) struct Immediate;

impl RemappingHardware for Immediate {
    fn attach(&self, _: RequesterId, _: SpaceId, _: DeviceRoot) -> Result<(), HardwareError> {
        Ok(())
    }

    fn detach(&self, _: RequesterId) -> Result<(), HardwareError> {
        Ok(())
    }

    fn flush(&self, _: SpaceId, _: &Flush) -> Result<(), HardwareError> {
        Ok(())
    }

    fn check_translating(&self, _: RequesterId) -> Result<(), HardwareError> {
        Ok(())
    }

    fn address_width(&self, _: RequesterId) -> Option<u8> {
        Some(39)
    }
}

pub(crate) type Tables = Table<SecondLevel, DirectMap>;

/// An address space: p2m's, or of a quarantine that nobody looks at.
#[allow(clippy::large_enum_variant, reason = "places for quarantines are of one size, which is measured")]
pub(crate) enum Space {
    Real(Tables),
    Unused,
}

impl Space {
    pub(crate) fn new() -> Option<Self> {
        Table::new(SecondLevel::default(), DirectMap, 4, PageSize::Size1G).ok().map(Self::Real)
    }
}

impl AddressSpace for Space {
    fn look_up(&self, gfn: Gfn) -> Run {
        match self {
            Self::Real(table) => table.look_up(gfn),
            Self::Unused => Run { gfns: GfnRange::default(), entry: Entry::NOTHING },
        }
    }

    fn map_identity(
        &mut self,
        range: MfnRange,
        access: Access,
        on_conflict: OnConflict,
        report: &mut dyn FnMut(Seen),
    ) -> Result<Identity, IdentityError> {
        match self {
            Self::Real(table) => table.map_identity(range, access, on_conflict, report),
            Self::Unused => Ok(Identity::Mapped),
        }
    }

    fn unmap_identity(&mut self, range: MfnRange) -> Result<(), IdentityError> {
        match self {
            Self::Real(table) => table.unmap_identity(range),
            Self::Unused => Ok(()),
        }
    }

    fn mapped_otherwise(&self, range: MfnRange) -> Option<Run> {
        match self {
            Self::Real(table) => table.mapped_otherwise(range),
            Self::Unused => None,
        }
    }

    fn device_root(&self) -> DeviceRoot {
        match self {
            Self::Real(table) => table.device_root(),
            Self::Unused => DeviceRoot { root: Mfn::new(0), levels: 4 },
        }
    }

    fn take_flush(&mut self) -> Option<Flush> {
        match self {
            Self::Real(table) => table.take_flush(),
            Self::Unused => None,
        }
    }

    fn confirm_flush(&mut self, flush: Flush) {
        match self {
            Self::Real(table) => table.confirm_flush(flush),
            Self::Unused => {}
        }
    }
}

/// Devices that do as told, and have no windows that could be in the way.
impl DeviceControl for Immediate {
    fn quiesce(&mut self, _: Sbdf) -> Result<(), NotQuiesced> {
        Ok(())
    }

    fn resume(&mut self, _: Sbdf) {}

    fn for_each_bar(&self, _: &mut dyn FnMut(Bar)) {}
}

pub(crate) type World = Policy<'static, Space, Immediate, Immediate>;

pub(crate) fn host(memory: &[MemoryRegion; 1]) -> Host<'_, Pci, [MemoryRegion; 1], KeepRam> {
    const NO_WINDOWS: [Window; 0] = [];
    let frames = Box::leak(Box::new(KeepRam));
    Host { pci: &Pci, memory, frames, address_width: 48, windows: &NO_WINDOWS, unit_width: &|_| None }
}

fn registry(dmar: &Dmar<'_>, arena: &mut Arena<'static>) -> Option<Registry<'static>> {
    let memory = [MemoryRegion { start: 0, end: 1 << 39, kind: MemoryKind::Reserved }];
    // Where the scopes lead is asked at boot alone, so it need not stay.
    let mut boot_memory = vec![MaybeUninit::uninit(); MEMORY];
    let mut boot = Arena::new(&mut boot_memory);
    let scopes = ResolvedScopes::read(dmar, &Pci, &mut boot).ok()?;
    let mut builder = RegistryBuilder::default();
    host(&memory).read_dmar(dmar, &scopes, &mut builder, arena, &mut |_| ()).ok()?;
    builder.freeze(arena).ok()
}

pub(crate) fn policy(registry: Registry<'static>, devices: u32, arena: &mut Arena<'static>) -> Option<World> {
    let devices = devices as usize;
    let setup = Setup {
        registry,
        hardware: Immediate,
        control: Immediate,
        hardware_domain: (DomId(0), Space::new()?),
        isolation: Isolation::Report,
        capacity: Capacity { devices, requester_ids: devices, domains: 16 },
    };
    Policy::new(setup, arena).ok()
}

/// Every device appears, and joins its group.
pub(crate) fn add_all((policy, devices): (&World, u32)) -> bool {
    (0..devices).map(Sbdf::from_raw).all(|device| {
        let space = || if device == MOVED { Space::new() } else { Some(Space::Unused) };
        policy.add_device(&Function::endpoint(device), space, &mut |_| ()).is_ok()
    })
}

fn members(policy: &World, device: Sbdf) -> u64 {
    let mut count = 0;
    policy.for_each_in_group(device, |_, _| count += 1);
    count
}

/// Boots the machine's `1 / part`.
fn boot(measurements: &mut Measurements, part: u32) -> World {
    let (regions, devices) = (REGIONS / part, DEVICES / part);
    let bytes = dmar(regions);
    let dmar = Dmar::parse(&bytes).unwrap();
    let memory = vec![MaybeUninit::uninit(); 2 * MEMORY].leak();
    let mut arena = Arena::new(memory);
    let size = format!("{regions} regions, {devices} devices");
    let mut left = arena.left();
    let mut taken = |arena: &Arena<'_>| {
        let bytes = left - arena.left();
        left = arena.left();
        format!("memory: {:.2} MiB", bytes as f64 / MIB as f64)
    };

    let registry = measurements.call(
        &format!("{size}: read the table, freeze the registry"),
        |(dmar, arena): (&Dmar<'_>, &mut Arena<'static>)| registry(dmar, arena),
        (&dmar, &mut arena),
        |row| row.each("scope", devices.into()),
    );
    measurements.note(taken(&arena));
    let registry = registry.unwrap();
    assert_eq!(registry.regions().count(), regions as usize);
    let policy = measurements.call(
        &format!("{size}: make places"),
        |(registry, arena): (_, &mut Arena<'static>)| policy(registry, devices, arena),
        (registry, &mut arena),
        |row| row.each("device", devices.into()),
    );
    measurements.note(taken(&arena));
    let policy = policy.unwrap();
    let added = measurements.call(&format!("{size}: add and group"), add_all, (&policy, devices), |row| {
        row.each("device", devices.into())
    });
    let used = 2 * MEMORY - arena.left();
    // At other sizes the bound says nothing.
    if part == 1 {
        measurements.amend(|row| row.memory(used as u64, MEMORY as u64));
    }
    assert!(added);
    policy
}

/// The same machine with conventional bridges: a bus's devices are below one, and have its regions together.
fn boot_below_bridges(measurements: &mut Measurements, part: u32) {
    let (regions, devices) = (REGIONS / part, DEVICES / part);
    let mut arena = Arena::new(vec![MaybeUninit::uninit(); 2 * MEMORY].leak());
    let memory = [MemoryRegion { start: 0, end: 1 << 39, kind: MemoryKind::Reserved }];
    let mut builder = RegistryBuilder::default();
    for index in 0..regions {
        let (base, limit) = region(index);
        let bus = (index / SHARING) as u8;
        let bridge = Sbdf::new(0, 0, bus & 0x1f, bus >> 5);
        let below = [Devices::Below { bridge, first_bus: bus, last_bus: bus }];
        let record = Record::identity(base, limit, Origin::Hypervisor, &below);
        host(&memory).add_record(&record, &mut builder, &mut arena).unwrap();
    }
    let registry = builder.freeze(&mut arena).unwrap();
    let policy = policy(registry, devices, &mut arena).unwrap();
    let case = format!("{regions} regions of bridges, {devices} devices: add and group");
    let note = "every device has sixteen regions";
    assert!(
        measurements.call(&case, add_all, (&policy, devices), |row| {
            row.each("device", devices.into()).note(note)
        })
    );
    let buses = devices / 256;
    let device = Sbdf::new(0, (buses - 1) as u8, 7, 0);
    assert!(policy.registry().regions_of(device).count() >= SHARING as usize);
}

/// Finding things on the whole machine.
fn look_ups(measurements: &mut Measurements, policy: &World) {
    let registry = policy.registry();
    let last = REGIONS - 1;
    let (base, limit) = region(last);
    let device = Sbdf::from_raw(devices_of(last).end - 5);
    let bounded = |row: Row| row.bound(LOOK_UP);

    let regions_of = |(registry, device): (&Registry<'_>, Sbdf)| registry.regions_of(device).count();
    assert_eq!(measurements.call("device to regions: one", regions_of, (registry, device), bounded), 1);
    assert_eq!(measurements.call("device to regions: three", regions_of, (registry, MOVED), bounded), 3);
    let none = Sbdf::new(1, 0, 0, 0);
    assert_eq!(measurements.call("device to regions: none", regions_of, (registry, none), bounded), 0);

    let overlapping = |(registry, range): (&Registry<'_>, MfnRange)| registry.overlapping(range).count();
    let pages = |start, end| MfnRange::new(Mfn::containing(start), Mfn::containing(end)).unwrap();
    let within = pages(base + 0x1000, limit);
    let found = measurements.call("region overlap: one", overlapping, (registry, within), bounded);
    assert_eq!(found, 1);
    let beside = pages(limit + 1, limit + 0x2001);
    let found = measurements.call("region overlap: none", overlapping, (registry, beside), bounded);
    assert_eq!(found, 0);

    let owner = |(policy, device): (&World, Sbdf)| policy.owner(device);
    let found = measurements.call("device to owner", owner, (policy, device), |row| row);
    assert!(found.is_some());
    let group = |(policy, device): (&World, Sbdf)| members(policy, device);
    let found = measurements.call("device to group: of itself", group, (policy, MOVED), bounded);
    assert_eq!(found, 1);
    let all = u64::from(SHARING);
    let each = "device to group: each member, and what links it";
    let found = measurements.call(each, group, (policy, device), |row| row.each("member", all));
    assert_eq!(found, all);
}

/// A device with three regions there and back.
fn moves(measurements: &mut Measurements, policy: &World) {
    let guest = DomId(1);
    policy.create_domain(guest, Space::new().unwrap()).unwrap();
    let there =
        |(policy, guest): (&World, DomId)| policy.assign(&[MOVED], guest, Mode::Strict, &mut |_| ()).is_ok();
    let back = |(policy, guest): (&World, DomId)| policy.deassign(&[MOVED], guest, &mut |_| ()).is_ok();
    let row = |row| row;
    let first = "assign from the hardware domain, three regions of 64 MiB";
    assert!(measurements.call(first, there, (policy, guest), row));
    assert!(measurements.call("de-assign, three regions of 64 MiB", back, (policy, guest), row));
    let second = "assign from quarantine, three regions of 64 MiB";
    assert!(measurements.call(second, there, (policy, guest), row));
    assert!(back((policy, guest)));
    let both = |input| there(input) && back(input);
    assert!(measurements.call(
        "assign and de-assign, three regions of 64 MiB",
        both,
        (policy, guest),
        |row| row.bound(MOVE).note("the remapping hardware returns at once")
    ));
}

/// Measures.
pub(crate) fn measure(measurements: &mut Measurements) {
    frames::provide(1024);
    for part in PARTS {
        let policy = boot(measurements, part);
        if part == 1 {
            look_ups(measurements, &policy);
            moves(measurements, &policy);
        }
    }
    for part in PARTS {
        boot_below_bridges(measurements, part);
    }
}

#[cfg(test)]
mod tests {
    use acpi_dmar::Dmar;

    use super::{DEVICES, REGIONS, devices_of, dmar, region};

    #[test]
    fn the_table_has_all_regions_and_devices() {
        let bytes = dmar(64);
        let structures = Dmar::parse(&bytes).unwrap().structures().map(|structure| structure.unwrap());
        assert_eq!(structures.map(|structure| structure.scopes().count()).sum::<usize>(), 3 + 61 * 16);
        assert_eq!(devices_of(REGIONS - 1).end, DEVICES);
        assert!(region(8).1 >= region(9).0, "some overlap");
        assert!(region(9).1 < region(10).0);
        assert!(region(REGIONS - 1).1 < 1 << 39);
    }
}
