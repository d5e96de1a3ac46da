//! The image's own parts in memory.

use core::ops::Range;

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
