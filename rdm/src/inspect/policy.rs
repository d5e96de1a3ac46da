//! What the policy makes of a table: its registry and its groups, and its answers on each device. Nothing
//! here decides anything.
//!
//! On a machine the functions are those that the library's walk of PCI finds ([`PciTree::functions`]).
//!
//! A table by itself names functions by paths. Those of one hop have an address, and are taken as present.
//! Those behind bridges, and what is below a bridge that is named, have none as long as nobody knows the
//! bridges: their scopes stay open, as on a machine on which no bridge is there, and the devices are in no
//! group. So groups can only grow when the table is read on its machine.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::mem::MaybeUninit;

use acpi_dmar::{Dmar, ScopeKind, Structure};
use xen_iommu::pci::Function;
use xen_iommu::region::choice::choose;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::iommu_state::{IommuState, Unusable};
use xen_iommu::region::memory::{MemoryKind, MemoryRegion};
use xen_iommu::region::record::Origin;
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::{ResolvedScope, ResolvedScopes};
use xen_iommu::region::verdict::Verdict;
use xen_iommu::vtd::{self, Replacement, Unit};
use xen_iommu::{
    Arena, AssignError, Capacity, DomId, Isolation, Link, Mode, OutOfMemory, Policy, Sbdf, Setup,
};

use super::hardware::{Control, GivesRam, Hardware, NoRegisters, Space};
use crate::machine::{Machine, PciTree};

/// What is asked about: whether this domain, which has nothing, can have a device that is the hardware
/// domain's.
const GUEST: DomId = DomId(1);

type Asked<'m> = Policy<'m, Space, Hardware<'m>, Control<'m>>;

/// What [`Policy::check_assign`] answers on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answers {
    /// On the device alone.
    pub alone: Result<(), AssignError>,
    /// On its whole group.
    pub together: Result<(), AssignError>,
    /// On the device alone, relaxed.
    pub alone_relaxed: Result<(), AssignError>,
    /// On its whole group, relaxed.
    pub together_relaxed: Result<(), AssignError>,
}

/// Devices of one group, lowest first, and what holds them together: fewer links than devices.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) devices: Vec<Sbdf>,
    pub(super) links: Vec<(Sbdf, Sbdf, Link)>,
}

/// The policy's view of a table.
#[derive(Debug)]
pub(super) struct View {
    pub(super) iommu: IommuState,
    /// Of the RMRRs in the table's order; dormant where their devices are absent.
    pub(super) verdicts: Vec<Verdict>,
    /// What each scope means, by the offset of its structure.
    pub(super) scopes: HashMap<u32, Vec<ResolvedScope>>,
    /// The functions that are there.
    pub(super) functions: BTreeMap<Sbdf, Function>,
    /// The answers on each of them.
    pub(super) answers: BTreeMap<Sbdf, Answers>,
    /// Each function that is no bridge is in one.
    pub(super) groups: Vec<Members>,
    /// The regions of the functions, and of others that were asked for, by number.
    pub(super) regions_of: BTreeMap<Sbdf, Vec<usize>>,
}

impl View {
    /// Of the table `dmar` in `bytes`, by a policy that treats isolation so. `functions` are the machine's.
    pub(super) fn of(
        bytes: &[u8],
        dmar: &Dmar<'_>,
        machine: Option<&Machine>,
        functions: &[Function],
        isolation: Isolation,
    ) -> Self {
        let nothing = PciTree::default();
        let pci = machine.map_or(&nothing, |machine| &machine.pci);
        let asked = Table { bytes, dmar, machine, pci, functions, isolation };
        // A guess; where it is too little, twice as much.
        let mut size = (64 << 10) + 8 * bytes.len() + 512 * functions.len();
        loop {
            let mut memory: Vec<u8> = Vec::with_capacity(size);
            match asked.view(memory.spare_capacity_mut()) {
                Ok(view) => return view,
                Err(OutOfMemory { .. }) => size *= 2,
            }
        }
    }
}

/// A table, and what it is judged on.
struct Table<'a> {
    bytes: &'a [u8],
    dmar: &'a Dmar<'a>,
    machine: Option<&'a Machine>,
    pci: &'a PciTree,
    functions: &'a [Function],
    isolation: Isolation,
}

impl Table<'_> {
    fn view(&self, memory: &mut [MaybeUninit<u8>]) -> Result<View, OutOfMemory> {
        let mut arena = Arena::new(memory);
        let windows = self.windows();
        let scopes = ResolvedScopes::read(self.dmar, self.pci, &mut arena)?;
        let numbers = rmrrs(self.dmar);
        let named = named(&scopes, &numbers);
        // Those of a machine or, without one, those whose addresses the table tells.
        let functions = match self.machine {
            Some(_) => self.functions.to_vec(),
            None => named.iter().copied().map(Function::from).collect(),
        };
        let (registry, verdicts) = self.registry(&scopes, &windows, &mut arena)?;
        let regions = |device| {
            let mut regions: Vec<_> = registry
                .regions_of(device)
                .filter_map(|region| match region.origin() {
                    Origin::Dmar { offset } => numbers.get(&offset).copied(),
                    _ => None,
                })
                .collect();
            regions.sort_unstable();
            regions
        };
        let all = functions.iter().map(|function| function.sbdf).chain(named);
        let regions_of = all.map(|device| (device, regions(device))).collect();
        let iommu = registry.iommu();

        let hardware = Hardware(self.units(&scopes, &mut arena)?);
        let ids = functions.iter().map(|function| function.ids.len()).sum();
        let setup = Setup {
            registry,
            hardware,
            control: Control(&windows),
            hardware_domain: (DomId(0), Space),
            isolation: self.isolation,
            capacity: Capacity { devices: functions.len(), requester_ids: ids, domains: 2 },
        };
        let policy: Asked<'_> = Policy::new(setup, &mut arena)?;
        for function in &functions {
            // There is a place for each; one that came twice is there.
            let _ = policy.add_device(function, || Some(Space), &mut |_| {});
        }
        let _ = policy.create_domain(GUEST, Space);
        let groups = groups(&policy);
        let mut by_structure: HashMap<u32, Vec<ResolvedScope>> = HashMap::new();
        for scope in scopes.iter() {
            by_structure.entry(scope.structure).or_default().push(*scope);
        }
        Ok(View {
            iommu,
            verdicts,
            scopes: by_structure,
            answers: answers(&policy, &functions, &groups),
            functions: functions.into_iter().map(|function| (function.sbdf, function)).collect(),
            groups,
            regions_of,
        })
    }

    fn windows(&self) -> Vec<Window> {
        let units = self.dmar.structures().flatten().filter_map(|structure| match structure {
            Structure::Drhd(drhd) => {
                let base = drhd.register_base();
                Some(Window::UnitRegisters { base, limit: base.saturating_add(drhd.register_bytes() - 1) })
            }
            _ => None,
        });
        units.chain(self.machine.iter().flat_map(|machine| &machine.windows).copied()).collect()
    }

    fn registry<'m>(
        &self,
        scopes: &ResolvedScopes<'_>,
        windows: &[Window],
        arena: &mut Arena<'m>,
    ) -> Result<(Registry<'m>, Vec<Verdict>), OutOfMemory> {
        // Without a map all memory counts as reserved.
        let everything = [MemoryRegion { start: 0, end: u64::MAX, kind: MemoryKind::Reserved }];
        let mut host = Host {
            pci: self.pci,
            memory: self.machine.and_then(|machine| machine.memory.as_deref()).unwrap_or(&everything),
            frames: &mut GivesRam,
            address_width: self.dmar.host_address_width(),
            windows: &|visit: &mut dyn FnMut(Window)| windows.iter().copied().for_each(visit),
            unit_width: &|_| None,
        };
        let (mut builder, mut verdicts) = (RegistryBuilder::default(), Vec::new());
        host.read_dmar(self.dmar, scopes, &mut builder, arena, &mut |finding| {
            if let Finding::Region(region) = finding {
                verdicts.push(region.verdict());
            }
        })?;
        builder.set_iommu(match choose([self.bytes], &mut |_, _| {}) {
            Err(state) => state,
            Ok(dmar) if dmar.structures().flatten().any(|one| matches!(one, Structure::Drhd(_))) => {
                IommuState::Active
            }
            Ok(_) => IommuState::Unusable(Unusable::NoUnit),
        });
        Ok((builder.freeze(arena)?, verdicts))
    }

    fn units<'m>(
        &self,
        scopes: &ResolvedScopes<'_>,
        arena: &mut Arena<'m>,
    ) -> Result<Vec<Unit<'m, NoRegisters>>, OutOfMemory> {
        let mut units = Vec::new();
        for structure in self.dmar.structures().flatten() {
            let Structure::Drhd(drhd) = structure else { continue };
            let mut coverage = Vec::new();
            vtd::coverage(&drhd, scopes, &mut |one| coverage.push(one), &mut |_| {});
            units.push(Unit::new(vtd::Setup {
                base: drhd.register_base(),
                window: 0x1000,
                registers: NoRegisters,
                segment: drhd.segment(),
                coverage: arena.collect(coverage.into_iter())?,
                domains: &mut [],
                device_tlbs: &mut [],
                polls: 0,
                queue: false,
                replacement: Replacement::ByWords,
            }));
        }
        Ok(units)
    }
}

/// The numbers of the RMRRs by their offsets.
fn rmrrs(dmar: &Dmar<'_>) -> HashMap<u32, usize> {
    let rmrrs = dmar.structures().flatten().filter(|structure| matches!(structure, Structure::Rmrr(_)));
    rmrrs.enumerate().map(|(number, rmrr)| (rmrr.offset(), number)).collect()
}

/// The functions that the regions' scopes name, bridges for what is below them left out; present or not.
fn named(scopes: &ResolvedScopes<'_>, regions: &HashMap<u32, usize>) -> BTreeSet<Sbdf> {
    let scopes = scopes.iter().filter(|scope| regions.contains_key(&scope.structure));
    let scopes = scopes.filter(|scope| !matches!(scope.kind, ScopeKind::IoApic | ScopeKind::Hpet));
    let named = scopes.filter_map(|scope| match scope.place.ok()?.devices {
        Devices::Function(function) => Some(function),
        _ => None,
    });
    named.collect()
}

fn groups(policy: &Asked<'_>) -> Vec<Members> {
    let mut all = Vec::new();
    policy.for_each_device(|device, _| all.push(device));
    let mut known = HashSet::new();
    let mut groups = Vec::new();
    for device in all {
        let mut devices = Vec::new();
        policy.for_each_in_group(device, |member, _| devices.push(member));
        if devices.is_empty() || known.contains(&device) {
            continue;
        }
        devices.sort_unstable();
        known.extend(devices.iter().copied());
        groups.push(Members { links: links(policy, &devices), devices });
    }
    groups
}

/// From the first of a group's devices to those linked to it, from these to the others, and so on.
fn links(policy: &Asked<'_>, devices: &[Sbdf]) -> Vec<(Sbdf, Sbdf, Link)> {
    let mut left: BTreeMap<Sbdf, Option<Link>> = devices[1..].iter().map(|device| (*device, None)).collect();
    let mut links: Vec<(Sbdf, Sbdf, Link)> = Vec::new();
    let mut reached = vec![devices[0]];
    let mut next = 0;
    while let Some(&device) = reached.get(next).filter(|_| !left.is_empty()) {
        next += 1;
        policy.for_each_in_group(device, |member, link| {
            if let Some(place) = left.get_mut(&member) {
                *place = link;
            }
        });
        left.retain(|member, link| match link.take() {
            None => true,
            Some(link) => {
                links.push((device, *member, link));
                reached.push(*member);
                false
            }
        });
    }
    links
}

fn answers(policy: &Asked<'_>, functions: &[Function], groups: &[Members]) -> BTreeMap<Sbdf, Answers> {
    let ask = |devices: &[Sbdf], mode| policy.check_assign(devices, GUEST, mode);
    let mut answers = BTreeMap::new();
    for group in groups {
        let together = ask(&group.devices, Mode::Strict);
        let together_relaxed = ask(&group.devices, Mode::Relaxed);
        for device in &group.devices {
            let alone = ask(&[*device], Mode::Strict);
            let alone_relaxed = ask(&[*device], Mode::Relaxed);
            answers.insert(*device, Answers { alone, together, alone_relaxed, together_relaxed });
        }
    }
    // Bridges are in no group.
    for function in functions {
        answers.entry(function.sbdf).or_insert_with(|| {
            let (strict, relaxed) =
                (ask(&[function.sbdf], Mode::Strict), ask(&[function.sbdf], Mode::Relaxed));
            Answers { alone: strict, together: strict, alone_relaxed: relaxed, together_relaxed: relaxed }
        });
    }
    answers
}
