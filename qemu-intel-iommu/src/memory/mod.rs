//! Physical memory: what the boot loader says of it, its frames, the direct map, and device registers.
#![allow(unsafe_code)]

pub mod frames;
mod image;
pub mod map;
pub mod mmio;
pub mod paging;
pub mod shared;
mod spare;
mod start_info;
mod window;

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use linked_list_allocator::LockedHeap;

pub use frames::{FRAME, FrameCounts, FrameError, frames};
pub use image::image;
pub use map::MemoryKind;
pub use mmio::Mmio;
pub use paging::{MapError, PageUse};
pub use shared::{Shared, copy_from_firmware};
pub use start_info::{StartInfo, copy_start_info, start_info};
pub use window::phys_to_ptr;

/// The size of the heap in bytes. Fixed, so that what is formatted or listed does not change the count of
/// free frames.
const HEAP: u64 = 4 << 20;

#[global_allocator]
static ALLOCATOR: LockedHeap = LockedHeap::empty();

/// Why memory could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryError {
    /// Memory was set up before.
    Again,
    /// Too little usable RAM, or too many ranges to keep out of it.
    NoRoom,
    /// The direct map could not be built.
    Map(MapError),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => f.write_str("memory is set up already"),
            Self::NoRoom => f.write_str("not enough usable RAM below 4 GiB"),
            Self::Map(error) => write!(f, "the direct map: {error}"),
        }
    }
}

/// Takes over usable RAM: frames, page tables, heap.
///
/// # Errors
/// Memory was set up before, there is too little of it, or it cannot be mapped.
pub fn init() -> Result<(), MemoryError> {
    if frames::is_set_up() {
        return Err(MemoryError::Again);
    }
    let StartInfo { map, modules, .. } = start_info();
    let image = image();
    let mut kept_out: ArrayVec<Range<u64>, 12> = ArrayVec::new();
    kept_out.push(0..map::LOW_END);
    kept_out.push(image.all.clone());
    kept_out.extend(modules.iter().cloned());
    // SAFETY: this is the first call. In use below 4 GiB are the image, the modules, and what the firmware
    // and the boot loader left in the first MiB; the boot page tables map it one to one.
    let frames = unsafe { frames::set_up(map, &kept_out) }.ok_or(MemoryError::NoRoom)?;
    // SAFETY: this is the first call; the linker script names the image's parts, and the boot loader's map is
    // all there is to know.
    unsafe { paging::init(frames, map, &image) }.map_err(MemoryError::Map)?;
    let heap = frames.alloc_contiguous(HEAP / FRAME, FRAME).ok_or(MemoryError::NoRoom)?;
    // SAFETY: the frames are the heap's alone from here on, and mapped as memory.
    unsafe { ALLOCATOR.lock().init(phys_to_ptr(heap), HEAP as usize) };
    Ok(())
}
