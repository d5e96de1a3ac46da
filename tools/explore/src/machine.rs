//! What a machine is made of, for those that are explored: devices with the requester ids that their DMA
//! carries, and regions. The machines are in [`boards`](crate::boards).

use xen_iommu::Sbdf;
use xen_iommu::pci::{DeviceClass, Function, RequesterIds, Role};

/// No machine has more devices.
pub const DEVICES: usize = 6;
/// No machine has more requester ids.
pub const SOURCES: usize = 7;
/// No machine has more regions.
pub const REGIONS: usize = 4;
/// No machine has more probed frames.
pub const PROBES: usize = 8;
/// Domains: the hardware domain and two more.
pub const DOMAINS: usize = 3;
/// How many places there are that toolstacks work on.
pub const PLACES: usize = 2;

/// Devices, or requester ids, as bits.
pub type Set = u8;

/// A device, or a bridge.
pub struct Device {
    /// What it is called.
    pub name: &'static str,
    /// Where it is.
    pub sbdf: Sbdf,
    /// Its part.
    pub role: Role,
    /// What its DMA may carry beside its own id.
    pub further: &'static [Sbdf],
    /// Where PCI's isolation ends, if that is not the device itself.
    pub isolation: Option<Sbdf>,
    /// It has a TLB of its own, which is on.
    pub ats: bool,
    /// Present at boot.
    pub at_boot: bool,
}

impl Device {
    /// A plain one.
    #[must_use]
    pub const fn new(name: &'static str, sbdf: Sbdf) -> Self {
        Self { name, sbdf, role: Role::Endpoint, further: &[], isolation: None, ats: false, at_boot: true }
    }

    /// As the walk of PCI would describe it.
    #[must_use]
    pub fn function(&self) -> Function {
        let mut ids = RequesterIds::one(self.sbdf);
        for id in self.further {
            ids.add(*id);
        }
        let isolation = self.isolation.unwrap_or(self.sbdf);
        Function { sbdf: self.sbdf, role: self.role, class: DeviceClass::Other, ids, isolation }
    }

    /// Whether it can be given to somebody.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        !self.role.is_device()
    }
}

/// What became of a region at boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It was accepted.
    Accepted,
    /// It was rejected, so that its devices go without it or nowhere.
    Rejected,
    /// It was accepted, and its scope leads through a bridge that was absent.
    Late,
}

/// A region.
pub struct Region {
    /// Its first frame.
    pub start: u64,
    /// The frame after its last.
    pub end: u64,
    /// Whose it is, by index.
    pub users: &'static [usize],
    /// What became of it.
    pub kind: Kind,
}

/// A machine.
pub struct Board {
    /// Its devices.
    pub devices: &'static [Device],
    /// All requester ids of theirs.
    pub sources: &'static [Sbdf],
    /// The regions.
    pub regions: &'static [Region],
    /// Frames that stand for all frames of the regions: the first and the last of each, and those beside the
    /// others' ends.
    pub probes: &'static [u64],
    /// Guest frames that toolstacks work on, one page each, with the region that each is in.
    pub places: &'static [(u64, usize)],
    /// Devices that are named together in a call.
    pub sets: &'static [Set],
}

impl Board {
    /// The index of the device at an address.
    #[must_use]
    pub fn device_at(&self, sbdf: Sbdf) -> Option<usize> {
        self.devices.iter().position(|device| device.sbdf == sbdf)
    }

    /// The index of a requester id.
    #[must_use]
    pub fn source_at(&self, id: Sbdf) -> Option<usize> {
        self.sources.iter().position(|source| *source == id)
    }

    /// The requester ids that a device's DMA may carry.
    #[must_use]
    pub fn sources_of(&self, device: usize) -> Set {
        let Device { sbdf, further, .. } = &self.devices[device];
        let all = further.iter().chain([sbdf]);
        all.fold(0, |set, id| set | 1 << self.source_at(*id).expect("every id is listed"))
    }

    /// The devices whose DMA may carry a requester id.
    #[must_use]
    pub fn carriers(&self, source: usize) -> Set {
        indices(self.devices.len()).filter(|device| self.sources_of(*device) & 1 << source != 0).collect_set()
    }

    /// Which probes are in a region, as bits.
    #[must_use]
    pub fn probes_in(&self, region: usize) -> u32 {
        let Region { start, end, .. } = self.regions[region];
        let bits = self.probes.iter().enumerate().filter(|(_, frame)| (start..end).contains(*frame));
        bits.fold(0, |bits, (index, _)| bits | 1 << index)
    }

    /// The index of a region by the address of its first byte.
    #[must_use]
    pub fn region_at(&self, base: u64) -> Option<usize> {
        self.regions.iter().position(|region| region.start << 12 == base)
    }

    /// Whether two regions share a frame.
    #[must_use]
    pub fn overlap(&self, one: usize, other: usize) -> bool {
        let (one, other) = (&self.regions[one], &self.regions[other]);
        one.start < other.end && other.start < one.end
    }

    /// The names of devices.
    #[must_use]
    pub fn names(&self, set: Set) -> String {
        let names: Vec<_> = members(set).map(|device| self.devices[device].name).collect();
        names.join(", ")
    }
}

fn indices(count: usize) -> std::ops::Range<usize> {
    0..count
}

/// Indices as bits.
trait CollectSet {
    fn collect_set(self) -> Set;
}

impl<I: Iterator<Item = usize>> CollectSet for I {
    fn collect_set(self) -> Set {
        self.fold(0, |set, index| set | 1 << index)
    }
}

/// The indices in a set.
pub fn members(set: Set) -> impl Iterator<Item = usize> + Clone {
    (0..8).filter(move |index| set & 1 << index != 0)
}

/// The machine frame of a domain's RAM at a place.
#[must_use]
pub fn ram(domain: usize, place: usize) -> u64 {
    0x9000 + (domain as u64) * 0x10 + place as u64
}
