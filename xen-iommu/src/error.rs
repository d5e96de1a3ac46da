//! Why the policy refused something: values that carry their cause. [`hypercall::errno`](crate::hypercall)
//! makes Xen's numbers of them.

use core::fmt;

use p2m::{IdentityError, Run};

use crate::control::NotQuiesced;
use crate::group::Link;
use crate::owner::Owner;
use crate::platform::{DomId, HardwareError, Sbdf};
use crate::region::forbidden::Forbidden;
use crate::region::iommu_state::IommuState;
use crate::region::record::RegionName;
use crate::region::verdict::Rejection;

/// Who has a device that stands in the way, and with it what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The hardware domain, which can do without it.
    HardwareDomain(DomId),
    /// A guest.
    Guest(DomId),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::HardwareDomain(id) | Self::Guest(id)) = self;
        write!(f, "{id}")
    }
}

/// The devices of one group, and who has the one that is in the way. Reads as what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Together {
    /// The device that was to be assigned.
    pub device: Sbdf,
    /// The one that it belongs together with.
    pub other: Sbdf,
    /// Who has the other.
    pub holder: Holder,
    /// What links the other to `via` or, where that is `None`, to the device.
    pub link: Link,
    /// A third of the group, by way of which they belong together.
    pub via: Option<Sbdf>,
}

impl fmt::Display for Together {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, other, holder, link, via } = self;
        match via {
            None => write!(f, "{device} must stay together with {other}, which {holder} has ({link})")?,
            Some(via) => write!(
                f,
                "{device} must stay together with {other}, which {holder} has (by way of {via}: of {via} and {other}, {link})"
            )?,
        }
        match holder {
            Holder::HardwareDomain(_) => {
                write!(
                    f,
                    ": take {other} to quarantine first (xl pci-assignable-add), or assign both at once"
                )
            }
            Holder::Guest(_) => write!(f, ": take it from {holder} first"),
        }
    }
}

/// Why devices were not moved. Nothing has changed then, but for [`Hardware`](Self::Hardware) after a
/// time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AssignError {
    /// The device is not present.
    #[error("there is no device {0}")]
    UnknownDevice(Sbdf),
    /// There is no such domain.
    #[error("there is no domain {0}")]
    UnknownDomain(DomId),
    /// Another domain has the device.
    #[error("{device} belongs to {owner}")]
    Elsewhere {
        /// The device.
        device: Sbdf,
        /// Who has it.
        owner: Owner,
    },
    /// The device is to be taken from a domain that does not have it.
    #[error("{device} is not with {domain} but with {owner}")]
    NotOwned {
        /// The device.
        device: Sbdf,
        /// From whom it was to be taken.
        domain: Owner,
        /// Who has it.
        owner: Owner,
    },
    /// Nothing on this machine keeps a device's DMA inside a guest.
    #[error("{device} cannot be given away: {state}")]
    NoIommu {
        /// The device.
        device: Sbdf,
        /// Why there is no IOMMU.
        state: IommuState,
    },
    /// Bridges stay with the hardware domain.
    #[error("{0} is a bridge, which stays with the hardware domain")]
    Bridge(Sbdf),
    /// The device belongs together with one that another domain has.
    #[error("{0}")]
    Group(Together),
    /// A physical function goes to a guest, or leaves the hardware domain, only without virtual functions
    /// that others could have.
    #[error(
        "{device} has a virtual function {function}, which is with {owner}: disable its virtual functions first"
    )]
    VirtualFunction {
        /// The physical function.
        device: Sbdf,
        /// One of its virtual functions.
        function: Sbdf,
        /// Who has that.
        owner: Owner,
    },
    /// A virtual function goes to a guest only while its physical function is the hardware domain's, which
    /// then looks after it.
    #[error("{device} is a virtual function of {physical}, which is {}not the hardware domain's", if owner.is_none() { "not present and so " } else { "" })]
    PhysicalFunction {
        /// The virtual function.
        device: Sbdf,
        /// Its physical function.
        physical: Sbdf,
        /// Who has that; `None` when it is not present.
        owner: Option<Owner>,
    },
    /// The virtual function belongs together with its physical function, which has to stay with the hardware
    /// domain.
    #[error(
        "{device} must stay together with its physical function {physical} ({link}), which has to stay the hardware domain's: it cannot go alone"
    )]
    WithPhysical {
        /// The virtual function.
        device: Sbdf,
        /// Its physical function.
        physical: Sbdf,
        /// What links them.
        link: Link,
    },
    /// Some of the device's requester ids belong to devices that were told apart when it came, so that
    /// nothing can tell whose DMA it is.
    #[error(
        "the DMA of {0} may carry requester ids of devices that are told apart: remove it and those that have these ids too, and add it before them"
    )]
    Contested(Sbdf),
    /// The device's DMA may carry requester ids that nobody can list, so that it cannot be translated as a
    /// whole.
    #[error("the DMA of {0} may carry any requester id of its bus: nothing can keep it inside a guest")]
    UnknownIds(Sbdf),
    /// A region of the device was rejected at boot, so it cannot be mapped for it.
    #[error("region {region} of {device} was rejected: {why}")]
    RejectedRegion {
        /// The device.
        device: Sbdf,
        /// The region.
        region: RegionName,
        /// Why.
        why: Rejection,
    },
    /// A region of the device lies over something that no guest may reach.
    #[error("region {region} of {device} cannot be mapped: {what}")]
    Forbidden {
        /// The device.
        device: Sbdf,
        /// The region.
        region: RegionName,
        /// What is there.
        what: Forbidden,
    },
    /// The device's remapping unit cannot express the addresses of its region.
    #[error("region {region} of {device} is beyond the {width} bits that its remapping unit translates")]
    BeyondUnit {
        /// The device.
        device: Sbdf,
        /// The region.
        region: RegionName,
        /// Bits of a guest address.
        width: u8,
    },
    /// The region cannot be mapped 1:1 in the domain.
    #[error("region {region} of {device} cannot be mapped 1:1 in {domain}: {error}")]
    Map {
        /// The device.
        device: Sbdf,
        /// Its region.
        region: RegionName,
        /// The domain.
        domain: DomId,
        /// What stands in the way.
        #[source]
        error: IdentityError,
    },
    /// Another domain reaches the region on its own account, by a mapping that is not the policy's to remove.
    #[error("region {region} of {device} is reached by {domain} itself, at guest frames {}", run.gfns)]
    ReachedBy {
        /// The device.
        device: Sbdf,
        /// Its region.
        region: RegionName,
        /// The other domain.
        domain: DomId,
        /// Where and what.
        run: Run,
    },
    /// A member of the group that waits in quarantine could do DMA into what the domain would get, and that
    /// cannot be switched off.
    #[error(
        "{waiting} waits in quarantine and could write into what {domain} gets: {why}; assign it too, or remove it"
    )]
    NotQuiesced {
        /// The device that waits.
        waiting: Sbdf,
        /// The domain that was to get memory or a requester id that it reaches too.
        domain: DomId,
        /// Why its DMA goes on.
        #[source]
        why: NotQuiesced,
    },
    /// The remapping hardware did not do it.
    #[error("{device}: {error}")]
    Hardware {
        /// The device.
        device: Sbdf,
        /// Why.
        #[source]
        error: HardwareError,
    },
}

/// Why a device was not added or removed. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// It is there already.
    #[error("{0} is there already")]
    Present(Sbdf),
    /// The places for devices or requester ids given at boot are all taken.
    #[error("the places given at boot are all taken")]
    NoPlace,
    /// No address space could be made for its quarantine.
    #[error("no address space can be made for its quarantine")]
    NoSpace,
    /// Its region cannot be mapped.
    #[error("region {region} cannot be mapped: {error}")]
    Map {
        /// The region.
        region: RegionName,
        /// What stands in the way.
        #[source]
        error: IdentityError,
    },
    /// The remapping hardware did not do it.
    #[error("{0}")]
    Hardware(#[source] HardwareError),
}

/// Why a domain was not created or destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DomainError {
    /// There is one of this number.
    #[error("there is a domain {0} already")]
    Exists(DomId),
    /// The number stands for something else: [`DomId::IO`] for quarantine.
    #[error("{0} is not a number for a domain")]
    Reserved(DomId),
    /// There is none of this number.
    #[error("there is no domain {0}")]
    Unknown(DomId),
    /// The hardware domain stays.
    #[error("the hardware domain cannot be destroyed")]
    HardwareDomain,
    /// The places for domains given at boot are all taken.
    #[error("the places given at boot are all taken")]
    NoPlace,
    /// A device of it could not be taken away.
    #[error("{0}")]
    Device(#[source] AssignError),
    /// Hardware did not confirm that it has forgotten the domain's translations. It has no devices any more,
    /// and can be destroyed once that works.
    #[error("translations of {domain} may still be in use: {error}")]
    NotFlushed {
        /// The domain.
        domain: DomId,
        /// Why.
        #[source]
        error: HardwareError,
    },
}
