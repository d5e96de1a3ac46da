#![doc = include_str!("../README.md")]
#![no_std]
#![forbid(unsafe_code)]

mod aligned;
mod attempt;
mod bars;
mod e820;
mod error;
mod fill;
mod frames;
mod gaps;
pub mod graphics;
mod holds;
mod list;
mod machine;
mod modules;
mod plan;
mod planner;
mod search;
mod settle;
mod storage;
mod taken;
mod two_range;
#[cfg(feature = "serde")]
mod written;
pub mod xen;

pub use e820::{ACPI, E820_MAX, E820Entry, NVS, RAM, RESERVED};
pub use error::{Cause, Certainty, Error, Failure, Frame, InputError, Thing};
pub use holds::{Broken, Change};
pub use machine::{Backing, Bar, Firmware, Fixed, Machine, Mode, Module, ModuleMemory, Policy, Region};
pub use plan::{BarPlan, HvmInfo, ModulePlan, Moved, Plan, RegionPlan, VERSION, Verdict};
pub use planner::plan;
pub use storage::{Needs, Storage};
#[cfg(feature = "serde")]
pub use written::PlanSeed;
