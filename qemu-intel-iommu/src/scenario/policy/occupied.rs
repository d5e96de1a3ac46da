//! A region whose frames hold something already: in the guest, or in the machine.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use p2m::{Access, AddressSpace, Entry, Gfn, GfnRange, IdentityError, Mfn, P2m, P2mType, PopulateError};
use xen_iommu::abi::Errno;
use xen_iommu::region::forbidden::Forbidden;
use xen_iommu::{AssignError, Mode, Sbdf};

use super::dma::LEN;
use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::host::HARDWARE_DOMAIN;
use crate::memory;
use crate::scenario::layout::{OWN, OWN_REGION, SOUTH_BRIDGE};
use crate::scenario::step::{Context, Outcome};

/// EBUSY, naming the guest frame; nothing changed.
pub fn ram_conflict(world: &mut World) -> Outcome {
    // RAM at the region's second page: the first must not be mapped either.
    let at = if world.broken("ram-conflict") { GUEST_RAM } else { OWN_REGION + 0x1000 };
    let _ram = world.unplanned_guest(at, 4)?;
    let before = (memory::frames().counts(), world.with_space(GUEST, |space| space.table_frames())?);
    let result = world.assign(&[OWN], Mode::Strict);
    let after = (memory::frames().counts(), world.with_space(GUEST, |space| space.table_frames())?);
    let conflict = match &result {
        Err(error @ AssignError::Map { error: IdentityError::Conflict { gfn, .. }, .. }) => {
            Some((error, *gfn))
        }
        _ => None,
    };
    let Some((error, gfn)) = conflict else {
        return Err(format!("not refused for what is there: {result:?}"));
    };
    ensure!(gfn == Gfn::containing(at), "guest frame {gfn} is named");
    ensure!(Errno::from(error) == Errno::EBUSY, "it is {:?}", Errno::from(error));
    ensure!(before == after, "frames changed: {before:?} to {after:?}");
    let first = world.with_space(GUEST, |space| space.look_up(Gfn::containing(OWN_REGION)).entry)?;
    ensure!(first.p2m_type == P2mType::Invalid, "the region's first page holds {first}");
    ensure!(world.is_mapped(HARDWARE_DOMAIN, OWN_REGION)?, "the hardware domain has lost the region");
    Ok(format!("EBUSY: {error}"))
}

/// RAM on both sides of the region, in which the device's DMA arrives; and nobody populates the region's place,
/// neither while the guest has it nor before or after.
pub fn planned_memory(world: &mut World) -> Outcome {
    world.load(OWN, 0x3c)?;
    // Two pages below it, two between it and the next, and the rest behind.
    let (at, pages) = (OWN_REGION - 0x2000, 5);
    let ram = match world.broken("planned-memory") {
        true => world.unplanned_guest(at, pages)?,
        false => world.guest(at, pages)?,
    };
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write_arrives(OWN, OWN_REGION, 0x3c)?;
    let pieces = world.guest_memory()?.ram().to_vec();
    let region = GfnRange::with_len(Gfn::containing(OWN_REGION), 2).ok_or("no range")?;
    let [below, above, ..] = pieces[..] else { return Err(format!("RAM is in one piece: {pieces:?}")) };
    ensure!(below.end() == region.start() && above.start() == region.end(), "RAM lies at {pieces:?}");
    world.write(OWN, above.start().address().unwrap_or_default())?;
    ensure!(ram.is_filled(below.len() << p2m::PAGE_SHIFT, LEN, 0x3c), "the DMA to {above} did not arrive");
    let populate = |world: &World| {
        let spare = Mfn::containing(ram.start());
        let memory = world.guest_memory()?;
        world.with_space(GUEST, |space| memory.populate(space, region, spare))
    };
    let mut refused = populate(world)?;
    for owner in ["the guest", "nobody in the guest"] {
        let Err(PopulateError::Reserved { gfn, .. }) = refused else {
            return Err(format!("populating where the region is {owner}'s: {refused:?}"));
        };
        ensure!(gfn == region.start(), "guest frame {gfn} is named");
        if owner == "the guest" {
            world.host.policy.deassign(&[OWN], GUEST, &mut |_| {}).map_err(text)?;
            ensure!(!world.is_mapped(GUEST, OWN_REGION)?, "the region stayed");
            refused = populate(world)?;
        }
    }
    let pieces: Vec<String> = pieces.iter().map(ToString::to_string).collect();
    let error = refused.err().map(|error| error.to_string()).unwrap_or_default();
    Ok(format!("RAM at {}; {error}", pieces.join(", ")))
}

/// Success, nothing written; and it stays when the device goes, as it was not the policy's.
pub fn already_identical(world: &mut World) -> Outcome {
    world.load(OWN, 0x66)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    let access = if world.broken("already-identical") { Access::READ } else { Access::READ_WRITE };
    let gfns = GfnRange::with_len(Gfn::containing(OWN_REGION), 2).ok_or("no range")?;
    let entry = Entry { p2m_type: P2mType::MmioDirect, mfn: Some(Mfn::containing(OWN_REGION)), access };
    world.with_space(GUEST, |space| P2m::map(space, gfns, entry))?.map_err(text)?;
    world.host.policy.flush_domain(GUEST).map_err(text)?;
    let before = memory::frames().counts();
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    let written = world.with_space(GUEST, AddressSpace::take_flush)?;
    ensure!(memory::frames().counts() == before && written.is_none(), "something was written: {written:?}");
    world.write_arrives(OWN, OWN_REGION, 0x66)?;
    world.host.policy.deassign(&[OWN], GUEST, &mut |_| {}).map_err(text)?;
    ensure!(world.is_mapped(GUEST, OWN_REGION)?, "the mapping that was there before is gone");
    Ok(String::from("nothing was written, the DMA arrived, and the mapping outlives the device"))
}

/// Refused, naming the other device; not when the BAR is back.
pub fn bar_over_region(world: &mut World) -> Outcome {
    const SATA: Sbdf = SOUTH_BRIDGE[1];
    world.load(OWN, 0xba)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    let pci = &world.inventory.pci;
    // Nobody uses the controller, and in QEMU's machine RAM comes before what lies over it.
    let to = if world.broken("bar-over-region") { OWN_REGION + 0x10_0000 } else { OWN_REGION };
    let before = pci.move_bar(SATA.into(), 5, to).map_err(text)?;
    let refused = world.assign(&[OWN], Mode::Strict);
    pci.move_bar(SATA.into(), 5, before).map_err(text)?;
    let error = match refused {
        Err(error @ AssignError::Forbidden { device: OWN, what: Forbidden::OverBar(bar), .. }) => {
            ensure!(bar.device == SATA && bar.base == OWN_REGION, "another window is named: {error}");
            error
        }
        Err(error) => return Err(format!("refused for another reason: {error}")),
        Ok(_) => return Err(format!("{OWN} was given the window of {SATA}")),
    };
    ensure!(!world.is_mapped(GUEST, OWN_REGION)?, "the region is mapped for it all the same");
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write_arrives(OWN, OWN_REGION, 0xba)?;
    Ok(format!("{:?}: {error}", Errno::from(&error)))
}
