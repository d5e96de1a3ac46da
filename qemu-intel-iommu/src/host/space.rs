//! A domain's address space: its tables for a CPU and for the remapping hardware.

use alloc::string::String;

use p2m::{Access, Entry, Gfn, GfnRange, LongMode, Mfn, P2m, P2mType, SecondLevel, Table};

use super::memory::TableFrames;
use crate::check::text;
use crate::memory::Shared;

/// A domain's tables: one for a CPU with nested paging, one for the remapping hardware.
pub type Space = p2m::Domain<LongMode, SecondLevel, TableFrames>;

/// An empty address space.
pub fn new_space() -> Option<Space> {
    let cpu = LongMode { user: true, no_execute: true, global: false, uncached_direct: false };
    let cpu = Table::new(cpu, TableFrames, 4, p2m::PageSize::Size1G);
    // QEMU's unit walks three levels (39 bits) whatever its width, and 2 MiB and 1 GiB pages.
    let iommu = Table::new(SecondLevel { snoop: false }, TableFrames, 3, p2m::PageSize::Size1G);
    Space::separate(cpu.ok()?, iommu.ok()?).ok()
}

/// Maps a piece of RAM at guest address `at` of a space.
pub fn map_ram(space: &mut Space, at: u64, ram: &Shared) -> Result<(), String> {
    let gfns =
        GfnRange::with_len(Gfn::containing(at), ram.size() >> p2m::PAGE_SHIFT).ok_or("beyond all memory")?;
    let mfn = Some(Mfn::containing(ram.start()));
    space.map(gfns, Entry { p2m_type: P2mType::RamRw, mfn, access: Access::READ_WRITE }).map_err(text)
}
