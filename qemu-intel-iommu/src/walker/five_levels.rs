//! Five levels for the hypervisor's own page tables, and so for its guests' nested ones.
#![allow(unsafe_code)]

use alloc::string::String;
use core::arch::global_asm;

use x86::controlregs::cr4;

global_asm!(include_str!("five_levels.s"));

unsafe extern "C" {
    fn deepen_paging();
}

/// CPUID leaf 7, ECX: 57-bit linear addresses (LA57).
const LA57: u32 = 1 << 16;
/// CR4.LA57.
const LA57_ON: usize = 1 << 12;

/// Goes over to 5-level paging; everything is where it was.
///
/// # Errors
/// The processor has 4-level paging only.
pub fn deepen() -> Result<(), String> {
    // SAFETY: reading CR4 at privilege level 0 changes nothing.
    if unsafe { cr4() }.bits() & LA57_ON != 0 {
        return Ok(());
    }
    if x86::cpuid::cpuid!(7, 0).ecx & LA57 == 0 {
        return Err("the processor has no paging of five levels".into());
    }
    // SAFETY: interrupts are off outside of waits, the image and its stack lie below 4 GiB and are mapped one
    // to one, selectors 8 and 16 are 64-bit code and flat data before and after, CR4.PCIDE is off. The
    // routine keeps the registers that a function has to keep.
    unsafe { deepen_paging() };
    Ok(())
}
