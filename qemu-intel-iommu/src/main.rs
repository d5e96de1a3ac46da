//! A small hypervisor that boots under QEMU with an emulated intel-iommu.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod boot;
mod cmdline;
mod crash;
mod devices;
mod guest;
mod host;
mod interrupts;
mod machine;
mod memory;
mod pci;
mod scenario;
mod serial;

use boot::exit::{Exit, exit};
use cmdline::Options;
use machine::Machine;
use memory::StartInfo;

/// Sets the machine up, from what needs nothing to what needs everything before it, and runs the scenario.
///
/// `info` was copied already; interrupts are off, and the boot page tables are in use.
fn main(info: &'static StartInfo) -> ! {
    let options = Options::new(info.line());
    serial::init_log(options.log_level());
    boot::traps::init();
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
    let machine = alloc::boxed::Box::leak(alloc::boxed::Box::new(Machine { options, tables, pci, frames }));
    machine.report();
    exit(scenario::run_named(machine))
}

/// Ends a boot that cannot go on.
fn stop(what: &str, error: impl core::fmt::Display) -> ! {
    serial::last_words("PANIC", format_args!("{what}: {error}"));
    exit(Exit::Crashed)
}
