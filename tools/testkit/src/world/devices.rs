//! A machine with one of each: what regions, requester ids, virtual functions and want of isolation make of
//! devices.

use xen_iommu::pci::{Function, RequesterIds, Role};
use xen_iommu::region::verdict::Rejection;
use xen_iommu::{Isolation, Sbdf};

use super::{Machine, Reserved};

/// Has a region of its own.
pub const A: Sbdf = Sbdf::new(0, 0, 4, 0);
/// Shares a region with [`C`].
pub const B: Sbdf = Sbdf::new(0, 0, 5, 0);
/// See [`B`].
pub const C: Sbdf = Sbdf::new(0, 0, 6, 0);
/// Has a region that overlaps that of [`B`] and [`C`].
pub const D: Sbdf = Sbdf::new(0, 0, 7, 0);
/// Behind [`BRIDGE`], with a region.
pub const E: Sbdf = Sbdf::new(0, 1, 1, 0);
/// Behind [`BRIDGE`], with a region that it shares with [`J`].
pub const F: Sbdf = Sbdf::new(0, 1, 2, 0);
/// Has no region.
pub const G: Sbdf = Sbdf::new(0, 0, 8, 0);
/// Its region was rejected.
pub const H: Sbdf = Sbdf::new(0, 0, 9, 0);
/// Shares a region with [`F`], and by way of it belongs together with [`E`].
pub const J: Sbdf = Sbdf::new(0, 0, 10, 0);
/// A bridge to conventional PCI, with an id of [`E`] and [`F`].
pub const BRIDGE: Sbdf = Sbdf::new(0, 0, 0x1c, 0);
/// What [`BRIDGE`] may put in place of the ids of what is below it.
pub const SECONDARY: Sbdf = Sbdf::new(0, 1, 0, 0);
/// Has phantom functions.
pub const P: Sbdf = Sbdf::new(0, 2, 0, 0);
/// The phantom functions of [`P`].
pub const PHANTOMS: [Sbdf; 3] = [Sbdf::new(0, 2, 0, 2), Sbdf::new(0, 2, 0, 4), Sbdf::new(0, 2, 0, 6)];
/// A physical function, and its virtual ones.
pub const PF: Sbdf = Sbdf::new(0, 3, 0, 0);
/// See [`PF`].
pub const VF1: Sbdf = Sbdf::new(0, 3, 0x10, 0);
/// See [`PF`].
pub const VF2: Sbdf = Sbdf::new(0, 3, 0x10, 2);
/// Nothing keeps it from [`Y`].
pub const X: Sbdf = Sbdf::new(0, 5, 0, 0);
/// Nothing keeps it from [`X`].
pub const Y: Sbdf = Sbdf::new(0, 5, 0, 1);

/// What [`machine`] has.
pub const ALL: [Sbdf; 16] = [A, B, C, D, E, F, G, H, J, BRIDGE, P, PF, VF1, VF2, X, Y];

/// A function of [`machine`].
#[must_use]
pub fn function(sbdf: Sbdf) -> Function {
    let mut ids = RequesterIds::one(sbdf);
    let mut add = |id| assert!(ids.add(id));
    match sbdf {
        E | F => [SECONDARY, BRIDGE].into_iter().for_each(&mut add),
        P => PHANTOMS.into_iter().for_each(&mut add),
        _ => {}
    }
    let role = match sbdf {
        BRIDGE => Role::Bridge,
        PF => Role::Physical,
        VF1 | VF2 => Role::Virtual { physical: PF },
        _ => Role::Endpoint,
    };
    let isolation = if sbdf == Y { X } else { sbdf };
    Function { role, ids, isolation, ..Function::endpoint(sbdf) }
}

/// Of [`A`].
pub const OF_A: (u64, u64) = (0x1000, 0x1010);
/// Of [`B`] and [`C`]; it begins within 2 MiB and is cut by [`OF_D`].
pub const OF_B: (u64, u64) = (0x2200, 0x2600);
/// Of [`D`].
pub const OF_D: (u64, u64) = (0x2500, 0x2900);
/// Of [`E`].
pub const OF_E: (u64, u64) = (0x8000, 0x8001);
/// Of [`F`] and [`J`].
pub const OF_F: (u64, u64) = (0x9000, 0x9004);
/// Of [`P`].
pub const OF_P: (u64, u64) = (0xb000, 0xb001);

/// One of each.
#[must_use]
pub fn machine() -> Machine {
    let of = |(start, end), devices: &[Sbdf]| Reserved::of(start, end, devices);
    let mut rejected = Reserved::of(0xa000, 0xa001, &[H]);
    rejected.rejected = Some(Rejection::NoScope);
    let regions = vec![
        of(OF_A, &[A]),
        of(OF_B, &[B, C]),
        of(OF_D, &[D]),
        of(OF_E, &[E]),
        of(OF_F, &[F, J]),
        of(OF_P, &[P]),
        rejected,
    ];
    Machine::new(ALL.map(function).to_vec(), regions)
}

/// As [`machine`], where devices that nothing keeps apart must stay together.
#[must_use]
pub fn isolating() -> Machine {
    Machine { isolation: Isolation::Require, ..machine() }
}
