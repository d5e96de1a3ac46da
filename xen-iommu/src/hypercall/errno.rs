//! Causes to Xen's error numbers: here and nowhere else.

use p2m::IdentityError;
use xen_abi::Errno;

use crate::error::{AddError, AssignError, DomainError};
use crate::platform::HardwareError;

/// Neither type is this crate's, so no `From`.
fn identity(error: &IdentityError) -> Errno {
    match error {
        IdentityError::Conflict { .. } => Errno::EBUSY,
        IdentityError::NoFrames { .. } => Errno::ENOMEM,
        IdentityError::OutOfRange { .. } => Errno::ERANGE,
    }
}

impl From<&HardwareError> for Errno {
    fn from(error: &HardwareError) -> Self {
        match error {
            HardwareError::NoUnit { .. } | HardwareError::NotTranslating { .. } => Self::ENODEV,
            HardwareError::NoFrames => Self::ENOMEM,
            HardwareError::NoDomainId { .. } => Self::ENOSPC,
            HardwareError::Levels { .. } => Self::EOPNOTSUPP,
            HardwareError::TimedOut { .. } => Self::ETIMEDOUT,
            HardwareError::QueueError { .. } => Self::EIO,
        }
    }
}

impl From<&AssignError> for Errno {
    fn from(error: &AssignError) -> Self {
        match error {
            // As Xen's `deassign_device` and `iommu_do_domctl` answer.
            AssignError::UnknownDevice(_) | AssignError::NotOwned { .. } => Self::ENODEV,
            AssignError::NoIommu { .. } => Self::EOPNOTSUPP,
            AssignError::UnknownDomain(_) => Self::ESRCH,
            AssignError::Elsewhere { .. }
            | AssignError::ReachedBy { .. }
            | AssignError::NotQuiesced { .. }
            | AssignError::Contested(_) => Self::EBUSY,
            AssignError::Bridge(_)
            | AssignError::UnknownIds(_)
            | AssignError::WithPhysical { .. }
            | AssignError::Group(_)
            | AssignError::VirtualFunction { .. }
            | AssignError::PhysicalFunction { .. }
            | AssignError::RejectedRegion { .. }
            | AssignError::Forbidden { .. } => Self::EPERM,
            AssignError::BeyondUnit { .. } => Self::ERANGE,
            AssignError::Map { error, .. } => identity(error),
            AssignError::Hardware { error, .. } => error.into(),
        }
    }
}

impl From<&AddError> for Errno {
    fn from(error: &AddError) -> Self {
        match error {
            AddError::Present(_) => Self::EEXIST,
            AddError::NoPlace | AddError::NoSpace => Self::ENOMEM,
            AddError::Map { error, .. } => identity(error),
            AddError::Hardware(error) => error.into(),
        }
    }
}

impl From<&DomainError> for Errno {
    fn from(error: &DomainError) -> Self {
        match error {
            DomainError::Exists(_) => Self::EEXIST,
            DomainError::Unknown(_) => Self::ESRCH,
            DomainError::HardwareDomain | DomainError::Reserved(_) => Self::EINVAL,
            DomainError::NoPlace => Self::ENOMEM,
            DomainError::NotFlushed { error, .. } => error.into(),
            DomainError::Device(error) => error.into(),
        }
    }
}
