//! The QEMU machine that the hypervisor boots on: its devices, firmware table, command line, and reading its log.
//!
//! [`layout`] says what the machine is; [`firmware`] makes its tables; [`stand_in`] makes a machine for somebody else's table; [`qemu`] turns
//! that into a command, and [`bochs`] makes one for the scenario that takes Intel's VMX; [`run`] runs it, bounded in time, and reads its log as [`record`]s; [`show`] and [`json`] tell people and programs.
//!
//! The image and this crate agree on a few words of kernel command line, on the log's form and on three exit statuses ([`run`] has them).

// A tool on the host: it stops with a message where a library would have to go on.
#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

pub mod bochs;
pub mod emulator;
pub mod firmware;
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
