//! A plan as one JSON object, for programs: addresses and sizes in bytes, limits exclusive (`end`).
//!
//! - `planned`: whether there is a plan; `error`: the sentence why there is none.
//! - `regions`: each region that counts, with its devices, policy, what becomes of it (`honoured`,
//!   `moved-around`, `given-up`, `in-the-way`) and that in words.
//! - `bars`: each with its place, null where it has none.
//! - `graphics`: what a guest reads in the registers of its Intel graphics (`rvda`: what its copy of the
//!   OpRegion has to say).
//! - `map`: what lies where, in order; without a plan, as it would be without what is in the way.
//! - `plan`: what `rdm-layout` writes and reads back (its feature `serde`); null without a plan.

use p2m::GfnRange;
use rdm_layout::Verdict;
use rdm_layout::graphics::GuestRegister;
use serde::Serialize;

use super::Planned;
use crate::guest::{Guest, policy_word};

#[derive(Serialize)]
struct Object<'p> {
    planned: bool,
    error: Option<&'p str>,
    memory: u64,
    firmware: &'p str,
    width: u32,
    regions: Vec<Region<'p>>,
    bars: Vec<Bar<'p>>,
    graphics: Vec<Graphics<'p>>,
    map: Vec<Row<'p>>,
    notes: &'p [String],
    lowmem_end: Option<u64>,
    highmem_end: Option<u64>,
    private: Option<u64>,
    plan: Option<&'p serde_json::Value>,
}

#[derive(Serialize)]
struct Region<'p> {
    name: &'p str,
    start: u64,
    end: u64,
    devices: &'p [String],
    policy: &'p str,
    verdict: &'p str,
    sentence: &'p str,
}

#[derive(Serialize)]
struct Bar<'p> {
    name: &'p str,
    size: u64,
    is_64bit: bool,
    prefetchable: bool,
    address: Option<u64>,
}

#[derive(Serialize)]
struct Graphics<'p> {
    device: &'p str,
    ranges: &'p [String],
    registers: Vec<Register>,
    rvda: Option<u64>,
}

#[derive(Serialize)]
struct Register {
    name: &'static str,
    offset: u16,
    bytes: u8,
    value: u64,
}

#[derive(Serialize)]
struct Row<'p> {
    start: u64,
    end: u64,
    kind: &'p str,
    name: &'p str,
}

/// Writes the object of `planned`, for `guest`, without a line's end.
///
/// # Errors
/// Those of `out`.
pub fn write(planned: &Planned, guest: &Guest, out: impl std::io::Write) -> serde_json::Result<()> {
    let layout = planned.layout.as_ref();
    let plan = layout.filter(|_| planned.is_planned());
    let regions = planned.regions.iter().map(|region| Region {
        name: &region.name,
        start: bytes(&region.frames).0,
        end: bytes(&region.frames).1,
        devices: &region.devices,
        policy: policy_word(region.policy),
        verdict: match region.verdict {
            Verdict::Honoured => "honoured",
            Verdict::MovedAround(_) => "moved-around",
            Verdict::GivenUp(_) => "given-up",
            Verdict::InTheWay(_) => "in-the-way",
        },
        sentence: &region.sentence,
    });
    let bars = planned.bars.iter().map(|bar| Bar {
        name: &bar.name,
        size: bar.bar.bytes,
        is_64bit: bar.bar.is_64bit,
        prefetchable: bar.bar.prefetchable,
        address: bar.place.map(|place| bytes(&place).0),
    });
    let graphics = planned.graphics.iter().map(|graphics| Graphics {
        device: &graphics.device,
        ranges: &graphics.ranges,
        registers: graphics
            .registers
            .map(|GuestRegister { name, offset, bytes, value }| Register { name, offset, bytes, value })
            .into(),
        rvda: graphics.rvda,
    });
    let map = layout.iter().flat_map(|layout| &layout.map).map(|row| Row {
        start: bytes(&row.frames).0,
        end: bytes(&row.frames).1,
        kind: row.kind.word(),
        name: &row.name,
    });
    let object = Object {
        planned: planned.is_planned(),
        error: planned.failure.as_deref(),
        memory: guest.memory << 12,
        firmware: guest.firmware.name(),
        width: planned.width,
        regions: regions.collect(),
        bars: bars.collect(),
        graphics: graphics.collect(),
        map: map.collect(),
        notes: &planned.notes,
        lowmem_end: plan.map(|plan| plan.lowmem_end),
        highmem_end: plan.map(|plan| plan.highmem_end),
        private: plan.map(|plan| plan.private << 12),
        plan: plan.map(|plan| &plan.written),
    };
    serde_json::to_writer(out, &object)
}

/// First byte and the one behind the last.
fn bytes(frames: &GfnRange) -> (u64, u64) {
    let byte = |frame: u64| frame.saturating_mul(1 << 12);
    (byte(frames.start().raw()), byte(frames.end().raw()))
}
