//! What toolstacks do: they give a group by calls that name one device each (xl pci-assignable-add, then xl
//! pci-attach), and some always say relaxed.

use alloc::format;
use alloc::string::String;

use xen_iommu::abi::Errno;
use xen_iommu::{AssignError, DomId, Isolation, Link, Mode, Note, Owner, Sbdf, Together};

use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::host::HARDWARE_DOMAIN;
use crate::scenario::layout::{OWN, SHARED, SHARED_REGION, SOUTH_BRIDGE};
use crate::scenario::step::{Context, Outcome};

const LOADS: [u8; 2] = [0xc1, 0xc2];

/// One after the other into quarantine, to the guest, and back. Whoever waits while the guest has the other
/// does no DMA.
pub fn assignable_add(world: &mut World) -> Outcome {
    let [first, second] = SHARED;
    for (device, byte) in SHARED.into_iter().zip(LOADS) {
        world.load(device, byte)?;
    }
    for device in SHARED {
        world.assign_to(&[device], DomId::IO, Mode::Relaxed).map_err(text)?;
        owned_by(world, device, Owner::Quarantine)?;
    }
    let _ram = world.guest(GUEST_RAM, 4)?;

    let notes = world.assign(&[first], Mode::Strict).map_err(text)?;
    owned_by(world, first, Owner::Domain(GUEST))?;
    ensure!(
        notes.contains(&Note::Quiesced(second)),
        "nothing says that the DMA of {second} is off: {notes:?}"
    );
    if world.broken("assignable-add") {
        world.inventory.pci.set_bus_master(second.into(), true);
    } else {
        ensure!(world.is_off(second), "{second} waits, and may master the bus");
    }
    world.write_arrives(first, SHARED_REGION, LOADS[0])?;
    world.write_is_off(second, SHARED_REGION)?;

    world.assign(&[second], Mode::Strict).map_err(text)?;
    for (device, byte) in SHARED.into_iter().zip(LOADS) {
        owned_by(world, device, Owner::Domain(GUEST))?;
        world.write_arrives(device, SHARED_REGION, byte)?;
    }

    let policy = &world.host.policy;
    policy.deassign(&[first], GUEST, &mut |_| {}).map_err(text)?;
    owned_by(world, first, Owner::Quarantine)?;
    ensure!(world.is_off(first), "{first} was given back before {second}, and may master the bus");
    world.write_is_off(first, SHARED_REGION)?;
    world.write_arrives(second, SHARED_REGION, LOADS[1])?;

    let policy = &world.host.policy;
    policy.deassign(&[second], GUEST, &mut |_| {}).map_err(text)?;
    ensure!(!world.is_mapped(GUEST, SHARED_REGION)?, "the guest still has the region");
    for (device, byte) in SHARED.into_iter().zip(LOADS) {
        // xl pci-assignable-remove.
        world.host.policy.deassign(&[device], DomId::IO, &mut |_| {}).map_err(text)?;
        owned_by(world, device, Owner::Domain(HARDWARE_DOMAIN))?;
        world.write_arrives(device, SHARED_REGION, byte)?;
    }
    Ok(format!(
        "{first} and {second} by way of quarantine to {GUEST} and back, one by one; \
         the DMA of the one that waited was off"
    ))
}

/// A note that names where isolation ends, or EPERM where it is required. The south bridge's functions have
/// no region, so that nothing else links them.
pub fn isolation(world: &mut World) -> Outcome {
    let [at, _, device] = SOUTH_BRIDGE;
    let device = if world.broken("isolation") { OWN } else { device };
    let _ram = world.guest(GUEST_RAM, 4)?;
    let required = world.host.policy.isolation() == Isolation::Require;
    match world.assign(&[device], Mode::Relaxed) {
        Ok(notes) if !required => {
            let is_named = |note: &&Note| match note {
                Note::NotIsolated { device: named, at: end, .. } => *named == device && *end == at,
                _ => false,
            };
            let note = notes.iter().find(is_named);
            Ok(format!("{}", note.ok_or_else(|| format!("no note says where isolation ends: {notes:?}"))?))
        }
        Err(error @ AssignError::Group(Together { link: Link::NotIsolated(end), .. })) if required => {
            ensure!(end == at, "isolation ends at {end} by it");
            ensure!(Errno::from(&error) == Errno::EPERM, "it is {:?}", Errno::from(&error));
            Ok(format!("EPERM: {error}"))
        }
        Ok(_) => Err(format!("{device} was given alone, though isolation is required")),
        Err(error) => Err(format!("refused, whether or not isolation is required: {error}")),
    }
}

fn owned_by(world: &World, device: Sbdf, wanted: Owner) -> Result<(), String> {
    let owner = world.host.policy.owner(device);
    ensure!(owner == Some(wanted), "{device} belongs to {owner:?} instead of {wanted}");
    Ok(())
}
