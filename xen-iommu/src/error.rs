//! Why the policy refused something. Each error carries its cause; [`crate::errno`] makes Xen's numbers of them.

use core::fmt;

use p2m::{IdentityError, Run};

use crate::device::Owner;
use crate::group::Link;
use crate::platform::{DomId, HardwareError, Sbdf};
use crate::region::record::Region;

/// Why devices were not moved. Nothing has changed then, but for [`Hardware`](Self::Hardware) after a time-out.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AssignError<'m> {
    /// The device is not present.
    UnknownDevice(Sbdf),
    /// There is no such domain.
    UnknownDomain(DomId),
    /// The device is not where it should be taken from.
    Elsewhere {
        /// The device.
        device: Sbdf,
        /// Who has it.
        owner: Owner,
    },
    /// The device belongs together with one that would stay behind.
    Group {
        /// A device that was to be moved.
        device: Sbdf,
        /// One of its group that was not.
        other: Sbdf,
        /// Who has the other.
        owner: Owner,
        /// Why they belong together.
        link: Link<'m>,
    },
    /// A region of the device was rejected at boot, so it cannot be mapped for it.
    RejectedRegion {
        /// The device.
        device: Sbdf,
        /// The region, which knows why.
        region: &'m Region<'m>,
    },
    /// The region cannot be mapped 1:1 in the domain.
    Map {
        /// The device.
        device: Sbdf,
        /// Its region.
        region: &'m Region<'m>,
        /// The domain.
        domain: DomId,
        /// What stands in the way.
        error: IdentityError,
    },
    /// Another domain reaches the region on its own account, by a mapping that is not the policy's to remove.
    ReachedBy {
        /// The device.
        device: Sbdf,
        /// Its region.
        region: &'m Region<'m>,
        /// The other domain.
        domain: DomId,
        /// Where and what.
        run: Run,
    },
    /// The remapping hardware did not do it.
    Hardware {
        /// The device.
        device: Sbdf,
        /// Why.
        error: HardwareError,
    },
}

impl fmt::Display for AssignError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevice(device) => write!(f, "there is no device {device}"),
            Self::UnknownDomain(domain) => write!(f, "there is no domain {domain}"),
            Self::Elsewhere { device, owner } => write!(f, "{device} belongs to {owner}"),
            Self::Group { device, other, owner, link } => {
                write!(f, "{device} and {other} ({owner}) must stay together: {link}")
            }
            Self::RejectedRegion { device, region } => match region.rejection() {
                Some(why) => write!(f, "region {region} of {device} was rejected: {why}"),
                None => write!(f, "region {region} of {device} was rejected"),
            },
            Self::Map { device, region, domain, error } => {
                write!(f, "region {region} of {device} cannot be mapped 1:1 in {domain}: {error}")
            }
            Self::ReachedBy { device, region, domain, run } => {
                write!(
                    f,
                    "region {region} of {device} is reached by {domain} itself, at guest frames {}",
                    run.gfns
                )
            }
            Self::Hardware { device, error } => write!(f, "{device}: {error}"),
        }
    }
}

impl core::error::Error for AssignError<'_> {}

/// Why a device was not added. Nothing has changed then.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum AddError<'m> {
    /// It is there already.
    Present(Sbdf),
    /// The places for devices, requester ids or domains given at boot are all taken.
    NoPlace,
    /// No address space could be made for its quarantine.
    NoSpace,
    /// One of its phantom functions has the requester id of a device that is there, which no one can tell from it.
    Phantom {
        /// The new device.
        device: Sbdf,
        /// The requester id.
        taken: Sbdf,
    },
    /// It belongs together with a device that another domain has, so that their group would span two.
    Group {
        /// The new device.
        device: Sbdf,
        /// The device that it belongs together with.
        other: Sbdf,
        /// Who has that.
        owner: Owner,
        /// Why they belong together, where it is by a region or requester id of both.
        link: Option<Link<'m>>,
    },
    /// A domain other than the hardware domain reaches its region on its own account, by a mapping that is not the policy's to remove.
    ReachedBy {
        /// The new device.
        device: Sbdf,
        /// Its region.
        region: &'m Region<'m>,
        /// The domain.
        domain: DomId,
        /// Where and what.
        run: Run,
    },
    /// Its region cannot be mapped.
    Map {
        /// The region.
        region: &'m Region<'m>,
        /// What stands in the way.
        error: IdentityError,
    },
    /// The remapping hardware did not do it.
    Hardware(HardwareError),
}

impl fmt::Display for AddError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(device) => write!(f, "{device} is there already"),
            Self::NoPlace => f.write_str("the places given at boot are all taken"),
            Self::NoSpace => f.write_str("no address space can be made for its quarantine"),
            Self::Group { device, other, owner, link } => {
                write!(f, "{device} belongs together with {other}, which {owner} has")?;
                link.map_or(Ok(()), |link| write!(f, ": {link}"))
            }
            Self::Phantom { device, taken } => {
                write!(f, "{device} has a phantom function {taken}, which is another device's requester id")
            }
            Self::ReachedBy { device, region, domain, run } => {
                write!(
                    f,
                    "region {region} of {device} is reached by {domain} itself, at guest frames {}",
                    run.gfns
                )
            }
            Self::Map { region, error } => write!(f, "region {region} cannot be mapped: {error}"),
            Self::Hardware(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for AddError<'_> {}

/// Why a domain was not created or destroyed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum DomainError<'m> {
    /// There is one of this number.
    Exists(DomId),
    /// There is none of this number.
    Unknown(DomId),
    /// The hardware domain stays.
    HardwareDomain,
    /// The places for domains given at boot are all taken.
    NoPlace,
    /// A device of it could not be taken away.
    Device(AssignError<'m>),
}

impl fmt::Display for DomainError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exists(id) => write!(f, "there is a domain {id} already"),
            Self::Unknown(id) => write!(f, "there is no domain {id}"),
            Self::HardwareDomain => f.write_str("the hardware domain cannot be destroyed"),
            Self::NoPlace => f.write_str("the places given at boot are all taken"),
            Self::Device(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DomainError<'_> {}

/// What was done otherwise than one might think, or left undone. Reported as it happens, under the ownership lock: who is told must not call the policy.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Note<'m> {
    /// Relaxed: something else is in this part of a region, and stays; the device's DMA to the region ends there.
    Skipped {
        /// The region.
        region: &'m Region<'m>,
        /// The domain.
        domain: DomId,
        /// Where, and what is there.
        run: Run,
    },
    /// Relaxed: the region was not mapped, because another domain has it.
    LeftWith {
        /// The region.
        region: &'m Region<'m>,
        /// The domain that has it.
        domain: DomId,
    },
    /// Relaxed: the device goes without this region, which was rejected at boot.
    WithoutRejected {
        /// The region.
        region: &'m Region<'m>,
    },
    /// The group's policy moved this device along.
    MovedAlong(Sbdf),
    /// No remapping unit translates the device's DMA: it can never be assigned.
    NotTranslated(Sbdf),
    /// The region is no longer used in the domain, but stays mapped with those it overlaps until they go, for want of a page-table frame.
    Lingers {
        /// The region.
        region: &'m Region<'m>,
        /// The domain.
        domain: DomId,
    },
    /// The devices were moved, but hardware did not confirm that translations of the space they left are gone.
    NotFlushed {
        /// The domain they left.
        domain: DomId,
        /// Why.
        error: HardwareError,
    },
    /// A move failed, and hardware did not take this requester back to where it was: what its DMA reaches is uncertain. Its devices are locked away
    /// until the hardware does ([`Policy::is_uncertain`](crate::Policy::is_uncertain)).
    Uncertain {
        /// The requester.
        source: Sbdf,
        /// Why.
        error: HardwareError,
    },
}

impl fmt::Display for Note<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Skipped { region, domain, run } => {
                write!(
                    f,
                    "region {region} is not mapped in {domain} at guest frames {}: {} is there",
                    run.gfns, run.entry
                )
            }
            Self::LeftWith { region, domain } => write!(f, "region {region} is not mapped: {domain} has it"),
            Self::WithoutRejected { region } => match region.rejection() {
                Some(why) => write!(f, "region {region} is not mapped: {why}"),
                None => write!(f, "region {region} is not mapped"),
            },
            Self::MovedAlong(device) => write!(f, "{device} was moved along with its group"),
            Self::NotTranslated(device) => write!(f, "no remapping unit translates the DMA of {device}"),
            Self::Lingers { region, domain } => {
                write!(f, "region {region} stays mapped in {domain} until the regions it overlaps go")
            }
            Self::NotFlushed { domain, error } => {
                write!(f, "translations of {domain} may still be in use: {error}")
            }
            Self::Uncertain { source, error } => {
                write!(f, "what the DMA of {source} reaches is uncertain: {error}")
            }
        }
    }
}
