//! What a hosted program would get from std and libc: the panic handler, the memory routines, the unwinder's
//! symbols.
#![allow(unsafe_code)]

use core::arch::asm;
use core::panic::PanicInfo;

use super::exit::{Exit, exit};
use super::serial;

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // Without the serial lock: the code that panicked may hold it.
    match info.location() {
        Some(place) => serial::last_words("PANIC", format_args!("{} ({})", info.message(), place)),
        None => serial::last_words("PANIC", format_args!("{}", info.message())),
    }
    exit(Exit::Crashed)
}

/// `alloc` as built for this target refers to the unwinder. Panics abort, so nothing ever calls it.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() -> ! {
    exit(Exit::Crashed)
}

/// See `rust_eh_personality`.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(Exit::Crashed)
}

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller owns `len` bytes at `to` and may read as many at `from`; the direction flag is clear
    // (ABI).
    unsafe {
        asm!("rep movsq", "mov rcx, {rest}", "rep movsb", rest = in(reg) len & 7,
            inout("rcx") len >> 3 => _, inout("rdi") to => _, inout("rsi") from => _,
            options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memmove`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    if to.addr().wrapping_sub(from.addr()) >= len {
        // SAFETY: `to` does not lie inside the source, so copying upwards never overwrites what is still to
        // be read.
        return unsafe { memcpy(to, from, len) };
    }
    // SAFETY: as in `memcpy`, downwards from the last byte; the direction flag is restored before anything
    // else runs.
    unsafe {
        asm!("std", "rep movsb", "cld",
            inout("rcx") len => _, inout("rdi") to.wrapping_add(len).wrapping_sub(1) => _,
            inout("rsi") from.wrapping_add(len).wrapping_sub(1) => _, options(nostack));
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    let pattern = u64::from(byte.to_le_bytes()[0]) * 0x0101_0101_0101_0101;
    // SAFETY: the caller owns `len` bytes at `to`; the direction flag is clear (ABI).
    unsafe {
        asm!("rep stosq", "mov rcx, {rest}", "rep stosb", rest = in(reg) len & 7, in("rax") pattern,
            inout("rcx") len >> 3 => _, inout("rdi") to => _, options(nostack, preserves_flags));
    }
    to
}

/// # Safety
/// As C's `memcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    let mut offset = 0;
    while offset < len {
        // SAFETY: `offset` is below `len`, and the caller may read `len` bytes of both.
        let (a, b) = unsafe { (left.add(offset).read(), right.add(offset).read()) };
        if a != b {
            return i32::from(a) - i32::from(b);
        }
        offset += 1;
    }
    0
}

/// # Safety
/// As C's `bcmp`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, len: usize) -> i32 {
    // SAFETY: the same contract.
    unsafe { memcmp(left, right, len) }
}
