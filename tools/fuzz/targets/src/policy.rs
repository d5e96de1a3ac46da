//! Calls of the policy with failures in between, beside the rules of its own tests.

use arbitrary::{Result, Unstructured};
use testkit::world::calls::{Call, Failure, run};
use testkit::world::devices::ALL;
use xen_iommu::{DomId, Isolation, Mode, Sbdf};

const MOST_CALLS: usize = 60;

/// Takes the bytes for what is done about isolation and a list of calls.
pub fn policy(data: &[u8]) {
    let _ = go(&mut Unstructured::new(data));
}

fn go(u: &mut Unstructured<'_>) -> Result<()> {
    let isolation = if u.arbitrary()? { Isolation::Require } else { Isolation::Report };
    let strict = u.arbitrary()?;
    let mut calls = Vec::new();
    while !u.is_empty() && calls.len() < MOST_CALLS {
        calls.push((call(u, strict)?, failure(u)?));
    }
    run(isolation, &calls);
    Ok(())
}

fn call(u: &mut Unstructured<'_>, strict: bool) -> Result<Call> {
    let kind = u.int_in_range(0..=11)?;
    Ok(match kind {
        0..=3 => {
            let (devices, domain) = (devices(u)?, domain(u)?);
            // What goes to quarantine may go relaxed, as toolstacks do it.
            let may_relax = !strict || domain == DomId::IO;
            let mode = if may_relax && u.arbitrary()? { Mode::Relaxed } else { Mode::Strict };
            Call::Assign(devices, domain, mode, u.arbitrary()?)
        }
        4 | 5 => Call::Deassign(devices(u)?, domain(u)?),
        6 => Call::Create(domain(u)?),
        7 => Call::Destroy(domain(u)?),
        8 => Call::Add(u.int_in_range(0..=ALL.len() - 1)?),
        9 => Call::Remove(u.int_in_range(0..=ALL.len() - 1)?),
        10 => Call::Flush(domain(u)?),
        _ => Call::Stubborn(u.arbitrary()?),
    })
}

fn domain(u: &mut Unstructured<'_>) -> Result<DomId> {
    Ok(match u.int_in_range(0..=5)? {
        0 | 1 => DomId::IO,
        id => DomId(id - 2),
    })
}

/// One device, a group of the machine, or any set, which may be empty.
fn devices(u: &mut Unstructured<'_>) -> Result<Vec<Sbdf>> {
    let bits: u16 = match u.int_in_range(0..=5)? {
        0..=2 => 1 << u.int_in_range(0..=ALL.len() - 1)?,
        3 => 0b1110,
        4 => 0b1_0011_0000,
        _ => u.arbitrary()?,
    };
    let all = ALL.iter().enumerate();
    Ok(all.filter(|(index, _)| bits >> index & 1 == 1).map(|(_, device)| *device).collect())
}

fn failure(u: &mut Unstructured<'_>) -> Result<Failure> {
    Ok(match u.int_in_range(0..=3)? {
        0 => Failure::Frames(u.int_in_range(0..=12)?),
        1 => Failure::Hardware(u.int_in_range(0..=12)?),
        _ => Failure::None,
    })
}
