//! Runs of raw entries: the loops where the time goes, sixteen entries a round.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::format::{Raw, Seed, shift_of, span_of};
use crate::frame::{PAGE_SHIFT, TableFrame};

const ROUND: usize = 16;
/// What addresses in leaves of the lowest level grow by.
const SMALL: u64 = 1 << PAGE_SHIFT;

/// The entries of `table`, which is at `level`, for the frames `start..end`: whole entries, and not beyond
/// the table.
#[inline]
pub(super) fn entries(table: &TableFrame, level: u32, start: u64, end: u64) -> &[AtomicU64] {
    let shift = shift_of(level);
    let first = (start.wrapping_shr(shift) & 511) as usize;
    let count = end.wrapping_sub(start).wrapping_shr(shift) as usize;
    let rest = table.0.get(first..).unwrap_or_default();
    rest.get(..count).unwrap_or(rest)
}

/// How many of `entries` say in turn what a run that begins with `first` and grows by `step` says, up to the
/// bits of `marks`.
pub(super) fn alike(entries: &[AtomicU64], first: Raw, step: u64, marks: u64) -> usize {
    // What the compiler knows takes an instruction less for each entry.
    match step {
        0 if first == Raw::NOTHING => equal(entries, Raw::NOTHING),
        0 => equal(entries, first),
        SMALL => growing(entries, first, SMALL, marks),
        _ => growing(entries, first, step, marks),
    }
}

#[inline(always)]
fn equal(entries: &[AtomicU64], first: Raw) -> usize {
    let different = |entry: &AtomicU64| entry.load(Ordering::Relaxed) ^ first.0;
    let same = |entry: &AtomicU64| different(entry) == 0;
    let (rounds, _) = entries.as_chunks::<ROUND>();
    // One branch a round.
    let alike = |round: &[AtomicU64; ROUND]| round.iter().fold(0, |all, entry| all | different(entry)) == 0;
    let done = rounds.iter().take_while(|round| alike(round)).count().wrapping_mul(ROUND);
    let rest = entries.get(done..).unwrap_or_default().iter().take_while(|entry| same(entry)).count();
    done.wrapping_add(rest)
}

#[inline(always)]
fn growing(entries: &[AtomicU64], first: Raw, step: u64, marks: u64) -> usize {
    let (rounds, _) = entries.as_chunks::<ROUND>();
    let mut expected = first.0;
    let mut done = 0_usize;
    for round in rounds {
        let mut next = expected;
        let mut different = 0;
        for entry in round {
            different |= entry.load(Ordering::Relaxed) ^ next;
            next = next.wrapping_add(step);
        }
        if different & !marks != 0 {
            break;
        }
        expected = next;
        done = done.wrapping_add(ROUND);
    }
    for entry in entries.get(done..).unwrap_or_default() {
        if (entry.load(Ordering::Relaxed) ^ expected) & !marks != 0 {
            break;
        }
        expected = expected.wrapping_add(step);
        done = done.wrapping_add(1);
    }
    done
}

/// Writes what `seed` says to the entries at `level` for the frames from `start` on.
#[inline]
pub(super) fn fill(entries: &[AtomicU64], seed: &Seed, level: u32, start: u64) {
    let step = seed.step(level);
    let mut raw = seed.at(start, level).0;
    let mut write = |entry: &AtomicU64| {
        entry.store(raw, Ordering::Release);
        raw = raw.wrapping_add(step);
    };
    let (rounds, rest) = entries.as_chunks::<ROUND>();
    for round in rounds {
        round.iter().for_each(&mut write);
    }
    rest.iter().for_each(write);
}

/// Frames that `count` entries at `level` cover.
#[inline]
pub(super) fn frames(count: usize, level: u32) -> u64 {
    span_of(level).wrapping_mul(count as u64)
}
