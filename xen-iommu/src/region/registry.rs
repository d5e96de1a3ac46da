//! The reserved regions of the machine: which frames, for which devices, accepted or not.
//!
//! Built once at boot from the DMAR and the `rmrr=` option, then frozen: readers need no lock. Two things change later and stand in atomics, written
//! under the ownership lock alone: which domain a region is mapped in, and where a cluster's present devices begin. So does what is found out later:
//! which devices a scope means that led through an absent bridge.

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use acpi_dmar::verdict::{Rejection, Verdict};
use intrusive_collections::{
    KeyAdapter, RBTree, RBTreeAtomicLink, SinglyLinkedList, SinglyLinkedListAtomicLink, intrusive_adapter,
};
use p2m::{Mfn, MfnRange};

use crate::arena::{Arena, OutOfMemory};
use crate::index::Index;
use crate::platform::{DomId, Sbdf};

pub use super::search::{Overlapping, RegionsOf};
use super::{search, unresolved};

/// Where a region was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmar { offset } => write!(f, "DMAR offset {offset:#x}"),
            Self::Option { position } => write!(f, "rmrr= character {}", position.saturating_add(1)),
        }
    }
}

/// Which devices a region belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// One function.
    Function(Sbdf),
    /// A bridge and every device below it.
    Below {
        /// The bridge.
        bridge: Sbdf,
        /// The first bus below it (its secondary bus).
        first_bus: u8,
        /// The last bus below it (its subordinate bus), inclusive.
        last_bus: u8,
    },
}

impl Scope {
    /// Whether `device` is meant.
    #[must_use]
    pub fn covers(&self, device: Sbdf) -> bool {
        match *self {
            Self::Function(function) => function == device,
            Self::Below { bridge, first_bus, last_bus } => {
                bridge == device
                    || bridge.segment() == device.segment() && (first_bus..=last_bus).contains(&device.bus())
            }
        }
    }
}

impl Scope {
    /// The function, or the bridge.
    pub(super) fn named(&self) -> Sbdf {
        let (Self::Function(named) | Self::Below { bridge: named, .. }) = *self;
        named
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Function(function) => write!(f, "{function}"),
            Self::Below { bridge, first_bus, last_bus } => {
                write!(f, "all below bridge {bridge} (buses {first_bus:02x} to {last_bus:02x})")
            }
        }
    }
}

/// Stands for no domain in [`Region::owner`]; domain ids have 16 bits.
const NOBODY: u32 = u32::MAX;

/// Stands for no cluster and no device where a number of one is kept.
pub(crate) const NONE: u32 = u32::MAX;

/// One reserved region.
pub struct Region<'m> {
    pub(super) by_start: RBTreeAtomicLink,
    pub(super) rejected: SinglyLinkedListAtomicLink,
    pub(super) range: MfnRange,
    pub(super) base: u64,
    pub(super) limit: u64,
    pub(super) origin: Origin,
    pub(super) verdict: Verdict,
    pub(super) scopes: &'m [Scope],
    pub(super) cluster: AtomicU32,
    pub(super) highest_end: AtomicU64,
    pub(super) owner: AtomicU32,
    pub(super) stage: AtomicU8,
}

/// What a transfer that is under way has done with a region. Between transfers every region is [`Idle`](Self::Idle).
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
    /// The whole pages that the region covers; of a rejected region none.
    #[must_use]
    pub fn range(&self) -> MfnRange {
        self.range
    }

    /// Where it was read.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The verdict on it when it was read. Whether it is dormant now is for [`Policy`](crate::Policy) to say, which knows the devices.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Why it is not used, where it is not. Its devices are refused for assignment then, unless relaxed.
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        match self.verdict {
            Verdict::Rejected(rejection) => Some(rejection),
            _ => None,
        }
    }

    /// The devices that it belongs to, present or not, as far as was known at boot; each once, in ascending order. [`Registry::scopes_of`] has those that
    /// were found since, too.
    #[must_use]
    pub fn scopes(&self) -> &'m [Scope] {
        self.scopes
    }

    /// The domain that it is mapped in through the policy. Read without a lock: true at the moment of reading.
    #[must_use]
    pub fn owner(&self) -> Option<DomId> {
        u16::try_from(self.owner.load(Ordering::Relaxed)).ok().map(DomId)
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

    pub(crate) fn set_owner(&self, owner: Option<DomId>) {
        self.owner.store(owner.map_or(NOBODY, |id| u32::from(id.0)), Ordering::Relaxed);
    }
}

impl fmt::Display for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x}]", self.base, self.limit)
    }
}

impl fmt::Debug for Region<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.origin)
    }
}

/// Regions that overlap, one leading to the next: mapped and owned as one. Regions that only touch are in clusters of their own.
pub(crate) struct Cluster<'m> {
    pub(crate) range: MfnRange,
    /// Lowest first.
    pub(crate) regions: &'m [&'m Region<'m>],
    /// A present device of a region in it, by its number in the ownership's table; [`NONE`] while all are absent.
    pub(crate) first_user: AtomicU32,
}

/// That a region belongs to a device or to those below a bridge.
pub(super) struct Claim<'m> {
    pub(super) link: SinglyLinkedListAtomicLink,
    pub(super) scope: Scope,
    pub(super) region: &'m Region<'m>,
}

intrusive_adapter!(pub(super) ByStart<'m> = &'m Region<'m>: Region<'m> { by_start => RBTreeAtomicLink });
intrusive_adapter!(pub(super) RejectedRegions<'m> = &'m Region<'m>: Region<'m> { rejected => SinglyLinkedListAtomicLink });
intrusive_adapter!(pub(super) Claims<'m> = &'m Claim<'m>: Claim<'m> { link => SinglyLinkedListAtomicLink });

impl<'m, 'k> KeyAdapter<'k> for ByStart<'m> {
    type Key = Mfn;

    fn get_key(&self, region: &'k Region<'m>) -> Mfn {
        region.range.start()
    }
}

/// That a region belongs to one function or bridge, in the order of those.
pub(super) struct OfFunction<'m> {
    pub(super) function: Sbdf,
    /// The order of registration, among those of one function.
    pub(super) order: u32,
    pub(super) region: &'m Region<'m>,
}

/// What is known of a region when it is registered.
#[derive(Clone, Copy, Debug)]
pub struct RegionInfo {
    /// Its first byte's address, as it was stated.
    pub base: u64,
    /// Its last byte's address, inclusive, as it was stated.
    pub limit: u64,
    /// Where it was read.
    pub origin: Origin,
    /// What is made of it: its whole pages, or why it is not to be used.
    pub verdict: Verdict,
}

/// Collects the regions at boot.
pub struct RegistryBuilder<'m> {
    pub(super) by_start: RBTree<ByStart<'m>>,
    pub(super) rejected: SinglyLinkedList<RejectedRegions<'m>>,
    pub(super) claims: SinglyLinkedList<Claims<'m>>,
    /// How many claims, and of them those by bridges.
    pub(super) claim_count: u32,
    pub(super) bridge_count: u32,
    pub(super) late: SinglyLinkedList<unresolved::Lates<'m>>,
}

impl Default for RegistryBuilder<'_> {
    fn default() -> Self {
        Self {
            by_start: RBTree::new(ByStart::new()),
            rejected: SinglyLinkedList::new(RejectedRegions::new()),
            claims: SinglyLinkedList::new(Claims::new()),
            claim_count: 0,
            bridge_count: 0,
            late: SinglyLinkedList::new(unresolved::Lates::new()),
        }
    }
}

impl<'m> RegistryBuilder<'m> {
    /// Registers a region for the devices of `scopes`. A scope that is named again adds nothing.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; the region is not registered then.
    pub fn add(
        &mut self,
        arena: &mut Arena<'m>,
        info: RegionInfo,
        scopes: impl Iterator<Item = Scope> + Clone,
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let mut each = scopes.clone();
        let placeholder = Scope::Function(Sbdf::from_raw(0));
        let all = arena.slice(scopes.count(), |_| each.next().unwrap_or(placeholder))?;
        all.sort_unstable();
        let scopes = without_repeats(all, PartialEq::eq);

        let region: &'m Region<'m> = arena.object(Region {
            by_start: RBTreeAtomicLink::new(),
            rejected: SinglyLinkedListAtomicLink::new(),
            range: pages_of(&info.verdict),
            base: info.base,
            limit: info.limit,
            origin: info.origin,
            verdict: info.verdict,
            scopes,
            cluster: AtomicU32::new(NONE),
            highest_end: AtomicU64::new(0),
            owner: AtomicU32::new(NOBODY),
            stage: AtomicU8::new(Stage::Idle as u8),
        })?;
        let mut scope = scopes.iter();
        let claims: &'m [Claim<'m>] = arena.slice(scopes.len(), |_| Claim {
            link: SinglyLinkedListAtomicLink::new(),
            scope: scope.next().copied().unwrap_or(placeholder),
            region,
        })?;

        for claim in claims {
            self.claims.push_front(claim);
            self.claim_count = self.claim_count.saturating_add(1);
            if let Scope::Below { .. } = claim.scope {
                self.bridge_count = self.bridge_count.saturating_add(1);
            }
        }
        if region.rejection().is_some() {
            self.rejected.push_front(region);
        } else {
            self.by_start.insert(region);
        }
        Ok(region)
    }

    /// Finds out which regions overlap; from here on the registry does not change.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`.
    pub fn freeze(self, arena: &mut Arena<'m>) -> Result<Registry<'m>, OutOfMemory> {
        let mut count = 0_u32;
        let mut highest = Mfn::new(0);
        let mut regions = 0_usize;
        for region in &self.by_start {
            if count == 0 || region.range.start() >= highest {
                count = count.saturating_add(1);
            }
            region.cluster.store(count.saturating_sub(1), Ordering::Relaxed);
            highest = highest.max(region.range.end());
            region.highest_end.store(highest.raw(), Ordering::Relaxed);
            regions = regions.saturating_add(1);
        }
        let by_start = self.regions(regions, arena)?;
        let mut left = by_start;
        let clusters = arena.slice(count as usize, |index| {
            let is_other = |region: &&Region<'_>| region.cluster.load(Ordering::Relaxed) as usize != index;
            let end = left.iter().position(is_other).unwrap_or(left.len());
            let (regions, rest) = left.split_at_checked(end).unwrap_or((left, &[]));
            left = rest;
            let hull = regions.iter().map(|region| region.range).reduce(|range, other| range.hull(&other));
            Cluster { range: hull.unwrap_or_default(), regions, first_user: AtomicU32::new(NONE) }
        })?;
        let starts = search::Starts::new(by_start, arena)?;
        let by_function = self.by_function(arena)?;
        let below = search::Below::new(&self.claims, self.bridge_count, arena)?;
        let mut index = Index::new(by_function.len(), arena)?;
        let mut last = None;
        for (number, claim) in (0_u32..).zip(by_function) {
            if last.replace(claim.function) != Some(claim.function) {
                index.insert(claim.function, number);
            }
        }
        let (rejected, late) = (self.rejected, self.late);
        Ok(Registry { by_start, starts, by_function, index, below, late, rejected, clusters })
    }

    /// The accepted regions in order.
    fn regions(&self, count: usize, arena: &mut Arena<'m>) -> Result<&'m [&'m Region<'m>], OutOfMemory> {
        let mut cursor = self.by_start.front();
        let Some(first) = cursor.clone_pointer() else { return Ok(&[]) };
        Ok(arena.slice(count, |_| {
            let region = cursor.clone_pointer().unwrap_or(first);
            cursor.move_next();
            region
        })?)
    }

    /// The claims in the order of the functions and bridges that they name.
    fn by_function(&self, arena: &mut Arena<'m>) -> Result<&'m [OfFunction<'m>], OutOfMemory> {
        let mut cursor = self.claims.front();
        let Some(first) = cursor.clone_pointer() else { return Ok(&[]) };
        let mut order = self.claim_count;
        let claims = arena.slice(self.claim_count as usize, |_| {
            let claim = cursor.clone_pointer().unwrap_or(first);
            cursor.move_next();
            // The list begins with the last one.
            order = order.saturating_sub(1);
            OfFunction { function: claim.scope.named(), order, region: claim.region }
        })?;
        claims.sort_unstable_by_key(|claim| (claim.function, claim.order));
        // A region that names a bridge and what is below it is the bridge's once.
        let is_same = |one: &OfFunction<'_>, other: &OfFunction<'_>| {
            one.function == other.function && core::ptr::eq(one.region, other.region)
        };
        Ok(without_repeats(claims, is_same))
    }
}

fn pages_of(verdict: &Verdict) -> MfnRange {
    let pages = verdict.pages().and_then(|pages| MfnRange::new(Mfn::new(pages.start), Mfn::new(pages.end)));
    pages.unwrap_or_default()
}

/// Moves the first of each run of equals to the front; what is behind is left out.
fn without_repeats<T>(sorted: &mut [T], is_same: impl Fn(&T, &T) -> bool) -> &[T] {
    let mut kept = 0_usize;
    for index in 0..sorted.len() {
        let last = kept.checked_sub(1).and_then(|last| sorted.get(last));
        if last.zip(sorted.get(index)).is_some_and(|(last, next)| is_same(last, next)) {
            continue;
        }
        sorted.swap(kept, index);
        kept = kept.saturating_add(1);
    }
    sorted.get(..kept).unwrap_or_default()
}

/// The machine's reserved regions.
pub struct Registry<'m> {
    pub(super) by_start: &'m [&'m Region<'m>],
    pub(super) starts: search::Starts<'m>,
    pub(super) by_function: &'m [OfFunction<'m>],
    /// Where the claims of a function begin.
    pub(super) index: Index<'m>,
    pub(super) below: search::Below<'m>,
    pub(super) late: SinglyLinkedList<unresolved::Lates<'m>>,
    pub(super) rejected: SinglyLinkedList<RejectedRegions<'m>>,
    pub(super) clusters: &'m [Cluster<'m>],
}

impl<'m> Registry<'m> {
    /// The accepted regions, lowest first.
    pub fn regions(&self) -> impl Iterator<Item = &'m Region<'m>> + '_ {
        self.by_start.iter().copied()
    }

    /// The regions that were rejected, last read first.
    pub fn rejected(&self) -> impl Iterator<Item = &Region<'m>> {
        self.rejected.iter()
    }

    pub(crate) fn cluster(&self, region: &Region<'_>) -> Option<&'m Cluster<'m>> {
        self.clusters.get(region.cluster.load(Ordering::Relaxed) as usize)
    }
}

#[cfg(test)]
mod tests;
