//! A plan as a drawing (SVG): the guest's addresses from above, one block a thing, what is to be known of it
//! beside it. A block's height grows with the logarithm of its size.

use acpi_dmar::Size;
use svg::Document;
use svg::node::element::{Group as Node, Rectangle, Text, Title};

use super::map::Kind;
use super::text::{Block, blocks, ends, title};
use super::{Planned, RegionOutcome, addresses, size, whose};
use crate::guest::Guest;

const WIDTH: f64 = 1080.0;
const TOP: f64 = 84.0;
/// Left and right side of the blocks, and where what is said of regions begins.
const BLOCKS: (f64, f64) = (190.0, 520.0);
const WORDS: f64 = 550.0;
const LINE: f64 = 18.0;
/// Most characters of a line of words.
const CHARACTERS: usize = 76;

/// Fill and edge.
const fn colours(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Ram => ("#dcfce7", "#15803d"),
        Kind::Region => ("#fef3c7", "#b45309"),
        Kind::Private => ("#ede9fe", "#6d28d9"),
        Kind::Conflict => ("#fee2e2", "#b91c1c"),
        Kind::Bar => ("#dbeafe", "#1d4ed8"),
        Kind::Firmware | Kind::Module => ("#e2e8f0", "#475569"),
        Kind::Unallocated => ("#ffffff", "#94a3b8"),
    }
}

/// Draws `planned`, for `guest`.
#[must_use]
pub fn draw(planned: &Planned, guest: &Guest) -> Document {
    let mut body = Node::new();
    let (verdict, colour) = match &planned.failure {
        Some(sentence) => (format!("no plan: {sentence}"), colours(Kind::Conflict).1),
        None => (format!("planned, {}", ends(planned)), "#475569"),
    };
    let mut at = 54.0;
    for line in lines(&verdict, 150) {
        body = body.add(label(30.0, at, &line).set("fill", colour));
        at += LINE;
    }
    let top = at.max(TOP);
    let map = planned.layout.as_ref().map_or(&[][..], |layout| &layout.map);
    let blocks = blocks(map);
    // From the highest addresses down, as memory maps are drawn.
    let mut bottom = top;
    for block in blocks.iter().rev() {
        let height = height(block);
        body = body.add(draw_block(block, bottom, height));
        bottom += height;
    }
    if !blocks.is_empty() {
        body = body.add(address(bottom, 0));
    }
    let mut words = top + 14.0;
    for region in &planned.regions {
        for line in region_lines(region) {
            let colour = if region.verdict.is_honoured() { "#1e293b" } else { colours(Kind::Conflict).1 };
            body = body.add(label(WORDS, words, &line).set("fill", colour));
            words += LINE;
        }
        words += 6.0;
    }
    for line in planned.notes.iter().flat_map(|note| lines(&format!("note: {note}"), CHARACTERS)) {
        body = body.add(label(WORDS, words, &line).set("fill", colours(Kind::Region).1));
        words += LINE;
    }
    let bottom = bottom.max(words) + 30.0;
    Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, bottom))
        .set("width", WIDTH)
        .set("height", bottom)
        .set("font-family", "sans-serif")
        .set("font-size", 13)
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(label(30.0, 32.0, &title(planned, guest)).set("font-size", 17).set("font-weight", "bold"))
        .add(body)
}

fn draw_block(block: &Block<'_>, top: f64, height: f64) -> Node {
    let mut shape = Rectangle::new()
        .set("x", BLOCKS.0)
        .set("y", top)
        .set("width", BLOCKS.1 - BLOCKS.0)
        .set("height", height);
    shape = match block.kind {
        Some(kind) => shape.set("fill", colours(kind).0).set("stroke", colours(kind).1),
        None => shape.set("fill", "none").set("stroke", "#e2e8f0"),
    };
    let size = Size(block.bytes());
    let words = match block.label() {
        label if label.is_empty() => size.to_string(),
        label => format!("{label}, {size}"),
    };
    let names: Vec<_> = block.names.iter().copied().filter(|name| !name.is_empty()).collect();
    let all = format!(
        "{:#x} to {:#x}: {words} {}",
        block.start << 12,
        (u128::from(block.end) << 12) - 1,
        names.join(", ")
    );
    let short: String = words.chars().take(48).collect();
    let ink = if block.kind.is_some() { "#0f172a" } else { "#64748b" };
    Node::new()
        .add(Title::new(escape(&all)))
        .add(shape)
        .add(label(BLOCKS.0 + 8.0, top + height / 2.0 + 4.0, &short).set("fill", ink))
        .add(address(top, block.end))
}

fn region_lines(region: &RegionOutcome) -> Vec<String> {
    let all = format!(
        "{} {} {}, {}: {}",
        region.name,
        addresses(&region.frames),
        size(&region.frames),
        whose(region),
        region.sentence
    );
    lines(&all, CHARACTERS)
}

/// Text in lines of at most `most` characters, cut at spaces.
fn lines(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= most => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.into()),
        }
    }
    lines
}

/// 20 for a page, and 2 more for each doubling; a gap is small.
fn height(block: &Block<'_>) -> f64 {
    match block.kind {
        None => 22.0,
        Some(_) => 20.0 + 2.0 * f64::from(block.bytes().max(1).ilog2().saturating_sub(12)),
    }
}

/// The address at a block's edge.
fn address(y: f64, frame: u64) -> Text {
    label(BLOCKS.0 - 10.0, y + 4.0, &format!("{:#x}", u128::from(frame) << 12))
        .set("text-anchor", "end")
        .set("font-family", "monospace")
        .set("font-size", 12)
        .set("fill", "#475569")
}

fn label(x: f64, y: f64, text: &str) -> Text {
    Text::new(escape(text)).set("x", x).set("y", y)
}

/// The library escapes markup, but control characters are in no XML.
fn escape(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
