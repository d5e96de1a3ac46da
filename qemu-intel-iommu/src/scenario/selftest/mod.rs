//! What the policy stands on, on trial: exceptions, time, frames, mappings, and every device driver.

mod command_line;
mod devices;
mod direct_map;
mod memory;
mod processor;

use super::step::{Context, Step};
use super::{layout, leaks};
use crate::inventory::Inventory;

/// The frame allocator.
const FRAMES: Step<Inventory> = Step {
    name: "frames",
    title: "frames are zeroed, counted, and refused when they are not to be had",
    run: memory::frames,
};

/// The page tables, at a few places.
const MAPPINGS: Step<Inventory> = Step {
    name: "mappings",
    title: "every part of the image is mapped with the access that it needs",
    run: memory::mappings,
};

const DIRECT_MAP: Step<Inventory> = Step {
    name: "direct-map",
    title: "the page tables cover every bank of memory, and no page reaches beyond one",
    run: direct_map::check,
};

/// The steps of the scenario `memory`: they need no device, so that the machine may have any memory.
pub const MEMORY: &[Step<Inventory>] = &[DIRECT_MAP, MAPPINGS, FRAMES];

/// The steps of the scenario `selftest`.
pub const STEPS: &[Step<Inventory>] = &[
    layout::step(|inventory| layout::check(inventory)),
    Step {
        name: "command-line",
        title: "every word of a command line is read, and no other",
        run: command_line::command_line,
    },
    Step {
        name: "breakpoint",
        title: "a breakpoint exception returns to the next instruction",
        run: processor::breakpoint,
    },
    Step { name: "clock", title: "halting for a time takes that time", run: processor::clock },
    Step {
        name: "lost-interrupt",
        title: "an interrupt that never comes ends the wait",
        run: processor::lost_interrupt,
    },
    FRAMES,
    MAPPINGS,
    DIRECT_MAP,
    Step {
        name: "reserved-memory",
        title: "memory that the firmware keeps is memory, and usable RAM is not taken for it",
        run: memory::reserved,
    },
    Step {
        name: "edu-dma",
        title: "every edu device moves data through its buffer, with an interrupt for each transfer",
        run: devices::edu_dma,
    },
    Step {
        name: "edu-silent",
        title: "a transfer without an interrupt ends the wait with an error",
        run: devices::edu_silent,
    },
    Step {
        name: "bus-master-off",
        title: "a device that may not master the bus leaves memory alone",
        run: devices::bus_master_off,
    },
    Step {
        name: "nvme-identify",
        title: "the NVMe controller writes what it is to memory",
        run: devices::nvme_identify,
    },
    Step {
        name: "uhci-running",
        title: "the firmware left the UHCI controller running in memory that it keeps",
        run: devices::uhci_running,
    },
    leaks::step(|inventory| leaks::check(inventory.frames, inventory.broken("leaks"))),
];
