//! What the PVH boot loader says: the command line, the memory map, the modules, the RSDP.
//!
//! All of it lies in RAM that the memory map calls usable, so it is copied before anything is allocated.
//! Layout: Xen's public/arch-x86/hvm/start_info.h.
#![allow(unsafe_code)]

use core::ops::Range;
use core::str;

use arrayvec::ArrayVec;
use spin::Once;

use crate::boot::exit::stop;
use crate::memory::map::{MemoryKind, MemoryMap, MemoryRange};

/// hvm_start_info's magic: "xEn3" with bit 7 of the E set.
const MAGIC: u32 = 0x336e_c578;
/// The first version that has a memory map.
const VERSION_WITH_MAP: u32 = 1;

static START_INFO: Once<StartInfo> = Once::new();

/// The longest command line that is kept. QEMU's buffer is about as large.
const LINE_LEN: usize = 4096;
/// The most modules that are kept.
const MODULES: usize = 8;

/// The copied start information.
pub struct StartInfo {
    line: ArrayVec<u8, LINE_LEN>,
    /// The physical address of the RSDP; 0 when the boot loader named none.
    pub rsdp: u64,
    /// The memory map, sorted by address.
    pub map: MemoryMap,
    /// Where the modules lie (physical addresses).
    pub modules: ArrayVec<Range<u64>, MODULES>,
    /// What did not fit in the copy, to be logged once there is a log.
    pub dropped: Dropped,
}

/// What of the start information was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The command line was longer than the copy, or not UTF-8 to its end.
    pub line: bool,
    /// Entries of the memory map.
    pub ranges: usize,
    /// Modules.
    pub modules: usize,
}

/// Why there is no start information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartInfoError {
    /// The magic number found.
    Magic(u32),
    /// The version found, which has no memory map.
    Version(u32),
}

impl core::fmt::Display for StartInfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Magic(magic) => write!(f, "hvm_start_info has the magic {magic:#x} instead of {MAGIC:#x}"),
            Self::Version(version) => write!(f, "hvm_start_info version {version} has no memory map"),
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawStartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist_paddr: u64,
    cmdline_paddr: u64,
    rsdp_paddr: u64,
    memmap_paddr: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawModule {
    paddr: u64,
    size: u64,
    cmdline_paddr: u64,
    reserved: u64,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct RawRange {
    addr: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

impl StartInfo {
    /// Copies the start information at physical address `address`.
    ///
    /// # Safety
    /// `address` is what the PVH entry was given, the first 4 GiB are mapped one to one, and nothing was
    /// written to memory outside the image yet.
    pub unsafe fn copy(address: u64) -> Result<Self, StartInfoError> {
        // SAFETY: the caller vouches for the address; the boot loader's structures are below 4 GiB.
        let raw = unsafe { read::<RawStartInfo>(address) };
        if raw.magic != MAGIC {
            return Err(StartInfoError::Magic(raw.magic));
        }
        if raw.version < VERSION_WITH_MAP {
            return Err(StartInfoError::Version(raw.version));
        }
        let mut dropped = Dropped::default();

        let mut map = MemoryMap::new();
        for index in 0..u64::from(raw.memmap_entries) {
            // SAFETY: the boot loader filled `memmap_entries` entries at `memmap_paddr`.
            let entry = unsafe { read::<RawRange>(raw.memmap_paddr + index * size_of::<RawRange>() as u64) };
            let end = entry.addr.saturating_add(entry.size);
            if end > entry.addr
                && !map
                    .insert(MemoryRange { range: entry.addr..end, kind: MemoryKind::from_e820(entry.kind) })
            {
                dropped.ranges += 1;
            }
        }

        let mut modules = ArrayVec::new();
        for index in 0..u64::from(raw.nr_modules) {
            // SAFETY: the boot loader filled `nr_modules` entries at `modlist_paddr`.
            let module =
                unsafe { read::<RawModule>(raw.modlist_paddr + index * size_of::<RawModule>() as u64) };
            let place = module.paddr..module.paddr.saturating_add(module.size);
            if modules.try_push(place).is_err() {
                dropped.modules += 1;
            }
        }

        let mut line = ArrayVec::new();
        let mut from = raw.cmdline_paddr;
        while from != 0 {
            // SAFETY: the line ends in a NUL, and no byte after it is read.
            let byte = unsafe { read::<u8>(from) };
            if byte == 0 {
                break;
            }
            if line.try_push(byte).is_err() {
                dropped.line = true;
                break;
            }
            from += 1;
        }
        if let Err(error) = str::from_utf8(&line) {
            dropped.line = true;
            line.truncate(error.valid_up_to());
        }

        Ok(Self { line, rsdp: raw.rsdp_paddr, map, modules, dropped })
    }

    /// The command line.
    pub fn line(&self) -> &str {
        // `copy` kept valid UTF-8 only.
        str::from_utf8(&self.line).unwrap_or_default()
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
    START_INFO.get().unwrap_or_else(|| stop("memory", "the start information is used before it is set up"))
}

/// # Safety
/// A `T`, for which every bit pattern is valid, can be read at physical address `address`.
unsafe fn read<T: Copy>(address: u64) -> T {
    // SAFETY: the caller's contract; the address need not be aligned.
    unsafe { core::ptr::with_exposed_provenance::<T>(address as usize).read_unaligned() }
}
