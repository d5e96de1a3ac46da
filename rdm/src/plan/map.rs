//! A guest's addresses in order: what lies where.

use std::collections::BTreeSet;

use p2m::GfnRange;
use rdm_layout::{Backing, Bar, Machine, Plan, Policy, RegionPlan, Verdict};

use super::host::Wanted;
use super::range;

/// What kind of thing lies somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Free space that stays unallocated.
    Unallocated,
    /// The guest's memory.
    Ram,
    /// Firmware and emulated devices.
    Firmware,
    /// A module: ACPI tables and the like.
    Module,
    /// A BAR.
    Bar,
    /// A reserved region of the host's, 1:1.
    Region,
    /// A region at which the guest has memory of its own.
    Private,
    /// A region that is not to be had, over what the guest has there.
    Conflict,
}

impl Kind {
    /// Its word in tables.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unallocated => "unallocated",
            Self::Ram => "RAM",
            Self::Firmware => "firmware",
            Self::Module => "module",
            Self::Bar => "BAR",
            Self::Region => "region",
            Self::Private => "private region",
            Self::Conflict => "conflict",
        }
    }
}

/// Frames with one thing in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The frames.
    pub frames: GfnRange,
    /// What kind of thing.
    pub kind: Kind,
    /// What it is, where its kind does not say that.
    pub name: String,
}

/// The rows of a plan. Where more than one thing lies (firmware in RAM, a region in VGA memory), the row is
/// that of the one that has the frames in the end.
pub(super) fn rows(
    plan: &Plan<'_>,
    machine: &Machine<'_>,
    wanted: &[Wanted],
    named: &[(String, Bar)],
) -> Vec<Row> {
    let mut all = Vec::new();
    let mut add = |frames: GfnRange, kind: Kind, name: String| all.push(Row { frames, kind, name });
    for frames in plan.unallocated {
        add(*frames, Kind::Unallocated, "for grants and foreign mappings".into());
    }
    for frames in plan.ram {
        add(*frames, Kind::Ram, String::new());
    }
    for fixed in machine.firmware.fixed.iter().chain(machine.filled) {
        let device = if fixed.backing == Backing::Device { "emulated " } else { "" };
        add(fixed.range(), Kind::Firmware, format!("{device}{}", fixed.name));
    }
    let modules = machine.firmware.modules.iter().chain(machine.modules);
    for (module, record) in modules.zip(plan.modules) {
        if let Some(place) = record.place {
            add(place, Kind::Module, module.name.into());
        }
    }
    for ((name, _), record) in named.iter().zip(plan.bars) {
        if let Some(place) = record.place {
            add(place, Kind::Bar, name.clone());
        }
    }
    for (wanted, record) in wanted.iter().zip(plan.regions) {
        add(record.frames, region_kind(record), wanted.name.clone());
    }
    painted(&all)
}

fn region_kind(record: &RegionPlan) -> Kind {
    match (record.verdict, record.policy) {
        (Verdict::GivenUp(_) | Verdict::InTheWay(_), _) => Kind::Conflict,
        (_, Policy::Private) => Kind::Private,
        _ => Kind::Region,
    }
}

/// Puts regions that are not to be had over the rows.
pub(super) fn lay_over(rows: &mut Vec<Row>, regions: &[(String, GfnRange)]) {
    let over = regions.iter().map(|(name, frames)| Row {
        frames: *frames,
        kind: Kind::Conflict,
        name: name.clone(),
    });
    rows.extend(over);
    *rows = painted(rows);
}

/// Cuts things that overlap into rows that do not: of each frame the thing of the highest kind, and several
/// of that kind together.
fn painted(things: &[Row]) -> Vec<Row> {
    let edges: BTreeSet<u64> =
        things.iter().flat_map(|row| [row.frames.start().raw(), row.frames.end().raw()]).collect();
    let edges: Vec<_> = edges.into_iter().collect();
    let mut order: Vec<&Row> = things.iter().filter(|row| !row.frames.is_empty()).collect();
    order.sort_by_key(|row| row.frames.start());
    let (mut next, mut open): (usize, Vec<&Row>) = (0, Vec::new());
    let mut rows: Vec<Row> = Vec::new();
    for pair in edges.windows(2) {
        let piece = range(pair[0], pair[1]);
        open.retain(|row| row.frames.end() > piece.start());
        while let Some(row) = order.get(next).filter(|row| row.frames.start() <= piece.start()) {
            open.push(row);
            next += 1;
        }
        let Some(kind) = open.iter().map(|row| row.kind).max() else { continue };
        let names: Vec<_> = open.iter().filter(|row| row.kind == kind).map(|row| row.name.as_str()).collect();
        let mut name = names.join(", ");
        if kind == Kind::Conflict {
            // What the guest has there.
            let below = open.iter().filter(|row| row.kind < Kind::Conflict).max_by_key(|row| row.kind);
            if let Some(below) = below {
                let what = if below.name.is_empty() { below.kind.word() } else { &below.name };
                name = format!("{name} over {what}");
            }
        }
        match rows.last_mut() {
            Some(last) if last.frames.end() == piece.start() && last.kind == kind && last.name == name => {
                last.frames = last.frames.hull(&piece);
            }
            _ => rows.push(Row { frames: piece, kind, name }),
        }
    }
    rows
}
