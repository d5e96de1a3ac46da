//! A table as a drawing (SVG): regions on an address axis at the left, devices at the right in frames of
//! their groups, a line for each use that the table names.
//!
//! The axis is cut at every region's edges. A piece's height grows with the logarithm of its size, and what
//! is between regions is a short gap, so that 4 KiB can be seen beside 1 GiB.

use std::collections::BTreeMap;

use acpi_dmar::Size;
use svg::Document;
use svg::node::element::path::Data;
use svg::node::element::{Group as Node, Line, Path, Rectangle, Text, Title};
use xen_iommu::region::verdict::Verdict;

use super::Report;
use super::sentence::{Sentences, group_name, region_name};
use super::text::verdict_text;

const WIDTH: f64 = 1080.0;
const TOP: f64 = 84.0;
/// Where the axis is, regions begin and end, and devices begin and end.
const AXIS: f64 = 190.0;
const REGIONS: (f64, f64) = (210.0, 470.0);
const DEVICES: (f64, f64) = (680.0, 1050.0);
const GAP: f64 = 30.0;
const ROW: f64 = 26.0;
/// How much further right a region begins that overlaps one before it.
const LANE: f64 = 40.0;

/// Fill and edge of each group in turn: light and dark of one hue.
const HUES: [(&str, &str); 8] = [
    ("#dbeafe", "#1d4ed8"),
    ("#dcfce7", "#15803d"),
    ("#fef3c7", "#b45309"),
    ("#fce7f3", "#be185d"),
    ("#ede9fe", "#6d28d9"),
    ("#ccfbf1", "#0f766e"),
    ("#ffedd5", "#c2410c"),
    ("#e2e8f0", "#475569"),
];
const REJECTED: (&str, &str) = ("#fee2e2", "#b91c1c");

/// Draws `report`, of `file`.
#[must_use]
pub fn draw(report: &Report<'_>, file: &str) -> Document {
    let axis = Axis::of(report);
    let shown = shown_groups(report);
    let rows = place_devices(report, &shown);
    let bottom = rows.bottom.max(axis.bottom) + 30.0;
    let mut document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, bottom))
        .set("width", WIDTH)
        .set("height", bottom)
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(label(30.0, 32.0, file).set("font-size", 17).set("font-weight", "bold"))
        .add(label(30.0, 54.0, &summary(report)).set("fill", "#475569"));
    document = axis.draw(document);
    for (index, region) in report.regions.iter().enumerate() {
        let Some((top, end, _)) = axis.place(report, index) else { continue };
        // To the devices that the table names: what is below a bridge is in the frame of the bridge, and a
        // line from each region to each of them would make hundreds of megabytes of a table of 64 KiB.
        for (row, hue) in region.devices.iter().filter_map(|device| rows.place_of(report, device)) {
            document = document.add(connection(REGIONS.1, f64::midpoint(top, end), DEVICES.0, row, hue.1));
        }
    }
    for (index, region) in report.regions.iter().enumerate() {
        let Some((top, end, lane)) = axis.place(report, index) else { continue };
        let hue = match region.verdict {
            Verdict::Rejected(_) => REJECTED,
            _ => {
                let place = region.devices.first().and_then(|device| rows.place_of(report, device));
                place.map_or(HUES[7], |(_, hue)| hue)
            }
        };
        let left = REGIONS.0 + lane;
        let size = region.bytes().map_or_else(String::new, |bytes| Size(bytes).to_string());
        let mut shape = Rectangle::new()
            .set("x", left)
            .set("y", top)
            .set("width", REGIONS.1 - left)
            .set("height", end - top)
            .set("rx", 3)
            .set("fill", hue.0)
            .set("fill-opacity", 0.9)
            .set("stroke", hue.1);
        if region.verdict.pages().is_none() || matches!(region.verdict, Verdict::Dormant(..)) {
            shape = shape.set("stroke-dasharray", "5 3");
        }
        let sentence = format!(
            "{} [{:#x}, {:#x}] {size}: {}",
            region_name(index),
            region.base,
            region.limit,
            verdict_text(&region.verdict)
        );
        let words = format!("{}  {size}  {}", region_name(index), short(&region.verdict));
        document = document.add(Node::new().add(Title::new(escape(&sentence))).add(shape).add(label(
            left + 8.0,
            top + 17.0,
            &words,
        )));
    }
    rows.draw(report, &shown, document)
}

fn summary(report: &Report<'_>) -> String {
    let (regions, devices) = (report.regions.len(), report.devices.len());
    let together = report.groups.iter().filter(|group| group.devices.len() > 1).count();
    let unplaced = report.regions.iter().filter(|region| region.bytes().is_none()).count();
    let unplaced = if unplaced == 0 {
        String::new()
    } else {
        format!(", {unplaced} of them not drawn as their base is above their limit")
    };
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}{unplaced}; {}; {} of devices that must stay together; {}",
        count(regions, "reserved region"),
        count(devices, "device"),
        count(together, "group"),
        count(report.errors.len(), "error")
    )
}

const fn short(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Accepted(_) => "",
        Verdict::Repaired(..) => "repaired",
        Verdict::Dormant(..) => "dormant",
        Verdict::Rejected(_) => "rejected",
    }
}

/// The groups worth a frame: those with a region, or with more than one device.
fn shown_groups(report: &Report<'_>) -> Vec<usize> {
    let lowest = |group: &super::Group| {
        let regions = group.devices.iter().flat_map(|&device| report.regions_of(device));
        regions.map(|(_, region)| region.base).min()
    };
    let mut shown: Vec<_> = report
        .groups
        .iter()
        .enumerate()
        .map(|(index, group)| (lowest(group), index, group.devices.len()))
        .filter(|(lowest, _, devices)| lowest.is_some() || *devices > 1)
        .map(|(lowest, index, _)| (lowest.unwrap_or(u64::MAX), index))
        .collect();
    shown.sort_unstable();
    shown.into_iter().map(|(_, index)| index).collect()
}

/// Addresses to heights.
struct Axis {
    /// The pieces' edges, each with its height on the paper. Edges are exclusive ends, so 2^64 is one.
    edges: BTreeMap<u128, f64>,
    /// Top and bottom of what lies between regions.
    gaps: Vec<(f64, f64)>,
    /// How far each region is moved to the right.
    lanes: Vec<f64>,
    bottom: f64,
}

impl Axis {
    fn of(report: &Report<'_>) -> Self {
        let spans: Vec<_> = report
            .regions
            .iter()
            .map(|region| {
                region.bytes().map(|bytes| (u128::from(region.base), u128::from(region.base) + bytes))
            })
            .collect();
        let mut edges: BTreeMap<u128, f64> =
            spans.iter().flatten().flat_map(|&(start, end)| [(start, 0.0), (end, 0.0)]).collect();
        let mut starts: Vec<_> = spans.iter().flatten().copied().collect();
        starts.sort_unstable();
        let mut at = TOP;
        let mut before: Option<u128> = None;
        let (mut next, mut reached, mut gaps) = (0, 0, Vec::new());
        for (&edge, height) in &mut edges {
            if let Some(before) = before {
                if reached > before {
                    at += piece(edge - before);
                } else {
                    gaps.push((at, at + GAP));
                    at += GAP;
                }
            }
            *height = at;
            before = Some(edge);
            while let Some(&(_, end)) = starts.get(next).filter(|(start, _)| *start <= edge) {
                reached = reached.max(end);
                next += 1;
            }
        }
        let bottom = at;
        Self { lanes: lanes(&spans), edges, gaps, bottom }
    }

    /// Top, bottom and lane of a region.
    fn place(&self, report: &Report<'_>, index: usize) -> Option<(f64, f64, f64)> {
        let region = &report.regions[index];
        let start = u128::from(region.base);
        let end = start + region.bytes()?;
        Some((*self.edges.get(&start)?, *self.edges.get(&end)?, self.lanes[index]))
    }

    fn draw(&self, mut document: Document) -> Document {
        let Some(top) = self.edges.values().next() else { return document };
        document = document.add(
            Line::new()
                .set("x1", AXIS)
                .set("y1", *top)
                .set("x2", AXIS)
                .set("y2", self.bottom)
                .set("stroke", "#94a3b8"),
        );
        for &(top, end) in &self.gaps {
            let gap = Line::new().set("x1", AXIS).set("y1", top + 4.0).set("x2", AXIS).set("y2", end - 4.0);
            document = document
                .add(gap.set("stroke", "white").set("stroke-width", 3).set("stroke-dasharray", "4 4"));
        }
        let mut last = f64::MIN;
        for (edge, &height) in &self.edges {
            document = document.add(
                Line::new()
                    .set("x1", AXIS - 4.0)
                    .set("y1", height)
                    .set("x2", REGIONS.0 - 4.0)
                    .set("y2", height)
                    .set("stroke", "#94a3b8"),
            );
            // Two edges may be at one height's distance of nothing; one label is enough then.
            if height - last >= 12.0 {
                document = document.add(
                    label(AXIS - 10.0, height + 4.0, &format!("{edge:#x}"))
                        .set("text-anchor", "end")
                        .set("font-family", "monospace")
                        .set("font-size", 12)
                        .set("fill", "#475569"),
                );
                last = height;
            }
        }
        document
    }
}

/// The height of a piece that some region covers: 26 for a page, 6 more for each doubling of 4.
fn piece(bytes: u128) -> f64 {
    let doublings = (bytes.max(1).ilog2()).saturating_sub(12);
    26.0 + 3.0 * f64::from(doublings)
}

/// Regions that overlap one before them move to the right, so that both can be seen.
fn lanes(spans: &[Option<(u128, u128)>]) -> Vec<f64> {
    let mut order: Vec<_> =
        spans.iter().enumerate().filter_map(|(index, span)| Some(((*span)?, index))).collect();
    order.sort_unstable_by_key(|&((start, end), index)| (start, std::cmp::Reverse(end), index));
    let mut lanes = vec![0.0; spans.len()];
    let mut ends: [u128; 4] = [0; 4];
    for ((start, end), index) in order {
        let lane = ends.iter().position(|&busy| busy <= start).unwrap_or(ends.len() - 1);
        ends[lane] = ends[lane].max(end);
        lanes[index] = LANE * f64::from(u8::try_from(lane).unwrap_or(0));
    }
    lanes
}

/// Where the devices are.
struct Rows {
    /// The middle of each device's row and its group's hue, for those that are drawn.
    places: Vec<Option<(f64, Hue)>>,
    /// Top and bottom of each group's frame.
    frames: Vec<(f64, f64)>,
    bottom: f64,
}

type Hue = (&'static str, &'static str);

fn place_devices(report: &Report<'_>, shown: &[usize]) -> Rows {
    let mut rows = Rows { places: vec![None; report.devices.len()], frames: Vec::new(), bottom: TOP };
    for (order, &group) in shown.iter().enumerate() {
        let top = rows.bottom;
        let hue = HUES[order % (HUES.len() - 1)];
        for (row, &device) in (0_u32..).zip(&report.groups[group].devices) {
            rows.places[device] = Some((top + ROW * (f64::from(row) + 0.5), hue));
            rows.bottom = top + ROW * f64::from(row + 1);
        }
        rows.frames.push((top, rows.bottom));
        rows.bottom += 12.0;
    }
    rows
}

impl Rows {
    fn place_of(&self, report: &Report<'_>, device: &crate::device::Device) -> Option<(f64, Hue)> {
        self.places[report.devices.binary_search(device).ok()?]
    }

    fn draw(&self, report: &Report<'_>, shown: &[usize], mut document: Document) -> Document {
        for (&group, &(top, end)) in shown.iter().zip(&self.frames) {
            let members = &report.groups[group];
            let sentences = Sentences::of(report, members);
            let (fill, edge) = members
                .devices
                .first()
                .and_then(|&device| self.places[device])
                .map_or(HUES[7], |(_, hue)| hue);
            document = document.add(
                Rectangle::new()
                    .set("x", DEVICES.0)
                    .set("y", top)
                    .set("width", DEVICES.1 - DEVICES.0)
                    .set("height", end - top)
                    .set("rx", 6)
                    .set("fill", fill)
                    .set("stroke", edge),
            );
            if members.devices.len() > 1 {
                let words = format!("{}: must stay together", group_name(members));
                let words = label(DEVICES.1 - 12.0, top + 17.0, &words).set("text-anchor", "end");
                document = document.add(words.set("font-size", 12).set("fill", edge));
            }
            for &device in &members.devices {
                let Some((row, _)) = self.places[device] else { continue };
                let (_, words) = sentences.sentence(device);
                let name = &report.devices[device];
                let known = report.machine.zip(name.address()).and_then(|(machine, address)| {
                    let (vendor, id) = machine.pci.id(address);
                    machine.names.of(vendor, id)
                });
                let text = known.map_or_else(|| name.to_string(), |known| format!("{name}  {known}"));
                document =
                    document.add(Node::new().add(Title::new(escape(&format!("{name} {words}")))).add(label(
                        DEVICES.0 + 12.0,
                        row + 5.0,
                        &shortened(&text),
                    )));
            }
        }
        document
    }
}

/// As much of a name as a frame has room for.
fn shortened(text: &str) -> String {
    if text.chars().count() <= 50 {
        return text.into();
    }
    text.chars().take(49).chain(['…']).collect()
}

fn connection(from: f64, y: f64, to: f64, row: f64, colour: &str) -> Path {
    let middle = f64::midpoint(from, to);
    Path::new()
        .set("d", Data::new().move_to((from, y)).cubic_curve_to((middle, y, middle, row, to, row)))
        .set("fill", "none")
        .set("stroke", colour)
        .set("stroke-width", 1.5)
}

fn label(x: f64, y: f64, text: &str) -> Text {
    Text::new(escape(text)).set("x", x).set("y", y)
}

/// What a file name or a name in a table could break a document with; the library escapes markup, but control
/// characters are in no XML.
fn escape(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
