//! The host's memory map: which physical addresses are RAM, and which the firmware keeps.

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;

/// The most ranges that are kept. QEMU's firmware reports about ten.
const RANGES: usize = 128;

/// The end of the first MiB, where firmware, its data and the legacy holes are.
pub const LOW_END: u64 = 0x10_0000;

/// What a range of physical addresses is (E820 types, ACPI 6.5 table 15.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// RAM to use.
    Usable,
    /// Not to be used: memory the firmware keeps, or addresses of devices.
    Reserved,
    /// ACPI tables; RAM once they were read.
    AcpiReclaimable,
    /// Firmware's memory, to be kept over sleep.
    AcpiNvs,
    /// RAM found bad.
    Bad,
    /// Any other type, as reported.
    Other(u32),
}

impl MemoryKind {
    /// The kind with this E820 type.
    pub fn from_e820(kind: u32) -> Self {
        match kind {
            1 => Self::Usable,
            2 => Self::Reserved,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Bad,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::Reserved => f.write_str("reserved"),
            Self::AcpiReclaimable => f.write_str("ACPI tables"),
            Self::AcpiNvs => f.write_str("ACPI NVS"),
            Self::Bad => f.write_str("bad"),
            Self::Other(kind) => write!(f, "type {kind}"),
        }
    }
}

/// One range of the map, in bytes; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryRange {
    /// Physical addresses; the end is exclusive.
    pub range: Range<u64>,
    /// What they are.
    pub kind: MemoryKind,
}

impl fmt::Display for MemoryRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#011x},{:#011x}) {}", self.range.start, self.range.end, self.kind)
    }
}

/// The ranges, sorted by where they start.
#[derive(Clone, Debug, Default)]
pub struct MemoryMap {
    ranges: ArrayVec<MemoryRange, RANGES>,
}

impl MemoryMap {
    /// An empty map.
    pub const fn new() -> Self {
        Self { ranges: ArrayVec::new_const() }
    }

    /// Adds a range; false when the map is full.
    pub fn insert(&mut self, range: MemoryRange) -> bool {
        let at = self.ranges.partition_point(|other| other.range.start <= range.range.start);
        self.ranges.try_insert(at, range).is_ok()
    }

    /// The ranges, sorted by where they start.
    pub fn ranges(&self) -> &[MemoryRange] {
        &self.ranges
    }

    /// The usable ranges cut to whole pages.
    pub fn usable_pages(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges
            .iter()
            .filter(|range| range.kind == MemoryKind::Usable)
            .map(|range| range.range.start.next_multiple_of(4096)..range.range.end & !0xfff)
            .filter(|range| range.start < range.end)
    }

    /// The end of the highest usable page.
    pub fn usable_end(&self) -> u64 {
        self.usable_pages().map(|range| range.end).max().unwrap_or(0)
    }

    /// The kind of the range that `address` is in, if it is in one.
    pub fn kind_at(&self, address: u64) -> Option<MemoryKind> {
        self.ranges.iter().find(|range| range.range.contains(&address)).map(|range| range.kind)
    }

    /// Whether any usable address is in `range`.
    pub fn touches_usable(&self, range: &Range<u64>) -> bool {
        self.ranges.iter().any(|other| {
            other.kind == MemoryKind::Usable && other.range.start < range.end && range.start < other.range.end
        })
    }

    /// The ranges that are memory, whole pages: RAM, ACPI's, and what the firmware keeps right above RAM. A
    /// reserved range elsewhere is taken for device addresses, such as PCI Express's configuration window or
    /// the flash below 4 GiB.
    pub fn memory(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().filter(|range| self.is_memory(range)).map(|range| {
            let range = &range.range;
            range.start & !0xfff..range.end.next_multiple_of(4096)
        })
    }

    fn is_memory(&self, range: &MemoryRange) -> bool {
        match range.kind {
            MemoryKind::Usable | MemoryKind::AcpiReclaimable | MemoryKind::AcpiNvs => true,
            MemoryKind::Reserved => self.ranges.iter().any(|other| {
                matches!(other.kind, MemoryKind::Usable | MemoryKind::AcpiReclaimable | MemoryKind::AcpiNvs)
                    && other.range.end == range.range.start
            }),
            MemoryKind::Bad | MemoryKind::Other(_) => false,
        }
    }
}
