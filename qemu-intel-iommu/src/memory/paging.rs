//! The page tables of the hypervisor: physical memory one to one, the image with the access that its parts need, device registers uncached.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Range;

use spin::Once;
use spin::mutex::TicketMutex;
use x86::controlregs;

use crate::memory::frames::{FRAME, Frames};
use crate::memory::map::{LOW_END, MemoryMap};
use crate::memory::{Image, phys_to_ptr};

/// Page table entry bits (Intel SDM volume 3, section 4.5).
mod bit {
    pub const PRESENT: u64 = 1;
    pub const WRITABLE: u64 = 1 << 1;
    pub const WRITE_THROUGH: u64 = 1 << 3;
    pub const CACHE_DISABLE: u64 = 1 << 4;
    pub const LARGE: u64 = 1 << 7;
    pub const NO_EXECUTE: u64 = 1 << 63;
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Accessed and dirty, which the processor sets.
    pub const TOUCHED: u64 = 0b11 << 5;
}

const LARGE_PAGE: u64 = 2 << 20;
/// Frames set aside for page tables beyond those that the direct map needs, so that mapping registers later does not change the count of
/// free frames.
const SPARE_TABLES: u64 = 64;
/// Lower-half canonical addresses end here.
const END_OF_MAP: u64 = 1 << 47;

/// What may be done with a mapped page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Instructions: read and execute.
    Code,
    /// Constants: read.
    ReadOnly,
    /// Memory: read and write, cached.
    Memory,
    /// Registers: read and write, uncached.
    Registers,
}

/// Why something could not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// The range is empty, unaligned, or beyond what can be mapped.
    Range { start: u64, end: u64 },
    /// The page at this address is mapped with another access.
    Conflict { address: u64 },
    /// Every frame set aside for page tables is used.
    OutOfTables,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { start, end } => write!(f, "[{start:#x},{end:#x}) is no range of pages"),
            Self::Conflict { address } => write!(f, "the page at {address:#x} is mapped with another access"),
            Self::OutOfTables => f.write_str("no frame is left for page tables"),
        }
    }
}

struct Tables {
    root: u64,
    /// Zeroed frames for more tables.
    spare: Range<u64>,
    no_execute: u64,
}

static TABLES: Once<TicketMutex<Tables>> = Once::new();

/// Replaces the boot page tables.
///
/// # Safety
/// Called once; `image` and `map` tell the truth about what the image is made of and what is memory.
pub unsafe fn init(frames: &Frames, map: &MemoryMap, image: &Image) -> Result<(), MapError> {
    let end = map.memory().map(|range| range.end).max().unwrap_or(0);
    let count = SPARE_TABLES + end.div_ceil(1 << 30) + end.div_ceil(1 << 39);
    let start = frames.alloc_contiguous(count, FRAME).ok_or(MapError::OutOfTables)?;
    let mut tables = Tables { root: start, spare: start + FRAME..start + count * FRAME, no_execute: 0 };
    if has_no_execute() {
        // SAFETY: the processor has the bit; no table in use has it set.
        unsafe {
            let efer = x86::msr::rdmsr(x86::msr::IA32_EFER);
            x86::msr::wrmsr(x86::msr::IA32_EFER, efer | 1 << 11);
        }
        tables.no_execute = bit::NO_EXECUTE;
    }

    tables.map(image.code.clone(), Access::Code)?;
    tables.map(image.constants.clone(), Access::ReadOnly)?;
    for data in &image.data {
        tables.map(data.clone(), Access::Memory)?;
    }
    // Page 0 stays unmapped, so that a null pointer is an exception.
    tables.map_around(FRAME..LOW_END, image)?;
    for range in map.memory() {
        tables.map_around(range.start.max(LOW_END)..range.end, image)?;
    }
    let root = tables.root;
    TABLES.call_once(|| TicketMutex::new(tables));
    // SAFETY: the new tables map the image where it runs, its stacks, and everything else that is in use: memory one to one.
    unsafe { controlregs::cr3_write(root) };
    Ok(())
}

/// Maps physical addresses one to one. Pages that are mapped so already are left alone; pages mapped otherwise are an error, which
/// leaves the pages before them mapped.
pub fn map(range: Range<u64>, access: Access) -> Result<(), MapError> {
    match TABLES.get() {
        Some(tables) => tables.lock().map(range, access),
        None => Err(MapError::OutOfTables),
    }
}

/// How the page at `address` is mapped, if it is.
pub fn access(address: u64) -> Option<Access> {
    TABLES.get()?.lock().lookup(address)
}

/// Whether every page that `range` touches is mapped as memory.
pub fn is_memory(range: &Range<u64>) -> bool {
    let mut page = range.start & !(FRAME - 1);
    while page < range.end {
        if access(page) != Some(Access::Memory) {
            return false;
        }
        page += FRAME;
    }
    true
}

impl Tables {
    /// Maps `range` as memory, but for the image in it.
    fn map_around(&mut self, range: Range<u64>, image: &Image) -> Result<(), MapError> {
        for part in [range.start..range.end.min(image.all.start), range.start.max(image.all.end)..range.end] {
            if part.start < part.end {
                self.map(part, Access::Memory)?;
            }
        }
        Ok(())
    }

    fn map(&mut self, range: Range<u64>, access: Access) -> Result<(), MapError> {
        let Range { start, end } = range;
        if start >= end || end > END_OF_MAP || !(start | end).is_multiple_of(FRAME) {
            return Err(MapError::Range { start, end });
        }
        let flags = self.flags(access);
        let mut address = start;
        while address < end {
            let directory = self.directory(address)?;
            let entry = entry_of(directory, address, 21);
            let present = read(entry);
            let large = address.is_multiple_of(LARGE_PAGE) && end - address >= LARGE_PAGE;
            if present & bit::PRESENT == 0 && large {
                write(entry, address | flags | bit::LARGE);
                address += LARGE_PAGE;
            } else if present & bit::PRESENT != 0 && present & bit::LARGE != 0 {
                let base = address & !(LARGE_PAGE - 1);
                if present & !bit::TOUCHED != base | flags | bit::LARGE {
                    return Err(MapError::Conflict { address });
                }
                address = (base + LARGE_PAGE).min(end);
            } else {
                let table = self.below(entry)?;
                let entry = entry_of(table, address, 12);
                let present = read(entry);
                if present & bit::PRESENT == 0 {
                    write(entry, address | flags);
                } else if present & !bit::TOUCHED != address | flags {
                    return Err(MapError::Conflict { address });
                }
                address += FRAME;
            }
        }
        Ok(())
    }

    fn flags(&self, access: Access) -> u64 {
        bit::PRESENT
            | match access {
                Access::Code => 0,
                Access::ReadOnly => self.no_execute,
                Access::Memory => bit::WRITABLE | self.no_execute,
                // With the PAT as it is after reset this is UC.
                Access::Registers => {
                    bit::WRITABLE | bit::CACHE_DISABLE | bit::WRITE_THROUGH | self.no_execute
                }
            }
    }

    /// The page directory for `address`.
    fn directory(&mut self, address: u64) -> Result<u64, MapError> {
        let pointers = self.below(entry_of(self.root, address, 39))?;
        self.below(entry_of(pointers, address, 30))
    }

    /// The table that `entry` points to, made if there is none.
    fn below(&mut self, entry: *mut u64) -> Result<u64, MapError> {
        let present = read(entry);
        if present & bit::PRESENT != 0 {
            return Ok(present & bit::ADDRESS);
        }
        if self.spare.start >= self.spare.end {
            return Err(MapError::OutOfTables);
        }
        let table = self.spare.start;
        self.spare.start += FRAME;
        write(entry, table | bit::PRESENT | bit::WRITABLE);
        Ok(table)
    }

    fn lookup(&self, address: u64) -> Option<Access> {
        if address >= END_OF_MAP {
            return None;
        }
        let mut table = self.root;
        for shift in [39, 30, 21, 12] {
            let entry = read(entry_of(table, address, shift));
            if entry & bit::PRESENT == 0 {
                return None;
            }
            if shift == 12 || entry & bit::LARGE != 0 {
                let flags = entry & !bit::ADDRESS & !bit::TOUCHED & !bit::LARGE;
                return [Access::Code, Access::ReadOnly, Access::Memory, Access::Registers]
                    .into_iter()
                    .find(|access| self.flags(*access) == flags);
            }
            table = entry & bit::ADDRESS;
        }
        None
    }
}

fn has_no_execute() -> bool {
    x86::cpuid::CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_execute_disable())
}

/// The entry for `address` in the table at physical address `table`, whose entries each cover `1 << shift` bytes.
fn entry_of(table: u64, address: u64, shift: u32) -> *mut u64 {
    phys_to_ptr(table + (address >> shift & 0x1ff) * 8).cast()
}

fn read(entry: *mut u64) -> u64 {
    // SAFETY: `entry` comes from `entry_of` for a table of ours: frames set aside in `init` and never given back, mapped one to one.
    unsafe { entry.read_volatile() }
}

fn write(entry: *mut u64, value: u64) {
    // SAFETY: as in `read`; `Tables` is locked or not yet shared. An entry only ever goes from not present to present, so that no TLB
    // holds anything older, and never covers memory that is mapped at another address.
    unsafe { entry.write_volatile(value) };
}
