//! Xen's rules: its firmware's memory map as tables with their sources, and which regions count for a guest.

mod firmware;
pub mod libxl;
mod regions;

pub use firmware::{DIRECT, HVMLOADER, HYPERTRANSPORT, OVMF, SEABIOS};
pub use regions::{HostRegion, Strategy, regions};
