//! The machine layer on trial: exceptions, time, frames, mappings, and every device driver, without any policy.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use log::LevelFilter;

use super::machine::EDUS;
use super::{Context, Outcome, Step, ensure, text};
use crate::boot::traps;
use crate::cmdline::Options;
use crate::devices::DeviceError;
use crate::devices::edu::{Direction, Edu};
use crate::devices::nvme::{Completion, Nvme, PAGE, Page};
use crate::devices::uhci::Uhci;
use crate::interrupts::{self, Instant, Vector};
use crate::machine::{Machine, address};
use crate::memory::{self, Access, FRAME, FrameError, Mmio, Shared, paging};

/// What edu devices transfer, in bytes: nearly all that they can, in whole words.
const TRANSFER: u64 = 4088;

/// The frame allocator.
pub const FRAMES: Step<Machine> = Step {
    name: "frames",
    title: "frames are zeroed, counted, and refused when they are not to be had",
    run: frames,
};

/// The page tables, at a few places.
pub const MAPPINGS: Step<Machine> = Step {
    name: "mappings",
    title: "every part of the image is mapped with the access that it needs",
    run: mappings,
};

/// The steps.
pub const STEPS: &[Step<Machine>] = &[
    Step {
        name: "machine",
        title: "memory map and PCI devices are those of the machine that the steps need",
        run: super::machine::check,
    },
    Step {
        name: "command-line",
        title: "every word of a command line is read, and no other",
        run: command_line,
    },
    Step {
        name: "breakpoint",
        title: "a breakpoint exception returns to the next instruction",
        run: breakpoint,
    },
    Step { name: "clock", title: "halting for a time takes that time", run: clock },
    Step {
        name: "lost-interrupt",
        title: "an interrupt that never comes ends the wait",
        run: lost_interrupt,
    },
    FRAMES,
    MAPPINGS,
    super::direct_map::STEP,
    Step {
        name: "reserved-memory",
        title: "memory that the firmware keeps is memory, and usable RAM is not taken for it",
        run: reserved,
    },
    Step {
        name: "edu-dma",
        title: "every edu device moves data through its buffer, with an interrupt for each transfer",
        run: edu_dma,
    },
    Step {
        name: "edu-silent",
        title: "a transfer without an interrupt ends the wait with an error",
        run: edu_silent,
    },
    Step {
        name: "bus-master-off",
        title: "a device that may not master the bus leaves memory alone",
        run: bus_master_off,
    },
    Step {
        name: "nvme-identify",
        title: "the NVMe controller writes what it is to memory",
        run: nvme_identify,
    },
    Step {
        name: "uhci-running",
        title: "the firmware left the UHCI controller running in memory that it keeps",
        run: uhci_running,
    },
    Step { name: "leaks", title: "every frame that the steps took was given back", run: leaks },
];

fn command_line(machine: &mut Machine) -> Outcome {
    let lines = [
        ("", [None, None, None], (false, false), ""),
        (
            "  rmrr=0xfff4-0xfff5=00:07.0 log=trace omit=uhci rmrr=e8=0:1d.0;f0=1:2 ",
            [Some("0xfff4-0xfff5=00:07.0"), Some("e8=0:1d.0;f0=1:2"), None],
            (true, false),
            "",
        ),
        (
            "list-steps stand-in-unit=0xfed90000 break=frames scenario=x scenario=table",
            [None; 3],
            (false, true),
            "table",
        ),
        ("rmrr OMIT=uhci omit= list-steps=1 stand-in-unit=fed90000 =", [None; 3], (false, false), ""),
    ];
    for (line, rmrr, (omits, lists), scenario) in lines {
        let line = if machine.broken("command-line") { line.split_at(line.len() / 2).0 } else { line };
        let read = Options::new(line);
        let mut values = read.rmrr();
        let found = [values.next(), values.next(), values.next()];
        ensure!(found == rmrr, "the regions of {line:?} are {found:?}");
        ensure!(read.omits_uhci() == omits && read.list_steps() == lists, "the flags of {line:?}");
        ensure!(
            read.scenario().unwrap_or_default() == scenario,
            "the scenario of {line:?} is {:?}",
            read.scenario()
        );
        let unit = lists.then_some(0xfed9_0000);
        ensure!(read.stand_in_unit() == unit, "the unit of {line:?} is {:#x?}", read.stand_in_unit());
        ensure!(read.broken("frames") == lists, "the broken steps of {line:?}");
        let level = if omits { LevelFilter::Trace } else { LevelFilter::Info };
        ensure!(read.log_level() == level, "the log level of {line:?} is {}", read.log_level());
    }
    let unknown =
        Options::new("rmrr OMIT=uhci omit= list-steps=1 stand-in-unit=fed90000 = log=loud").unknown().count();
    ensure!(unknown == 7, "{unknown} of 7 words are told to mean nothing");
    Ok(format!("{} lines", lines.len()))
}

fn breakpoint(machine: &mut Machine) -> Outcome {
    let before = traps::breakpoints();
    let sum: f64 = EDUS.iter().map(|(bus, device)| f64::from(bus + device)).sum();
    if !machine.broken("breakpoint") {
        traps::breakpoint();
    }
    let again: f64 = EDUS.iter().map(|(bus, device)| f64::from(bus + device)).sum();
    ensure!(traps::breakpoints() == before + 1, "{} breakpoints were taken", traps::breakpoints() - before);
    ensure!(sum.to_bits() == again.to_bits(), "floating point registers changed: {sum} and {again}");
    Ok(format!("taken and returned from, {} in all", traps::breakpoints()))
}

fn clock(machine: &mut Machine) -> Outcome {
    let time = Duration::from_millis(10);
    let start = Instant::now();
    if !machine.broken("clock") {
        interrupts::sleep(time);
    }
    let passed = start.elapsed();
    ensure!(
        passed >= time && passed < time * 2,
        "halted for {} us instead of {}",
        passed.as_micros(),
        time.as_micros()
    );
    Ok(format!("{} us", time.as_micros()))
}

fn lost_interrupt(machine: &mut Machine) -> Outcome {
    let vector = Vector::allocate().ok_or("no vector is left")?;
    let timeout = Duration::from_millis(50);
    let start = Instant::now();
    // Nothing raises this vector: more than 0 is never seen.
    let waited = if machine.broken("lost-interrupt") {
        interrupts::wait(timeout, timeout, || true)
    } else {
        vector.wait(vector.count(), timeout)
    };
    let passed = start.elapsed();
    match waited {
        Err(error) if passed >= timeout => Ok(format!("{error}")),
        Err(error) => Err(format!("{error}, told after {} us", passed.as_micros())),
        Ok(()) => Err("an interrupt was seen that nobody raised".into()),
    }
}

fn frames(machine: &mut Machine) -> Outcome {
    let frames = memory::frames();
    let before = frames.counts();
    let one = frames.alloc().ok_or("no frame is left")?;
    let run = frames.alloc_contiguous(16, 16 * FRAME).ok_or("no 16 frames in a row are left")?;
    ensure!(run.is_multiple_of(16 * FRAME), "a run at {run:#x} when asked for one aligned to 64 KiB");
    let taken = frames.counts();
    ensure!(taken.free + 17 == before.free, "{taken} after taking 17 frames of {before}");
    ensure!(
        frames.take(one..one + FRAME) == Err(FrameError::InUse(one)),
        "the frame at {one:#x} was taken twice"
    );

    ensure!(frames.is_taken(one), "the frame at {one:#x} is not known to be taken");
    // What was written must not be seen by the next owner.
    frames.free(one).map_err(text)?;
    ensure!(frames.free(one) == Err(FrameError::AlreadyFree(one)), "the frame at {one:#x} was freed twice");
    ensure!(!frames.is_taken(one), "the frame at {one:#x} is not known to be free");
    frames.take(one..one + FRAME).map_err(text)?;
    frames.free(one).map_err(text)?;
    frames.free_range(run..run + 16 * FRAME).map_err(text)?;
    let dirty = Shared::alloc(1).ok_or("no frame is left")?;
    let place = dirty.start();
    dirty.fill(0, FRAME, 0xa5);
    drop(dirty);
    let taken = Shared::take(place..place + FRAME).map_err(text)?;
    ensure!(taken.is_filled(0, FRAME, 0xa5), "the frame at {place:#x} was touched while it was free");
    drop(taken);
    let again = Shared::alloc(1).ok_or("no frame is left")?;
    ensure!(
        again.start() == place,
        "a frame at {:#x} when the lowest free one is at {place:#x}",
        again.start()
    );
    ensure!(again.is_filled(0, FRAME, 0), "the frame at {place:#x} was handed out with somebody else's data");
    drop(again);

    let image = memory::image();
    for kept in [0, image.all.start, image.all.end - FRAME, 0xfed9_0000, 1 << 46] {
        ensure!(
            frames.take(kept..kept + FRAME) == Err(FrameError::NotManaged(kept)),
            "the frame at {kept:#x} could be taken"
        );
    }
    ensure!(frames.free(one + 8) == Err(FrameError::Unaligned(one + 8)), "half a frame could be freed");
    let _spoilt = machine.broken("frames").then(|| Shared::alloc(1));
    let after = frames.counts();
    ensure!(after == before, "{after} instead of {before}");
    Ok(format!("{after}"))
}

fn mappings(machine: &mut Machine) -> Outcome {
    let image = memory::image();
    let null = if machine.broken("mappings") { FRAME } else { 0 };
    let usable = memory::start_info().map.usable_pages().last().ok_or("no usable RAM")?;
    let expected = [
        ("page 0", null, None),
        ("the first instruction", image.code.start, Some(Access::Code)),
        ("the last page of code", image.code.end - 1, Some(Access::Code)),
        ("the first constant", image.constants.start, Some(Access::ReadOnly)),
        ("the first datum", image.constants.end, Some(Access::Memory)),
        ("the page below the stack", image.guard.start, None),
        ("the stack", image.guard.end, Some(Access::Memory)),
        ("what follows the image", image.all.end, Some(Access::Memory)),
        ("the last usable byte", usable.end - 1, Some(Access::Memory)),
        ("the local APIC", 0xfee0_0000, Some(Access::Registers)),
        ("an address beyond all memory", 1 << 46, None),
    ];
    for (what, place, access) in expected {
        let found = paging::access(place);
        ensure!(found == access, "{what} at {place:#x} is mapped as {found:?} instead of {access:?}");
    }
    ensure!(Mmio::map(usable.end - FRAME..usable.end).is_err(), "RAM could be mapped as registers");
    Ok(format!("{} places", expected.len()))
}

/// The middle of the memory that the firmware keeps at the top of low RAM: payload of the tables that pad it.
fn pad() -> Result<Shared, alloc::string::String> {
    Shared::kept_by_firmware(0xffe_4000..0xffe_6000).map_err(text)
}

fn reserved(machine: &mut Machine) -> Outcome {
    let pad = pad()?;
    pad.fill(0, FRAME, 0x5a);
    if machine.broken("reserved-memory") {
        pad.write8(FRAME - 1, 0);
    }
    ensure!(pad.is_filled(0, FRAME, 0x5a), "{:#x} does not keep what is written to it", pad.start());
    pad.copy_in(9, b"kept");
    let mut word = [0; 6];
    pad.copy_out(8, &mut word);
    ensure!(&word == b"ZkeptZ", "{} came back", word.escape_ascii());
    pad.fill(0, FRAME, 0);
    let usable = memory::start_info().map.usable_pages().last().ok_or("no usable RAM")?;
    ensure!(
        Shared::kept_by_firmware(usable.end - FRAME..usable.end).is_err(),
        "usable RAM was taken for the firmware's"
    );
    ensure!(
        Shared::kept_by_firmware(0xb000_0000..0xb000_1000).is_err(),
        "device registers were taken for memory"
    );
    Shared::kept_by_firmware(0xe_8000..0xf_0000).map_err(text)?;
    Ok(format!("[{:#x},{:#x}) holds what is written to it", pad.start(), pad.start() + pad.size()))
}

fn edu_dma(machine: &mut Machine) -> Outcome {
    let memory = Shared::alloc(2).ok_or("no frames are left")?;
    let (from, to) = (memory.start(), memory.start() + FRAME);
    let mut edus = Vec::new();
    for (bus, device) in EDUS {
        edus.push(Edu::open(&machine.pci, address(bus, device, 0)).map_err(text)?);
    }
    for (edu, salt) in edus.iter_mut().zip(1u64..) {
        for at in (0..TRANSFER).step_by(8) {
            memory.write64(at, at.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt);
        }
        memory.fill(FRAME, FRAME, 0);
        let before = edu.interrupts();
        edu.transfer(Direction::FromMemory, from, TRANSFER).map_err(|error| format!("{edu}: {error}"))?;
        if machine.options.broken("edu-dma") {
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

fn edu_silent(machine: &mut Machine) -> Outcome {
    let memory = Shared::alloc(1).ok_or("no frame is left")?;
    let mut edu = Edu::open(&machine.pci, address(0, 3, 0)).map_err(text)?;
    if machine.broken("edu-silent") {
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

fn bus_master_off(machine: &mut Machine) -> Outcome {
    let memory = Shared::alloc(1).ok_or("no frame is left")?;
    let place = address(0, 4, 0);
    let mut edu = Edu::open(&machine.pci, place).map_err(text)?;
    memory.fill(0, FRAME, 0x11);
    edu.transfer(Direction::FromMemory, memory.start(), TRANSFER).map_err(text)?;
    memory.fill(0, FRAME, 0xee);
    machine.pci.set_bus_master(place, false);
    ensure!(!machine.pci.is_bus_master(place), "it still masters the bus");
    machine.pci.set_bus_master(place, machine.broken("bus-master-off"));
    // Its interrupt is a write to memory too, and cannot arrive.
    edu.start(Direction::ToMemory, memory.start(), TRANSFER).map_err(text)?;
    let finished = edu.finish();
    machine.pci.set_bus_master(place, true);
    ensure!(finished.is_err(), "its interrupt arrived");
    ensure!(memory.is_filled(0, FRAME, 0xee), "it wrote to memory");
    edu.transfer(Direction::ToMemory, memory.start(), TRANSFER).map_err(text)?;
    ensure!(memory.is_filled(0, TRANSFER, 0x11), "it does not write to memory again");
    Ok("neither its write nor its interrupt arrived; both did once it may".into())
}

fn nvme_identify(machine: &mut Machine) -> Outcome {
    let memory = Shared::alloc(3).ok_or("no frames are left")?;
    let nvme = Nvme::open(&machine.pci, address(0, 7, 0)).map_err(text)?;
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
    let expected: &[u8] = if machine.broken("nvme-identify") { b"spoilt" } else { b"rdm" };
    ensure!(serial == expected, "the serial number is {}", serial.escape_ascii());
    Ok(format!("serial number {}, 20 commands", serial.escape_ascii()))
}

fn uhci_running(machine: &mut Machine) -> Outcome {
    let uhci = Uhci::open(&machine.pci, address(0, 0x1d, 0)).map_err(text)?;
    if machine.broken("uhci-running") {
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

fn leaks(machine: &mut Machine) -> Outcome {
    let _spoilt = machine.broken("leaks").then(|| Shared::alloc(1));
    let (before, after) = (machine.frames, memory::frames().counts());
    ensure!(after == before, "{after} instead of {before}");
    Ok(format!("{after}"))
}
