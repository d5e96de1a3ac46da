//! Updates of guest-physical tables, beside the model of p2m's own tests (testkit).

use arbitrary::{Result, Unstructured};
use p2m::{Access, Domain, Ept, LongMode, OnConflict, P2mType, PageSize, SecondLevel, Table};

use testkit::frames::Frames;
use testkit::tables::harness::{Step, case, run, universe};

/// More would only be slower: each step is tried with every number of frames that is too small.
const MOST_STEPS: usize = 24;

/// Takes the bytes for a format and a list of updates.
pub fn table(data: &[u8]) {
    let _ = go(&mut Unstructured::new(data));
}

fn go(u: &mut Unstructured<'_>) -> Result<()> {
    let kind = u.int_in_range(0..=4)?;
    let largest = *u.choose(&[PageSize::Size4K, PageSize::Size2M, PageSize::Size1G])?;
    let (at_end, option): (bool, bool) = u.arbitrary()?;
    let levels = u.int_in_range(4..=5)?;
    let universe = universe(largest);
    let mut steps = Vec::new();
    while !u.is_empty() && steps.len() < MOST_STEPS {
        steps.push(step(u, universe)?);
    }
    match kind {
        0 => case(SecondLevel::default(), if option { 3 } else { levels }, largest, at_end, &steps),
        1 => case(Ept { suppress_ve: option, ..Ept::default() }, levels, largest, at_end, &steps),
        2 => {
            let format = if option { LongMode::HOST } else { LongMode::NESTED };
            case(format, levels, largest, at_end, &steps);
        }
        3 => {
            let frames = Frames::new(192);
            let table = Table::new(Ept::default(), &frames, 4, largest).unwrap();
            run(&frames, Domain::<_, SecondLevel, _>::shared(table), 0, universe, &steps);
        }
        _ => {
            let frames = Frames::new(384);
            let cpu = Table::new(LongMode::NESTED, &frames, 4, largest).unwrap();
            // The remapping hardware may have smaller pages and fewer levels.
            let smaller = option && largest == PageSize::Size1G;
            let largest = if smaller { PageSize::Size2M } else { largest };
            let iommu = Table::new(SecondLevel::default(), &frames, levels - 1, largest).unwrap();
            run(&frames, Domain::separate(cpu, iommu).unwrap(), 0, universe, &steps);
        }
    }
    Ok(())
}

/// A frame at or near the edge of a page of some size.
fn point(u: &mut Unstructured<'_>, universe: u64) -> Result<u64> {
    let order = *u.choose(&[0, 9, 9, 18])?;
    let number = u.int_in_range(0..=(universe >> order).max(1))?;
    let offset = u.int_in_range(-2_i64..=2)?;
    Ok((number << order).saturating_add_signed(offset).min(universe))
}

fn range(u: &mut Unstructured<'_>, universe: u64) -> Result<(u64, u64)> {
    let start = point(u, universe)?;
    if u.arbitrary()? {
        let end = point(u, universe)?;
        Ok((start.min(end), start.max(end)))
    } else {
        Ok((start, (start + u.int_in_range(0..=0x220)?).min(universe)))
    }
}

fn access(u: &mut Unstructured<'_>) -> Result<Access> {
    let bits: u8 = u.arbitrary()?;
    Ok(if bits & 0x18 == 0 { Access::from_bits_truncate(bits) } else { Access::READ_WRITE })
}

/// A type with frames.
fn backed(u: &mut Unstructured<'_>) -> Result<P2mType> {
    u.choose(&[
        P2mType::MmioDirect,
        P2mType::RamRw,
        P2mType::RamRo,
        P2mType::RamLogdirty,
        P2mType::Foreign,
        P2mType::Grant,
    ])
    .copied()
}

/// How far machine frames lie above the guest frames, and where a range then ends: frames that are not
/// aligned need small pages, not for gigabytes.
fn delta(u: &mut Unstructured<'_>, start: u64, end: u64) -> Result<(u64, u64)> {
    let delta = *u.choose(&[0, 0, 0, 1 << 18, 5 << 9, 3])?;
    Ok((delta, if delta % 512 == 0 { end } else { end.min(start + 0x500) }))
}

fn step(u: &mut Unstructured<'_>, universe: u64) -> Result<Step> {
    let kind = u.int_in_range(0..=10)?;
    let (start, end) = range(u, universe)?;
    Ok(match kind {
        0 => {
            let (delta, end) = delta(u, start, end)?;
            Step::Map { start, end, p2m_type: backed(u)?, access: access(u)?, delta }
        }
        1 => {
            let p2m_type = *u.choose(&[P2mType::MmioDm, P2mType::PopulateOnDemand, P2mType::Invalid])?;
            Step::Map { start, end, p2m_type, access: access(u)?, delta: 0 }
        }
        2 => Step::Unmap { start, end },
        3 => Step::ChangeType { start, end, from: backed(u)?, to: backed(u)? },
        4 => {
            let on_conflict = *u.choose(&[OnConflict::Refuse, OnConflict::Skip])?;
            Step::Install { start, end, access: access(u)?, on_conflict }
        }
        5 => Step::Uninstall { start, end },
        6 => {
            let (delta, end) = delta(u, start, end)?;
            Step::Populate { start, end, p2m_type: backed(u)?, delta, region: range(u, universe)? }
        }
        7 => {
            let (delta, _) = delta(u, start, end)?;
            Step::Fill { start, end, most: u.int_in_range(1..=0x500)?, delta, region: range(u, universe)? }
        }
        8 => Step::Take,
        9 => Step::Confirm(u.int_in_range(0..=2)?),
        _ => Step::Flush,
    })
}
