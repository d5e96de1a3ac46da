//! What `XENMEM_reserved_device_memory_map` answers on a machine: by the handler that a hypervisor calls, in
//! a caller's memory that is made up here.

mod machine;
mod memory;

use std::iter;
use std::mem::MaybeUninit;

use acpi_dmar::{Dmar, Structure};
use xen_iommu::abi::memory::XENMEM_RDM_ALL;
use xen_iommu::abi::{Errno, Layout, ReservedDeviceMemory, ReservedDeviceMemoryMap};
use xen_iommu::hypercall::{Caller, reserved_device_memory_map};
use xen_iommu::region::choice::choose;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::{FramesInUse, MemoryKind, MemoryRegion, ReserveFrames};
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{Arena, OutOfMemory, Sbdf};

use crate::machine::PciTree;
pub use machine::{device, devices, memory_map};
use memory::{ARGUMENT, BUFFER, Memory};

/// Bits of an address where no table says how many DMA can use.
const ADDRESS_WIDTH: u8 = 52;

/// A question, and the machine that it is asked on.
#[derive(Debug, Default)]
pub struct Query {
    /// The DMAR's bytes. Without one there is an IOMMU all the same, and its table has no region.
    pub dmar: Option<Vec<u8>>,
    /// The values of `rmrr=` options, in their order.
    pub rmrr: Vec<String>,
    /// The functions that are there.
    pub pci: PciTree,
    /// The memory map; without one all memory counts as reserved.
    pub memory: Option<Vec<MemoryRegion>>,
    /// The device that is asked about; all where it is `None`.
    pub device: Option<Sbdf>,
    /// Room in the buffer, in entries.
    pub nr_entries: u32,
    /// Whether a 32-bit caller asks.
    pub compat: bool,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0, or the error.
    pub result: Result<(), Errno>,
    /// `nr_entries` after the call.
    pub nr_entries: u32,
    /// What was written to the buffer: first frame and number of frames.
    pub entries: Vec<(u64, u64)>,
    /// The verdict on each region, and what could not be read.
    pub log: Vec<String>,
}

/// An allocator that gives up any frame.
struct GivesRam;

impl ReserveFrames for GivesRam {
    fn take_out_of_ram(&mut self, _: p2m::MfnRange) -> Result<(), FramesInUse> {
        Ok(())
    }
}

impl Query {
    /// Asks, with all rights.
    #[must_use]
    pub fn ask(&self) -> Answer {
        // A guess; where it is too little, twice as much.
        let option: usize = self.rmrr.iter().map(String::len).sum();
        let mut size = (64 << 10) + 16 * (self.dmar.as_ref().map_or(0, Vec::len) + option);
        loop {
            let mut memory: Vec<u8> = Vec::with_capacity(size);
            match self.ask_in(memory.spare_capacity_mut()) {
                Ok(answer) => return answer,
                Err(OutOfMemory { .. }) => size *= 2,
            }
        }
    }

    fn ask_in(&self, memory: &mut [MaybeUninit<u8>]) -> Result<Answer, OutOfMemory> {
        let mut log = Vec::new();
        let registry = self.registry(&mut Arena::new(memory), &mut log)?;
        if registry.iommu() != IommuState::Active {
            log.push(format!("{}", registry.iommu()));
        }
        Ok(self.answer(&registry, log))
    }

    fn registry<'m>(
        &self,
        arena: &mut Arena<'m>,
        log: &mut Vec<String>,
    ) -> Result<Registry<'m>, OutOfMemory> {
        let everything = [MemoryRegion { start: 0, end: u64::MAX, kind: MemoryKind::Reserved }];
        let chosen = self.dmar.as_ref().map(|bytes| choose([&bytes[..]], &mut |_, _| {}));
        let dmar = chosen.and_then(Result::ok);
        let windows = windows(dmar.as_ref());
        let mut host = Host {
            pci: &self.pci,
            memory: self.memory.as_deref().unwrap_or(&everything),
            frames: &mut GivesRam,
            address_width: dmar.as_ref().map_or(ADDRESS_WIDTH, Dmar::host_address_width),
            windows: &|visit: &mut dyn FnMut(Window)| windows.iter().copied().for_each(visit),
            unit_width: &|_| None,
        };
        let mut builder = RegistryBuilder::default();
        let mut report = |finding: Finding<'m>| log.extend(line(finding));
        if let Some(dmar) = &dmar {
            let scopes = ResolvedScopes::read(dmar, &self.pci, arena)?;
            host.read_dmar(dmar, &scopes, &mut builder, arena, &mut report)?;
        }
        for value in &self.rmrr {
            host.read_option(value, &mut builder, arena, &mut report)?;
        }
        let is_unit = |one: &Structure<'_>| matches!(one, Structure::Drhd(_));
        builder.set_iommu(match (chosen, &dmar) {
            (Some(Err(state)), _) => state,
            (_, Some(dmar)) if !dmar.structures().flatten().any(|one| is_unit(&one)) => {
                IommuState::Unusable(Unusable::NoUnit)
            }
            _ => IommuState::Active,
        });
        builder.freeze(arena)
    }

    fn answer(&self, registry: &Registry<'_>, log: Vec<String>) -> Answer {
        let layout = if self.compat { Layout::Compat } else { Layout::Native };
        let map = ReservedDeviceMemoryMap {
            flags: if self.device.is_none() { XENMEM_RDM_ALL } else { 0 },
            nr_entries: self.nr_entries,
            buffer: BUFFER,
            pci: self.device.unwrap_or(Sbdf::from_raw(0)).into(),
        };
        // What it holds fits in either layout.
        let argument = map.to_bytes(layout).map(|bytes| bytes.to_vec()).unwrap_or_default();
        let mut memory = Memory::new(argument);
        // Here each function carries its own requester id alone.
        let others = |_| iter::empty();
        let caller = Caller::Privileged;
        let result = reserved_device_memory_map(registry, &mut memory, caller, layout, 0, ARGUMENT, others);
        let size = ReservedDeviceMemory::size(layout);
        let written = memory.buffer.chunks_exact(size);
        let entries = written.filter_map(|bytes| ReservedDeviceMemory::from_bytes(bytes, layout).ok());
        let entries = entries.map(|entry| (entry.start_pfn, entry.nr_pages)).collect();
        let after = ReservedDeviceMemoryMap::from_bytes(&memory.argument, layout).unwrap_or_default();
        Answer { result, nr_entries: after.nr_entries, entries, log }
    }
}

/// The units' registers.
fn windows(dmar: Option<&Dmar<'_>>) -> Vec<Window> {
    let structures = dmar.into_iter().flat_map(|dmar| dmar.structures().flatten());
    let units = structures.filter_map(|structure| match structure {
        Structure::Drhd(drhd) => {
            let base = drhd.register_base();
            Some(Window::UnitRegisters { base, limit: base.saturating_add(drhd.register_bytes() - 1) })
        }
        _ => None,
    });
    units.collect()
}

/// What the log says of a finding.
fn line(finding: Finding<'_>) -> Option<String> {
    Some(match finding {
        Finding::Region(region) => format!("{region:?}: {}", region.verdict()),
        Finding::BadStructure(error) => error.to_string(),
        Finding::BadScope { structure, error } => format!("structure at {structure:#x}: {error}"),
        Finding::Unresolved { structure, scope, error, .. } => {
            format!("structure at {structure:#x}, scope at {scope:#x}: {error}")
        }
        Finding::BadOption(error) => format!("rmrr=: {error}"),
        Finding::Structure { .. } => return None,
    })
}
