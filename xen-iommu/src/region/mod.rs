//! Reserved regions: what firmware and the administrator say of them, what of that is accepted, and who asks for which.

pub mod intake;
pub mod registry;
pub mod rmrr_option;
mod search;
mod unresolved;
