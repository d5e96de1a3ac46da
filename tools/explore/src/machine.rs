//! The machine that is explored: its devices and regions.

use xen_iommu::Sbdf;

/// Device A shares its region with B.
pub const A: usize = 0;
/// Device B.
pub const B: usize = 1;
/// Device C, whose region overlaps that of A and B.
pub const C: usize = 2;
/// Device D, behind the bridge, with a region.
pub const D: usize = 3;
/// Device E, behind the bridge, without one.
pub const E: usize = 4;
/// How many devices there are.
pub const DEVICES: usize = 5;
/// Their names.
pub const NAMES: [&str; DEVICES] = ["A", "B", "C", "D", "E"];

/// How many requester ids there are: one each of A, B and C, and the bridge's.
pub const REQUESTERS: usize = 4;
/// Domains: the hardware domain and two more.
pub const DOMAINS: usize = 3;
/// Regions.
pub const REGIONS: usize = 3;

const BRIDGE: Sbdf = Sbdf::new(0, 1, 0, 0);

/// A device's address.
#[must_use]
pub fn sbdf(device: usize) -> Sbdf {
    match device {
        A => Sbdf::new(0, 0, 4, 0),
        B => Sbdf::new(0, 0, 5, 0),
        C => Sbdf::new(0, 0, 6, 0),
        D => Sbdf::new(0, 1, 1, 0),
        _ => Sbdf::new(0, 1, 2, 0),
    }
}

/// The index of the requester id that a device's DMA carries.
#[must_use]
pub fn requester(device: usize) -> usize {
    device.min(REQUESTERS - 1)
}

/// A requester id.
#[must_use]
pub fn source(requester: usize) -> Sbdf {
    if requester < REQUESTERS - 1 { sbdf(requester) } else { BRIDGE }
}

/// The region of a device, if it has one.
#[must_use]
pub fn region_of(device: usize) -> Option<usize> {
    match device {
        A | B => Some(0),
        C => Some(1),
        D => Some(2),
        _ => None,
    }
}

/// Whether a device's region shares memory with those of others: the regions of A, B and C are one piece.
#[must_use]
pub fn is_linked(device: usize) -> bool {
    matches!(region_of(device), Some(0 | 1))
}

/// The devices of a region.
#[must_use]
pub fn users(region: usize) -> &'static [usize] {
    match region {
        0 => &[A, B],
        1 => &[C],
        _ => &[D],
    }
}

/// Where the regions are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A few pages each.
    Pages,
    /// The first has a 2 MiB page that the second cuts; the third is one.
    Cut,
}

impl Layout {
    /// The first frame and the end of each region.
    #[must_use]
    pub fn regions(self) -> [(u64, u64); REGIONS] {
        match self {
            Self::Pages => [(0x10, 0x12), (0x11, 0x13), (0x20, 0x21)],
            Self::Cut => [(0x200, 0x401), (0x3ff, 0x402), (0x600, 0x800)],
        }
    }

    /// Frames that stand for all frames of the regions: the first and the last of each, and those beside the others' ends.
    #[must_use]
    pub fn probes(self) -> &'static [u64] {
        match self {
            Self::Pages => &[0x10, 0x11, 0x12, 0x20],
            Self::Cut => &[0x200, 0x3fe, 0x3ff, 0x400, 0x401, 0x600, 0x7ff],
        }
    }

    /// Which probes are in a region, as bits.
    #[must_use]
    pub fn probes_in(self, region: usize) -> u32 {
        let (start, end) = self.regions()[region];
        let bits = self.probes().iter().enumerate().filter(|(_, frame)| (start..end).contains(*frame));
        bits.fold(0, |bits, (index, _)| bits | 1 << index)
    }

    /// Guest frames that toolstacks work on: one page that is in the first region alone, and one of the third.
    #[must_use]
    pub fn place(self, place: usize) -> u64 {
        match (self, place) {
            (Self::Pages, 0) => 0x10,
            (Self::Pages, _) => 0x20,
            (Self::Cut, 0) => 0x200,
            (Self::Cut, _) => 0x600,
        }
    }
}

/// How many places there are.
pub const PLACES: usize = 2;

/// The machine frame of a domain's RAM at a place.
#[must_use]
pub fn ram(domain: usize, place: usize) -> u64 {
    0x9000 + (domain as u64) * 0x10 + place as u64
}
