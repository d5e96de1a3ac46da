//! The page tables of the hypervisor, kept by `p2m`: physical memory one to one and never beyond a bank, the
//! image with the access that its parts need, device registers uncached.
#![allow(unsafe_code)]

use core::fmt;
use core::ops::Range;

use p2m::{
    AddressSpace, DirectMapError, Entry, Gfn, GfnRange, LongMode, Mfn, MfnRange, P2m, P2mType, PageSize,
    Table, map_directly,
};
use spin::Once;
use spin::mutex::TicketMutex;
use x86::controlregs;

use crate::memory::frames::{FRAME, Frames};
use crate::memory::image::Image;
use crate::memory::map::{LOW_END, MemoryMap};
use crate::memory::spare::{SPARE, Spare};

/// Frames set aside for page tables beyond those that the direct map needs, so that mapping registers later
/// does not change the count of free frames.
const SPARE_TABLES: u64 = 64;
/// Lower-half canonical addresses end here.
const END_OF_MAP: u64 = 1 << 47;

/// What a page of the hypervisor's own map is for, and so what may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageUse {
    /// Instructions: read and execute.
    Code,
    /// Constants: read.
    ReadOnly,
    /// Memory: read and write, cached.
    Memory,
    /// Registers: read and write, uncached.
    Registers,
}

impl PageUse {
    /// The leaf of `frame` for it.
    fn entry(self, frame: Mfn) -> Entry {
        let (p2m_type, access) = match self {
            Self::Code => (P2mType::RamRw, p2m::Access::READ | p2m::Access::EXECUTE),
            Self::ReadOnly => (P2mType::RamRw, p2m::Access::READ),
            Self::Memory => (P2mType::RamRw, p2m::Access::READ_WRITE),
            Self::Registers => (P2mType::MmioDirect, p2m::Access::READ_WRITE),
        };
        Entry { p2m_type, mfn: Some(frame), access }
    }

    /// What `entry`, which is at `frame`, allows; `None` where nothing is mapped.
    fn of(entry: Entry, frame: Gfn) -> Option<Self> {
        let all = [Self::Code, Self::ReadOnly, Self::Memory, Self::Registers];
        all.into_iter().find(|purpose| purpose.entry(Mfn::new(frame.raw())) == entry)
    }
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
    /// A bank of memory could not be mapped.
    Bank(DirectMapError),
    /// The tables refuse it.
    Tables(p2m::MapError),
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { start, end } => write!(f, "[{start:#x},{end:#x}) is no range of pages"),
            Self::Conflict { address } => write!(f, "the page at {address:#x} is mapped with another access"),
            Self::OutOfTables => f.write_str("no frame is left for page tables"),
            Self::Bank(error) => error.fmt(f),
            Self::Tables(error) => error.fmt(f),
        }
    }
}

type Tables = Table<LongMode, &'static Spare>;

static TABLES: Once<TicketMutex<Tables>> = Once::new();

/// Replaces the boot page tables.
///
/// # Safety
/// Called once; `image` and `map` tell the truth about what the image is made of and what is memory.
pub unsafe fn init(frames: &Frames, map: &MemoryMap, image: &Image) -> Result<(), MapError> {
    let end = map.memory().map(|range| range.end).max().unwrap_or(0);
    // With pages of 2 MiB, each GiB takes a table; what begins or ends within 2 MiB is among the spare ones.
    let count = SPARE_TABLES + end.div_ceil(1 << 30) + end.div_ceil(1 << 39);
    let start = frames.alloc_contiguous(count, FRAME).ok_or(MapError::OutOfTables)?;
    // SAFETY: the frames are below 4 GiB, as the allocator begins there, and so mapped one to one by both
    // tables; they are nobody else's from here on.
    let spare = SPARE.call_once(|| unsafe { Spare::new(start..start + count * FRAME) });
    let format = LongMode {
        no_execute: has_no_execute(),
        // A write to CR3 is to drop everything.
        global: false,
        uncached_direct: true,
        ..LongMode::HOST
    };
    if format.no_execute {
        // SAFETY: the processor has the bit; no table in use has it set.
        unsafe {
            let efer = x86::msr::rdmsr(x86::msr::IA32_EFER);
            x86::msr::wrmsr(x86::msr::IA32_EFER, efer | 1 << 11);
        }
    }
    let mut tables = Table::new(format, spare, 4, largest_page()).map_err(|_| MapError::OutOfTables)?;

    // Page 0 stays unmapped, so that a null pointer is an exception. The image has a map of its own.
    let mut reached = FRAME;
    let banks = core::iter::once(FRAME..LOW_END).chain(map.memory()).flat_map(|range| {
        // Ranges may share a page, which is mapped once.
        let (start, end) = (range.start.max(reached), range.end);
        reached = reached.max(end);
        [start..end.min(image.all.start), start.max(image.all.end)..end]
    });
    let banks =
        banks.filter(|bank| bank.start < bank.end).map(|bank| MfnRange::whole_frames(bank.start, bank.end));
    // The frame allocator has all of usable RAM already: the tables came from it.
    map_directly(&mut tables, Gfn::new(0), banks, |_| {}).map_err(MapError::Bank)?;
    let parts = [(&image.code, PageUse::Code), (&image.constants, PageUse::ReadOnly)];
    let data = image.data.iter().map(|data| (data, PageUse::Memory));
    for (part, purpose) in parts.into_iter().chain(data) {
        map_in(&mut tables, part.clone(), purpose)?;
    }
    let root = tables.root().root.address().unwrap_or(0);
    TABLES.call_once(|| TicketMutex::new(tables));
    // SAFETY: the new tables map the image where it runs, its stacks, and everything else that is in use:
    // memory one to one.
    unsafe { controlregs::cr3_write(root) };
    Ok(())
}

/// Maps physical addresses one to one. Pages that are mapped so already are left alone; pages mapped
/// otherwise are an error, which changes nothing.
pub fn map(range: Range<u64>, purpose: PageUse) -> Result<(), MapError> {
    match TABLES.get() {
        Some(tables) => map_in(&mut tables.lock(), range, purpose),
        None => Err(MapError::OutOfTables),
    }
}

fn map_in(tables: &mut Tables, range: Range<u64>, purpose: PageUse) -> Result<(), MapError> {
    let Range { start, end } = range;
    let none = MapError::Range { start, end };
    if start >= end || end > END_OF_MAP || !(start | end).is_multiple_of(FRAME) {
        return Err(none);
    }
    let gfns = GfnRange::new(Gfn::containing(start), Gfn::containing(end)).ok_or(none)?;
    let is_other = |run: &p2m::Run| {
        run.entry.p2m_type != P2mType::Invalid && PageUse::of(run.entry, run.gfns.start()) != Some(purpose)
    };
    if let Some(other) = tables.runs(gfns).find(is_other) {
        return Err(MapError::Conflict { address: other.gfns.start().address().unwrap_or(start) });
    }
    tables.map(gfns, purpose.entry(Mfn::containing(start))).map_err(|error| match error {
        p2m::MapError::NoFrames { .. } => MapError::OutOfTables,
        other => MapError::Tables(other),
    })?;
    if let Some(owed) = tables.take_flush() {
        if !owed.only_added() && TABLES.is_completed() {
            // SAFETY: the same tables again, for the sake of the TLB.
            unsafe { controlregs::cr3_write(controlregs::cr3()) };
        }
        tables.confirm_flush(owed);
    }
    Ok(())
}

/// How the page at `address` is mapped, if it is.
pub fn page_use(address: u64) -> Option<PageUse> {
    let frame = Gfn::containing(address);
    let tables = TABLES.get()?.lock();
    if frame >= tables.limit() {
        return None;
    }
    PageUse::of(tables.translate(frame).entry(), frame)
}

/// Whether every page that `range` touches is mapped as memory.
pub fn is_memory(range: &Range<u64>) -> bool {
    let Some(tables) = TABLES.get() else { return false };
    let end = range.end.checked_next_multiple_of(FRAME).unwrap_or(u64::MAX);
    let Some(gfns) = GfnRange::new(Gfn::containing(range.start), Gfn::containing(end)) else { return false };
    let tables = tables.lock();
    gfns.end() <= tables.limit()
        && tables.runs(gfns).all(|run| PageUse::of(run.entry, run.gfns.start()) == Some(PageUse::Memory))
}

fn has_no_execute() -> bool {
    x86::cpuid::CpuId::new()
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|features| features.has_execute_disable())
}

fn largest_page() -> PageSize {
    let features = x86::cpuid::CpuId::new().get_extended_processor_and_feature_identifiers();
    match features.is_some_and(|features| features.has_1gib_pages()) {
        true => PageSize::Size1G,
        false => PageSize::Size2M,
    }
}
