//! Page-table frames from the frame allocator.
#![allow(unsafe_code)]

use p2m::{FrameSource, Mfn, TableFrame};

use crate::memory;

/// The frame allocator as the tables see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct TableFrames;

// SAFETY: the allocator hands out zeroed frames of RAM that nobody else uses until they are freed, and RAM is mapped where `phys_to_ptr` says.
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
        // SAFETY: the frame is managed RAM and allocated, so it is mapped, a whole page and aligned; all access to it is by atomics.
        Some(unsafe { &*memory::phys_to_ptr(address).cast::<TableFrame>() })
    }
}
