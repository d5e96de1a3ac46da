//! A table for people.

use std::io::{self, Write};

use acpi_dmar::Size;
use anstyle::{AnsiColor, Style};
use xen_iommu::region::iommu_state::IommuState;
use xen_iommu::region::verdict::{Repairs, Verdict};

use super::groups::Group;
use super::reason::reasons;
use super::sentence::{Sentences, Standing, group_name, region_name, required_name};
use super::{Region, Report, Unit};
use crate::device::Device;

const HEADING: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const CAREFUL: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const QUIET: Style = Style::new().dimmed();

/// Writes `report`, of `file`, with ANSI styles; a stream that wants none strips them.
///
/// # Errors
/// Those of `out`.
pub fn write(report: &Report<'_>, file: &str, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{HEADING}{file}{HEADING:#}")?;
    for error in &report.errors {
        writeln!(out, "{BAD}error: {error}{BAD:#}")?;
    }
    let Some(dmar) = report.dmar else { return Ok(()) };
    writeln!(out, "{}", dmar.header())?;
    write!(out, "host addresses of {} bits", dmar.host_address_width())?;
    for (name, _) in dmar.flags().iter_names() {
        write!(out, ", {name}")?;
    }
    writeln!(out)?;
    writeln!(out, "{QUIET}{}{QUIET:#}", judged_by(report))?;
    if report.iommu != IommuState::Active {
        writeln!(out, "{BAD}No device can be passed through: {}.{BAD:#}", report.iommu)?;
    }

    heading(out, "IOMMU units", report.units.len())?;
    for unit in &report.units {
        self::unit(unit, out)?;
    }
    heading(out, "Reserved regions", report.regions.len())?;
    for (number, region) in report.regions.iter().enumerate() {
        self::region(report, number, region, out)?;
    }
    let together: Vec<_> = report.groups.iter().filter(|group| group.devices.len() > 1).collect();
    heading(out, "Groups of devices that must stay together", together.len())?;
    for group in &together {
        self::group(report, group, &group_name(group), out)?;
    }
    if let Some(required) = &report.required {
        heading(out, "Further groups where isolation is required (VFIO's way)", required.len())?;
        for group in required {
            self::group(report, group, &required_name(group), out)?;
        }
    }
    heading(out, "Devices", report.devices.len())?;
    for group in &report.groups {
        let sentences = Sentences::of(report, group);
        for &number in &group.devices {
            device(report, &sentences, number, out)?;
        }
    }
    Ok(())
}

/// What it is judged by, and what nobody can say for want of that.
fn judged_by(report: &Report<'_>) -> String {
    let Some(machine) = report.machine else {
        return "Judged by the table alone: without a PCI tree and a memory map nobody can say which devices are there, which are below bridges, whose DMA \
                looks alike, or whether a region is RAM."
            .into();
    };
    let mut sentence = match machine.memory {
        None => "Judged on this machine's PCI tree; its memory map (/sys/firmware/memmap) is not shown, so that nobody can say whether a region is RAM.",
        Some(_) => "Judged on this machine's PCI tree and memory map.",
    }
    .to_string();
    if !machine.pci.has_capabilities() {
        sentence += " Of config space no more than headers is shown: whose DMA looks alike, what is isolated and which functions are virtual is for root to see.";
    }
    sentence
}

fn heading(out: &mut impl Write, text: &str, count: usize) -> io::Result<()> {
    let none = if count == 0 { ": none" } else { "" };
    writeln!(out, "\n{HEADING}{text}{HEADING:#}{none}")
}

fn unit(unit: &Unit, out: &mut impl Write) -> io::Result<()> {
    let Unit { base, bytes, segment, .. } = unit;
    write!(out, "  {base:#x} ({}), segment {segment:04x}:", Size((*bytes).into()))?;
    let mut named: Vec<_> = unit
        .devices
        .iter()
        .map(|device| {
            if unit.bridges.contains(device) {
                format!("{device} and all below it")
            } else {
                device.to_string()
            }
        })
        .collect();
    if unit.includes_all {
        named.push("every device that no other unit names".into());
    }
    named.extend(unit.others.iter().cloned());
    if named.is_empty() {
        named.push("nothing".into());
    }
    writeln!(out, " {}", named.join(", "))
}

fn region(report: &Report<'_>, number: usize, region: &Region, out: &mut impl Write) -> io::Result<()> {
    let size = region.bytes().map_or_else(|| "no size".into(), |bytes| Size(bytes).to_string());
    let name = region_name(number);
    let style = verdict_style(&region.verdict);
    writeln!(
        out,
        "  {name:<4} [{:#x}, {:#x}]  {size}  {style}{}{style:#}",
        region.base,
        region.limit,
        verdict_text(&region.verdict)
    )?;
    for device in &region.devices {
        let below = if region.bridges.contains(device) { " and all below it" } else { "" };
        let absent = if report.is_present(device) == Some(false) { " (not present)" } else { "" };
        writeln!(out, "       {device}{below}{absent}{}", named(report, device))?;
    }
    for remark in &region.remarks {
        writeln!(out, "       {QUIET}{remark}{QUIET:#}")?;
    }
    Ok(())
}

/// The verdict as a tool can know it: it can only suppose that frames can be taken out of RAM.
#[must_use]
pub fn verdict_text(verdict: &Verdict) -> String {
    if verdict.repairs().contains(Repairs::TAKEN_OUT_OF_RAM) {
        let ram =
            "in RAM: accepted if the hypervisor can take its frames out of its allocator, else rejected";
        let rest = verdict.repairs() - Repairs::TAKEN_OUT_OF_RAM;
        return if rest.is_empty() { ram.into() } else { format!("{ram}; {rest}") };
    }
    verdict.to_string()
}

const fn verdict_style(verdict: &Verdict) -> Style {
    match verdict {
        Verdict::Accepted(_) => GOOD,
        Verdict::Repaired(..) | Verdict::Dormant(..) => CAREFUL,
        Verdict::Rejected(_) => BAD,
    }
}

fn group(report: &Report<'_>, group: &Group, name: &str, out: &mut impl Write) -> io::Result<()> {
    let names: Vec<_> = group.devices.iter().map(|&number| report.devices[number].to_string()).collect();
    writeln!(out, "  {name:<4} {}", names.join(", "))?;
    for reason in reasons(report, group) {
        writeln!(out, "       {reason}")?;
    }
    Ok(())
}

fn device(
    report: &Report<'_>,
    sentences: &Sentences<'_>,
    number: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let device = &report.devices[number];
    let (standing, sentence) = sentences.sentence(number);
    let style = match standing {
        Standing::Alone => GOOD,
        Standing::Together => CAREFUL,
        Standing::Refused => BAD,
        Standing::Stays | Standing::Unknown => QUIET,
    };
    writeln!(out, "  {device}{} {style}{sentence}.{style:#}", named(report, device))
}

/// The device's name in parentheses, where it is known.
fn named(report: &Report<'_>, device: &Device) -> String {
    let name = report.machine.zip(device.address()).and_then(|(machine, address)| {
        let (vendor, device) = machine.pci.has(address).then(|| machine.pci.id(address))?;
        machine.names.of(vendor, device)
    });
    name.map(|name| format!(" ({name})")).unwrap_or_default()
}
