//! What was done otherwise than one might think, or left undone.

use p2m::Run;

use crate::control::NotQuiesced;
use crate::error::{AssignError, Holder};
use crate::platform::{DomId, HardwareError, Sbdf};
use crate::region::forbidden::Forbidden;
use crate::region::record::RegionName;
use crate::region::verdict::Rejection;

/// What was done otherwise than one might think, or left undone. Reported as it happens, under the ownership
/// lock: who is told must not call the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Note {
    /// Relaxed: something else is in this part of a region, and stays; the device's DMA to the region ends
    /// there.
    #[error("region {region} is not mapped in {domain} at guest frames {}: {} is there", run.gfns, run.entry)]
    Skipped {
        /// The region.
        region: RegionName,
        /// The domain.
        domain: DomId,
        /// Where, and what is there.
        run: Run,
    },
    /// Relaxed: the region was not mapped, because another domain has it.
    #[error("region {region} is not mapped: {domain} has it")]
    LeftWith {
        /// The region.
        region: RegionName,
        /// The domain that has it.
        domain: DomId,
    },
    /// Relaxed: the device goes without this region, which was rejected at boot.
    #[error("region {region} is not mapped: {why}")]
    WithoutRejected {
        /// The region.
        region: RegionName,
        /// Why it was rejected.
        why: Rejection,
    },
    /// Relaxed: the device goes without this region, which lies over something that no guest may reach.
    #[error("region {region} is not mapped: {what}")]
    WithoutForbidden {
        /// The region.
        region: RegionName,
        /// What is there.
        what: Forbidden,
    },
    /// Relaxed: the device goes without this region, which its remapping unit cannot express.
    #[error(
        "region {region} is not mapped: it is beyond the {width} bits that the remapping unit of {device} translates"
    )]
    BeyondUnit {
        /// The device.
        device: Sbdf,
        /// The region.
        region: RegionName,
        /// Bits of a guest address.
        width: u8,
    },
    /// [`Policy::assign_group`](crate::Policy::assign_group) moved this device along.
    #[error("{0} was moved along with its group")]
    MovedAlong(Sbdf),
    /// Nothing keeps the device and another from each other beside the IOMMU, or from forging each other's
    /// requester ids, and the other is elsewhere.
    #[error("nothing isolates {device} from {other}, which is elsewhere: access control ends at {at}")]
    NotIsolated {
        /// The device.
        device: Sbdf,
        /// The other.
        other: Sbdf,
        /// The function or bridge above which everything isolates.
        at: Sbdf,
    },
    /// The device waits in quarantine, but hardware cannot tell it from one that the domain has: it is
    /// translated as that one, its regions mapped there.
    #[error(
        "{device} waits in quarantine but is translated as {domain}'s: hardware cannot tell it from {with}"
    )]
    TranslatedWith {
        /// The device that waits.
        device: Sbdf,
        /// The device that the domain has.
        with: Sbdf,
        /// The domain.
        domain: DomId,
    },
    /// A newcomer waits in quarantine, translated as one that the domain has, and this region of its could not
    /// be mapped there.
    #[error("{device} waits, translated as {domain}'s, without a region of its: {error}")]
    WaitsWithout {
        /// The newcomer.
        device: Sbdf,
        /// The domain.
        domain: DomId,
        /// Why.
        #[source]
        error: AssignError,
    },
    /// A physical function has gone, and the domain keeps a virtual one of its, which nobody looks after any
    /// more.
    #[error("{domain} keeps {device}, a virtual function of {physical}, which has gone: take it back")]
    WithoutPhysical {
        /// The virtual function.
        device: Sbdf,
        /// The physical one.
        physical: Sbdf,
        /// The domain.
        domain: DomId,
    },
    /// The device waits in quarantine; its DMA is off until it moves, as a guest has memory or a requester id
    /// of its.
    #[error("the DMA of {0} is off until it is assigned")]
    Quiesced(Sbdf),
    /// The device waits in quarantine and its DMA could not be switched off, though a guest has memory or a
    /// requester id of its.
    #[error("{device} waits in quarantine, and its DMA could not be switched off: {why}{}", if *blocked { "; the IOMMU blocks all of it" } else { "" })]
    NotQuiesced {
        /// The device.
        device: Sbdf,
        /// Why.
        why: NotQuiesced,
        /// Whether its DMA is blocked by the remapping unit instead, its regions included.
        blocked: bool,
    },
    /// A device has appeared, or got a region, that belongs together with one that a guest has: it is in
    /// quarantine, cut off.
    #[error("{device} belongs together with {other}, which {holder} has: it waits in quarantine, cut off")]
    Newcomer {
        /// The new device.
        device: Sbdf,
        /// The one that it belongs together with.
        other: Sbdf,
        /// Who has that.
        holder: Holder,
    },
    /// A device has appeared whose requester ids belong to devices in different places: it is in quarantine,
    /// and those ids that only it has are blocked.
    #[error(
        "{device} may use the requester id {id}, which belongs to devices elsewhere than its others': it waits in quarantine, cut off"
    )]
    Contested {
        /// The new device.
        device: Sbdf,
        /// The requester id.
        id: Sbdf,
    },
    /// A region turned out to be a device's that a domain has already; it is not mapped there.
    #[error("region {region} turns out to be {device}'s, which {domain} has without it")]
    Unprovided {
        /// The device.
        device: Sbdf,
        /// The region.
        region: RegionName,
        /// The domain.
        domain: DomId,
    },
    /// The region was not mapped for a new device, because a domain reaches it on its own account, by a
    /// mapping that is not the policy's to remove.
    #[error("region {region} is not mapped: {domain} reaches it itself, at guest frames {}", run.gfns)]
    ReachedBy {
        /// The region.
        region: RegionName,
        /// The domain.
        domain: DomId,
        /// Where and what.
        run: Run,
    },
    /// A device that has to wait in quarantine, as a guest has one that it belongs together with, could not
    /// be taken there.
    #[error("{device} cannot be taken to quarantine: {error}")]
    NotMoved {
        /// The device.
        device: Sbdf,
        /// Why.
        #[source]
        error: AssignError,
    },
    /// No remapping unit translates the device's DMA: it can never be assigned.
    #[error("no remapping unit translates the DMA of {0}")]
    NotTranslated(Sbdf),
    /// The region is no longer used in the domain, but stays mapped with those it overlaps until they go, for
    /// want of a page-table frame.
    #[error("region {region} stays mapped in {domain} until the regions it overlaps go")]
    Lingers {
        /// The region.
        region: RegionName,
        /// The domain.
        domain: DomId,
    },
    /// Hardware did not confirm that old translations of the domain are gone. They stay owed, and frames that
    /// they lead to stay taken, until a later flush of the domain succeeds.
    #[error("translations of {domain} may still be in use: {error}")]
    NotFlushed {
        /// The domain.
        domain: DomId,
        /// Why.
        #[source]
        error: HardwareError,
    },
    /// A move failed, and hardware did not take this requester back to where it was: what its DMA reaches is
    /// not known. Its devices are locked away until the hardware does
    /// ([`Policy::is_suspect`](crate::Policy::is_suspect)).
    #[error("nobody knows what the DMA of {source_id} reaches: {error}")]
    Suspect {
        /// A requester id of it.
        source_id: Sbdf,
        /// Why.
        #[source]
        error: HardwareError,
    },
}
