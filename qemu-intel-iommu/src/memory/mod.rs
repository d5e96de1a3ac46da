//! Physical memory: what the boot loader says of it, its frames, the direct map, and device registers.
#![allow(unsafe_code)]

pub mod frames;
pub mod map;
pub mod mmio;
pub mod paging;
pub mod shared;
mod spare;
mod start_info;
mod window;

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use linked_list_allocator::LockedHeap;
use spin::Once;

use crate::boot::exit::{Exit, exit};
use crate::boot::serial;
pub use frames::{FRAME, FrameCounts, FrameError, Frames};
pub use map::MemoryKind;
pub use mmio::Mmio;
pub use paging::{MapError, PageUse};
pub use shared::Shared;
pub use start_info::{StartInfo, StartInfoError};

/// The size of the heap in bytes. Fixed, so that what is formatted or listed does not change the count of
/// free frames.
const HEAP: u64 = 4 << 20;

#[global_allocator]
static ALLOCATOR: LockedHeap = LockedHeap::empty();

static START_INFO: Once<StartInfo> = Once::new();
static FRAMES: Once<Frames> = Once::new();

/// Where the parts of the image lie (physical addresses, which are its virtual ones too).
pub struct Image {
    /// Everything, the stack's guard page included.
    pub all: Range<u64>,
    /// Instructions.
    pub code: Range<u64>,
    /// Constants.
    pub constants: Range<u64>,
    /// Data up to the stack's guard page, and from it on.
    pub data: [Range<u64>; 2],
    /// The page below the stack.
    pub guard: Range<u64>,
}

unsafe extern "C" {
    static image_start: u8;
    static text_end: u8;
    static rodata_end: u8;
    static stack_guard: u8;
    static stack_bottom: u8;
    static image_end: u8;
}

/// The image's parts, as the linker script names them.
pub fn image() -> Image {
    let [start, text, rodata, guard, stack, end] = [
        &raw const image_start,
        &raw const text_end,
        &raw const rodata_end,
        &raw const stack_guard,
        &raw const stack_bottom,
        &raw const image_end,
    ]
    .map(|symbol| symbol.addr() as u64);
    Image {
        all: start..end,
        code: start..text,
        constants: text..rodata,
        data: [rodata..guard, stack..end],
        guard: guard..stack,
    }
}

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

/// Copies the start information.
///
/// # Safety
/// As [`StartInfo::copy`], and called once.
pub unsafe fn copy_start_info(address: u64) -> Result<&'static StartInfo, StartInfoError> {
    // SAFETY: the caller's contract.
    let copied = unsafe { StartInfo::copy(address) }?;
    Ok(START_INFO.call_once(|| copied))
}

/// The copied start information.
pub fn start_info() -> &'static StartInfo {
    START_INFO.get().unwrap_or_else(|| unset("the start information"))
}

/// Takes over usable RAM: frames, page tables, heap.
///
/// # Errors
/// Memory was set up before, there is too little of it, or it cannot be mapped.
pub fn init() -> Result<(), MemoryError> {
    if FRAMES.is_completed() {
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
    let frames = unsafe { Frames::new(map, &kept_out) }.ok_or(MemoryError::NoRoom)?;
    let frames = FRAMES.call_once(|| frames);
    // SAFETY: this is the first call; the linker script names the image's parts, and the boot loader's map is
    // all there is to know.
    unsafe { paging::init(frames, map, &image) }.map_err(MemoryError::Map)?;
    let heap = frames.alloc_contiguous(HEAP / FRAME, FRAME).ok_or(MemoryError::NoRoom)?;
    // SAFETY: the frames are the heap's alone from here on, and mapped as memory.
    unsafe { ALLOCATOR.lock().init(phys_to_ptr(heap), HEAP as usize) };
    Ok(())
}

/// The frames of usable RAM.
pub fn frames() -> &'static Frames {
    FRAMES.get().unwrap_or_else(|| unset("the frame allocator"))
}

/// Where the processor sees physical address `address`, provided that it is mapped: memory is, registers are
/// once [`Mmio::map`] was called.
pub fn phys_to_ptr(address: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// A copy of `len` bytes of memory that the firmware keeps, or `None` when not all of them are such memory.
pub fn copy_from_firmware(address: u64, len: u64) -> Option<Vec<u8>> {
    let kept = Shared::kept_by_firmware(address..address.checked_add(len)?).ok()?;
    let mut bytes = alloc::vec![0; len as usize];
    kept.copy_out(0, &mut bytes);
    Some(bytes)
}

#[cold]
fn unset(what: &str) -> ! {
    // A part of the boot runs before the one that it needs: a mistake in `main`, and nothing to go on with.
    serial::last_words("PANIC", format_args!("{what} is used before it is set up"));
    exit(Exit::Crashed)
}
