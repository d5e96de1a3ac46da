//! What must hold. Judged by what hardware finds in memory and in its caches, and by rules of the machine
//! that are written down here once more: the policy is asked only for what it reports.

mod call;
mod domain;
mod end;
mod rule;
mod state;

pub use call::Before;

/// What does not hold.
pub type Breach = String;

fn broken(holds: bool, breach: impl FnOnce() -> Breach) -> Result<(), Breach> {
    if holds { Ok(()) } else { Err(breach()) }
}

/// Name of an owner.
fn owner_name(owner: Option<usize>) -> String {
    owner.map_or_else(|| "nobody (absent)".into(), crate::calls::name)
}
