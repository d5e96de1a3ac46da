//! Machines from bytes: PCI functions and a memory map, as records of eight bytes.

use acpi_dmar::verdict::{FramesInUse, MemoryKind, MemoryRegion, PageRange, ReserveFrames};

use crate::bus::{Bus, Function};

/// A machine, so far as tables are about it.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) bus: Bus,
    pub(crate) memory: Vec<MemoryRegion>,
    pub(crate) allocator: Allocator,
}

impl Machine {
    /// Records of eight bytes: what is one, and what it is. A last one that is not whole is ignored.
    pub(crate) fn new(records: &[u8]) -> Self {
        let mut machine = Self::default();
        for record in records.as_chunks::<8>().0 {
            machine.add(*record);
        }
        machine
    }

    fn add(&mut self, [what, bytes @ ..]: [u8; 8]) {
        match what & 7 {
            kind @ 0..=4 => {
                let [segment, bus, device, function, secondary, subordinate, _] = bytes;
                let is = match kind {
                    0 => Function::Endpoint,
                    1 => Function::Bridge { secondary, subordinate },
                    2 => Function::OtherBridge,
                    3 => Function::CardBus,
                    _ => Function::Silent,
                };
                let before = std::mem::take(&mut self.bus);
                self.bus = before.with(segment.into(), bus, device & 31, function & 7, is);
            }
            5 | 6 => {
                let kind = match bytes[0] & 3 {
                    0 | 1 => MemoryKind::Ram,
                    2 => MemoryKind::Reserved,
                    _ => MemoryKind::Other,
                };
                let number = |low, middle, high| u64::from(u32::from_le_bytes([low, middle, high, 0]));
                // Pages or 256 bytes, so that map entries may share a page.
                let shift = if what & 7 == 5 { 12 } else { 8 };
                let start = number(bytes[1], bytes[2], bytes[3]) << shift;
                let length = number(bytes[4], bytes[5], bytes[6]) << shift;
                // An end below the start is an entry that does not count.
                let end = if what & 0x80 == 0 { start + length } else { start.saturating_sub(length) };
                self.memory.push(MemoryRegion { start, end, kind });
            }
            _ => self.allocator.refuses = !self.allocator.refuses,
        }
    }

    /// What the map says of a page, by the rules' words: whether any byte of it is RAM, and whether any is known.
    fn page(&self, page: u64) -> (bool, bool) {
        let holds = |region: &&MemoryRegion| {
            region.start < region.end && region.start >> 12 <= page && page <= (region.end - 1) >> 12
        };
        let ram = |region: &MemoryRegion| region.kind == MemoryKind::Ram;
        (self.memory.iter().filter(holds).any(ram), self.memory.iter().any(|region| holds(&region)))
    }

    /// Cuts pages into runs that are alike: RAM or not, known or not.
    pub(crate) fn runs(&self, pages: PageRange) -> Vec<(PageRange, bool, bool)> {
        let mut cuts = vec![pages.start, pages.end];
        for region in self.memory.iter().filter(|region| region.start < region.end) {
            let ends = [region.start >> 12, ((region.end - 1) >> 12) + 1];
            cuts.extend(ends.into_iter().filter(|cut| (pages.start..pages.end).contains(cut)));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let run = |ends: &[u64]| {
            let (ram, known) = self.page(ends[0]);
            (PageRange { start: ends[0], end: ends[1] }, ram, known)
        };
        cuts.windows(2).map(run).collect()
    }
}

/// Frames that can be taken out of RAM, or not; what it was asked.
#[derive(Default)]
pub(crate) struct Allocator {
    pub(crate) refuses: bool,
    pub(crate) taken: Vec<PageRange>,
    pub(crate) reserved: Vec<PageRange>,
}

impl ReserveFrames for Allocator {
    fn take_out_of_ram(&mut self, pages: PageRange) -> Result<(), FramesInUse> {
        self.taken.push(pages);
        if self.refuses { Err(FramesInUse) } else { Ok(()) }
    }

    fn take_as_reserved(&mut self, pages: PageRange) {
        self.reserved.push(pages);
    }
}
