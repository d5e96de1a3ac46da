//! A plan for people: a table of the guest's addresses, and a drawing of them.

use std::io::{self, Write};

use acpi_dmar::Size;
use anstyle::{AnsiColor, Style};
use rdm_layout::Verdict;

use super::map::{Kind, Row};
use super::{Layout, Planned, RegionOutcome, addresses, size, whose};
use crate::guest::{Guest, policy_word};

pub(crate) const HEADING: Style = Style::new().bold();
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
const CAREFUL: Style = AnsiColor::Yellow.on_default();
const QUIET: Style = Style::new().dimmed();

/// Frames of the first MiB, where RAM is in pieces, and of a gap in firmware that is not worth a block.
const FIRST_MIB: u64 = 256;
const SMALL: u64 = 64 * FIRST_MIB;
/// Characters between the frame's sides.
const WIDTH: usize = 40;

/// Writes `planned`, for `guest`, with ANSI styles; a stream that wants none strips them.
///
/// # Errors
/// Those of `out`.
pub fn write(planned: &Planned, guest: &Guest, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{HEADING}{}{HEADING:#}", title(planned, guest))?;
    match &planned.failure {
        Some(sentence) => writeln!(out, "{BAD}no plan: {sentence}{BAD:#}")?,
        None => writeln!(out, "{GOOD}planned{GOOD:#}, {}", ends(planned))?,
    }
    for note in &planned.notes {
        writeln!(out, "{CAREFUL}note: {note}{CAREFUL:#}")?;
    }
    heading(out, "Regions", planned.regions.len())?;
    for region in &planned.regions {
        self::region(region, out)?;
    }
    heading(out, "BARs", planned.bars.len())?;
    for bar in &planned.bars {
        let kind = match (bar.bar.is_64bit, bar.bar.prefetchable) {
            (false, false) => "32 bits",
            (false, true) => "32 bits, prefetchable",
            (true, false) => "64 bits",
            (true, true) => "64 bits, prefetchable",
        };
        let size = Size(bar.bar.bytes.into());
        match bar.place {
            Some(place) => writeln!(out, "  BAR {}, {size}, {kind}: {}", bar.name, addresses(&place))?,
            None => writeln!(out, "  {BAD}BAR {}, {size}, {kind}: no place{BAD:#}", bar.name)?,
        }
    }
    for graphics in &planned.graphics {
        writeln!(out, "\n{HEADING}Graphics: {}{HEADING:#}", graphics.device)?;
        for range in &graphics.ranges {
            writeln!(out, "  {range}")?;
        }
        writeln!(out, "  {}", graphics.reads())?;
    }
    let Some(layout) = &planned.layout else { return Ok(()) };
    let title = if planned.is_planned() {
        "The guest's addresses"
    } else {
        "The guest's addresses, if it went without what is in the way"
    };
    writeln!(out, "\n{HEADING}{title}{HEADING:#}")?;
    table(layout, out)?;
    writeln!(out)?;
    drawing(layout, out)
}

pub(super) fn title(planned: &Planned, guest: &Guest) -> String {
    let mode = if guest.two_range { "RAM in two ranges" } else { "RAM in as many ranges as it takes" };
    format!(
        "A guest of {}, {}, addresses of {} bits, {mode}",
        Size(u128::from(guest.memory) << 12),
        guest.firmware.name(),
        planned.width
    )
}

/// Where RAM ends, and what the guest gets beside it.
pub(super) fn ends(planned: &Planned) -> String {
    let Some(layout) = &planned.layout else { return String::new() };
    let high = match layout.highmem_end {
        0 => String::new(),
        end => format!(" and at {end:#x} above 4 GiB"),
    };
    let private = match layout.private {
        0 => String::new(),
        frames => format!("; {} more for private regions", Size(u128::from(frames) << 12)),
    };
    let version = rdm_layout::VERSION;
    format!("by rules of version {version}: RAM ends at {:#x}{high}{private}", layout.lowmem_end)
}

fn heading(out: &mut impl Write, what: &str, count: usize) -> io::Result<()> {
    if count == 0 {
        return writeln!(out, "\n{HEADING}{what}: none{HEADING:#}");
    }
    writeln!(out, "\n{HEADING}{what} ({count}){HEADING:#}")
}

fn region(region: &RegionOutcome, out: &mut impl Write) -> io::Result<()> {
    let style = match region.verdict {
        Verdict::Honoured | Verdict::MovedAround(_) => GOOD,
        Verdict::GivenUp(_) | Verdict::InTheWay(_) => BAD,
    };
    writeln!(
        out,
        "  {:<4} {}  {}, {}: {style}{}{style:#}",
        region.name,
        addresses(&region.frames),
        size(&region.frames),
        whose(region),
        region.sentence
    )
}

fn style(kind: Kind) -> Style {
    match kind {
        Kind::Ram => GOOD,
        Kind::Region | Kind::Private => CAREFUL,
        Kind::Conflict => BAD,
        Kind::Firmware | Kind::Module | Kind::Unallocated => QUIET,
        Kind::Bar => AnsiColor::Cyan.on_default(),
    }
}

fn table(layout: &Layout, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "  {:>16}  {:>16}  {:>12}  what", "from", "to", "size")?;
    for row in &layout.map {
        let (start, end) =
            (u128::from(row.frames.start().raw()) << 12, u128::from(row.frames.end().raw()) << 12);
        let (kind, style) = (row.kind.word(), style(row.kind));
        let name = if row.name.is_empty() { String::new() } else { format!("  {}", row.name) };
        writeln!(
            out,
            "  {start:>#16x}  {:>#16x}  {:>12}  {style}{kind}{style:#}{name}",
            end - 1,
            size(&row.frames)
        )?;
    }
    Ok(())
}

/// Rows of one kind that touch, as one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block<'r> {
    pub(super) start: u64,
    pub(super) end: u64,
    /// `None`: nothing.
    pub(super) kind: Option<Kind>,
    pub(super) names: Vec<&'r str>,
}

/// The blocks of a drawing, with the gaps between them.
pub(super) fn blocks(map: &[Row]) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    for row in map {
        let (start, end) = (row.frames.start().raw(), row.frames.end().raw());
        // Firmware and modules are one to who looks at the whole, and so is what is small between them.
        let kind = match row.kind {
            Kind::Module => Kind::Firmware,
            Kind::Ram if end <= FIRST_MIB => Kind::Firmware,
            kind => kind,
        };
        let before = blocks.last().map_or(0, |last| last.end);
        let is_between = |last: &Block<'_>| last.kind == Some(Kind::Firmware) && kind == Kind::Firmware;
        if before < start && !(start - before < SMALL && blocks.last().is_some_and(is_between)) {
            blocks.push(Block { start: before, end: start, kind: None, names: Vec::new() });
        }
        match blocks.last_mut() {
            Some(last) if last.kind == Some(kind) => {
                last.end = end;
                last.names.push(&row.name);
            }
            _ => blocks.push(Block { start, end, kind: Some(kind), names: vec![&row.name] }),
        }
    }
    blocks
}

impl Block<'_> {
    pub(super) fn label(&self) -> String {
        let word = self.kind.map_or("", Kind::word);
        let names: Vec<_> = self.names.iter().copied().filter(|name| !name.is_empty()).collect();
        match (self.kind, &names[..]) {
            (Some(Kind::Ram | Kind::Unallocated) | None, _) | (_, []) => word.into(),
            (Some(Kind::Bar), [one]) => format!("{word} {one}"),
            (Some(Kind::Bar), all) => format!("{} {word}s", all.len()),
            (_, [one]) => (*one).into(),
            (_, [first, rest @ ..]) => format!("{first}, {} more", rest.len()),
        }
    }

    pub(super) fn bytes(&self) -> u128 {
        u128::from(self.end - self.start) << 12
    }
}

/// The guest's addresses from below, each block as many lines high as its size has digits.
fn drawing(layout: &Layout, out: &mut impl Write) -> io::Result<()> {
    let blocks = blocks(&layout.map);
    for (index, block) in blocks.iter().enumerate() {
        let (left, right) = if index == 0 { ('┌', '┐') } else { ('├', '┤') };
        writeln!(out, "  {:>#14x} {left}{}{right}", block.start << 12, "─".repeat(WIDTH))?;
        let (fill, style) = match block.kind {
            None => (' ', QUIET),
            Some(kind) => (fill(kind), style(kind)),
        };
        let size = Size(block.bytes());
        let label = block.label();
        let label = if label.is_empty() { format!(" {size} ") } else { format!(" {label}, {size} ") };
        let label: String = label.chars().take(WIDTH - 2).collect();
        let lines = height(block);
        for line in 0..lines {
            let mut text = fill.to_string().repeat(WIDTH);
            if line == (lines - 1) / 2 {
                let rest = WIDTH - label.chars().count();
                let side = |count: usize| fill.to_string().repeat(count);
                text = format!("{}{label}{}", side(rest / 2), side(rest - rest / 2));
            }
            writeln!(out, "  {:>14} │{style}{text}{style:#}│", "")?;
        }
    }
    let end = blocks.last().map_or(0, |last| last.end);
    writeln!(out, "  {:>#14x} └{}┘", u128::from(end) << 12, "─".repeat(WIDTH))
}

const fn fill(kind: Kind) -> char {
    match kind {
        Kind::Ram => '░',
        Kind::Region => '▓',
        Kind::Private => '▒',
        Kind::Conflict => '█',
        Kind::Bar => '=',
        Kind::Firmware | Kind::Module => '.',
        Kind::Unallocated => ' ',
    }
}

/// One line up to 64 MiB, and one more each time that is 32 times as much.
fn height(block: &Block<'_>) -> usize {
    let order = block.bytes().max(1).ilog2();
    let more = order.saturating_sub(26).div_ceil(5).min(3);
    usize::try_from(more).unwrap_or(0) + 1
}

/// What a caller of `rdm check` reads of the regions, each in a line.
pub(crate) fn verdict_line(region: &RegionOutcome) -> String {
    format!("{} {}, {}", region.name, addresses(&region.frames), policy_word(region.policy))
}
