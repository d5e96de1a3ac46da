//! A made-up machine under the real policy: hardware that can fail, on page frames that can run out.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

use acpi_dmar::verdict::{PageRange, Rejection, Verdict};
use p2m::{DeviceRoot, Flush, Mfn, PageSize, SecondLevel, Table};
pub(crate) use testkit::frames::Frames;
use testkit::tables::walker::Walker;
use xen_iommu::region::registry::{Origin, RegionInfo, RegistryBuilder, Scope};
use xen_iommu::{
    Arena, Capacity, DomId, GroupPolicy, HardwareError, Owner, Policy, RemappingHardware, Sbdf, SpaceId,
};

pub(crate) const HARDWARE_DOMAIN: DomId = DomId(0);

/// The devices, with the requester id of each.
pub(crate) const DEVICES: [(Sbdf, Sbdf); 8] =
    [(A, A), (B, B), (C, C), (D, D), (E, BRIDGE), (F, BRIDGE), (G, G), (H, H)];
/// Has a region of its own.
pub(crate) const A: Sbdf = Sbdf::new(0, 0, 4, 0);
/// Shares a region with [`C`].
pub(crate) const B: Sbdf = Sbdf::new(0, 0, 5, 0);
pub(crate) const C: Sbdf = Sbdf::new(0, 0, 6, 0);
/// Has a region that overlaps that of [`B`] and [`C`].
pub(crate) const D: Sbdf = Sbdf::new(0, 0, 7, 0);
/// Behind the bridge, with a region.
pub(crate) const E: Sbdf = Sbdf::new(0, 1, 1, 0);
/// Behind the bridge, without.
pub(crate) const F: Sbdf = Sbdf::new(0, 1, 2, 0);
/// Has no region.
pub(crate) const G: Sbdf = Sbdf::new(0, 0, 8, 0);
/// Its region was rejected.
pub(crate) const H: Sbdf = Sbdf::new(0, 0, 9, 0);
const BRIDGE: Sbdf = Sbdf::new(0, 1, 0, 0);

/// First frame, end, devices. The second begins within 2 MiB and is cut by the third.
pub(crate) const REGIONS: [(u64, u64, &[Sbdf]); 4] =
    [(0x1000, 0x1010, &[A]), (0x2200, 0x2600, &[B, C]), (0x2500, 0x2900, &[D]), (0x8000, 0x8001, &[E])];

/// The machine frame that VT-d finds for `gfn`, where both reads and writes are allowed.
pub(crate) fn walk(frames: &Frames, root: DeviceRoot, gfn: u64) -> Option<u64> {
    let seen = testkit::tables::walker::walk(frames, Walker::Vtd, root, gfn)?;
    (seen.read && seen.write).then_some(seen.mfn)
}

/// What the hardware was told.
#[derive(Default)]
pub(crate) struct Told {
    /// Where each requester's DMA goes; nowhere when it is not in here.
    pub(crate) attached: BTreeMap<Sbdf, DeviceRoot>,
    /// Calls that still succeed; all of them when `None`. Only one fails, unless it dies.
    pub(crate) left: Option<u64>,
    /// From the call that fails on, all time out, though they have done what they were to do: the worst case.
    pub(crate) dies: bool,
}

impl Told {
    /// Whether this call times out.
    fn is_dead(&self) -> bool {
        self.dies && self.left == Some(0)
    }

    fn call(&mut self, error: HardwareError) -> Result<(), HardwareError> {
        match self.left {
            Some(0) if self.dies => Err(HardwareError::TimedOut { unit: 0, operation: "anything" }),
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
}

/// Hardware that does as told until it is to fail. A failed call changes nothing.
#[derive(Clone, Default)]
pub(crate) struct Hardware(pub Arc<Mutex<Told>>);

impl RemappingHardware for Hardware {
    fn attach(&mut self, source: Sbdf, _: SpaceId, root: DeviceRoot) -> Result<(), HardwareError> {
        let mut told = self.0.lock().unwrap();
        if told.is_dead() {
            told.attached.insert(source, root);
        }
        told.call(HardwareError::NoFrames)?;
        told.attached.insert(source, root);
        Ok(())
    }

    fn detach(&mut self, source: Sbdf) -> Result<(), HardwareError> {
        let mut told = self.0.lock().unwrap();
        told.call(HardwareError::TimedOut { unit: 0, operation: "invalidate the context cache" })?;
        told.attached.remove(&source);
        Ok(())
    }

    fn flush(&mut self, _: SpaceId, _: &Flush) -> Result<(), HardwareError> {
        self.0.lock().unwrap().call(HardwareError::TimedOut { unit: 0, operation: "invalidate the IOTLB" })
    }
}

pub(crate) type Space<'f> = Table<SecondLevel, &'f Frames>;

/// The policy on the machine.
pub(crate) struct World<'f> {
    pub(crate) frames: &'f Frames,
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) policy: Policy<'f, Space<'f>, Hardware>,
}

pub(crate) fn space(frames: &Frames) -> Option<Space<'_>> {
    Table::new(SecondLevel::default(), frames, 3, PageSize::Size1G).ok()
}

impl<'f> World<'f> {
    /// The machine with all devices under the hardware domain, and no other domain.
    pub(crate) fn new(frames: &'f Frames, memory: &'f mut [MaybeUninit<u8>], groups: GroupPolicy) -> Self {
        let mut arena = Arena::new(memory);
        let mut builder = RegistryBuilder::default();
        let rejected = (0x9000, 0x8fff, Verdict::Rejected(Rejection::NoScope), &[H][..]);
        let accepted = REGIONS.map(|(start, end, devices)| {
            (start << 12, (end << 12) - 1, Verdict::Accepted(PageRange { start, end }), devices)
        });
        for (base, limit, verdict, devices) in accepted.into_iter().chain([rejected]) {
            let info = RegionInfo { base, limit, origin: Origin::Dmar { offset: 0 }, verdict };
            builder.add(&mut arena, info, devices.iter().copied().map(Scope::Function)).unwrap();
        }
        let registry = builder.freeze(&mut arena).unwrap();
        let hardware = Hardware::default();
        let told = hardware.0.clone();
        let capacity = Capacity { devices: 12, requesters: 12, domains: 4 };
        let first = (HARDWARE_DOMAIN, space(frames).unwrap());
        let policy = Policy::new(registry, groups, hardware, first, capacity, &mut arena).unwrap();
        let world = Self { frames, told, policy };
        for (device, source) in DEVICES {
            world.policy.add_device(device, source, || space(frames), &mut |_| {}).unwrap();
        }
        world
    }

    /// Everything that a caller, a guest or a device could see.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let mut owners = Vec::new();
        self.policy.for_each_device(|device, source, owner| owners.push((device, source, owner)));
        let regions = self.policy.registry().regions().map(|region| region.owner()).collect();
        let told = self.told.lock().unwrap();
        let attached = told.attached.iter().map(|(source, root)| (*source, root.root.raw())).collect();
        let reached = told.attached.iter().map(|(source, root)| (*source, self.reached(*root))).collect();
        Snapshot { owners, regions, attached, reached }
    }

    /// Which frames of each region a table leads to, 1:1: the first and the last, and how many.
    fn reached(&self, root: DeviceRoot) -> Vec<Reached> {
        let of = |(start, end, _): &(u64, u64, &[Sbdf])| {
            let frames: Vec<u64> =
                (*start..*end).filter(|frame| walk(self.frames, root, *frame) == Some(*frame)).collect();
            (frames.first().copied(), frames.last().copied(), frames.len())
        };
        REGIONS.iter().map(of).collect()
    }

    /// What must hold after every call, whatever its outcome.
    pub(crate) fn check(&self, strict: bool) {
        let told = self.told.lock().unwrap();
        let owner_of = |device| self.policy.owner(device);
        for (start, end, devices) in REGIONS {
            for frame in [start, end - 1, (start + end) / 2] {
                // No frame of a region is reachable from two domains, and from quarantine only for the region's devices' own requesters.
                let mut owners = Vec::new();
                for (device, source) in DEVICES {
                    let Some(owner) = owner_of(device) else { continue };
                    let reaches = told
                        .attached
                        .get(&source)
                        .is_some_and(|root| walk(self.frames, *root, frame) == Some(frame));
                    match owner {
                        Owner::Domain(id) if reaches => owners.push(id),
                        Owner::Quarantine if reaches => {
                            let own = REGIONS.iter().any(|(start, end, devices)| {
                                (*start..*end).contains(&frame)
                                    && DEVICES.iter().any(|(d, s)| *s == source && devices.contains(d))
                            });
                            assert!(own, "{device} reaches frame {frame:#x} from quarantine");
                        }
                        _ => {}
                    }
                    if strict && devices.contains(&device) {
                        assert!(reaches, "{device} ({owner}) has lost frame {frame:#x} of its region");
                    }
                }
                owners.sort_unstable();
                owners.dedup();
                assert!(owners.len() <= 1, "frame {frame:#x} is reachable from {owners:?}");
            }
        }
        // A requester is where its devices are: all in one place.
        for (device, source) in DEVICES {
            for (other, _) in DEVICES.iter().filter(|(_, other)| *other == source) {
                if let (Some(one), Some(other)) = (owner_of(device), owner_of(*other)) {
                    assert_eq!(one, other, "two devices of requester {source}");
                }
            }
        }
        // Where a domain owns a region that holds a frame, it is mapped, and nowhere else.
        for region in self.policy.registry().regions() {
            let frame = region.range().start().raw();
            for id in (0..3).map(DomId) {
                let mapped = self.policy.with_space(id, |space| {
                    p2m::AddressSpace::look_up(space, p2m::Gfn::new(frame)).entry.mfn.map(Mfn::raw)
                        == Some(frame)
                });
                if let Some(mapped) = mapped
                    && strict
                {
                    let mut holding =
                        self.policy.registry().regions().filter(|r| r.range().contains(Mfn::new(frame)));
                    assert_eq!(mapped, holding.any(|r| r.owner() == Some(id)), "frame {frame:#x} in {id}");
                }
            }
        }
    }
}

/// See [`World::snapshot`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) owners: Vec<(Sbdf, Sbdf, Owner)>,
    regions: Vec<Option<DomId>>,
    attached: Vec<(Sbdf, u64)>,
    reached: Vec<(Sbdf, Vec<Reached>)>,
}

/// Of a region's frames that are reached: the first, the last, and how many.
type Reached = (Option<u64>, Option<u64>, usize);
