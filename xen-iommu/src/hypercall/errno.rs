//! Causes to Xen's error numbers: here and nowhere else.

use p2m::IdentityError;

use crate::abi::Errno;
use crate::error::{AddError, AssignError, DomainError};
use crate::platform::HardwareError;

impl From<&IdentityError> for Errno {
    fn from(error: &IdentityError) -> Self {
        match error {
            IdentityError::Conflict { .. } => Self::EBUSY,
            IdentityError::NoFrames { .. } => Self::ENOMEM,
            IdentityError::OutOfRange { .. } => Self::ERANGE,
        }
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

impl From<&AssignError<'_>> for Errno {
    fn from(error: &AssignError<'_>) -> Self {
        match error {
            AssignError::UnknownDevice(_) => Self::ENODEV,
            AssignError::UnknownDomain(_) => Self::ESRCH,
            AssignError::Elsewhere { .. } | AssignError::ReachedBy { .. } => Self::EBUSY,
            AssignError::Group { .. } | AssignError::RejectedRegion { .. } => Self::EPERM,
            AssignError::Map { error, .. } => error.into(),
            AssignError::Hardware { error, .. } => error.into(),
        }
    }
}

impl From<&AddError<'_>> for Errno {
    fn from(error: &AddError<'_>) -> Self {
        match error {
            AddError::Present(_) => Self::EEXIST,
            AddError::NoPlace | AddError::NoSpace => Self::ENOMEM,
            AddError::Group { .. } | AddError::Phantom { .. } => Self::EPERM,
            AddError::ReachedBy { .. } => Self::EBUSY,
            AddError::Map { error, .. } => error.into(),
            AddError::Hardware(error) => error.into(),
        }
    }
}

impl From<&DomainError<'_>> for Errno {
    fn from(error: &DomainError<'_>) -> Self {
        match error {
            DomainError::Exists(_) => Self::EEXIST,
            DomainError::Unknown(_) => Self::ESRCH,
            DomainError::HardwareDomain => Self::EINVAL,
            DomainError::NoPlace => Self::ENOMEM,
            DomainError::Device(error) => error.into(),
        }
    }
}
