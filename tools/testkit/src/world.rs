//! A made-up machine under the real policy: devices with all kinds of links, regions, a bridge, page frames
//! that can run out, remapping hardware that can fail or die and that remembers what it may still hold in its
//! caches, and devices that cannot be switched off.

pub mod calls;
pub mod check;
pub mod devices;
pub mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, MutexGuard};

use p2m::{DeviceRoot, Flush, Mfn, MfnRange, PageSize, SecondLevel, Table};
use xen_iommu::pci::Function;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::Bar;
use xen_iommu::region::iommu_state::IommuState;
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::verdict::{Rejection, Verdict};
use xen_iommu::{
    AddError, Arena, AssignError, Capacity, DeviceControl, DomId, HardwareError, Isolation, Mode,
    NotQuiesced, Note, Owner, Policy, RemappingHardware, RequesterId, Sbdf, Setup, SpaceId,
};

use crate::frames::Frames;
use crate::tables::walker::{Walker, walk};

/// Who owns what nobody else does.
pub const HARDWARE_DOMAIN: DomId = DomId(0);

/// A domain's or a quarantine's address space.
pub type Space<'f> = Table<SecondLevel, &'f Frames>;

/// An empty address space, if there is a frame for it.
#[must_use]
pub fn space(frames: &Frames) -> Option<Space<'_>> {
    Table::new(SecondLevel::default(), frames, 3, PageSize::Size1G).ok()
}

/// A region: frames, whose, and whether it was accepted.
#[derive(Clone, Debug)]
pub struct Reserved {
    /// The first frame.
    pub start: u64,
    /// The frame after the last.
    pub end: u64,
    /// Whose it is.
    pub devices: Vec<Devices>,
    /// Why it is not used, if so.
    pub rejected: Option<Rejection>,
}

impl Reserved {
    /// An accepted region of single functions.
    #[must_use]
    pub fn of(start: u64, end: u64, devices: &[Sbdf]) -> Self {
        let devices = devices.iter().copied().map(Devices::Function).collect();
        Self { start, end, devices, rejected: None }
    }

    /// Whether a device is meant.
    #[must_use]
    pub fn is_of(&self, device: Sbdf) -> bool {
        self.devices.iter().any(|devices| devices.covers(device))
    }

    /// The first frame, the last, and one in between.
    #[must_use]
    pub fn probes(&self) -> [u64; 3] {
        [self.start, self.start.midpoint(self.end - 1), self.end - 1]
    }
}

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Machine {
    /// What is present at boot.
    pub devices: Vec<Function>,
    /// Reserved memory.
    pub regions: Vec<Reserved>,
    /// What is done about devices that PCI does not keep apart.
    pub isolation: Isolation,
    /// Whether there is an IOMMU.
    pub iommu: IommuState,
    /// How many devices, requester ids and domains there may be.
    pub capacity: Capacity,
}

impl Machine {
    /// These devices and regions, with an IOMMU, and with room for some more devices and for three guests.
    #[must_use]
    pub fn new(devices: Vec<Function>, regions: Vec<Reserved>) -> Self {
        let capacity = Capacity { devices: devices.len() + 8, requester_ids: 96, domains: 4 };
        Self { devices, regions, isolation: Isolation::Report, iommu: IommuState::Active, capacity }
    }
}

/// What the remapping hardware was told, and what it does.
#[derive(Debug, Default)]
pub struct Told {
    /// Where each requester id's DMA goes; nowhere when it is not in here.
    pub attached: BTreeMap<Sbdf, (SpaceId, DeviceRoot)>,
    /// The function by which each requester id's unit was last looked for.
    pub unit_of: BTreeMap<Sbdf, Sbdf>,
    /// Calls that still succeed; all of them when `None`. Only one fails, unless it dies.
    pub left: Option<u64>,
    /// From the call that fails on, all time out, though they have done what they were to do: the worst case.
    pub dies: bool,
    /// How many calls there were.
    pub calls: u64,
    /// The spaces that were flushed, in order.
    pub flushed: Vec<SpaceId>,
    /// The functions that no unit covers.
    pub uncovered: BTreeSet<Sbdf>,
    /// The functions whose unit does not translate.
    pub untranslated: BTreeSet<Sbdf>,
    /// Bits of guest addresses that units translate.
    pub width: Option<u8>,
    /// Frames that each space's TLB may still lead to.
    cached: BTreeMap<SpaceId, BTreeSet<u64>>,
    /// Spaces whose last flush failed.
    pub unflushed: BTreeSet<SpaceId>,
}

impl Told {
    /// Whether this call times out.
    fn is_dead(&self) -> bool {
        self.dies && self.left == Some(0)
    }

    fn call(&mut self, error: HardwareError) -> Result<(), HardwareError> {
        self.calls += 1;
        match self.left {
            Some(0) if self.dies => Err(TIMED_OUT),
            Some(0) => {
                self.left = None;
                Err(error)
            }
            Some(left) => {
                self.left = Some(left - 1);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A requester that leaves a space cannot use what the space's TLB holds. When the last has left, nothing
    /// is held.
    fn forget_unused(&mut self) {
        let attached: BTreeSet<SpaceId> = self.attached.values().map(|(space, _)| *space).collect();
        self.cached.retain(|space, _| attached.contains(space));
        self.unflushed.retain(|space| attached.contains(space));
    }

    /// The root that a requester id goes through.
    #[must_use]
    pub fn root(&self, id: Sbdf) -> Option<Mfn> {
        self.attached.get(&id).map(|(_, root)| root.root)
    }
}

/// What a call ends with once the hardware is dead.
pub const TIMED_OUT: HardwareError = HardwareError::TimedOut { unit: 0, operation: "anything" };

/// Hardware that does as told until it is to fail. A failed call changes nothing, unless the hardware has
/// died.
#[derive(Clone, Debug, Default)]
pub struct Hardware(pub Arc<Mutex<Told>>);

impl RemappingHardware for Hardware {
    fn attach(&self, requester: RequesterId, space: SpaceId, root: DeviceRoot) -> Result<(), HardwareError> {
        let mut told = self.0.lock().unwrap();
        if told.uncovered.contains(&requester.unit_of) {
            return Err(HardwareError::NoUnit { requester: requester.id });
        }
        told.unit_of.insert(requester.id, requester.unit_of);
        if told.is_dead() {
            told.attached.insert(requester.id, (space, root));
        }
        told.call(HardwareError::NoFrames)?;
        told.attached.insert(requester.id, (space, root));
        told.forget_unused();
        Ok(())
    }

    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError> {
        let mut told = self.0.lock().unwrap();
        if told.uncovered.contains(&requester.unit_of) {
            return Err(HardwareError::NoUnit { requester: requester.id });
        }
        told.call(HardwareError::TimedOut { unit: 0, operation: "invalidate the context cache" })?;
        told.attached.remove(&requester.id);
        told.forget_unused();
        Ok(())
    }

    fn flush(&self, space: SpaceId, flush: &Flush) -> Result<(), HardwareError> {
        let mut told = self.0.lock().unwrap();
        let done = told.call(HardwareError::TimedOut { unit: 0, operation: "invalidate the IOTLB" });
        if done.is_err() {
            told.unflushed.insert(space);
            return done;
        }
        told.flushed.push(space);
        let gfns = flush.gfns();
        // Hardware drops what it is told to drop, and no more.
        if !flush.only_added()
            && let Some(cached) = told.cached.get_mut(&space)
        {
            cached.retain(|frame| !(gfns.start().raw()..gfns.end().raw()).contains(frame));
        }
        told.unflushed.remove(&space);
        Ok(())
    }

    fn check_translating(&self, requester: RequesterId) -> Result<(), HardwareError> {
        let told = self.0.lock().unwrap();
        if told.uncovered.contains(&requester.unit_of) {
            return Err(HardwareError::NoUnit { requester: requester.id });
        }
        if told.untranslated.contains(&requester.unit_of) {
            return Err(HardwareError::NotTranslating { unit: 0xfed9_0000 });
        }
        Ok(())
    }

    fn address_width(&self, _: RequesterId) -> Option<u8> {
        self.0.lock().unwrap().width
    }
}

/// What was done to devices.
#[derive(Debug, Default)]
pub struct Controlled {
    /// Those whose DMA is off.
    pub off: BTreeSet<Sbdf>,
    /// Those whose DMA cannot be switched off.
    pub stubborn: BTreeSet<Sbdf>,
    /// Windows that are decoded.
    pub bars: Vec<Bar>,
}

/// Devices that do as told unless they are stubborn.
#[derive(Clone, Debug, Default)]
pub struct Control(pub Arc<Mutex<Controlled>>);

impl DeviceControl for Control {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        let mut controlled = self.0.lock().unwrap();
        if controlled.stubborn.contains(&device) {
            return Err(NotQuiesced::StaysOn);
        }
        assert!(controlled.off.insert(device), "{device} is off already");
        Ok(())
    }

    fn resume(&mut self, device: Sbdf) {
        assert!(self.0.lock().unwrap().off.remove(&device), "{device} was on");
    }

    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar)) {
        let bars = self.0.lock().unwrap().bars.clone();
        bars.into_iter().for_each(visit);
    }
}

/// The policy under test.
pub type TestPolicy<'f> = Policy<'f, Space<'f>, Hardware, Control>;

/// The policy on the machine.
pub struct World<'f> {
    /// Page frames.
    pub frames: &'f Frames,
    told: Arc<Mutex<Told>>,
    controlled: Arc<Mutex<Controlled>>,
    /// The policy.
    pub policy: TestPolicy<'f>,
    /// What it runs on. The devices are those at boot.
    pub machine: Machine,
    /// All functions that ever were added.
    functions: Mutex<BTreeMap<Sbdf, Function>>,
    /// What may be otherwise than the rules say, as it was said.
    said: Mutex<check::Said>,
}

impl<'f> World<'f> {
    /// The machine with all devices under the hardware domain, and no other domain.
    #[must_use]
    pub fn new(frames: &'f Frames, memory: &'f mut [MaybeUninit<u8>], machine: Machine) -> Self {
        let world = Self::without_devices(frames, memory, machine);
        for function in &world.machine.devices {
            world.add(function).unwrap();
        }
        world
    }

    /// The machine before any device is found.
    #[must_use]
    pub fn without_devices(frames: &'f Frames, memory: &'f mut [MaybeUninit<u8>], machine: Machine) -> Self {
        let mut arena = Arena::new(memory);
        let mut builder = RegistryBuilder::default();
        builder.set_iommu(machine.iommu);
        for (offset, region) in (0_u32..).zip(&machine.regions) {
            let pages = MfnRange::new(Mfn::new(region.start), Mfn::new(region.end)).unwrap();
            let verdict = match region.rejected {
                Some(why) => Verdict::Rejected(why),
                None => Verdict::Accepted(pages),
            };
            let origin = Origin::Dmar { offset };
            let record =
                Record::identity(region.start << 12, (region.end << 12) - 1, origin, &region.devices);
            builder.add(&mut arena, &record, verdict).unwrap();
        }
        let registry = builder.freeze(&mut arena).unwrap();
        Self::with_registry(frames, &mut arena, machine, registry)
    }

    /// As [`without_devices`](Self::without_devices), with a registry that was read from a table. The
    /// machine's regions are not looked at.
    #[must_use]
    pub fn with_registry(
        frames: &'f Frames,
        arena: &mut Arena<'f>,
        machine: Machine,
        registry: xen_iommu::region::registry::Registry<'f>,
    ) -> Self {
        let (hardware, control) = (Hardware::default(), Control::default());
        let (told, controlled) = (hardware.0.clone(), control.0.clone());
        let setup = Setup {
            registry,
            hardware,
            control,
            hardware_domain: (HARDWARE_DOMAIN, space(frames).unwrap()),
            isolation: machine.isolation,
            capacity: machine.capacity,
        };
        let policy = Policy::new(setup, arena).unwrap();
        Self {
            frames,
            told,
            controlled,
            policy,
            machine,
            functions: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// What the remapping hardware was told.
    pub fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap()
    }

    /// What was done to devices.
    pub fn controlled(&self) -> MutexGuard<'_, Controlled> {
        self.controlled.lock().unwrap()
    }

    /// Has the hardware answer so many more calls, fail one, and go on.
    pub fn fail_after(&self, calls: u64) {
        let mut told = self.told();
        (told.left, told.dies) = (Some(calls), false);
    }

    /// Has the hardware answer so many more calls, and none after those.
    pub fn die_after(&self, calls: u64) {
        let mut told = self.told();
        (told.left, told.dies) = (Some(calls), true);
    }

    /// The hardware works again. Whether it was still to fail.
    pub fn recover(&self) -> bool {
        let mut told = self.told();
        told.dies = false;
        told.left.take().is_some()
    }

    /// Adds a function.
    ///
    /// # Errors
    /// As the policy.
    pub fn add(&self, function: &Function) -> Result<Owner, AddError> {
        self.functions.lock().unwrap().insert(function.sbdf, *function);
        self.policy.add_device(function, || space(self.frames), &mut |note| self.hear(note))
    }

    /// Removes a device.
    ///
    /// # Errors
    /// As the policy.
    pub fn remove(&self, device: Sbdf) -> Result<(), AssignError> {
        self.policy.remove_device(device, &mut |note| self.hear(note))
    }

    /// Makes a domain.
    pub fn create(&self, domain: DomId) {
        self.policy.create_domain(domain, space(self.frames).unwrap()).unwrap();
    }

    /// Destroys a domain.
    ///
    /// # Errors
    /// As the policy.
    pub fn destroy(&self, domain: DomId) -> Result<(), xen_iommu::DomainError> {
        self.policy.destroy_domain(domain, &mut |note| self.hear(note)).map(drop)
    }

    /// Assigns devices, all or none.
    ///
    /// # Errors
    /// As the policy.
    pub fn assign(&self, devices: &[Sbdf], domain: DomId, mode: Mode) -> Result<(), AssignError> {
        self.policy.assign(devices, domain, mode, &mut |note| self.hear(note))
    }

    /// Assigns devices one by one, each relaxed and to `DOMID_IO`, as `xl pci-assignable-add` does.
    pub fn make_assignable(&self, devices: &[Sbdf]) {
        for device in devices {
            self.assign(&[*device], DomId::IO, Mode::Relaxed).unwrap();
        }
    }

    /// Takes devices from a domain, all or none.
    ///
    /// # Errors
    /// As the policy.
    pub fn deassign(&self, devices: &[Sbdf], domain: DomId) -> Result<(), AssignError> {
        self.policy.deassign(devices, domain, &mut |note| self.hear(note))
    }

    /// A call, and the notes of it.
    pub fn noted<T>(&self, call: impl FnOnce(&Self, &mut dyn FnMut(Note)) -> T) -> (T, Vec<Note>) {
        let mut notes = Vec::new();
        let done = call(self, &mut |note| {
            self.hear(note);
            notes.push(note);
        });
        (done, notes)
    }

    /// Who owns a device.
    #[must_use]
    pub fn owner(&self, device: Sbdf) -> Option<Owner> {
        self.policy.owner(device)
    }

    /// The frame that a requester id's DMA to `frame` ends at; `None` where it is blocked.
    #[must_use]
    pub fn dma(&self, id: Sbdf, frame: u64) -> Option<u64> {
        let (_, root) = *self.told().attached.get(&id)?;
        self.walk(root, frame)
    }

    /// The frame that a table leads to for reads and writes.
    #[must_use]
    pub fn walk(&self, root: DeviceRoot, frame: u64) -> Option<u64> {
        walk(self.frames, Walker::Vtd, root, frame)
            .filter(|seen| seen.read && seen.write)
            .map(|seen| seen.mfn)
    }

    /// Whether a domain's tables lead to a frame 1:1.
    #[must_use]
    pub fn maps(&self, domain: DomId, frame: u64) -> bool {
        let root = self.policy.with_space(domain, |space| p2m::AddressSpace::device_root(space));
        root.is_some_and(|root| self.walk(root, frame) == Some(frame))
    }
}

/// Builds a world with two guests, [`GUEST`] and [`OTHER`], in memory of its own, and runs a test on it.
pub fn with_world(machine: Machine, test: impl FnOnce(&World<'_>)) {
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let world = World::new(&frames, &mut memory, machine);
    world.create(GUEST);
    world.create(OTHER);
    world.check(check::Rules::STRICT);
    test(&world);
}

/// A guest.
pub const GUEST: DomId = DomId(1);
/// Another guest.
pub const OTHER: DomId = DomId(2);
