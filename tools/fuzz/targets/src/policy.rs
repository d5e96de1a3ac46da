//! Calls of the policy with failures in between, beside the rules of its own tests.

use arbitrary::{Result, Unstructured};
use xen_iommu::{GroupPolicy, Mode, Sbdf};

use crate::calls::{Call, Failure, run};
use crate::world::DEVICES;

const MOST_CALLS: usize = 60;

/// Takes the bytes for a policy about groups and a list of calls.
pub fn policy(data: &[u8]) {
    let _ = go(&mut Unstructured::new(data));
}

fn go(u: &mut Unstructured<'_>) -> Result<()> {
    let (groups, strict) = match u.int_in_range(0..=2)? {
        0 => (GroupPolicy::Refuse, true),
        1 => (GroupPolicy::MoveWhole, true),
        _ => (GroupPolicy::Refuse, false),
    };
    let mut calls = Vec::new();
    while !u.is_empty() && calls.len() < MOST_CALLS {
        calls.push((call(u, strict)?, failure(u)?));
    }
    run(groups, strict, &calls);
    Ok(())
}

fn call(u: &mut Unstructured<'_>, strict: bool) -> Result<Call> {
    let kind = u.int_in_range(0..=7)?;
    Ok(match kind {
        0..=2 => {
            let mode = if strict || u.arbitrary()? { Mode::Strict } else { Mode::Relaxed };
            Call::Assign(devices(u)?, u.int_in_range(0..=2)?, mode)
        }
        3 => Call::Deassign(devices(u)?, u.int_in_range(0..=2)?),
        4 => Call::Create(u.int_in_range(0..=2)?),
        5 => Call::Destroy(u.int_in_range(0..=2)?),
        6 => Call::Add(u.int_in_range(0..=DEVICES.len() - 1)?),
        _ => Call::Remove(u.int_in_range(0..=DEVICES.len() - 1)?),
    })
}

/// A group of the machine, or any set, which may be empty.
fn devices(u: &mut Unstructured<'_>) -> Result<Vec<Sbdf>> {
    let bits: u8 = match u.int_in_range(0..=5)? {
        0 => 0b1,
        1 => 0b1110,
        2 => 0b11_0000,
        3 => 0b100_0000,
        4 => 0b1000_0000,
        _ => u.arbitrary()?,
    };
    let all = DEVICES.iter().enumerate();
    Ok(all.filter(|(index, _)| bits >> index & 1 == 1).map(|(_, (device, _))| *device).collect())
}

fn failure(u: &mut Unstructured<'_>) -> Result<Failure> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Failure::Frames(u.int_in_range(0..=12)?),
        1 => Failure::Hardware(u.int_in_range(0..=8)?),
        _ => Failure::None,
    })
}
