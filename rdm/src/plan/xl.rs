//! Lines for an xl.cfg that ask for a plan's guest, as far as xl can say it; what it cannot is a comment.

use std::io::{self, Write};

use p2m::Gfn;
use rdm_layout::xen::libxl::{Ends, Fate, hvmloader_in_the_way};
use rdm_layout::xen::{HVMLOADER, Strategy};
use rdm_layout::{Policy, Region};

use super::Planned;
use crate::guest::{Guest, GuestFirmware, policy_word};

/// The boundary under which libxl keeps every region free that it can keep free: the lowest such region's
/// start, in MiB, less what it takes to lie below it. `None` where the usual one does.
fn boundary(guest: &Guest, regions: &[Region]) -> Option<u64> {
    let conflicts = |boundary: Gfn| {
        let ends = Ends::new(guest.memory, guest.hole, boundary, regions);
        let fates = (0..regions.len()).filter_map(|index| ends.fate(regions, index));
        fates.filter(|fate| *fate != Fate::Free).count()
    };
    let now = conflicts(guest.boundary);
    let starts = regions.iter().map(|region| region.frames.start().raw());
    // A region moves RAM if it starts above the boundary, not at it.
    // Below its floor hvmloader cannot do with less.
    let floor = HVMLOADER.floor.raw();
    let lower = starts.filter(|start| *start > floor).map(|start| (start - 1) / 256);
    let candidates = lower.filter(|mib| Gfn::new(mib * 256) < guest.boundary);
    candidates
        .map(|mib| (conflicts(Gfn::new(mib * 256)), u64::MAX - mib))
        .min()
        .and_then(|(count, mib)| (count < now).then_some(u64::MAX - mib))
}

/// Writes the lines.
///
/// # Errors
/// Those of `out`.
pub fn write(planned: &Planned, guest: &Guest, out: &mut impl Write) -> io::Result<()> {
    let kind = if guest.firmware == GuestFirmware::Direct { "pvh" } else { "hvm" };
    writeln!(out, "type = \"{kind}\"")?;
    if guest.memory.is_multiple_of(256) {
        writeln!(out, "memory = {}", guest.memory / 256)?;
    } else {
        writeln!(out, "# xl counts memory in MiB: of {} KiB the rest is left out", guest.memory * 4)?;
        writeln!(out, "memory = {}", guest.memory / 256)?;
    }
    if guest.firmware != GuestFirmware::Direct {
        let bios = if guest.firmware == GuestFirmware::Ovmf { "ovmf" } else { "seabios" };
        writeln!(out, "bios = \"{bios}\"")?;
    }
    let of_xl = |policy: Policy| match policy {
        Policy::Private => "strict",
        other => policy_word(other),
    };
    if guest.devices.iter().any(|device| guest.policy_of(device) == Policy::Private) {
        writeln!(
            out,
            "# xl knows no private regions; strict, which keeps their places free, is the nearest"
        )?;
    }
    if guest.strategy == Strategy::Host {
        // Some versions of xl (4.17) drop all of rdm= where it has a policy, too.
        writeln!(out, "rdm = \"strategy=host\"")?;
    }
    if !guest.devices.is_empty() {
        writeln!(out, "pci = [")?;
        for device in &guest.devices {
            writeln!(out, "    \"{},rdm_policy={}\",", device.address, of_xl(guest.policy_of(device)))?;
        }
        writeln!(out, "]")?;
    }
    let regions: Vec<_> = planned
        .regions
        .iter()
        .map(|region| Region { frames: region.frames, policy: region.policy })
        .collect();
    let lower = boundary(guest, &regions);
    if let Some(mib) = lower {
        writeln!(out, "# so that RAM ends below a region that lies under 2 GiB")?;
        writeln!(out, "rdm_mem_boundary = {mib}")?;
    } else if guest.boundary != rdm_layout::xen::libxl::BOUNDARY {
        writeln!(out, "rdm_mem_boundary = {}", guest.boundary.raw() / 256)?;
    }
    let boundary = lower.map_or(guest.boundary, |mib| Gfn::new(mib * 256));
    let ends = Ends::new(guest.memory, guest.hole, boundary, &regions);
    for (index, region) in planned.regions.iter().enumerate() {
        let name = &region.name;
        match ends.fate(&regions, index) {
            Some(Fate::Free) | None => {
                if let Some(what) = hvmloader_in_the_way(&region.frames) {
                    writeln!(out, "# not with unmodified hvmloader: {name} meets its {what}")?;
                }
            }
            Some(_) => writeln!(out, "# not with libxl as it is: RAM lies at {name}")?,
        }
    }
    Ok(())
}
