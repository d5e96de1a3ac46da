//! A small hypervisor that boots under QEMU with an emulated intel-iommu.
//!
//! Each room stands on those that follow it, and knows none before it:
//! - `scenario`: lists of steps, each judged by what memory and the fault registers say afterwards.
//! - `walker`: hardware that walks tables: guests under SVM and VMX, a device behind the IOMMU.
//! - `host`: the policy at work: its memory, regions, units, set-up and hypercalls.
//! - `inventory`: what was found at boot; `acpi`: the firmware's tables.
//! - `devices`: drivers; `pci`: functions and their configuration space.
//! - `processor`: exceptions, interrupts, time; `crash`: crashes on purpose.
//! - `memory`: the boot loader's map, frames, page tables, memory that devices share, registers.
//! - `boot`: entry, command line, serial line, exit; `check`: checks whose failure is a sentence.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod boot;
mod check;
mod crash;
mod devices;
mod host;
mod inventory;
mod memory;
mod pci;
mod processor;
mod scenario;
mod walker;

use alloc::boxed::Box;

use boot::command_line::Options;
use boot::exit::{exit, stop};
use boot::serial;
use inventory::Inventory;
use memory::StartInfo;
use processor::{interrupts, traps};

/// The first Rust line: the processor is in 64-bit mode with SSE on, the first 4 GiB are mapped one to one,
/// interrupts are off.
///
/// `start_info` is the physical address of `hvm_start_info` that the PVH entry was given.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
extern "C" fn image_main(start_info: u64) -> ! {
    serial::init();
    // SAFETY: the address is what the PVH entry passed, and nothing outside the image and COM1 was touched
    // yet.
    match unsafe { memory::copy_start_info(start_info) } {
        Ok(info) => start(info),
        Err(error) => stop("the boot loader", error),
    }
}

/// Sets everything up, from what needs nothing to what needs everything before it, and runs the scenario.
fn start(info: &'static StartInfo) -> ! {
    let options = Options::new(info.line());
    serial::init_log(options.log_level());
    traps::init();
    memory::init().unwrap_or_else(|error| stop("memory", error));
    if info.dropped != Default::default() {
        log::warn!("of what the boot loader said, this was left behind: {:?}", info.dropped);
    }
    for word in options.unknown() {
        log::warn!("the command line's word {word:?} means nothing");
    }
    if let Some(kind) = options.crash() {
        crash::crash(kind);
    }
    interrupts::init().unwrap_or_else(|error| stop("the local APIC", error));

    let tables = acpi::read(info.rsdp).unwrap_or_else(|error| {
        log::warn!("no ACPI tables: {error}");
        acpi::Tables::default()
    });
    let pci = pci::Pci::find(&tables.windows).unwrap_or_else(|error| stop("PCI configuration space", error));
    // Steps keep it for as long as they run, and nothing comes after them.
    let frames = memory::frames().counts();
    let inventory = Box::leak(Box::new(Inventory { options, tables, pci, frames }));
    inventory.report();
    exit(scenario::run_named(inventory))
}
