//! A region whose scope leads through a bridge that is absent at boot: dormant, and its device's once the
//! bridge has come, wherever that is then.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use testkit::frames::Frames;
use testkit::world::check::Rules;
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, World, space};
use xen_iommu::pci::Function;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::intake::{Finding, Host};
use xen_iommu::region::memory::{KeepRam, MemoryKind, MemoryRegion};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{AddError, Arena, AssignError, DomId, Holder, Mode, Note, Owner, Sbdf, ScopeOutcome};

const BRIDGE: Sbdf = Sbdf::new(0, 0, 0x1c, 0);
const ROOT: Sbdf = Sbdf::new(0, 0, 3, 0);
const BELOW: Sbdf = Sbdf::new(0, 5, 2, 0);
/// Of [`BELOW`] alone, and of all below [`BRIDGE`] and [`ROOT`].
const OWN: u64 = 0x1_0000;
const SHARED: u64 = 0x2_0000;
const HOME: Owner = Owner::Domain(HARDWARE_DOMAIN);

/// A root bus with [`ROOT`] and, once it has come, [`BRIDGE`] to one bus with [`BELOW`].
#[derive(Default)]
struct Pci {
    bus: RefCell<Option<u8>>,
}

#[allow(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
impl ConfigRegionAccess for Pci {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let (function, bus) = (Sbdf::from(address), *self.bus.borrow());
        let below = bus.is_some_and(|bus| function == Sbdf::new(0, bus, 2, 0));
        match (offset, bus) {
            (0, Some(_)) if function == BRIDGE => 0x5678_8086,
            (8, Some(_)) if function == BRIDGE => 0x0604_0000,
            (0xc, Some(_)) if function == BRIDGE => 0x0001_0000,
            (0x18, Some(bus)) if function == BRIDGE => u32::from(bus) << 16 | u32::from(bus) << 8,
            (0, _) if function == ROOT || below => 0x1234_8086,
            _ if function == ROOT || below || (function == BRIDGE && bus.is_some()) => 0,
            _ => u32::MAX,
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// The machine at boot, with [`ROOT`] alone and two guests. The function that is handed over resolves scopes
/// once the bridge has come, and says what became of them, and the notes.
fn with_late(test: impl FnOnce(&World<'_>, &dyn Fn() -> (Vec<ScopeOutcome>, Vec<Note>))) {
    let scope = |path: &[(u8, u8)]| ScopeBuilder::endpoint(0, path);
    let bytes = TableBuilder::new()
        .host_address_width(39)
        .structure(
            StructureBuilder::rmrr(0, OWN << 12, (OWN << 12) + 0xfff).scope(scope(&[(0x1c, 0), (2, 0)])),
        )
        .structure(
            StructureBuilder::rmrr(0, SHARED << 12, (SHARED << 12) + 0xfff)
                .scope(scope(&[(3, 0)]))
                .scope(ScopeBuilder::bridge(0, &[(0x1c, 0)])),
        )
        .build();
    let dmar = Dmar::parse(&bytes).unwrap();
    let pci = Pci::default();
    let memory_map = [MemoryRegion { start: 0x1000_0000, end: 0x8000_0000, kind: MemoryKind::Reserved }];
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut host = Host {
        pci: &pci,
        memory: &memory_map,
        frames: &mut KeepRam,
        address_width: 39,
        windows: &[],
        unit_width: &|_| None,
    };
    let mut verdicts = Vec::new();
    let mut report = |finding: Finding<'_>| {
        if let Finding::Region(region) = finding {
            verdicts.push(region.verdict().to_string());
        }
    };
    let scopes = ResolvedScopes::read(&dmar, &pci, &mut arena).unwrap();
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut report).unwrap();
    assert_eq!(verdicts, ["dormant: no device of it is present", "accepted"]);
    let registry = builder.freeze(&mut arena).unwrap();
    let below = Devices::Below { bridge: BRIDGE, first_bus: 5, last_bus: 5 };
    let mut shared = Reserved::of(SHARED, SHARED + 1, &[ROOT]);
    shared.devices.push(below);
    let machine = Machine::new(vec![], vec![Reserved::of(OWN, OWN + 1, &[BELOW]), shared]);
    let world = World::with_registry(&frames, &mut arena, machine, registry);
    world.create(GUEST);
    world.create(OTHER);
    world.add(&Function::endpoint(ROOT)).unwrap();
    world.check(Rules::STRICT);
    let resolve = || {
        *pci.bus.borrow_mut() = Some(5);
        let (mut found, mut notes) = (Vec::new(), Vec::new());
        let mut hear = |note| {
            world.hear(note);
            notes.push(note);
        };
        world.policy.resolve_scopes(&dmar, &pci, || space(&frames), &mut |late| found.push(late), &mut hear);
        (found, notes)
    };
    // Nothing has come yet.
    let mut none = |_| panic!("a scope means something");
    world.policy.resolve_scopes(&dmar, &pci, || None, &mut none, &mut |_| {});
    test(&world, &resolve);
    let again = resolve();
    assert_eq!(again, (vec![], vec![]), "nothing is open any more");
}

fn is_found(late: &[ScopeOutcome]) {
    let found: Vec<Devices> = late
        .iter()
        .filter_map(|late| if let ScopeOutcome::Found { devices, .. } = late { Some(*devices) } else { None })
        .collect();
    let below = Devices::Below { bridge: BRIDGE, first_bus: 5, last_bus: 5 };
    assert_eq!(found, [Devices::Function(BELOW), below]);
}

#[test]
fn a_device_that_comes_after_its_bridge_has_its_regions() {
    with_late(|world, resolve| {
        is_found(&resolve().0);
        assert_eq!(world.policy.registry().regions_of(BELOW).count(), 2);
        assert_eq!(world.policy.registry().regions_of(BRIDGE).count(), 1);
        assert_eq!(world.add(&Function::endpoint(BELOW)), Ok(HOME));
        world.check(Rules::STRICT);
        let region = world.policy.registry().regions().next().unwrap();
        assert!(world.policy.has_present_device(region));
        // It shares the second region with the device on the root bus.
        world.assign(&[BELOW], GUEST, Mode::Strict).unwrap_err();
        world.assign(&[BELOW, ROOT], GUEST, Mode::Strict).unwrap();
        assert_eq!((world.dma(BELOW, OWN), world.dma(BELOW, SHARED)), (Some(OWN), Some(SHARED)));
        world.deassign(&[BELOW, ROOT], GUEST).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn one_that_is_there_already_gets_them_where_it_is() {
    // The hardware domain's.
    with_late(|world, resolve| {
        world.add(&Function::endpoint(BELOW)).unwrap();
        let (found, notes) = resolve();
        is_found(&found);
        assert_eq!(notes, []);
        world.check(Rules::STRICT);
        assert!(matches!(world.assign(&[ROOT], GUEST, Mode::Strict), Err(AssignError::Group(_))));
    });
    // In quarantine, with nobody who has anything.
    with_late(|world, resolve| {
        world.add(&Function::endpoint(BELOW)).unwrap();
        world.make_assignable(&[BELOW]);
        assert_eq!(world.told().root(BELOW), None, "it had no region");
        let (found, notes) = resolve();
        is_found(&found);
        assert_eq!(notes, []);
        assert_eq!(world.owner(BELOW), Some(Owner::Quarantine));
        world.check(Rules::STRICT);
        assert_eq!(world.dma(BELOW, OWN), Some(OWN));
    });
    // A guest's, which keeps it without; and nobody else has it either.
    with_late(|world, resolve| {
        world.add(&Function::endpoint(BELOW)).unwrap();
        world.assign(&[BELOW], GUEST, Mode::Strict).unwrap();
        let (found, notes) = resolve();
        is_found(&found);
        assert!(
            matches!(
                notes[..],
                [
                    Note::Unprovided { device: BELOW, domain: GUEST, .. },
                    Note::Unprovided { device: BELOW, domain: GUEST, .. }
                ]
            ),
            "{notes:?}"
        );
        assert_eq!(world.owner(BELOW), Some(Owner::Domain(GUEST)));
        world.check(Rules::STRICT);
        // ROOT is of its group now, at home: each may go back, and then all is well.
        world.deassign(&[BELOW], GUEST).unwrap();
        world.deassign(&[BELOW], DomId::IO).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn one_that_turns_out_to_be_of_a_guests_group_waits_cut_off() {
    for waits in [false, true] {
        with_late(|world, resolve| {
            world.add(&Function::endpoint(BELOW)).unwrap();
            world.assign(&[ROOT], GUEST, Mode::Strict).unwrap();
            if waits {
                world.make_assignable(&[BELOW]);
            }
            let (found, notes) = resolve();
            is_found(&found);
            let holder = Holder::Guest(GUEST);
            assert!(notes.contains(&Note::Newcomer { device: BELOW, other: ROOT, holder }), "{notes:?}");
            assert_eq!(world.owner(BELOW), Some(Owner::Quarantine));
            assert!(world.policy.is_quiesced(BELOW));
            assert_eq!(world.owner(ROOT), Some(Owner::Domain(GUEST)), "who owns something keeps it");
            world.check(Rules::RELAXED);
            assert!(matches!(world.assign(&[BELOW], OTHER, Mode::Strict), Err(AssignError::Group(_))));
            world.assign(&[BELOW], GUEST, Mode::Strict).unwrap();
            assert_eq!((world.dma(BELOW, OWN), world.dma(BELOW, SHARED)), (Some(OWN), Some(SHARED)));
            world.check(Rules::STRICT);
        });
    }
}

#[test]
fn a_late_scope_may_join_what_two_guests_have() {
    with_late(|world, resolve| {
        world.add(&Function::endpoint(BELOW)).unwrap();
        world.assign(&[ROOT], GUEST, Mode::Strict).unwrap();
        world.assign(&[BELOW], OTHER, Mode::Strict).unwrap();
        is_found(&resolve().0);
        assert_eq!(world.owner(ROOT), Some(Owner::Domain(GUEST)));
        assert_eq!(world.owner(BELOW), Some(Owner::Domain(OTHER)));
        assert_eq!(world.dma(BELOW, SHARED), None);
        world.check(Rules::STRICT);
        // Given back one by one.
        world.deassign(&[BELOW], OTHER).unwrap();
        assert!(world.policy.is_quiesced(BELOW));
        world.check(Rules::STRICT);
        world.deassign(&[ROOT], GUEST).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn without_memory_it_is_recorded_all_the_same() {
    with_late(|world, resolve| {
        world.add(&Function::endpoint(BELOW)).unwrap();
        world.make_assignable(&[BELOW]);
        world.assign(&[ROOT], GUEST, Mode::Strict).unwrap();
        world.frames.limit(0);
        let (found, _) = resolve();
        world.frames.limit(None);
        is_found(&found);
        let unprovided = |late: &&ScopeOutcome| {
            matches!(late, ScopeOutcome::Unprovided { device: BELOW, error: AddError::NoSpace, .. })
        };
        assert_eq!(found.iter().filter(unprovided).count(), 2, "{found:?}");
        assert!(world.policy.is_quiesced(BELOW));
        // It is of the group.
        assert!(matches!(world.assign(&[BELOW], OTHER, Mode::Strict), Err(AssignError::Group(_))));
        world.check(Rules::RELAXED);
        world.remove(BELOW).unwrap();
        assert_eq!(world.add(&Function::endpoint(BELOW)), Ok(Owner::Quarantine));
        world.check(Rules::STRICT);
    });
}
