//! Every device driver, without any policy.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use crate::check::{ensure, text};
use crate::devices::DeviceError;
use crate::devices::edu::{Direction, Edu};
use crate::devices::nvme::{Completion, Nvme, PAGE, Page};
use crate::devices::uhci::Uhci;
use crate::host::UHCI;
use crate::inventory::Inventory;
use crate::memory::{FRAME, Shared};
use crate::scenario::layout::{EDUS, NVME, OWN, SHARED};
use crate::scenario::step::{Context, Outcome};

/// What edu devices transfer, in bytes: nearly all that they can, in whole words.
const TRANSFER: u64 = 4088;

pub fn edu_dma(inventory: &mut Inventory) -> Outcome {
    let memory = Shared::alloc(2).ok_or("no frames are left")?;
    let (from, to) = (memory.start(), memory.start() + FRAME);
    let mut edus = Vec::new();
    for edu in EDUS {
        edus.push(Edu::open(&inventory.pci, edu.into()).map_err(text)?);
    }
    for (edu, salt) in edus.iter_mut().zip(1u64..) {
        for at in (0..TRANSFER).step_by(8) {
            memory.write64(at, at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt);
        }
        memory.fill(FRAME, FRAME, 0);
        let before = edu.interrupts();
        edu.transfer(Direction::FromMemory, from, TRANSFER).map_err(|error| format!("{edu}: {error}"))?;
        if inventory.broken("edu-dma") {
            memory.write8(17, !memory.read8(17));
        }
        edu.transfer(Direction::ToMemory, to, TRANSFER).map_err(|error| format!("{edu}: {error}"))?;
        let raised = edu.interrupts() - before;
        ensure!(raised == 2, "{edu} raised {raised} interrupts for 2 transfers");
        let differs = (0..TRANSFER).step_by(8).find(|at| memory.read64(*at) != memory.read64(FRAME + at));
        ensure!(differs.is_none(), "{edu} brought something else back at {:#x}", differs.unwrap_or_default());
    }
    Ok(format!("{} devices, {TRANSFER} bytes each way", edus.len()))
}

pub fn edu_silent(inventory: &mut Inventory) -> Outcome {
    let memory = Shared::alloc(1).ok_or("no frame is left")?;
    let mut edu = Edu::open(&inventory.pci, OWN.into()).map_err(text)?;
    if inventory.broken("edu-silent") {
        edu.start(Direction::FromMemory, memory.start(), 64).map_err(text)?;
    } else {
        edu.start_silently(Direction::FromMemory, memory.start(), 64).map_err(text)?;
    }
    ensure!(edu.is_busy(), "the transfer ended at once");
    match edu.finish() {
        Err(error @ DeviceError::TimedOut { .. }) if !edu.is_busy() => Ok(format!("{error}")),
        Err(error) => Err(format!("{error}")),
        Ok(()) => Err("an interrupt arrived".into()),
    }
}

pub fn bus_master_off(inventory: &mut Inventory) -> Outcome {
    let memory = Shared::alloc(1).ok_or("no frame is left")?;
    let place = SHARED[0].into();
    let mut edu = Edu::open(&inventory.pci, place).map_err(text)?;
    memory.fill(0, FRAME, 0x11);
    edu.transfer(Direction::FromMemory, memory.start(), TRANSFER).map_err(text)?;
    memory.fill(0, FRAME, 0xee);
    inventory.pci.set_bus_master(place, false);
    ensure!(!inventory.pci.config().is_bus_master(place), "it still masters the bus");
    inventory.pci.set_bus_master(place, inventory.broken("bus-master-off"));
    // Its interrupt is a write to memory too, and cannot arrive.
    edu.start(Direction::ToMemory, memory.start(), TRANSFER).map_err(text)?;
    let finished = edu.finish();
    inventory.pci.set_bus_master(place, true);
    ensure!(finished.is_err(), "its interrupt arrived");
    ensure!(memory.is_filled(0, FRAME, 0xee), "it wrote to memory");
    edu.transfer(Direction::ToMemory, memory.start(), TRANSFER).map_err(text)?;
    ensure!(memory.is_filled(0, TRANSFER, 0x11), "it does not write to memory again");
    Ok("neither its write nor its interrupt arrived; both did once it may".into())
}

pub fn nvme_identify(inventory: &mut Inventory) -> Outcome {
    let memory = Shared::alloc(3).ok_or("no frames are left")?;
    let nvme = Nvme::open(&inventory.pci, NVME.into()).map_err(text)?;
    let data = 2 * PAGE;
    memory.fill(data, PAGE, 0xff);
    let mut queue = nvme.enable(Page::identity(&memory, 0), Page::identity(&memory, 1)).map_err(text)?;
    // More commands than the queue has entries: it goes round.
    for round in 0..20 {
        memory.fill(data, PAGE, 0xff);
        let completion = queue.identify(memory.start() + data);
        ensure!(completion == Completion::Status(0), "command {round}: {completion}");
        ensure!(!memory.is_filled(data, PAGE, 0xff), "command {round}: the data did not arrive");
    }
    let mut serial = [0; 20];
    memory.copy_out(data + 4, &mut serial);
    let serial = serial.trim_ascii_end();
    let expected: &[u8] = if inventory.broken("nvme-identify") { b"spoilt" } else { b"rdm" };
    ensure!(serial == expected, "the serial number is {}", serial.escape_ascii());
    Ok(format!("serial number {}, 20 commands", serial.escape_ascii()))
}

pub fn uhci_running(inventory: &mut Inventory) -> Outcome {
    let uhci = Uhci::open(&inventory.pci, UHCI.into()).map_err(text)?;
    if inventory.broken("uhci-running") {
        uhci.stop().map_err(text)?;
    }
    ensure!(uhci.is_running(), "it is stopped");
    ensure!(!uhci.has_failed(), "it reports an error");
    let list = uhci.frame_list();
    Shared::kept_by_firmware(list..list + FRAME).map_err(|error| format!("its frame list: {error}"))?;
    let frames = uhci.frames_in(Duration::from_millis(20));
    ensure!((18..=22).contains(&frames), "{frames} frames in 20 ms");
    uhci.stop().map_err(text)?;
    let stopped = uhci.frames_in(Duration::from_millis(20));
    ensure!(!uhci.is_running() && stopped == 0, "it runs on after it was stopped: {stopped} frames in 20 ms");
    Ok(format!("frame list at {list:#x}, {frames} frames in 20 ms, none after it was stopped"))
}
