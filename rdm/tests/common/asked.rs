//! A policy for a table, built beside the one in `rdm`: on real tables, and with units by the table's words.

use std::mem::MaybeUninit;

use acpi_dmar::pci_types::PciAddress;
use acpi_dmar::resolve::{Resolved, resolve};
use acpi_dmar::{Dmar, DrhdFlags, ScopeKind, Structure};
use p2m::{DeviceRoot, Flush, PageSize, SecondLevel, Table};
use rdm::machine::{Machine, PciTree};
use testkit::frames::Frames;
use xen_iommu::pci::{Function, Topology};
use xen_iommu::region::forbidden::{Bar, Window};
use xen_iommu::region::intake::Host;
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::{FramesInUse, MemoryKind, MemoryRegion, ReserveFrames};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{
    Arena, Capacity, DeviceControl, DomId, HardwareError, Isolation, NotQuiesced, Policy, RemappingHardware,
    RequesterId, Sbdf, Setup, SpaceId,
};

pub(crate) const GUEST: DomId = DomId(7);

pub(crate) type Space<'f> = Table<SecondLevel, &'f Frames>;

/// Units that name devices, each as a test.
pub(crate) struct Hardware<'d> {
    dmar: Dmar<'d>,
    pci: &'d PciTree,
}

impl Hardware<'_> {
    fn check(&self, requester: RequesterId) -> Result<(), HardwareError> {
        let function = PciAddress::from(requester.unit_of);
        let mut units = self.dmar.structures().flatten().filter_map(|structure| match structure {
            Structure::Drhd(drhd) if drhd.segment() == function.segment() => Some(drhd),
            _ => None,
        });
        let covers = units.any(|drhd| {
            let mut scopes = drhd.scopes().flatten();
            drhd.flags().contains(DrhdFlags::INCLUDE_PCI_ALL)
                || scopes.any(|scope| {
                    let found = resolve(drhd.segment(), &scope, &self.dmar, self.pci);
                    let is_interrupts = matches!(found, Ok(Resolved::IoApic { .. } | Resolved::Hpet { .. }));
                    !is_interrupts && found.is_ok_and(|found| found.covers(function))
                })
        });
        if covers { Ok(()) } else { Err(HardwareError::NoUnit { requester: requester.id }) }
    }
}

impl RemappingHardware for Hardware<'_> {
    fn attach(&self, requester: RequesterId, _: SpaceId, _: DeviceRoot) -> Result<(), HardwareError> {
        self.check(requester)
    }

    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError> {
        self.check(requester)
    }

    fn flush(&self, _: SpaceId, _: &Flush) -> Result<(), HardwareError> {
        Ok(())
    }

    fn check_translating(&self, requester: RequesterId) -> Result<(), HardwareError> {
        self.check(requester)
    }

    fn address_width(&self, _: RequesterId) -> Option<u8> {
        None
    }
}

pub(crate) struct Control;

impl DeviceControl for Control {
    fn quiesce(&mut self, _: Sbdf) -> Result<(), NotQuiesced> {
        Err(NotQuiesced::NotOurs)
    }

    fn resume(&mut self, _: Sbdf) {}

    fn for_each_bar(&self, _: &mut dyn FnMut(Bar)) {}
}

struct GivesRam;

impl ReserveFrames for GivesRam {
    fn take_out_of_ram(&mut self, _: p2m::MfnRange) -> Result<(), FramesInUse> {
        Ok(())
    }
}

/// Asks a policy in which all functions are the hardware domain's, and [`GUEST`] has nothing.
pub(crate) fn with_policy<T>(
    bytes: &[u8],
    machine: Option<&Machine>,
    isolation: Isolation,
    ask: impl FnOnce(&Policy<'_, Space<'_>, Hardware<'_>, Control>) -> T,
) -> T {
    let dmar = Dmar::parse(bytes).unwrap();
    let nothing = PciTree::default();
    let pci = machine.map_or(&nothing, |machine| &machine.pci);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 20];
    let mut arena = Arena::new(&mut memory);
    let scopes = ResolvedScopes::read(&dmar, pci, &mut arena).unwrap();
    let everything = [MemoryRegion { start: 0, end: u64::MAX, kind: MemoryKind::Reserved }];
    let windows = |visit: &mut dyn FnMut(Window)| {
        for structure in dmar.structures().flatten() {
            if let Structure::Drhd(drhd) = structure {
                let base = drhd.register_base();
                visit(Window::UnitRegisters { base, limit: base + drhd.register_bytes() - 1 });
            }
        }
        machine.iter().flat_map(|machine| &machine.windows).for_each(|window| visit(*window));
    };
    let mut host = Host {
        pci,
        memory: machine.and_then(|machine| machine.memory.as_deref()).unwrap_or(&everything),
        frames: &mut GivesRam,
        address_width: dmar.host_address_width(),
        windows: &windows,
        unit_width: &|_| None,
    };
    let mut builder = RegistryBuilder::default();
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut |_| {}).unwrap();
    if !dmar.structures().flatten().any(|structure| matches!(structure, Structure::Drhd(_))) {
        builder.set_iommu(IommuState::Unusable(Unusable::NoUnit));
    }
    let registry = builder.freeze(&mut arena).unwrap();
    let functions = functions(&dmar, machine, &mut arena);
    let frames = Frames::new(400);
    let space = || Table::new(SecondLevel::default(), &frames, 4, PageSize::Size1G).unwrap();
    let setup = Setup {
        registry,
        hardware: Hardware { dmar, pci },
        control: Control,
        hardware_domain: (DomId(0), space()),
        isolation,
        capacity: Capacity { devices: functions.len(), requester_ids: 16 * functions.len(), domains: 2 },
    };
    let policy = Policy::new(setup, &mut arena).unwrap();
    for function in functions {
        policy.add_device(&function, || Some(space()), &mut |_| {}).unwrap();
    }
    policy.create_domain(GUEST, space()).unwrap();
    ask(&policy)
}

fn functions(dmar: &Dmar<'_>, machine: Option<&Machine>, arena: &mut Arena<'_>) -> Vec<Function> {
    let mut functions = Vec::new();
    if let Some(machine) = machine {
        let topology = Topology::read(&machine.pci, &machine.pci.bus_ranges(), arena).unwrap();
        // `rdm` has said what it has to say, on a copy.
        topology.enable_acs(&machine.pci, &mut |_, _| {});
        topology.functions(&machine.pci, &mut |function| {
            let header = Function { role: function.role, class: function.class, ..function.sbdf.into() };
            functions.push(if machine.pci.has_capabilities() { function } else { header });
        });
        return functions;
    }
    for structure in dmar.structures().flatten() {
        let Structure::Rmrr(rmrr) = structure else { continue };
        let scopes = rmrr.scopes().flatten();
        for scope in scopes.filter(|scope| matches!(scope.kind(), ScopeKind::PciEndpoint)) {
            if let Some(address) = acpi_dmar::resolve::static_address(rmrr.segment(), &scope) {
                functions.push(Sbdf::from(address).into());
            }
        }
    }
    functions.sort_by_key(|function: &Function| function.sbdf);
    functions.dedup_by_key(|function| function.sbdf);
    functions
}
