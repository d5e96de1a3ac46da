//! A domain that goes while its device is at work.

use alloc::format;

use xen_iommu::vtd::{Operation, Reason};
use xen_iommu::{Mode, Owner, Sbdf};

use super::super::{Context, Outcome, ensure, text};
use super::dma::{LEN, sentences};
use super::world::{GUEST, GUEST_RAM, World};
use crate::devices::edu::Direction;
use crate::memory;

const DEVICE: Sbdf = Sbdf::new(0, 0, 3, 0);
const REGION: u64 = 0x0ffe_4000;

/// The device takes its time for a DMA: the domain is gone before it ends. Nothing arrives where the domain's memory was, the unit says what it blocked,
/// the domain's tables are free, and the device reaches its region from quarantine.
pub fn mid_dma(world: &mut World) -> Outcome {
    let outcome = mid_dma_inner(world);
    world.restore(outcome)
}

fn mid_dma_inner(world: &mut World) -> Outcome {
    world.load(DEVICE, 0x88)?;
    let ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[DEVICE], Mode::Strict).map_err(text)?;
    world.write(DEVICE, GUEST_RAM)?;
    ensure!(ram.is_filled(0, LEN, 0x88), "the DMA to the guest's RAM did not arrive before");
    ram.fill(0, LEN, 0);
    world.faults();

    let tables = world.with_space(GUEST, |space| space.table_frames())?;
    let before = memory::frames().counts().free;
    world.edu(DEVICE)?.start(Direction::ToMemory, GUEST_RAM, LEN).map_err(text)?;
    let destroyed = if world.broken("destroy-mid-dma") {
        Ok(())
    } else {
        // Its tables are dropped at once, and their frames may be anybody's from here on.
        world.host.policy.destroy_domain(GUEST, &mut |_| {}).map(drop).map_err(text)
    };
    let was_busy = world.edu(DEVICE)?.is_busy();
    world.edu(DEVICE)?.finish().map_err(text)?;
    destroyed?;
    ensure!(was_busy, "the DMA was over before the domain was destroyed");
    ensure!(ram.is_filled(0, LEN, 0), "the DMA arrived where the destroyed domain's memory was");
    let freed = memory::frames().counts().free - before;
    ensure!(freed == tables, "{freed} of the domain's {tables} table frames came back");
    let owner = world.host.policy.owner(DEVICE);
    ensure!(owner == Some(Owner::Quarantine), "{DEVICE} belongs to {owner:?}");
    let faults = world.faults();
    let [fault] = faults[..] else {
        return Err(format!("one fault is expected: {}", sentences(&faults)));
    };
    ensure!(
        fault.source == DEVICE
            && fault.address == GUEST_RAM
            && fault.operation == Operation::Write
            && fault.reason == Reason::NO_WRITE,
        "another fault than the one expected: {fault}"
    );
    world.write_arrives(DEVICE, REGION, 0x88)?;
    Ok(format!("{fault}; from quarantine it reaches its region"))
}
