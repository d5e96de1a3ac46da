//! A device that comes into the running machine, by QEMU's `device_add`, and goes again.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use pci_types::PciAddress;
use xen_iommu::{AssignError, Holder, Link, Mode, Note, Owner, Sbdf, Together};

use super::dma::{LEN, sentences};
use super::world::{GUEST, GUEST_RAM, World};
use crate::check::{ensure, text};
use crate::devices::edu::{self, Direction};
use crate::devices::monitor::Monitor;
use crate::host::{HARDWARE_DOMAIN, new_space};
use crate::memory::Shared;
use crate::processor::interrupts::Instant;
use crate::scenario::layout::{OWN as OTHER, OWN_REGION as REGION};
use crate::scenario::step::{Context, Outcome};

/// The root port with the slot, and what comes into it; the command line gives it the region of [`OTHER`]
/// too.
const PORT: Sbdf = Sbdf::new(0, 0, 8, 0);
const HOT: Sbdf = Sbdf::new(0, 2, 0, 0);
/// How long QEMU may take for a device, in the machine's time.
const PATIENCE: Duration = Duration::from_secs(20);

/// The members of a device's group, but for itself.
fn companions(world: &World, device: Sbdf) -> Vec<Sbdf> {
    let mut members = Vec::new();
    world.host.policy.for_each_in_group(device, |member, _| members.push(member));
    members.retain(|member| *member != device);
    members
}

fn is_there(world: &World) -> bool {
    world.inventory.pci.config().read32(PciAddress::from(HOT), 0) & 0xffff != 0xffff
}

/// Waits until the device is there, or is not.
fn wait(world: &World, there: bool, said: &str) -> Result<(), String> {
    let begun = Instant::now();
    while is_there(world) != there {
        let what = if there { "came" } else { "went" };
        ensure!(begun.elapsed() < PATIENCE, "no device {what}; the monitor says {said:?}");
    }
    Ok(())
}

/// Has QEMU put the device into the slot, switches the slot on, and gives the device its addresses.
fn plug(world: &mut World) -> Result<(), String> {
    let said =
        Monitor::open().ask("device_add edu,id=hot,bus=empty,addr=0.0,dma_mask=0xffffffffffffffff", PATIENCE);
    let pci = &mut world.inventory.pci;
    pci.set_slot_power(PORT.into(), true).map_err(text)?;
    wait(world, true, &said)?;
    let pci = &mut world.inventory.pci;
    pci.find_behind(PORT.into());
    let ids = pci.function(HOT.into()).map(|function| (function.vendor, function.device)).map_err(text)?;
    ensure!(ids == edu::IDS, "{HOT} is {ids:04x?}");
    pci.place_behind(PORT.into(), HOT.into(), 0).map_err(text)
}

/// Switches the slot off, which makes QEMU take the device out.
fn unplug(world: &mut World) -> Result<(), String> {
    let said = Monitor::open().ask("device_del hot", PATIENCE);
    world.inventory.pci.set_slot_power(PORT.into(), false).map_err(text)?;
    wait(world, false, &said)?;
    world.inventory.pci.find_again();
    world.forget_edu(HOT);
    Ok(())
}

fn add(world: &World) -> Result<(Owner, Vec<Note>), String> {
    let mut notes = Vec::new();
    let mut take = |note: Note| {
        log::info!(target: "policy", "{note}");
        notes.push(note);
    };
    let (policy, pci) = (&world.host.policy, &world.inventory.pci);
    policy.with_control(|control| control.learn(pci));
    // A scope that led through the port, had it had no bus at boot, would mean something now.
    if let Some(dmar) = &world.host.dmar {
        let mut report = |late| log::info!(target: "policy", "{late:?}");
        policy.resolve_scopes(dmar, pci.config(), new_space, &mut report, &mut take);
    }
    let function = pci.function(HOT.into()).map_err(text)?;
    let owner = policy.add_device(&function.policy, new_space, &mut take).map_err(text)?;
    Ok((owner, notes))
}

/// The region is known, and nobody's.
pub fn empty_slot(world: &mut World) -> Outcome {
    let device = if world.broken("empty-slot") { OTHER } else { HOT };
    let policy = &world.host.policy;
    let region = policy.registry().regions_of(device).next().ok_or("the device has no region")?;
    ensure!(!is_there(world), "{HOT} is there already");
    ensure!(!policy.has_present_device(region), "a device of region {region} is present");
    let verdict = text(region.verdict());
    ensure!(verdict.starts_with("dormant"), "region {region} is {verdict}");
    ensure!(companions(world, OTHER).is_empty(), "{OTHER} is not alone");
    Ok(format!("region {region} of {HOT}: {verdict}"))
}

/// It belongs to the hardware domain, as its group does, and its region is active.
pub fn hot_add(world: &mut World) -> Outcome {
    plug(world)?;
    if !world.broken("hot-add") {
        let (owner, _) = add(world)?;
        ensure!(owner == Owner::Domain(HARDWARE_DOMAIN), "it belongs to {owner}");
    }
    let policy = &world.host.policy;
    let group = companions(world, OTHER);
    if world.broken("hot-add") {
        // The steps that follow have a device all the same.
        add(world)?;
    }
    ensure!(group == [HOT], "{OTHER} is together with {group:?}");
    let region = policy.registry().regions_of(HOT).next().ok_or("the device has no region")?;
    ensure!(policy.has_present_device(region), "region {region} sleeps still");
    ensure!(region.owner() == Some(HARDWARE_DOMAIN), "region {region} is mapped for {:?}", region.owner());
    Ok(format!("{HOT} came, and is together with {OTHER} for region {region}"))
}

/// EPERM for one of them.
pub fn hot_alone(world: &mut World) -> Outcome {
    let _ram = world.guest(GUEST_RAM, 4)?;
    let mode = if world.broken("hot-alone") { Mode::Relaxed } else { Mode::Strict };
    match world.assign(&[OTHER], mode) {
        Err(error @ AssignError::Group(Together { other: HOT, link: Link::Overlap(..), .. })) => {
            Ok(text(error))
        }
        Err(error) => Err(format!("refused for another reason: {error}")),
        Ok(_) => Err(format!("{OTHER} was assigned without {HOT}")),
    }
}

/// By memory and the fault register.
pub fn hot_dma(world: &mut World) -> Outcome {
    world.load(HOT, 0x99)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OTHER, HOT], Mode::Strict).map_err(text)?;
    world.faults();
    world.write_arrives(HOT, REGION, 0x99)?;
    let outside = Shared::alloc(1).ok_or("no frame is left")?;
    let to = if world.broken("hot-dma") { GUEST_RAM } else { outside.start() };
    world.write(HOT, to)?;
    let faults = world.faults();
    ensure!(
        faults.len() == 1
            && faults.iter().all(|fault| fault.source == HOT && fault.address == outside.start()),
        "one fault of {HOT} is expected: {}",
        sentences(&faults)
    );
    ensure!(outside.is_filled(0, LEN, 0), "the DMA arrived outside the domain");
    Ok(format!("it arrived at {REGION:#x}; {}", sentences(&faults)))
}

/// The policy forgets it before it goes.
pub fn hot_remove(world: &mut World) -> Outcome {
    if !world.broken("hot-remove") {
        world.host.policy.remove_device(HOT, &mut |_| {}).map_err(text)?;
    }
    unplug(world)?;
    let group = companions(world, OTHER);
    if world.broken("hot-remove") {
        world.host.policy.remove_device(HOT, &mut |_| {}).map_err(text)?;
    }
    ensure!(group.is_empty(), "{OTHER} is together with {group:?}");
    let policy = &world.host.policy;
    ensure!(policy.owner(HOT).is_none(), "{HOT} is known still");
    let region = policy.registry().regions_of(HOT).next().ok_or("the device has no region")?;
    ensure!(
        region.owner().is_none() && !policy.has_present_device(region),
        "region {region} of {HOT} is still mapped for {:?}",
        region.owner()
    );
    alone(world)
}

/// The other can go alone again, and its DMA to its region arrives.
fn alone(world: &mut World) -> Outcome {
    world.load(OTHER, 0x9a)?;
    let _ram = world.guest(GUEST_RAM, 4)?;
    world.assign(&[OTHER], Mode::Strict).map_err(text)?;
    world.write_arrives(OTHER, REGION, 0x9a)?;
    Ok(format!("{HOT} has gone; {OTHER} is assigned alone"))
}

/// It waits, cut off, and goes to the guest once that has given up the other.
pub fn hot_newcomer(world: &mut World) -> Outcome {
    world.load(OTHER, 0x9b)?;
    let ram = world.guest(GUEST_RAM, 4)?;
    if !world.broken("hot-newcomer") {
        world.assign(&[OTHER], Mode::Strict).map_err(text)?;
    }
    plug(world)?;
    // Its driver lets it master the bus, before the policy knows it.
    world.edu(HOT)?;
    let (owner, notes) = add(world)?;
    ensure!(owner == Owner::Quarantine, "it belongs to {owner}");
    let newcomer = Note::Newcomer { device: HOT, other: OTHER, holder: Holder::Guest(GUEST) };
    ensure!(notes.contains(&newcomer), "nothing says why it waits: {notes:?}");
    ensure!(world.is_off(HOT), "{HOT} waits, and may master the bus");
    world.write_is_off(HOT, REGION)?;
    world.write_arrives(OTHER, REGION, 0x9b)?;

    world.host.policy.deassign(&[OTHER], GUEST, &mut |_| {}).map_err(text)?;
    world.assign(&[HOT], Mode::Strict).map_err(text)?;
    ram.fill(0, LEN, 0x9c);
    world.edu(HOT)?.transfer(Direction::FromMemory, GUEST_RAM, LEN).map_err(text)?;
    world.write_arrives(HOT, REGION, 0x9c)?;
    ensure!(world.is_off(OTHER), "{OTHER} waits now, and may master the bus");
    Ok(format!("{newcomer}; once {GUEST} has given up {OTHER}, {HOT} is assigned, and its DMA arrives"))
}
