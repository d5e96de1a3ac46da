//! What the tests here share: a small machine, and what is read on it.

use std::mem::MaybeUninit;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use testkit::bus::{Bus, Function};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::{Bar, Window};
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::memory::{KeepRam, MemoryKind, MemoryRegion, ReserveFrames};
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{Arena, Sbdf};

pub(crate) const IGD: Sbdf = Sbdf::new(0, 0, 2, 0);
pub(crate) const USB: Sbdf = Sbdf::new(0, 0, 0x14, 0);
pub(crate) const BRIDGE: Sbdf = Sbdf::new(0, 0, 0x1c, 0);
pub(crate) const BELOW: Sbdf = Sbdf::new(0, 3, 0, 0);

/// 00:02.0, 00:14.0, and 00:1c.0, a bridge to buses 3 to 5 with 03:00.0 below it.
pub(crate) fn bus() -> Bus {
    let device = || Function::new(0x8086, 0x1234);
    Bus::new()
        .with(IGD, device())
        .with(USB, device())
        .with(BRIDGE, Function::bridge(3, 5).id(0x8086, 0x5678))
        .with(BELOW, device())
}

pub(crate) const MEMORY: [MemoryRegion; 2] = [
    MemoryRegion { start: 0, end: 0x1000_0000, kind: MemoryKind::Ram },
    MemoryRegion { start: 0x1000_0000, end: 0x8000_0000, kind: MemoryKind::Reserved },
];

/// What decodes on this machine: a unit's registers, configuration space, and the window of the USB
/// controller.
pub(crate) const WINDOWS: [Window; 3] = [
    Window::UnitRegisters { base: 0x1fed_9000, limit: 0x1fed_9fff },
    Window::ConfigSpace { base: 0x7000_0000, limit: 0x7fff_ffff },
    Window::Bar(Bar { device: USB, base: 0x6000_0000, limit: 0x6000_ffff }),
];

/// The unit of the graphics is one of 38 bits.
fn unit_width(devices: Devices) -> Option<u8> {
    Some(if devices.covers(IGD) { 38 } else { 48 })
}

/// The machine, with 39 bits of address.
pub(crate) fn host<'h, F: ReserveFrames>(
    pci: &'h Bus,
    frames: &'h mut F,
) -> Host<'h, Bus, [MemoryRegion; 2], F> {
    Host { pci, memory: &MEMORY, frames, address_width: 39, windows: &WINDOWS, unit_width: &unit_width }
}

/// Reads a table and an option, and hands over the registry and what was found, in words.
pub(crate) fn read(table: &[u8], option: &str, test: impl FnOnce(&Registry<'_>, &[String])) {
    read_with(&mut KeepRam, table, option, test);
}

/// As [`read`], with this allocator.
pub(crate) fn read_with(
    frames: &mut impl ReserveFrames,
    table: &[u8],
    option: &str,
    test: impl FnOnce(&Registry<'_>, &[String]),
) {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 16];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut found = Vec::new();
    let bus = bus();
    let mut host = host(&bus, frames);
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
    let scopes = ResolvedScopes::read(&dmar, &bus, &mut arena).unwrap();
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut report).unwrap();
    if !option.is_empty() {
        host.read_option(option, &mut builder, &mut arena, &mut report).unwrap();
    }
    test(&builder.freeze(&mut arena).unwrap(), &found);
}

/// A table of these structures, for 39 bits of address.
pub(crate) fn table(structures: impl IntoIterator<Item = StructureBuilder>) -> Vec<u8> {
    structures.into_iter().fold(TableBuilder::new().host_address_width(39), TableBuilder::structure).build()
}

/// A region of the function 0 of a device on bus 0.
pub(crate) fn rmrr(base: u64, limit: u64, device: u8) -> StructureBuilder {
    StructureBuilder::rmrr(0, base, limit).scope(ScopeBuilder::endpoint(0, &[(device, 0)]))
}

/// The frames of the accepted regions of a device: the first, and how many.
pub(crate) fn frames(registry: &Registry<'_>, device: Sbdf) -> Vec<(u64, u64)> {
    let accepted = registry.regions_of(device).filter(|region| region.rejection().is_none());
    accepted.map(|region| (region.range().start().raw(), region.range().len())).collect()
}
