//! The reserved-memory policy on real (emulated) devices: each step judged by what memory and the fault
//! registers say afterwards.

mod assign;
mod call;
mod dma;
mod firmware;
mod hotplug;
mod occupied;
mod query;
mod release;
mod table;
mod toolstack;
mod world;

use alloc::format;

use super::step::{self, Context, Step};
use super::{layout, leaks};
use crate::boot::exit::Exit;
use crate::inventory::Inventory;
use world::World;

const LEAKS: Step<World> = leaks::step(|world| leaks::check(world.host.frames, world.broken("leaks")));

/// The steps on the machine that this project describes.
pub const DEVICES: &[Step<World>] = &[
    layout::step(|world| layout::check(world.inventory)),
    Step { name: "table", title: "the DMAR is read, each entry with its verdict", run: firmware::table },
    Step { name: "rmrr-option", title: "rmrr= on the command line adds regions", run: firmware::option },
    Step {
        name: "groups",
        title: "devices that share memory or a requester id are found, with the reason",
        run: firmware::groups,
    },
    Step {
        name: "firmware-dma",
        title: "with translation on, the firmware's USB controller goes on without a fault",
        run: firmware::firmware_dma,
    },
    Step {
        name: "own-region",
        title: "a device with its own region is assigned, and its DMA to the region arrives",
        run: assign::own_region,
    },
    Step {
        name: "outside-blocked",
        title: "the assigned device's DMA outside is blocked, and the fault tells it",
        run: assign::outside_blocked,
    },
    Step {
        name: "shared-alone",
        title: "one of two devices that share a region is refused alone",
        run: assign::shared_alone,
    },
    Step {
        name: "shared-together",
        title: "both together are assigned, and both can DMA",
        run: assign::shared_together,
    },
    Step {
        name: "assignable-add",
        title: "a toolstack gives both one by one, by way of quarantine; the one that waits does no DMA",
        run: toolstack::assignable_add,
    },
    Step {
        name: "behind-bridge",
        title: "devices behind a PCIe-to-PCI bridge go together, under the bridge's requester id",
        run: assign::behind_bridge,
    },
    Step {
        name: "isolation",
        title: "a device that nothing keeps apart from its neighbours goes with a note, or not at all",
        run: toolstack::isolation,
    },
    Step {
        name: "nvme",
        title: "an assigned NVMe controller reaches its domain's RAM at guest addresses",
        run: assign::nvme,
    },
    Step {
        name: "ram-conflict",
        title: "a region under a domain's RAM is refused, and nothing changes",
        run: occupied::ram_conflict,
    },
    Step {
        name: "planned-memory",
        title: "a guest's RAM is laid out around the regions, and nobody populates over one",
        run: occupied::planned_memory,
    },
    Step {
        name: "already-identical",
        title: "a region that is mapped 1:1 already is left as it is",
        run: occupied::already_identical,
    },
    Step {
        name: "bar-over-region",
        title: "a region that another device's BAR was moved over is refused",
        run: occupied::bar_over_region,
    },
    Step {
        name: "de-assign",
        title: "a device given back reaches its region, from quarantine, and nothing else",
        run: release::de_assign,
    },
    Step {
        name: "destroy-mid-dma",
        title: "a domain is destroyed while its device's DMA runs, and none of it arrives",
        run: release::destroy_mid_dma,
    },
    Step {
        name: "translation-off",
        title: "while the unit does not translate, no device goes to a guest",
        run: assign::translation_off,
    },
    Step {
        name: "rdm-query",
        title: "the hypercall answers for every device and for all",
        run: query::query,
    },
    Step { name: "rdm-short", title: "a short buffer gives ENOBUFS and the count needed", run: query::short },
    Step { name: "rdm-flags", title: "unknown flags and a start extent give EINVAL", run: query::flags },
    Step {
        name: "rdm-fault",
        title: "an unreadable argument or buffer gives EFAULT",
        run: query::unreadable,
    },
    LEAKS,
];

/// The steps on a machine with an empty slot, and QEMU's monitor at COM2.
pub const HOTPLUG: &[Step<World>] = &[
    Step {
        name: "empty-slot",
        title: "the region of a device that is absent sleeps, and makes no group",
        run: hotplug::empty_slot,
    },
    Step {
        name: "hot-add",
        title: "a device comes, joins its group at once, and its region wakes",
        run: hotplug::hot_add,
    },
    Step {
        name: "hot-alone",
        title: "the device that was there before is refused alone from now on",
        run: hotplug::hot_alone,
    },
    Step {
        name: "hot-dma",
        title: "both together are assigned; the new one's DMA arrives in its region, and outside is blocked",
        run: hotplug::hot_dma,
    },
    Step {
        name: "hot-remove",
        title: "the device goes, and the other is free of it",
        run: hotplug::hot_remove,
    },
    Step {
        name: "hot-newcomer",
        title: "one that joins what a guest has waits, cut off, and is assigned when the guest gives that up",
        run: hotplug::hot_newcomer,
    },
];

/// The steps on whatever table the machine has.
pub const TABLE: &[Step<World>] = &[
    Step { name: "table", title: "the table is read, each entry with its verdict", run: table::read },
    Step { name: "groups", title: "the devices that belong together", run: table::groups },
    Step { name: "map", title: "each region is mapped 1:1 where its devices are", run: table::map },
    Step { name: "assign", title: "each group can be given to a domain and taken back", run: table::assign },
    Step {
        name: "rdm-query",
        title: "the hypercall answers for every device of the table",
        run: table::query,
    },
    LEAKS,
];

/// Runs them on a policy set up for the machine.
pub fn run(steps: &[Step<World>], inventory: &'static mut Inventory) -> Exit {
    step::run(steps, inventory.options, || {
        World::new(inventory).map_err(|error| format!("the policy cannot be set up: {error}"))
    })
}
