//! The machine with the real policy, the real tables and the real driver on it; and what the exploration
//! itself knows of a state.

use p2m::{AddressSpace, Domain, Ept, Mfn, MfnRange, PageSize, SecondLevel, Table};
use xen_iommu::region::devices::Devices;
use xen_iommu::region::intake::Host;
use xen_iommu::region::memory::KeepRam;
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::{Registry, RegistryBuilder};
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::region::verdict::{Rejection, Verdict};
use xen_iommu::vtd::{Coverage, DeviceTlbSlot, DomainSlot, Replacement, Unit, Vtd};
use xen_iommu::{Arena, Capacity, DomId, Isolation, Owner, Policy};

use crate::hardware::{Control, IDS, Kind, Machine, Pool, Sight, bit, frame_index};
use crate::late::{Buses, dmar};
use crate::machine::{self, Board, DEVICES, DOMAINS, PLACES, REGIONS, SOURCES, Set};
use crate::memory::{Block, FRAMES, Image, bits};
use crate::state::FrameHash;

/// A domain's address space.
pub type Space = Domain<Ept, SecondLevel, &'static Machine>;
type Driver = Vtd<'static, &'static Machine, &'static Machine>;

/// Which calls are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls {
    /// Relaxed assignments too.
    pub relaxed: bool,
    /// Those that move whole groups.
    pub groups: bool,
    /// Devices come and go.
    pub presence: bool,
    /// Toolstacks map and unmap by themselves.
    pub toolstack: bool,
}

/// What is explored.
#[derive(Clone, Copy)]
pub struct Setting {
    /// What it is called.
    pub name: &'static str,
    /// The machine.
    pub board: &'static Board,
    /// The remapping unit.
    pub unit: Kind,
    /// Whether the unit is switched on.
    pub translates: bool,
    /// Whether domains have a table for devices beside that of the CPU.
    pub separate: bool,
    /// What is done with devices that PCI does not keep apart.
    pub isolation: Isolation,
    /// How many domains there may be beside the hardware domain.
    pub guests: u8,
    /// What is done.
    pub calls: Calls,
    /// Calls fail in states of fewer calls than these; as the command line says if `None`.
    pub failures: Option<u32>,
    /// It comes to an end, so that it is explored without a limit.
    pub ends: bool,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What a toolstack has put at a place of a domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Own {
    /// Nothing.
    #[default]
    Nothing,
    /// RAM, at the place's one page.
    Ram,
    /// The whole region of the place, 1:1.
    Direct,
}

/// What the exploration knows of a state beside what it can look up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The late scopes are resolved.
    pub resolved: bool,
    /// A relaxed move, or a late scope, has left a group with two owners.
    pub torn: bool,
    /// By device: its move was reported to have left its regions out, or part of them.
    pub lacks: [bool; DEVICES],
    /// By device: reported that it waits with its DMA going on, or blocked.
    pub running: [bool; DEVICES],
    /// See `running`.
    pub blocked: [bool; DEVICES],
    /// By device: there was no memory to keep a late region for it in quarantine.
    pub unprovided: [bool; DEVICES],
    /// By domain and place.
    pub own: [[Own; PLACES]; DOMAINS],
    /// By domain and region: reported to linger.
    pub lingers: [[bool; REGIONS]; DOMAINS],
    /// By requester id: a switch of it was not confirmed, and it may be elsewhere than its devices' owner.
    pub uncertain: [bool; SOURCES],
}

/// A state that can be gone back to.
pub struct Saved {
    packed: Box<[u64]>,
    known: Known,
}

/// The world. Its objects are in the block; the rest is kept beside it.
pub struct World {
    /// What this is.
    pub setting: Setting,
    /// What it is made of.
    pub board: &'static Board,
    /// Frames and remapping unit.
    pub machine: &'static Machine,
    /// Its frames.
    pub pool: &'static Pool,
    /// The code under test.
    pub policy: &'static Policy<'static, Space, Driver, Control>,
    /// See [`Known`].
    pub known: Known,
    /// What hardware may reach, as it was when the last call was over.
    pub sight: Box<Sight>,
    /// By device: its requester ids.
    pub(crate) ids: [Set; DEVICES],
    pub(crate) hashes: Box<[FrameHash; FRAMES]>,
    block: Block,
    /// The state that [`back`](Self::back) goes back to.
    base: Image,
    scratch: Image,
    base_known: Known,
    base_sight: Box<Sight>,
    base_hashes: Box<[FrameHash; FRAMES]>,
}

/// A new, empty address space.
#[must_use]
pub fn space(machine: &'static Machine, separate: bool) -> Option<Space> {
    let cpu = Table::new(Ept::default(), machine, 4, PageSize::Size2M).ok()?;
    if !separate {
        return Some(Domain::shared(cpu));
    }
    let iommu = Table::new(SecondLevel::default(), machine, 3, PageSize::Size2M).ok()?;
    Domain::separate(cpu, iommu).ok()
}

impl World {
    /// The machine after boot: all devices belong to the hardware domain, and there is no other domain.
    ///
    /// # Panics
    /// When that does not come about.
    #[must_use]
    pub fn new(setting: Setting) -> Self {
        let block = Block::new(setting.unit.incoherent);
        let mut arena = Arena::new(block.objects());
        let board = setting.board;
        let Ok(pool) = arena.object(Pool::new(&block)) else { panic!("a small block") };
        let pool: &'static Pool = pool;
        let Ok(machine) = arena.object(Machine::new(pool, board, setting.unit)) else {
            panic!("a small block")
        };
        let machine: &'static Machine = machine;
        let policy = policy(machine, setting, &mut arena).expect("a machine that boots");
        let Ok(policy) = arena.object(policy) else { panic!("a small block") };
        let policy: &'static _ = policy;
        let mut present = 0;
        for (index, device) in board.devices.iter().enumerate().filter(|(_, device)| device.at_boot) {
            policy
                .add_device(&device.function(), || space(machine, false), &mut |_| {})
                .expect("a device that can be added");
            present |= 1 << index;
        }
        machine.set_present(present);
        for device in board.devices.iter().filter(|device| device.ats) {
            let used = policy.hardware().use_device_tlb(device.sbdf.into(), 0);
            assert_eq!(used, Ok(true), "the unit knows device TLBs");
        }
        let mut ids = [0; DEVICES];
        for (device, ids) in ids.iter_mut().enumerate().take(board.devices.len()) {
            *ids = board.sources_of(device);
        }
        let base = Image::of(&block, Block::used_words(arena.left()));
        let hashes: Box<[FrameHash; FRAMES]> = Box::new([FrameHash::default(); FRAMES]);
        Self {
            setting,
            board,
            machine,
            pool,
            policy,
            known: Known::default(),
            sight: Box::new(machine.sight()),
            ids,
            hashes: hashes.clone(),
            block,
            scratch: base.clone(),
            base,
            base_known: Known::default(),
            base_sight: Box::default(),
            base_hashes: hashes,
        }
    }

    /// Takes the state down.
    #[must_use]
    pub fn save(&mut self) -> Saved {
        let frames = self.pool.allocated();
        self.scratch.take_down(&self.block, frames);
        Saved { packed: self.scratch.pack(frames), known: self.known }
    }

    /// Goes to a state that was taken down from this world; [`back`](Self::back) comes back to it.
    pub fn load(&mut self, saved: &Saved) {
        let frames = self.base.unpack(&saved.packed);
        self.base.put_back(&self.block, frames);
        self.pool.take_touched();
        self.pool.take_changed();
        self.known = saved.known;
        self.base_known = saved.known;
        self.hashes.fill(FrameHash::default());
        *self.sight = self.machine.sight();
        self.base_sight.clone_from(&self.sight);
        self.keys();
        self.base.take_down(&self.block, frames);
        self.base_hashes.copy_from_slice(&*self.hashes);
    }

    /// Undoes all calls since the last [`load`](Self::load).
    pub fn back(&mut self) {
        let touched = self.pool.take_touched();
        self.base.put_back(&self.block, touched);
        for frame in bits(touched) {
            self.hashes[frame] = self.base_hashes[frame];
        }
        self.known = self.base_known;
        self.sight.clone_from(&self.base_sight);
    }

    /// The root of a domain's table for the CPU, with its levels, and of that for devices.
    #[must_use]
    pub fn roots(&self, domain: usize) -> Option<[(usize, u32); 2]> {
        self.policy.with_space(DomId(domain as u16), |space| {
            [space.cpu().root(), space.device_root()]
                .map(|root| (frame_index(root.root).unwrap_or(0), u32::from(root.levels)))
        })
    }

    /// The roots of all domains.
    #[must_use]
    pub fn all_roots(&self) -> [Option<[(usize, u32); 2]>; DOMAINS] {
        [self.roots(0), self.roots(1), self.roots(2)]
    }

    /// Each device's owner: `None` when it is absent; a domain's number, or [`QUARANTINE`].
    #[must_use]
    pub fn owners(&self) -> [Option<usize>; DEVICES] {
        let mut owners = [None; DEVICES];
        self.policy.for_each_device(|device, owner| {
            if let Some(index) = self.board.device_at(device) {
                owners[index] = Some(match owner {
                    Owner::Domain(id) => usize::from(id.0),
                    Owner::Quarantine => QUARANTINE,
                });
            }
        });
        owners
    }

    /// By region: the domain that the policy says it is mapped in.
    #[must_use]
    pub fn region_owners(&self) -> [Option<usize>; REGIONS] {
        let mut owners = [None; REGIONS];
        for region in self.policy.registry().regions() {
            if let Some(index) = self.board.region_at(region.name().base) {
                owners[index] = region.owner().map(|id| usize::from(id.0));
            }
        }
        owners
    }

    /// The domain whose devices' table has this top frame.
    #[must_use]
    pub fn domain_of_root(&self, root: usize) -> Option<usize> {
        (0..DOMAINS).find(|domain| self.roots(*domain).is_some_and(|[_, (device, _)]| device == root))
    }

    /// By requester id: the probes that it reaches now.
    #[must_use]
    pub fn reached(&self) -> [u32; SOURCES] {
        self.reaches(false)
    }

    /// The same, where nothing cached leads elsewhere.
    #[must_use]
    pub fn surely_reached(&self) -> [u32; SOURCES] {
        self.reaches(true)
    }

    fn reaches(&self, surely: bool) -> [u32; SOURCES] {
        let mut reached = [0; SOURCES];
        for (source, bits) in reached.iter_mut().enumerate().take(self.board.sources.len()) {
            for (probe, gfn) in self.board.probes.iter().enumerate() {
                let reach = self.sight.reach[source][probe];
                if reach.now == Some(*gfn) && !(surely && reach.is_stale()) {
                    *bits |= 1 << probe;
                }
            }
        }
        reached
    }

    /// The top frames of all domains' tables for devices.
    #[must_use]
    pub fn root_bit(&self, domain: usize) -> u128 {
        self.roots(domain).map_or(0, |[_, (device, _)]| bit(device))
    }
}

fn policy(
    machine: &'static Machine,
    setting: Setting,
    arena: &mut Arena<'static>,
) -> Option<Policy<'static, Space, Driver, Control>> {
    let registry = registry(setting.board, arena)?;
    let slots = setting.board.devices.iter().filter(|device| device.ats).count();
    let unit = Unit::new(xen_iommu::vtd::Setup {
        base: 0xfed9_0000,
        window: 0x1000,
        registers: machine,
        segment: 0,
        coverage: arena.slice(1, |_| Coverage::All { segment: 0 }).ok()?,
        domains: arena.slice(IDS, |_| DomainSlot::new()).ok()?,
        device_tlbs: arena.slice(slots, |_| DeviceTlbSlot::new()).ok()?,
        polls: 1,
        queue: true,
        replacement: if setting.unit.by_words { Replacement::ByWords } else { Replacement::AtOnce },
    });
    let mut unit = Some(unit);
    let units = arena.slice(1, |_| unit.take().expect("the one unit")).ok()?;
    let driver = Vtd::new(units, machine);
    driver.start(&mut |_, error| panic!("{error}"));
    if setting.translates {
        driver.enable().ok()?;
    }
    let setup = xen_iommu::Setup {
        registry,
        hardware: driver,
        control: Control(machine),
        hardware_domain: (DomId(0), space(machine, setting.separate)?),
        isolation: setting.isolation,
        capacity: Capacity {
            devices: setting.board.devices.len(),
            requester_ids: setting.board.sources.len(),
            domains: 1 + usize::from(setting.guests),
        },
    };
    Policy::new(setup, arena).ok()
}

fn registry(board: &'static Board, arena: &mut Arena<'static>) -> Option<Registry<'static>> {
    let mut builder = RegistryBuilder::default();
    for machine::Region { start, end, users, kind } in board.regions {
        let verdict = match kind {
            machine::Kind::Accepted => Verdict::Accepted(MfnRange::new(Mfn::new(*start), Mfn::new(*end))?),
            machine::Kind::Rejected => Verdict::Rejected(Rejection::NoScope),
            machine::Kind::Late => continue,
        };
        let users: Vec<_> = users.iter().map(|user| Devices::Function(board.devices[*user].sbdf)).collect();
        let record = Record::identity(start << 12, (end << 12) - 1, Origin::Hypervisor, &users);
        builder.add(arena, &record, verdict).ok()?;
    }
    if board.regions.iter().any(|region| region.kind == machine::Kind::Late) {
        let (dmar, pci) = (dmar(board), Buses { has_bridge: false });
        let scopes = ResolvedScopes::read(&dmar, &pci, arena).ok()?;
        let mut host = Host {
            pci: &pci,
            memory: &[],
            frames: &mut KeepRam,
            address_width: 39,
            windows: &[],
            unit_width: &|_| None,
        };
        host.read_dmar(&dmar, &scopes, &mut builder, arena, &mut |_| {}).ok()?;
    }
    builder.freeze(arena).ok()
}

/// Stands for quarantine where domains are numbered.
pub const QUARANTINE: usize = 9;
