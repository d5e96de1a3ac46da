//! Machines from bytes: PCI functions and a memory map, as records of eight bytes.

use std::collections::BTreeMap;

use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use p2m::{Mfn, MfnRange};
use xen_iommu::region::memory::{FramesInUse, MemoryKind, MemoryRegion, ReserveFrames};

use crate::bus::{Bus, Function};

/// A machine, so far as tables are about it.
#[derive(Default)]
pub(crate) struct Machine {
    pub(crate) bus: Bus,
    pub(crate) memory: Vec<MemoryRegion>,
    pub(crate) allocator: Allocator,
    /// What is in config space beside what the bus tells, by address and offset.
    config: BTreeMap<PciAddress, Vec<(u8, u8)>>,
    last: Option<PciAddress>,
}

/// Takes the bytes for a table, up to the length in its header, and the records of a machine after it. The
/// signature is put right; `None` if there are too few bytes for a header.
pub(crate) fn split(data: &mut [u8]) -> Option<(&[u8], Machine)> {
    let head = data.first_chunk_mut::<48>()?;
    head[..4].copy_from_slice(b"DMAR");
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let (table, records) = data.split_at(length.min(data.len()));
    Some((table, Machine::new(records)))
}

impl Machine {
    /// Records of eight bytes: what is one, and what it is. A last one that is not whole is ignored.
    fn new(records: &[u8]) -> Self {
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
                self.last = Some(PciAddress::new(segment.into(), bus, device & 31, function & 7));
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
            _ if what & 8 == 0 => self.allocator.refuses = !self.allocator.refuses,
            _ => {
                let [offset, bytes @ ..] = bytes;
                let Some(last) = self.last else { return };
                self.config.entry(last).or_default().extend((offset..=u8::MAX).zip(bytes));
            }
        }
    }

    /// The config space of each function.
    #[allow(unsafe_code, reason = "config access is an unsafe trait method")]
    pub(crate) fn config_spaces(&self) -> impl Iterator<Item = (PciAddress, Vec<u8>)> {
        self.bus.functions.keys().map(|address| {
            let mut config = Vec::new();
            for offset in (0..0x100).step_by(4) {
                let known = matches!(offset, 0 | 0x08 | 0x0c)
                    || offset == 0x18 && matches!(self.bus.functions[address], Function::Bridge { .. });
                // SAFETY: these buses are made of numbers.
                let dword = if known { unsafe { self.bus.read(*address, offset) } } else { 0 };
                config.extend_from_slice(&dword.to_le_bytes());
            }
            for (offset, byte) in self.config.get(address).into_iter().flatten() {
                config[usize::from(*offset)] = *byte;
            }
            (*address, config)
        })
    }

    /// What the map says of a page, by the rules' words: whether any byte of it is RAM, and whether any is
    /// known.
    fn page(&self, page: u64) -> (bool, bool) {
        let holds = |region: &&MemoryRegion| {
            region.start < region.end && region.start >> 12 <= page && page <= (region.end - 1) >> 12
        };
        let ram = |region: &MemoryRegion| region.kind == MemoryKind::Ram;
        (self.memory.iter().filter(holds).any(ram), self.memory.iter().any(|region| holds(&region)))
    }

    /// Cuts pages into runs that are alike: RAM or not, known or not.
    pub(crate) fn runs(&self, pages: MfnRange) -> Vec<(MfnRange, bool, bool)> {
        let (start, end) = (pages.start().raw(), pages.end().raw());
        let mut cuts = vec![start, end];
        for region in self.memory.iter().filter(|region| region.start < region.end) {
            let ends = [region.start >> 12, ((region.end - 1) >> 12) + 1];
            cuts.extend(ends.into_iter().filter(|cut| (start..end).contains(cut)));
        }
        cuts.sort_unstable();
        cuts.dedup();
        let run = |ends: &[u64]| {
            let (ram, known) = self.page(ends[0]);
            (MfnRange::new(Mfn::new(ends[0]), Mfn::new(ends[1])).unwrap(), ram, known)
        };
        cuts.windows(2).map(run).collect()
    }
}

/// Frames that can be taken out of RAM, or not; what it was asked.
#[derive(Default)]
pub(crate) struct Allocator {
    pub(crate) refuses: bool,
    pub(crate) taken: Vec<MfnRange>,
    pub(crate) reserved: Vec<MfnRange>,
}

impl ReserveFrames for Allocator {
    fn take_out_of_ram(&mut self, pages: MfnRange) -> Result<(), FramesInUse> {
        self.taken.push(pages);
        if self.refuses { Err(FramesInUse) } else { Ok(()) }
    }

    fn take_as_reserved(&mut self, pages: MfnRange) {
        self.reserved.push(pages);
    }
}
