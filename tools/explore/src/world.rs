//! The machine with the real policy, the real tables and the real driver on it; and what the exploration itself knows of a state.

use acpi_dmar::verdict::{PageRange, Verdict};
use p2m::{AddressSpace, Domain, Ept, PageSize, SecondLevel, Table};
use xen_iommu::region::registry::{Origin, RegionInfo, RegistryBuilder, Scope};
use xen_iommu::vtd::{Coverage, DeviceTlbSlot, DomainSlot, Replacement, Setup, Unit, Vtd};
use xen_iommu::{Arena, Capacity, DomId, GroupPolicy, Owner, Policy};

use crate::hardware::{IDS, Machine, bit, frame_index};
use crate::machine::{DEVICES, DOMAINS, Layout, PLACES, REGIONS, REQUESTERS, requester, sbdf, source, users};
use crate::memory::{Block, FRAMES, Image, bits};
use crate::state::FrameHash;

/// A domain's address space.
pub type Space = Domain<Ept, SecondLevel, &'static Machine>;
type Driver = Vtd<'static, &'static Machine, &'static Machine>;

/// What is explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What is done with groups.
    pub groups: GroupPolicy,
    /// Whether domains have a table for devices beside that of the CPU.
    pub separate: bool,
    /// Where the regions are.
    pub layout: Layout,
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let groups = match self.groups {
            GroupPolicy::Refuse => "refuse parts of groups",
            GroupPolicy::MoveWhole => "move whole groups",
        };
        let tables = if self.separate { "separate" } else { "shared" };
        let layout = match self.layout {
            Layout::Pages => "small regions",
            Layout::Cut => "2 MiB pages, one cut",
        };
        write!(f, "{groups}, {tables} tables, {layout}")
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
    /// Relaxed moves have left A, B and C in several places.
    pub torn: bool,
    /// By device: its move was reported to have left its region out, or part of it.
    pub lacks: [bool; DEVICES],
    /// By domain and place.
    pub own: [[Own; PLACES]; DOMAINS],
    /// By domain and region: reported to linger.
    pub lingers: [[bool; REGIONS]; DOMAINS],
    /// By requester: a switch of it was not confirmed, and it may be elsewhere than its devices' owner.
    pub uncertain: [bool; REQUESTERS],
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
    /// Frames and remapping unit.
    pub machine: &'static Machine,
    /// The code under test.
    pub policy: &'static Policy<'static, Space, Driver>,
    /// See [`Known`].
    pub known: Known,
    pub(crate) hashes: Box<[FrameHash; FRAMES]>,
    block: Block,
    /// The state that [`back`](Self::back) goes back to.
    base: Image,
    scratch: Image,
    base_known: Known,
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
        let block = Block::new();
        let mut arena = Arena::new(block.objects());
        let Ok(machine) = arena.object(Machine::new(&block, setting.layout)) else { panic!("a small block") };
        let machine: &'static Machine = machine;
        let policy = Self::policy(machine, setting, &mut arena).expect("a machine that boots");
        let Ok(policy) = arena.object(policy) else { panic!("a small block") };
        let policy: &'static _ = policy;
        for device in 0..DEVICES {
            policy
                .add_device(sbdf(device), source(requester(device)), || space(machine, false), &mut |_| {})
                .expect("a device that can be added");
        }
        let base = Image::of(&block, Block::used_words(arena.left()));
        let hashes: Box<[FrameHash; FRAMES]> = Box::new([FrameHash::default(); FRAMES]);
        Self {
            setting,
            machine,
            policy,
            known: Known::default(),
            hashes: hashes.clone(),
            block,
            scratch: base.clone(),
            base,
            base_known: Known::default(),
            base_hashes: hashes,
        }
    }

    fn policy(
        machine: &'static Machine,
        setting: Setting,
        arena: &mut Arena<'static>,
    ) -> Option<Policy<'static, Space, Driver>> {
        let mut registry = RegistryBuilder::default();
        for (region, (start, end)) in setting.layout.regions().into_iter().enumerate() {
            let verdict = Verdict::Accepted(PageRange { start, end });
            let info = RegionInfo {
                base: start << 12,
                limit: (end << 12) - 1,
                origin: Origin::Dmar { offset: 48 },
                verdict,
            };
            let scopes = users(region).iter().map(|device| Scope::Function(sbdf(*device)));
            registry.add(arena, info, scopes).ok()?;
        }
        let registry = registry.freeze(arena).ok()?;
        let unit = Unit::new(Setup {
            base: 0xfed9_0000,
            window: 0x1000,
            registers: machine,
            segment: 0,
            coverage: arena.slice(1, |_| Coverage::All { segment: 0 }).ok()?,
            domains: arena.slice(IDS, |_| DomainSlot::new()).ok()?,
            device_tlbs: arena.slice(0, |_| DeviceTlbSlot::new()).ok()?,
            polls: 1,
            queue: true,
            replacement: Replacement::AtOnce,
        });
        let mut unit = Some(unit);
        let units = arena.slice(1, |_| unit.take()).ok()?;
        let units: &'static mut [Option<Unit<'static, &'static Machine>>] = units;
        let mut started = units.iter_mut().filter_map(Option::take);
        let units = arena.slice(1, |_| started.next().expect("the one unit")).ok()?;
        let driver = Vtd::new(units, machine);
        driver.start(&mut |_, error| panic!("{error}"));
        driver.enable().ok()?;
        let hardware_domain = (DomId(0), space(machine, setting.separate)?);
        let capacity = Capacity { devices: DEVICES, requesters: REQUESTERS, domains: DOMAINS };
        Policy::new(registry, setting.groups, driver, hardware_domain, capacity, arena).ok()
    }

    /// Takes the state down.
    #[must_use]
    pub fn save(&mut self) -> Saved {
        let frames = self.machine.allocated();
        self.scratch.take_down(&self.block, frames);
        Saved { packed: self.scratch.pack(frames), known: self.known }
    }

    /// Goes to a state that was taken down from this world; [`back`](Self::back) comes back to it.
    pub fn load(&mut self, saved: &Saved) {
        let frames = self.base.unpack(&saved.packed);
        self.base.put_back(&self.block, frames);
        self.machine.take_touched();
        self.machine.take_changed();
        self.known = saved.known;
        self.base_known = saved.known;
        self.hashes.fill(FrameHash::default());
        self.keys();
        self.base.take_down(&self.block, frames);
        self.base_hashes.copy_from_slice(&*self.hashes);
    }

    /// Undoes all calls since the last [`load`](Self::load).
    pub fn back(&mut self) {
        let touched = self.machine.take_touched();
        self.base.put_back(&self.block, touched);
        for frame in bits(touched) {
            self.hashes[frame] = self.base_hashes[frame];
        }
        self.known = self.base_known;
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
        self.policy.for_each_device(|device, _, owner| {
            if let Some(index) = (0..DEVICES).find(|index| sbdf(*index) == device) {
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
        let layout = self.setting.layout.regions();
        for region in self.policy.registry().regions() {
            if let Some(index) = layout.iter().position(|(start, _)| *start == region.range().start().raw()) {
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

    /// By requester: the probes that it reaches now.
    #[must_use]
    pub fn reached(&self) -> [u32; REQUESTERS] {
        let mut reached = [0; REQUESTERS];
        for (requester, bits) in reached.iter_mut().enumerate() {
            for (probe, gfn) in self.setting.layout.probes().iter().enumerate() {
                if self.machine.reach(requester, probe).now == Some(*gfn) {
                    *bits |= 1 << probe;
                }
            }
        }
        reached
    }

    /// The same, where nothing cached leads elsewhere.
    #[must_use]
    pub fn surely_reached(&self) -> [u32; REQUESTERS] {
        let mut reached = self.reached();
        for (requester, bits) in reached.iter_mut().enumerate() {
            if self.machine.stale_context(requester).is_some() {
                *bits = 0;
            }
            for probe in 0..self.setting.layout.probes().len() {
                if self.machine.reach(requester, probe).is_stale() {
                    *bits &= !(1 << probe);
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

/// Stands for quarantine where domains are numbered.
pub const QUARANTINE: usize = 9;
