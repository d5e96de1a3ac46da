//! Calls of guests and toolstacks, with memory that fails or changes at any access.

use arbitrary::{Result, Unstructured};
use testkit::hypercall::trial::{Trial, run_all};

const MOST_CALLS: usize = 40;
/// Bytes of a caller's memory at most.
const MOST_MEMORY: usize = 1024;

/// Takes the bytes for calls, each with what chooses it and the caller's memory.
pub fn hypercall(data: &[u8]) {
    let _ = go(&mut Unstructured::new(data));
}

fn go(u: &mut Unstructured<'_>) -> Result<()> {
    let mut trials = Vec::new();
    while !u.is_empty() && trials.len() < MOST_CALLS {
        let choices: [u8; 12] = u.arbitrary()?;
        let length = u.int_in_range(0..=MOST_MEMORY)?.min(u.len());
        trials.push(Trial::of(&choices, u.bytes(length)?));
    }
    run_all(trials);
    Ok(())
}
