//! Why two devices belong together.

use crate::platform::Sbdf;
use crate::region::record::RegionName;

/// Why two devices belong together, by themselves and not by way of a third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Link {
    /// One region is both's.
    #[error("both use region {0}")]
    SharedRegion(RegionName),
    /// A region of the one overlaps, or shares a page with, a region of the other.
    #[error("their regions {0} and {1} share memory")]
    Overlap(RegionName, RegionName),
    /// The DMA of both may carry this requester id.
    #[error("the DMA of both may come from {0}")]
    RequesterId(Sbdf),
    /// Nothing keeps them apart at or below this function or bridge: they can reach each other beside the
    /// IOMMU, or forge each other's ids (PCI Express base specification 5.0, 6.12).
    #[error("nothing isolates them from each other at {0}")]
    NotIsolated(Sbdf),
}
