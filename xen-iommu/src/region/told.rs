//! What callers are told of the regions. What they do with it goes wrong where regions overlap: libxl puts
//! together those of one start, and hvmloader looks for the lowest end. So they are told of whole clusters:
//! of regions that overlap or share a page, the union.

use p2m::MfnRange;

use super::iommu_state::IommuState;
use super::record::Region;
use super::registry::{Cluster, Registry};
use crate::platform::Sbdf;

impl Cluster<'_> {
    /// The union of its regions that `is_told` is true of: lowest first, and none of them meeting another.
    pub(crate) fn union<'c>(
        &'c self,
        is_told: impl Fn(&Region<'_>) -> bool + 'c,
    ) -> impl Iterator<Item = MfnRange> + 'c {
        let mut left = self.regions.iter().filter(move |region| is_told(region)).peekable();
        core::iter::from_fn(move || {
            let mut range = left.next()?.range();
            while let Some(next) = left.next_if(|next| next.range().overlaps(&range)) {
                range = range.hull(&next.range());
            }
            Some(range)
        })
    }
}

impl<'m> Registry<'m> {
    /// What there is to tell of `devices`, in any order and named more than once perhaps: the union of the
    /// clusters that a region of theirs is in. Lowest first, each once, never overlapping; ranges that only
    /// touch stay apart. Nothing where no IOMMU is [active](IommuState::Active). Regions that were rejected
    /// are not told of.
    pub fn told<'t>(
        &'t self,
        devices: impl Iterator<Item = Sbdf> + Clone + 't,
    ) -> impl Iterator<Item = MfnRange> + 't {
        self.clusters_of(devices).map(|cluster| cluster.range)
    }

    /// What there is to tell of all devices, as [`told`](Self::told).
    pub fn told_all(&self) -> impl Iterator<Item = MfnRange> + '_ {
        self.active_clusters().map(|cluster| cluster.range)
    }

    /// All clusters, where there is an IOMMU.
    pub(crate) fn active_clusters(&self) -> impl Iterator<Item = &'m Cluster<'m>> + '_ {
        let clusters = if self.iommu() == IommuState::Active { self.clusters } else { &[] };
        clusters.iter()
    }

    /// Those of `devices`, lowest first.
    pub(crate) fn clusters_of<'t>(
        &'t self,
        devices: impl Iterator<Item = Sbdf> + Clone + 't,
    ) -> impl Iterator<Item = &'m Cluster<'m>> + 't {
        let mut rank = 0;
        core::iter::from_fn(move || {
            if self.iommu() != IommuState::Active {
                return None;
            }
            let first =
                |device| self.regions_of_from(device, rank).find(|region| region.rejection().is_none());
            let region = devices.clone().filter_map(first).min_by_key(|region| region.rank())?;
            let cluster = self.cluster(region)?;
            rank = cluster.regions.last()?.rank().saturating_add(1);
            Some(cluster)
        })
    }
}
