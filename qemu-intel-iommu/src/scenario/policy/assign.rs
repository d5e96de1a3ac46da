//! Devices given to a guest: alone, together, refused.

use alloc::format;

use xen_iommu::abi::Errno;
use xen_iommu::{AssignError, HardwareError, Holder, Link, Mode, Owner, Together};

use super::dma::{LEN, one_blocked_write, sentences};
use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::devices::nvme::{Completion, Nvme, PAGE, Page};
use crate::host::{HARDWARE_DOMAIN, map_ram};
use crate::memory::Shared;
use crate::scenario::layout::{
    BEHIND, BEHIND_REGION, BRIDGE_ID, NVME, OWN, OWN_REGION, SHARED, SHARED_REGION,
};
use crate::scenario::step::{Context, Outcome};

/// Unoccupied, so mapped 1:1; DMA to it arrives; the hardware domain has lost it.
pub fn own_region(world: &mut World) -> Outcome {
    world.load(OWN, 0x5a)?;
    ensure!(
        world.is_mapped(HARDWARE_DOMAIN, OWN_REGION)?,
        "the hardware domain does not have the region before"
    );
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    ensure!(world.is_mapped(GUEST, OWN_REGION)?, "the region is not mapped 1:1 as p2m_mmio_direct");
    ensure!(!world.is_mapped(HARDWARE_DOMAIN, OWN_REGION)?, "the hardware domain still has the region");
    if world.broken("own-region") {
        world.spoil(OWN_REGION)?;
    }
    world.write_arrives(OWN, OWN_REGION, 0x5a)?;
    Ok(format!("{OWN} is {GUEST}'s; {LEN} bytes arrived at {OWN_REGION:#x}, which only {GUEST} maps now"))
}

/// Memory outside stays as it is, and the fault names source id, address and reason.
pub fn outside_blocked(world: &mut World) -> Outcome {
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
    let fault = one_blocked_write(&faults, OWN, outside.start())?;
    // The page after the region's last is outside too.
    let after = OWN_REGION + 0x2000;
    world.write(OWN, after)?;
    let faults = world.faults();
    ensure!(
        faults.len() == 1 && faults.iter().all(|fault| fault.address == after),
        "right after the region: {}",
        sentences(&faults)
    );
    Ok(format!("{fault}"))
}

/// EPERM, naming the region and the other device.
pub fn shared_alone(world: &mut World) -> Outcome {
    let [alone, other] = SHARED;
    let _ram = world.guest(GUEST_RAM, 4)?;
    let mode = if world.broken("shared-alone") { Mode::Relaxed } else { Mode::Strict };
    match world.assign(&[alone], mode) {
        Ok(notes) => Err(format!("{alone} was assigned alone: {notes:?}")),
        Err(
            error @ AssignError::Group(Together {
                device,
                other: named,
                holder: Holder::HardwareDomain(HARDWARE_DOMAIN),
                link: Link::SharedRegion(region),
                ..
            }),
        ) => {
            ensure!(device == alone && named == other, "{device} and {named} are named");
            ensure!(region.base == SHARED_REGION, "region {region} is named");
            ensure!(Errno::from(&error) == Errno::EPERM, "it is {:?}", Errno::from(&error));
            ensure!(!world.is_mapped(GUEST, SHARED_REGION)?, "the region is mapped for it all the same");
            Ok(format!("EPERM: {error}"))
        }
        Err(error) => Err(format!("refused for another reason: {error}")),
    }
}

/// The group moves as one, and the region stays one domain's.
pub fn shared_together(world: &mut World) -> Outcome {
    for (device, byte) in SHARED.into_iter().zip([0x11, 0x22]) {
        world.load(device, byte)?;
    }
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&SHARED, Mode::Strict).map_err(text)?;
    for (device, byte) in SHARED.into_iter().zip([0x11, 0x22]) {
        world.write_arrives(device, SHARED_REGION, byte)?;
        if world.broken("shared-together") {
            world.spoil(SHARED_REGION)?;
        }
    }
    let owners = SHARED.map(|device| world.host.policy.owner(device));
    ensure!(owners == [Some(Owner::Domain(GUEST)); 2], "the owners are {owners:?}");
    ensure!(!world.is_mapped(HARDWARE_DOMAIN, SHARED_REGION)?, "the hardware domain still has the region");
    Ok(format!("{} and {} are {GUEST}'s, and both wrote to {SHARED_REGION:#x}", SHARED[0], SHARED[1]))
}

/// One requester id, one domain: alone even relaxed is refused, together they go.
pub fn behind_bridge(world: &mut World) -> Outcome {
    let [device, other] = BEHIND;
    world.load(device, 0x33)?;
    world.load(other, 0x44)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    match world.assign(&[device], Mode::Relaxed) {
        Err(AssignError::Group(Together { other: named, link: Link::RequesterId(source), .. })) => {
            ensure!(named == other && source == BRIDGE_ID, "{named} and {source} are named");
        }
        Err(error) => return Err(format!("refused for another reason: {error}")),
        Ok(_) => return Err(format!("{device} was assigned without {other}")),
    }
    world.assign(&BEHIND, Mode::Strict).map_err(text)?;
    if world.broken("behind-bridge") {
        world.spoil(BEHIND_REGION)?;
    }
    world.write_arrives(device, BEHIND_REGION, 0x33)?;
    // The other has no region of its own, but hardware cannot tell the two apart.
    world.write_arrives(other, BEHIND_REGION, 0x44)?;
    world.write(other, 0x2000)?;
    let faults = world.faults();
    let named = faults.iter().all(|fault| fault.source == BRIDGE_ID && fault.address == 0x2000);
    ensure!(faults.len() == 1 && named, "the fault outside: {}", sentences(&faults));
    Ok(format!("{device} and {other} are {GUEST}'s; a DMA outside shows as 0000:01:00.0"))
}

/// A controller's queues and data at guest addresses, which translation leads to the guest's RAM.
pub fn nvme(world: &mut World) -> Outcome {
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[NVME], Mode::Strict).map_err(text)?;
    let nvme = Nvme::open(&world.inventory.pci, NVME.into()).map_err(text)?;
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

/// NotTranslating, naming the unit; with translation on again it is given.
pub fn translation_off(world: &mut World) -> Outcome {
    world.load(OWN, 0xab)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    if !world.broken("translation-off") {
        // What runs goes on: the hardware domain's memory is where its devices look for it.
        world.switches_on_again = true;
        world.host.switch_off()?;
    }
    let refused = match world.assign(&[OWN], Mode::Strict) {
        Err(error @ AssignError::Hardware { device: OWN, error: HardwareError::NotTranslating { .. } }) => {
            error
        }
        Err(error) => return Err(format!("refused for another reason: {error}")),
        Ok(_) => return Err(format!("{OWN} was given to {GUEST}")),
    };
    ensure!(!world.is_mapped(GUEST, OWN_REGION)?, "the region is mapped all the same");
    let owner = world.host.policy.owner(OWN);
    ensure!(owner == Some(Owner::Domain(HARDWARE_DOMAIN)), "{OWN} belongs to {owner:?}");
    world.switches_on_again = false;
    world.host.switch_on()?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write_arrives(OWN, OWN_REGION, 0xab)?;
    Ok(format!("{refused}; with translation on it is given"))
}
