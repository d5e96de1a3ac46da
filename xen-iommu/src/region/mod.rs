//! Reserved regions: what firmware and the administrator say of them, what of that is accepted, and who asks
//! for which.

pub mod choice;
pub mod devices;
pub mod forbidden;
pub mod intake;
pub mod iommu_state;
pub mod memory;
mod pages;
pub mod record;
pub mod registry;
pub mod resolved;
pub mod rmrr_option;
pub mod told;
pub mod verdict;
