//! Memory as the policy is given it: frames for page tables, the memory map, and frames of RAM to give up.
#![allow(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use p2m::{FrameSource, Mfn, MfnRange, TableFrame};
use xen_iommu::region::memory::{self as judged, FramesInUse, MemoryMap, MemoryRegion, ReserveFrames};

use crate::memory::{self, MemoryKind};

/// The frame allocator as the tables see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableFrames;

// SAFETY: the allocator hands out zeroed frames of RAM that nobody else uses until they are freed, and RAM is
// mapped where `phys_to_ptr` says.
unsafe impl FrameSource for TableFrames {
    fn allocate(&self) -> Option<Mfn> {
        memory::frames().alloc().map(Mfn::containing)
    }

    fn free(&self, frame: Mfn) {
        let freed = frame.address().map(|address| memory::frames().free(address));
        if !matches!(freed, Some(Ok(()))) {
            log::error!("the table frame {frame} cannot be given back: {freed:?}");
        }
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        let address = frame.address().filter(|address| memory::frames().is_taken(*address))?;
        // SAFETY: the frame is managed RAM and allocated, so it is mapped, a whole page and aligned; all
        // access to it is by atomics.
        Some(unsafe { &*memory::phys_to_ptr(address).cast::<TableFrame>() })
    }
}

/// The machine's memory map, and its frame allocator as the one that gives up frames of regions.
pub(super) struct HostMemory;

impl MemoryMap for HostMemory {
    fn regions(&self) -> impl Iterator<Item = MemoryRegion> {
        memory::start_info().map.ranges().iter().map(|range| MemoryRegion {
            start: range.range.start,
            end: range.range.end,
            kind: match range.kind {
                MemoryKind::Usable => judged::MemoryKind::Ram,
                MemoryKind::Reserved => judged::MemoryKind::Reserved,
                _ => judged::MemoryKind::Other,
            },
        })
    }
}

impl ReserveFrames for HostMemory {
    fn take_out_of_ram(&mut self, pages: MfnRange) -> Result<(), FramesInUse> {
        let address = |frame: Mfn| frame.address().unwrap_or(u64::MAX);
        let wanted = address(pages.start())..address(pages.end());
        let usable = memory::start_info().map.usable_pages();
        let parts: Vec<Range<u64>> = usable
            .map(|range| range.start.max(wanted.start)..range.end.min(wanted.end))
            .filter(|part| part.start < part.end)
            .collect();
        for (index, part) in parts.iter().enumerate() {
            if memory::frames().take(part.clone()).is_err() {
                for taken in parts.iter().take(index) {
                    let _ = memory::frames().free_range(taken.clone());
                }
                return Err(FramesInUse);
            }
        }
        Ok(())
    }
}
