//! Other crates' page tables, driven as their documentation says, over the same pool: long mode, four levels,
//! mapped 1:1. They do not look before they map, and keep empty tables.
#![allow(unsafe_code, reason = "their interfaces are unsafe")]

use memory_addr::{PhysAddr, VirtAddr};
use page_table_multiarch::x86_64::X64PageTable;
use page_table_multiarch::{MappingFlags, PagingHandler};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size1GiB, Size2MiB,
    Size4KiB, Translate, mapper::TranslateResult,
};

use crate::frames;

/// A page table of another crate.
pub(super) trait Peer: Sized {
    /// The crate.
    const NAME: &'static str;
    /// What its look-up answers.
    type Found;

    /// An empty table.
    fn new() -> Self;
    /// Maps these addresses, with the largest pages that fit or with small ones.
    fn map(&mut self, start: u64, end: u64, large: bool);
    /// Unmaps what [`Self::map`] mapped.
    fn unmap(&mut self, start: u64, end: u64, large: bool);
    /// Looks up frame, access and page size.
    fn look_up(&self, address: u64) -> Self::Found;
    /// Whether `found` leads to `address`.
    fn leads_to(found: &Self::Found, address: u64) -> bool;
}

/// `page_table_multiarch`: has calls for regions.
pub(super) struct Multiarch(X64PageTable<Pool>);

pub(super) struct Pool;

impl PagingHandler for Pool {
    fn alloc_frames(number: usize, _align: usize) -> Option<PhysAddr> {
        if number == 1 { frames::take().map(PhysAddr::from) } else { None }
    }

    fn dealloc_frames(address: PhysAddr, _number: usize) {
        frames::give(address.as_usize());
    }

    fn phys_to_virt(address: PhysAddr) -> VirtAddr {
        VirtAddr::from(address.as_usize())
    }
}

impl Peer for Multiarch {
    const NAME: &'static str = "page_table_multiarch";
    type Found = Option<(PhysAddr, MappingFlags, page_table_multiarch::PageSize)>;

    fn new() -> Self {
        Self(X64PageTable::try_new().unwrap())
    }

    fn map(&mut self, start: u64, end: u64, large: bool) {
        let flags = MappingFlags::READ | MappingFlags::WRITE;
        let to = |address: VirtAddr| PhysAddr::from(address.as_usize());
        let from = VirtAddr::from(start as usize);
        self.0.cursor().map_region(from, to, (end - start) as usize, flags, large).unwrap();
    }

    fn unmap(&mut self, start: u64, end: u64, _: bool) {
        self.0.cursor().unmap_region(VirtAddr::from(start as usize), (end - start) as usize).unwrap();
    }

    fn look_up(&self, address: u64) -> Self::Found {
        self.0.query(VirtAddr::from(address as usize)).ok()
    }

    fn leads_to(found: &Self::Found, address: u64) -> bool {
        found.is_some_and(|(frame, ..)| frame.as_usize() as u64 == address)
    }
}

/// `x86_64`: has calls for pages; the loop over them is the caller's.
pub(super) struct X86_64(OffsetPageTable<'static>);

struct Frames;

// SAFETY: the pool hands a frame out once until it is given back.
unsafe impl FrameAllocator<Size4KiB> for Frames {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        frames::take().map(|address| PhysFrame::containing_address(x86_64::PhysAddr::new(address as u64)))
    }
}

const FLAGS: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);

/// The largest page that begins at `at` and ends by `end`, in bytes.
fn largest(at: u64, end: u64) -> u64 {
    let fits = |size: u64| at.is_multiple_of(size) && end - at >= size;
    [1 << 30, 1 << 21].into_iter().find(|size| fits(*size)).unwrap_or(1 << 12)
}

impl X86_64 {
    fn map_page<S: x86_64::structures::paging::PageSize>(&mut self, at: u64)
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let frame = PhysFrame::<S>::containing_address(x86_64::PhysAddr::new(at));
        // SAFETY: nobody uses the addresses that the table maps.
        unsafe { self.0.identity_map(frame, FLAGS, &mut Frames) }.ok().unwrap().ignore();
    }

    fn unmap_page<S: x86_64::structures::paging::PageSize>(&mut self, at: u64)
    where
        OffsetPageTable<'static>: Mapper<S>,
    {
        let page = Page::<S>::containing_address(x86_64::VirtAddr::new(at));
        self.0.unmap(page).ok().unwrap().1.ignore();
    }
}

impl Peer for X86_64 {
    const NAME: &'static str = "x86_64";
    type Found = TranslateResult;

    fn new() -> Self {
        let root = std::ptr::with_exposed_provenance_mut::<PageTable>(frames::take().unwrap());
        // SAFETY: the frame is this table's alone, and lives as long as the process.
        let root = unsafe {
            root.write(PageTable::new());
            &mut *root
        };
        // SAFETY: machine addresses are this process's own.
        Self(unsafe { OffsetPageTable::new(root, x86_64::VirtAddr::zero()) })
    }

    fn map(&mut self, start: u64, end: u64, large: bool) {
        let mut at = start;
        while at < end {
            let size = if large { largest(at, end) } else { 1 << 12 };
            match size {
                0x4000_0000 => self.map_page::<Size1GiB>(at),
                0x20_0000 => self.map_page::<Size2MiB>(at),
                _ => self.map_page::<Size4KiB>(at),
            }
            at += size;
        }
    }

    fn unmap(&mut self, start: u64, end: u64, large: bool) {
        let mut at = start;
        while at < end {
            let size = if large { largest(at, end) } else { 1 << 12 };
            match size {
                0x4000_0000 => self.unmap_page::<Size1GiB>(at),
                0x20_0000 => self.unmap_page::<Size2MiB>(at),
                _ => self.unmap_page::<Size4KiB>(at),
            }
            at += size;
        }
    }

    fn look_up(&self, address: u64) -> TranslateResult {
        self.0.translate(x86_64::VirtAddr::new(address))
    }

    fn leads_to(found: &TranslateResult, address: u64) -> bool {
        match found {
            TranslateResult::Mapped { frame, offset, .. } => {
                frame.start_address().as_u64() + offset == address
            }
            _ => false,
        }
    }
}
