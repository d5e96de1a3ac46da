//! What is known of a reserved region, whoever says so: firmware's tables, the administrator, the hypervisor
//! itself.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use intrusive_collections::{SinglyLinkedListAtomicLink, intrusive_adapter};
use p2m::{Access, MfnRange};

use super::devices::Devices;
use super::verdict::{Rejection, Verdict};
use crate::platform::DomId;

/// Where a region comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// An RMRR structure of the DMAR, at this offset in the table.
    Dmar {
        /// Bytes from the table's start.
        offset: u32,
    },
    /// The `rmrr=` option, at this position of its value.
    Option {
        /// Bytes from the value's start.
        position: usize,
    },
    /// The hypervisor itself.
    Hypervisor,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmar { offset } => write!(f, "DMAR offset {offset:#x}"),
            Self::Option { position } => write!(f, "rmrr= character {}", position.saturating_add(1)),
            Self::Hypervisor => f.write_str("hypervisor"),
        }
    }
}

/// What a region is for its devices. AMD's IVMD and Arm's RMR know more kinds: ranges that are excluded from
/// translation, that must not be used, or that may be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// Memory that the devices must reach at its own address: mapped 1:1.
    Identity,
}

/// A region as it is stated, before anybody judges it. No firmware's format shows through; each format's
/// reader fills one.
#[derive(Clone, Copy, Debug)]
pub struct Record<'r> {
    /// Its first byte's address.
    pub base: u64,
    /// Its last byte's address, inclusive.
    pub limit: u64,
    /// What its devices may do there.
    pub access: Access,
    /// What it is for them.
    pub kind: RegionKind,
    /// Who says so.
    pub origin: Origin,
    /// Whose it is. One that is named again adds nothing.
    pub devices: &'r [Devices],
}

impl<'r> Record<'r> {
    /// An identity region for reads and writes.
    #[must_use]
    pub const fn identity(base: u64, limit: u64, origin: Origin, devices: &'r [Devices]) -> Self {
        Self { base, limit, access: Access::READ_WRITE, kind: RegionKind::Identity, origin, devices }
    }

    /// By which errors and notes know it.
    #[must_use]
    pub const fn name(&self) -> RegionName {
        RegionName { base: self.base, limit: self.limit, origin: self.origin }
    }
}

/// What errors, notes and reports call a region by: a value that outlives it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RegionName {
    /// Its first byte's address, as it was stated.
    pub base: u64,
    /// Its last byte's address, inclusive, as it was stated.
    pub limit: u64,
    /// Who said so.
    pub origin: Origin,
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x}]", self.base, self.limit)
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.origin)
    }
}

/// Stands for no domain in [`Region::owner`]; domain ids have 16 bits.
const NOBODY: u32 = u32::MAX;

/// Stands for no cluster and no device where a number of one is kept.
pub(crate) const NONE: u32 = u32::MAX;

/// One reserved region, registered.
pub struct Region<'m> {
    pub(super) link: SinglyLinkedListAtomicLink,
    record: Record<'m>,
    range: MfnRange,
    verdict: Verdict,
    /// Its place among all regions, lowest base first; of equal ones in the order of registration. Until the
    /// registry is frozen that order alone.
    rank: AtomicU32,
    cluster: AtomicU32,
    highest_end: AtomicU64,
    owner: AtomicU32,
    first_user: AtomicU32,
    stage: AtomicU8,
}

intrusive_adapter!(pub(super) Regions<'m> = &'m Region<'m>: Region<'m> { link => SinglyLinkedListAtomicLink });

/// What a transfer that is under way has done with a region. Between transfers every region is
/// [`Idle`](Self::Idle).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Idle,
    /// Mapped in the target, to be undone if the transfer fails.
    Mapped,
    /// Looked at, and left in another domain's hands.
    Left,
    /// Mapped by a transfer that failed, and about to go again.
    Leaving,
}

impl<'m> Region<'m> {
    /// The `number`th that is registered.
    pub(super) fn new(record: Record<'m>, verdict: Verdict, number: u32) -> Self {
        Self {
            link: SinglyLinkedListAtomicLink::new(),
            record,
            range: verdict.pages().unwrap_or_default(),
            verdict,
            rank: AtomicU32::new(number),
            cluster: AtomicU32::new(NONE),
            highest_end: AtomicU64::new(0),
            owner: AtomicU32::new(NOBODY),
            first_user: AtomicU32::new(NONE),
            stage: AtomicU8::new(Stage::Idle as u8),
        }
    }

    /// By which errors and notes know it.
    #[must_use]
    pub fn name(&self) -> RegionName {
        self.record.name()
    }

    /// What was stated. Its devices, present or not, are those known at boot, each once, in ascending order;
    /// [`Registry::devices_of`](super::registry::Registry::devices_of) has those that were found since, too.
    #[must_use]
    pub fn record(&self) -> &Record<'m> {
        &self.record
    }

    /// The whole pages that the region covers; of a rejected region none.
    #[inline]
    #[must_use]
    pub fn range(&self) -> MfnRange {
        self.range
    }

    /// What its devices may do there.
    #[inline]
    #[must_use]
    pub fn access(&self) -> Access {
        self.record.access
    }

    /// Where it comes from.
    #[inline]
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.record.origin
    }

    /// The devices that it belongs to; see [`record`](Self::record).
    #[inline]
    #[must_use]
    pub fn devices(&self) -> &'m [Devices] {
        self.record.devices
    }

    /// The verdict on it when it was registered. Whether it is dormant now is for [`Policy`](crate::Policy)
    /// to say, which knows the devices.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why it is not used, where it is not. Its devices are refused for assignment then, unless relaxed.
    #[inline]
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        match self.verdict {
            Verdict::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// The domain that it is mapped in through the policy. Read without a lock: true at the moment of
    /// reading.
    #[must_use]
    pub fn owner(&self) -> Option<DomId> {
        u16::try_from(self.owner.load(Ordering::Relaxed)).ok().map(DomId)
    }

    pub(crate) fn set_owner(&self, owner: Option<DomId>) {
        self.owner.store(owner.map_or(NOBODY, |id| u32::from(id.0)), Ordering::Relaxed);
    }

    /// A present device of it that is in a group, by its number in the ownership's table; [`NONE`] while all
    /// are absent.
    pub(crate) fn first_user(&self) -> u32 {
        self.first_user.load(Ordering::Relaxed)
    }

    pub(crate) fn set_first_user(&self, number: u32) {
        self.first_user.store(number, Ordering::Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        const MAPPED: u8 = Stage::Mapped as u8;
        const LEFT: u8 = Stage::Left as u8;
        const LEAVING: u8 = Stage::Leaving as u8;
        match self.stage.load(Ordering::Relaxed) {
            MAPPED => Stage::Mapped,
            LEFT => Stage::Left,
            LEAVING => Stage::Leaving,
            _ => Stage::Idle,
        }
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn rank(&self) -> u32 {
        self.rank.load(Ordering::Relaxed)
    }

    pub(super) fn set_rank(&self, rank: u32) {
        self.rank.store(rank, Ordering::Relaxed);
    }

    /// The number of its cluster; [`NONE`] of a rejected region.
    #[inline]
    pub(super) fn cluster(&self) -> u32 {
        self.cluster.load(Ordering::Relaxed)
    }

    pub(super) fn set_cluster(&self, cluster: u32) {
        self.cluster.store(cluster, Ordering::Relaxed);
    }

    /// The highest end of this region and of those that start below it.
    #[inline]
    pub(super) fn highest_end(&self) -> u64 {
        self.highest_end.load(Ordering::Relaxed)
    }

    pub(super) fn set_highest_end(&self, end: u64) {
        self.highest_end.store(end, Ordering::Relaxed);
    }
}

impl fmt::Display for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

impl fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.name(), f)
    }
}
