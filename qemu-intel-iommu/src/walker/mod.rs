//! Who walks a table that was made here: a processor that runs a guest of a few instructions, or an IOMMU
//! with a device.

mod five_levels;
mod guest;
mod hardware;
mod iommu;
mod svm;
mod touch;
mod vmcs;
mod vmx;

pub use hardware::{HOME, Walker};
pub use iommu::{FourLevels, Iommu, SharedEpt, ThreeLevels};
pub use svm::Svm;
pub use touch::{Exit, STUB, Touch, Violation};
pub use vmx::Vmx;
