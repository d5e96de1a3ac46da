//! Devices taken from a guest: given back, or left when the guest goes.

use alloc::format;

use xen_iommu::{Mode, Owner};

use super::dma::{LEN, one_blocked_write, sentences};
use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::devices::edu::Direction;
use crate::memory;
use crate::scenario::layout::{OWN, OWN_REGION};
use crate::scenario::step::{Context, Outcome};

/// The guest's mapping goes, the device's own region stays reachable for it.
pub fn de_assign(world: &mut World) -> Outcome {
    world.load(OWN, 0x77)?;
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write(OWN, GUEST_RAM)?;
    ensure!(ram.is_filled(0, LEN, 0x77), "the DMA to the guest's RAM did not arrive before");
    ram.fill(0, LEN, 0);
    if !world.broken("de-assign") {
        world.host.policy.deassign(&[OWN], GUEST, &mut |_| {}).map_err(text)?;
    }
    ensure!(!world.is_mapped(GUEST, OWN_REGION)?, "the guest still has the region");
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

/// The device takes its time for a DMA: the domain is gone before it ends. Nothing arrives where the domain's
/// memory was, the unit says what it blocked, the domain's tables are free, and the device reaches its region
/// from quarantine.
pub fn destroy_mid_dma(world: &mut World) -> Outcome {
    world.load(OWN, 0x88)?;
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OWN], Mode::Strict).map_err(text)?;
    world.write(OWN, GUEST_RAM)?;
    ensure!(ram.is_filled(0, LEN, 0x88), "the DMA to the guest's RAM did not arrive before");
    ram.fill(0, LEN, 0);
    world.faults();

    let tables = world.with_space(GUEST, |space| space.table_frames())?;
    let before = memory::frames().counts().free;
    world.edu(OWN)?.start(Direction::ToMemory, GUEST_RAM, LEN).map_err(text)?;
    let destroyed = if world.broken("destroy-mid-dma") {
        Ok(())
    } else {
        // Its tables are dropped at once, and their frames may be anybody's from here on.
        world.host.policy.destroy_domain(GUEST, &mut |_| {}).map(drop).map_err(text)
    };
    let was_busy = world.edu(OWN)?.is_busy();
    world.edu(OWN)?.finish().map_err(text)?;
    destroyed?;
    ensure!(was_busy, "the DMA was over before the domain was destroyed");
    ensure!(ram.is_filled(0, LEN, 0), "the DMA arrived where the destroyed domain's memory was");
    let freed = memory::frames().counts().free - before;
    ensure!(freed == tables, "{freed} of the domain's {tables} table frames came back");
    let owner = world.host.policy.owner(OWN);
    ensure!(owner == Some(Owner::Quarantine), "{OWN} belongs to {owner:?}");
    let faults = world.faults();
    let fault = one_blocked_write(&faults, OWN, GUEST_RAM)?;
    world.write_arrives(OWN, OWN_REGION, 0x88)?;
    Ok(format!("{fault}; from quarantine it reaches its region"))
}
