//! The runner of boots: plans what QEMU is to be and to boot, runs it, and reads the hypervisor's log.
//!
//! [`layout`] says which devices, memory and reserved regions a boot has; [`firmware`] makes the tables for
//! them; [`stand_in`] finds devices for somebody else's table; [`plan`] puts together what a boot needs;
//! [`qemu`] turns that into a command, and [`bochs`] makes one for the scenario that takes Intel's VMX;
//! [`run`] runs it, bounded in time, and reads its log as [`record`]s; [`show`] and [`json`] tell people and
//! programs.
//!
//! The image and this crate agree on a few words of kernel command line, on the log's form and on three exit
//! statuses ([`run`] has them).

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod bochs;
pub mod emulator;
pub mod firmware;
mod hash;
pub mod image;
pub mod interrupt;
pub mod json;
pub mod layout;
pub mod plan;
mod process;
pub mod qemu;
pub mod record;
pub mod run;
pub mod show;
pub mod stand_in;
