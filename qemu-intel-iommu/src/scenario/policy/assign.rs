//! Devices given to a guest and taken back.

use alloc::format;
use alloc::string::String;

use p2m::{Access, AddressSpace, Gfn, IdentityError, MfnRange, P2mType};
use xen_iommu::abi::Errno;
use xen_iommu::vtd::{Operation, Reason};
use xen_iommu::{AssignError, Link, Mode, Owner, Sbdf};

use super::super::{Context, Outcome, ensure, text};
use super::dma::{LEN, sentences};
use super::world::{GUEST, GUEST_RAM, World};
use crate::devices::nvme::{Completion, Nvme, PAGE, Page};
use crate::host::{HARDWARE_DOMAIN, map_ram};
use crate::memory::{self, Shared};

const OWN: Sbdf = Sbdf::new(0, 0, 3, 0);
const OWN_REGION: u64 = 0x0ffe_4000;
const SHARED: [Sbdf; 2] = [Sbdf::new(0, 0, 4, 0), Sbdf::new(0, 0, 5, 0)];
const SHARED_REGION: u64 = 0x0ffe_8000;
const BEHIND: [Sbdf; 2] = [Sbdf::new(0, 1, 1, 0), Sbdf::new(0, 1, 2, 0)];
const BEHIND_REGION: u64 = 0x0ffe_c000;
const NVME: Sbdf = Sbdf::new(0, 0, 7, 0);

/// Whether a region's first frame is mapped 1:1 as p2m_mmio_direct in a domain.
fn is_mapped(world: &World, domain: xen_iommu::DomId, region: u64) -> Result<bool, String> {
    let entry = world.with_space(domain, |space| space.look_up(Gfn::containing(region)).entry)?;
    let same = entry.mfn.and_then(p2m::Mfn::address) == Some(region);
    Ok(same && entry.p2m_type == P2mType::MmioDirect && entry.access == Access::READ_WRITE)
}

/// Takes a region's mapping away behind the policy's back, so that a step must fail.
fn spoil(world: &World, region: u64) -> Result<(), String> {
    let range = MfnRange::with_len(p2m::Mfn::containing(region), 1).ok_or("no range")?;
    world.with_space(GUEST, |space| space.unmap_identity(range))?.map_err(text)?;
    world.host.policy.flush_domain(GUEST).map_err(text)
}

/// Unoccupied, so mapped 1:1; DMA to it arrives; the hardware domain has lost it.
pub fn own_region(world: &mut World) -> Outcome {
    let outcome = own_region_inner(world);
    world.restore(outcome)
}

fn own_region_inner(world: &mut World) -> Outcome {
    world.load(OWN, 0x5a)?;
    ensure!(
        is_mapped(world, HARDWARE_DOMAIN, OWN_REGION)?,
        "the hardware domain does not have the region before"
    );
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    ensure!(is_mapped(world, GUEST, OWN_REGION)?, "the region is not mapped 1:1 as p2m_mmio_direct");
    ensure!(!is_mapped(world, HARDWARE_DOMAIN, OWN_REGION)?, "the hardware domain still has the region");
    if world.broken("own-region") {
        spoil(world, OWN_REGION)?;
    }
    world.write_arrives(OWN, OWN_REGION, 0x5a)?;
    Ok(format!("{OWN} is {GUEST}'s; {LEN} bytes arrived at {OWN_REGION:#x}, which only {GUEST} maps now"))
}

/// Memory outside stays as it is, and the fault names source id, address and reason.
pub fn outside_blocked(world: &mut World) -> Outcome {
    let outcome = outside_blocked_inner(world);
    world.restore(outcome)
}

fn outside_blocked_inner(world: &mut World) -> Outcome {
    world.load(OWN, 0xa5)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    let outside = Shared::alloc(1).ok_or("no frame is left")?;
    if world.broken("outside-blocked") {
        world.with_space(GUEST, |space| map_ram(space, outside.start(), &outside))??;
        world.host.policy.flush_domain(GUEST).map_err(text)?;
    }
    world.faults();
    world.write(OWN, outside.start())?;
    let faults = world.faults();
    ensure!(outside.is_filled(0, LEN, 0), "the DMA arrived outside the domain at {:#x}", outside.start());
    let [fault] = faults[..] else {
        return Err(format!("one fault is expected: {}", sentences(&faults)));
    };
    ensure!(
        fault.source == OWN
            && fault.address == outside.start()
            && fault.operation == Operation::Write
            && fault.reason == Reason::NO_WRITE,
        "another fault than the one expected: {fault}"
    );
    // The page behind the region's last is outside too.
    let behind = OWN_REGION + 0x2000;
    world.write(OWN, behind)?;
    let faults = world.faults();
    ensure!(
        faults.len() == 1 && faults.iter().all(|fault| fault.address == behind),
        "right behind the region: {}",
        sentences(&faults)
    );
    Ok(format!("{fault}"))
}

/// EPERM, naming the region and the other device.
pub fn shared_alone(world: &mut World) -> Outcome {
    let outcome = shared_alone_inner(world);
    world.restore(outcome)
}

fn shared_alone_inner(world: &mut World) -> Outcome {
    let [alone, other] = SHARED;
    let _ram = world.guest(GUEST_RAM, 4)?;
    let mode = if world.broken("shared-alone") { Mode::Relaxed } else { Mode::Strict };
    match world.assign(&[alone], mode) {
        Ok(notes) => Err(format!("{alone} was assigned alone: {}", notes.join("; "))),
        Err(error @ AssignError::Group { device, other: named, link: Link::SharedRegion(region), .. }) => {
            ensure!(device == alone && named == other, "{device} and {named} are named");
            let start = region.range().start().address();
            ensure!(start == Some(SHARED_REGION), "region {region} is named");
            ensure!(Errno::from(&error) == Errno::EPERM, "it is {:?}", Errno::from(&error));
            ensure!(!is_mapped(world, GUEST, SHARED_REGION)?, "the region is mapped for it all the same");
            Ok(format!("EPERM: {error}"))
        }
        Err(error) => Err(format!("refused for another reason: {error}")),
    }
}

/// The group moves as one, and the region stays one domain's.
pub fn shared_together(world: &mut World) -> Outcome {
    let outcome = shared_together_inner(world);
    world.restore(outcome)
}

fn shared_together_inner(world: &mut World) -> Outcome {
    for (device, byte) in SHARED.into_iter().zip([0x11, 0x22]) {
        world.load(device, byte)?;
    }
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&SHARED, Mode::Strict).map_err(text)?;
    for (device, byte) in SHARED.into_iter().zip([0x11, 0x22]) {
        world.write_arrives(device, SHARED_REGION, byte)?;
        if world.broken("shared-together") {
            spoil(world, SHARED_REGION)?;
        }
    }
    let owners = SHARED.map(|device| world.host.policy.owner(device));
    ensure!(owners == [Some(Owner::Domain(GUEST)); 2], "the owners are {owners:?}");
    ensure!(!is_mapped(world, HARDWARE_DOMAIN, SHARED_REGION)?, "the hardware domain still has the region");
    Ok(format!("{} and {} are {GUEST}'s, and both wrote to {SHARED_REGION:#x}", SHARED[0], SHARED[1]))
}

/// One requester id, one domain: alone even relaxed is refused, together they go.
pub fn behind_bridge(world: &mut World) -> Outcome {
    let outcome = behind_bridge_inner(world);
    world.restore(outcome)
}

fn behind_bridge_inner(world: &mut World) -> Outcome {
    let [device, other] = BEHIND;
    world.load(device, 0x33)?;
    world.load(other, 0x44)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    match world.assign(&[device], Mode::Relaxed) {
        Err(AssignError::Group { other: named, link: Link::RequesterId(source), .. }) => {
            ensure!(named == other && source == Sbdf::new(0, 1, 0, 0), "{named} and {source} are named");
        }
        Err(error) => return Err(format!("refused for another reason: {error}")),
        Ok(_) => return Err(format!("{device} was assigned without {other}")),
    }
    world.assign(&BEHIND, Mode::Strict).map_err(text)?;
    if world.broken("behind-bridge") {
        spoil(world, BEHIND_REGION)?;
    }
    world.write_arrives(device, BEHIND_REGION, 0x33)?;
    // The other has no region of its own, but hardware cannot tell the two apart.
    world.write_arrives(other, BEHIND_REGION, 0x44)?;
    world.write(other, 0x2000)?;
    let faults = world.faults();
    let named = faults.iter().all(|fault| fault.source == Sbdf::new(0, 1, 0, 0) && fault.address == 0x2000);
    ensure!(faults.len() == 1 && named, "the fault outside: {}", sentences(&faults));
    Ok(format!("{device} and {other} are {GUEST}'s; a DMA outside shows as 0000:01:00.0"))
}

/// A controller's queues and data at guest addresses, which translation leads to the guest's RAM.
pub fn nvme(world: &mut World) -> Outcome {
    let outcome = nvme_inner(world);
    world.restore(outcome)
}

fn nvme_inner(world: &mut World) -> Outcome {
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[NVME], Mode::Strict).map_err(text)?;
    let nvme = Nvme::open(&world.machine.pci, NVME.into()).map_err(text)?;
    let page = |index: u64| Page { memory: &ram, offset: index * PAGE, bus: GUEST_RAM + index * PAGE };
    let mut queue = nvme.enable(page(0), page(1)).map_err(text)?;
    let data = 2 * PAGE;
    ram.fill(data, PAGE, 0xff);
    let bus = if world.broken("nvme") { GUEST_RAM + 4 * PAGE } else { GUEST_RAM + data };
    let completion = queue.identify(bus);
    ensure!(completion == Completion::Status(0), "{completion}");
    let mut serial = [0; 20];
    ram.copy_out(data + 4, &mut serial);
    let faults = world.faults();
    ensure!(faults.is_empty(), "its DMA faults: {}", sentences(&faults));
    ensure!(serial.trim_ascii_end() == b"rdm", "the serial number is {}", serial.escape_ascii());
    Ok(format!("{NVME} wrote its identity to guest address {bus:#x}"))
}

/// EBUSY, naming the guest frame; nothing changed.
pub fn ram_conflict(world: &mut World) -> Outcome {
    let outcome = ram_conflict_inner(world);
    world.restore(outcome)
}

fn ram_conflict_inner(world: &mut World) -> Outcome {
    // RAM at the region's second page: the first must not be mapped either.
    let at = if world.broken("ram-conflict") { GUEST_RAM } else { OWN_REGION + 0x1000 };
    let _ram = world.guest(at, 4)?;
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
    ensure!(is_mapped(world, HARDWARE_DOMAIN, OWN_REGION)?, "the hardware domain has lost the region");
    Ok(format!("EBUSY: {error}"))
}

/// Success, nothing written; and it stays when the device goes, as it was not the policy's.
pub fn already_identical(world: &mut World) -> Outcome {
    let outcome = already_identical_inner(world);
    world.restore(outcome)
}

fn already_identical_inner(world: &mut World) -> Outcome {
    world.load(OWN, 0x66)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    let access = if world.broken("already-identical") { Access::READ } else { Access::READ_WRITE };
    let gfns = p2m::GfnRange::with_len(Gfn::containing(OWN_REGION), 2).ok_or("no range")?;
    let entry =
        p2m::Entry { p2m_type: P2mType::MmioDirect, mfn: Some(p2m::Mfn::containing(OWN_REGION)), access };
    world.with_space(GUEST, |space| p2m::P2m::map(space, gfns, entry))?.map_err(text)?;
    world.host.policy.flush_domain(GUEST).map_err(text)?;
    let before = memory::frames().counts();
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    let written = world.with_space(GUEST, AddressSpace::take_flush)?;
    ensure!(memory::frames().counts() == before && written.is_none(), "something was written: {written:?}");
    world.write_arrives(OWN, OWN_REGION, 0x66)?;
    world.host.policy.deassign(&[OWN], GUEST, &mut |_| {}).map_err(text)?;
    ensure!(is_mapped(world, GUEST, OWN_REGION)?, "the mapping that was there before is gone");
    Ok(String::from("nothing was written, the DMA arrived, and the mapping outlives the device"))
}

/// The guest's mapping goes, the device's own region stays reachable for it.
pub fn de_assign(world: &mut World) -> Outcome {
    let outcome = de_assign_inner(world);
    world.restore(outcome)
}

fn de_assign_inner(world: &mut World) -> Outcome {
    world.load(OWN, 0x77)?;
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write(OWN, GUEST_RAM)?;
    ensure!(ram.is_filled(0, LEN, 0x77), "the DMA to the guest's RAM did not arrive before");
    ram.fill(0, LEN, 0);
    if !world.broken("de-assign") {
        world.host.policy.deassign(&[OWN], GUEST, &mut |_| {}).map_err(text)?;
    }
    ensure!(!is_mapped(world, GUEST, OWN_REGION)?, "the guest still has the region");
    ensure!(world.host.policy.owner(OWN) == Some(Owner::Quarantine), "it is not in quarantine");
    world.faults();
    world.write(OWN, GUEST_RAM)?;
    let faults = world.faults();
    ensure!(ram.is_filled(0, LEN, 0), "the DMA to the guest's RAM still arrives");
    ensure!(
        faults.len() == 1 && faults.iter().all(|fault| fault.address == GUEST_RAM),
        "{}",
        sentences(&faults)
    );
    world.write_arrives(OWN, OWN_REGION, 0x77)?;
    Ok(format!("in quarantine {OWN} reaches its region; to the guest's RAM: {}", sentences(&faults)))
}
