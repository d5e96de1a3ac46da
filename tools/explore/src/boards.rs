//! The machines that are explored.

use xen_iommu::Sbdf;
use xen_iommu::pci::Role;

use crate::machine::{Board, Device, Kind, Region};

const fn at(device: u8, function: u8) -> Sbdf {
    Sbdf::new(0, 0, device, function)
}

const BRIDGE: Sbdf = at(1, 0);

/// A function behind the bridge.
const fn behind(device: u8) -> Sbdf {
    Sbdf::new(0, 1, device, 0)
}

const fn region(start: u64, end: u64, users: &'static [usize]) -> Region {
    Region { start, end, users, kind: Kind::Accepted }
}

const A: Device = Device::new("A", at(4, 0));
const B: Device = Device::new("B", at(5, 0));
const C: Device = Device::new("C", at(6, 0));
const D: Device = Device { further: &[BRIDGE], ..Device::new("D", behind(1)) };
const E: Device = Device { further: &[BRIDGE], ..Device::new("E", behind(2)) };
const BEHIND_BRIDGE: [Sbdf; 3] = [behind(1), behind(2), BRIDGE];
const BR: Device = Device { role: Role::Bridge, ..Device::new("bridge", BRIDGE) };

const fn classic(
    regions: &'static [Region],
    probes: &'static [u64],
    places: &'static [(u64, usize)],
) -> Board {
    Board {
        devices: &[A, B, C, D, E],
        sources: &[A.sbdf, B.sbdf, C.sbdf, BEHIND_BRIDGE[0], BEHIND_BRIDGE[1], BEHIND_BRIDGE[2]],
        regions,
        probes,
        places,
        sets: &[0b00011, 0b00101, 0b00111, 0b11000, 0b01001, 0b11111],
    }
}

/// A and B share a region, that of C overlaps it, D with a region of its own and E are behind one bridge.
/// Regions of a few pages.
pub const PAGES: Board = classic(
    &[region(0x10, 0x12, &[0, 1]), region(0x11, 0x13, &[2]), region(0x20, 0x21, &[3])],
    &[0x10, 0x11, 0x12, 0x20],
    &[(0x10, 0), (0x20, 2)],
);

/// The same, but the first region has a 2 MiB page that the second cuts, and the third is one.
pub const CUT: Board = classic(
    &[region(0x200, 0x401, &[0, 1]), region(0x3ff, 0x402, &[2]), region(0x600, 0x800, &[3])],
    &[0x200, 0x3fe, 0x3ff, 0x400, 0x401, 0x600, 0x7ff],
    &[(0x200, 0), (0x600, 2)],
);

/// A and B share a region, C has one of its own.
pub const PAIR: Board = Board {
    devices: &[A, B, C],
    sources: &[A.sbdf, B.sbdf, C.sbdf],
    regions: &[region(0x10, 0x12, &[0, 1]), region(0x20, 0x21, &[2])],
    probes: &[0x10, 0x11, 0x20],
    places: &[(0x10, 0)],
    sets: &[0b011],
};

/// D and E are behind a bridge that the policy knows; D shares a region with A, which is elsewhere.
pub const BEHIND: Board = Board {
    devices: &[D, E, BR, A],
    sources: &[BEHIND_BRIDGE[0], BEHIND_BRIDGE[1], BEHIND_BRIDGE[2], A.sbdf],
    regions: &[region(0x20, 0x22, &[0, 3])],
    probes: &[0x20, 0x21],
    places: &[(0x20, 0)],
    sets: &[0b0011, 0b1001, 0b1011],
};

/// The region of B meets those of A and C, which do not meet: without B they are strangers.
pub const CHAIN: Board = Board {
    devices: &[A, B, C],
    sources: &[A.sbdf, B.sbdf, C.sbdf],
    regions: &[region(0x10, 0x12, &[0]), region(0x11, 0x14, &[1]), region(0x13, 0x15, &[2])],
    probes: &[0x10, 0x11, 0x12, 0x13, 0x14],
    places: &[(0x10, 0)],
    sets: &[0b101, 0b111],
};

/// D with a rejected region and E with one that was accepted are behind one bridge.
pub const REJECTED: Board = Board {
    devices: &[D, E],
    sources: &BEHIND_BRIDGE,
    regions: &[Region { kind: Kind::Rejected, ..region(0x20, 0x21, &[0]) }, region(0x30, 0x31, &[1])],
    probes: &[0x20, 0x30],
    places: &[(0x30, 1)],
    sets: &[0b11],
};

/// P has a phantom function and shares its region with Q.
pub const PHANTOM: Board = Board {
    devices: &[Device { further: &[at(7, 4)], ..Device::new("P", at(7, 0)) }, Device::new("Q", at(8, 0))],
    sources: &[at(7, 0), at(7, 4), at(8, 0)],
    regions: &[region(0x10, 0x12, &[0, 1])],
    probes: &[0x10, 0x11],
    places: &[(0x10, 0)],
    sets: &[0b11],
};

/// The region of F, which is behind a bridge that was absent at boot, overlaps that of A and B; that of G was
/// rejected.
pub const LATE: Board = Board {
    devices: &[A, B, Device { at_boot: false, ..Device::new("F", behind(3)) }, Device::new("G", at(9, 0))],
    sources: &[A.sbdf, B.sbdf, behind(3), at(9, 0)],
    regions: &[
        region(0x10, 0x12, &[0, 1]),
        Region { kind: Kind::Late, ..region(0x11, 0x13, &[2]) },
        Region { kind: Kind::Rejected, ..region(0x30, 0x31, &[3]) },
        region(0x40, 0x41, &[3]),
    ],
    probes: &[0x10, 0x11, 0x12, 0x30, 0x40],
    places: &[(0x10, 0)],
    sets: &[0b0011, 0b0111, 0b1001],
};

/// G and H are not isolated from each other, and K, which is, shares a region with H.
pub const TOGETHER: Board = Board {
    devices: &[
        Device { isolation: Some(at(9, 0)), ..Device::new("G", at(9, 0)) },
        Device { isolation: Some(at(9, 0)), ..Device::new("H", at(9, 1)) },
        Device::new("K", at(10, 0)),
    ],
    sources: &[at(9, 0), at(9, 1), at(10, 0)],
    regions: &[region(0x10, 0x12, &[1, 2])],
    probes: &[0x10, 0x11],
    places: &[(0x10, 0)],
    sets: &[0b011, 0b110, 0b111],
};

/// S has a TLB of its own and a phantom function, and shares a region with T.
pub const DEVICE_TLB: Board = Board {
    devices: &[Device { ats: true, ..Device::new("S", at(11, 0)) }, Device::new("T", at(12, 0)), C],
    sources: &[at(11, 0), at(12, 0), C.sbdf],
    regions: &[region(0x10, 0x12, &[0, 1]), region(0x20, 0x21, &[2])],
    probes: &[0x10, 0x11, 0x20],
    places: &[(0x10, 0), (0x20, 1)],
    sets: &[0b011, 0b101],
};

/// A physical function with a region, and two of its virtual functions.
pub const FUNCTIONS: Board = Board {
    devices: &[
        Device { role: Role::Physical, ..Device::new("PF", at(13, 0)) },
        Device { role: Role::Virtual { physical: at(13, 0) }, ..Device::new("VF0", at(13, 1)) },
        Device {
            role: Role::Virtual { physical: at(13, 0) },
            at_boot: false,
            ..Device::new("VF1", at(13, 2))
        },
    ],
    sources: &[at(13, 0), at(13, 1), at(13, 2)],
    regions: &[region(0x10, 0x11, &[0])],
    probes: &[0x10],
    places: &[(0x10, 0)],
    sets: &[0b011, 0b110],
};
