//! What is asked: a guest's memory, what lies fast in it, what may move, and what is wanted.
//!
//! Nothing in here knows Xen: [`crate::xen`] fills it with the numbers of its firmware and toolstack.

use p2m::{Gfn, GfnRange};

use crate::e820;
use crate::error::InputError;
use crate::frames::{Bounds, FRAMES_4G, range, span};

/// How RAM may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mode {
    /// In as many ranges as it takes, on both sides of a region.
    Ranges,
    /// One range from the bottom and one from 4 GiB on, for toolstacks and firmware that know two ends
    /// (libxl, unmodified hvmloader).
    TwoRange,
}

/// What a region is to a guest, and what happens where it cannot be had: `rdm_policy=` of xl.cfg, and one
/// more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Policy {
    /// There is no layout without it.
    Strict,
    /// The layout goes without it, and says so.
    Relaxed,
    /// As strict, but the guest gets fresh, zeroed frames of its own there, mapped for processor and device,
    /// and the host's region stays with the host: for devices whose firmware lets go of its region when they
    /// are reset (USB controllers), and where there is a reset. Not for graphics: there, the region holds
    /// what firmware left for the driver (a frame buffer, stolen memory), and hardware goes on using it.
    Private,
}

impl Policy {
    /// That of regions which are one, or of one that several devices have: what one of them does not leave to
    /// the layout, all need.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        if self == other { self } else { Self::Strict }
    }
}

/// A reserved region: at its own address in the guest, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its frames; the guest's and the machine's numbers are the same.
    pub frames: GfnRange,
    /// What if it cannot be had. Regions that overlap, or share a page, are one: strict
    /// where they have different ones.
    pub policy: Policy,
}

impl Region {
    /// The region of the bytes from `base` to `limit`, inclusive, as an RMRR names them: all pages that have
    /// a byte of it. `None` where `limit` lies below `base`.
    #[must_use]
    pub fn from_bytes(base: u64, limit: u64, policy: Policy) -> Option<Self> {
        let (first, last) = (Gfn::containing(base), Gfn::containing(limit));
        let frames = GfnRange::new(first, last.checked_add(1)?)?;
        (base <= limit).then_some(Self { frames, policy })
    }
}

/// The memory behind something that lies fast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// None: a device that is emulated.
    Device,
    /// Frames of its own, beside the guest's memory.
    Own,
    /// The guest's memory: RAM lies there, and firmware uses it.
    Ram,
}

/// Something that lies fast: firmware, an emulated device, or what somebody put there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// What it is, for people.
    pub name: &'static str,
    /// Its first frame.
    pub start: Gfn,
    /// How many frames it has.
    pub frames: u64,
    /// What memory is behind it.
    pub backing: Backing,
    /// Its type in the e820; `None` where it is not in there (beside RAM: as RAM).
    pub e820: Option<u32>,
    /// A region may lie in it: what is there gives way.
    pub yields: bool,
}

impl Fixed {
    /// Its frames.
    #[must_use]
    pub fn range(&self) -> GfnRange {
        span(self.start, self.frames)
    }
}

/// Where a module's frames come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleMemory {
    /// It lies in the guest's RAM, and the e820 does not show it: a kernel, an initrd.
    Ram,
    /// It has frames of its own beside the guest's memory, of this type in the e820: ACPI tables, SMBIOS.
    Own(u32),
}

/// Something that is put into the guest's memory and may lie anywhere in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module {
    /// What it is, for people.
    pub name: &'static str,
    /// Its size in frames; not 0.
    pub frames: u64,
    /// It begins at a multiple of this many frames: a power of two.
    pub align: u64,
    /// It lies at this frame or above,
    pub from: Gfn,
    /// and ends at this frame or below.
    pub below: Gfn,
    /// What it lies in.
    pub memory: ModuleMemory,
}

impl Module {
    /// Where it may lie.
    #[must_use]
    pub fn window(&self) -> GfnRange {
        range(self.from.raw(), self.below.raw())
    }
}

/// A device's base address register for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its size in bytes: a power of two. One of less than a page gets the page for itself, as what shares a
    /// page with a device that is passed through can be reached by its guest (XSA-461).
    pub bytes: u64,
    /// Whether it takes addresses of 64 bits.
    pub is_64bit: bool,
    /// Whether it is prefetchable. Of 64-bit BARs of a size, those that are not are kept below 4 GiB first: a
    /// bridge has no other window for them (PCI-to-PCI bridge specification 1.2, 3.2.5.8).
    pub prefetchable: bool,
}

impl Bar {
    /// Its frames.
    #[must_use]
    pub fn frames(&self) -> u64 {
        (self.bytes >> p2m::PAGE_SHIFT).max(1)
    }
}

/// What firmware asks of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware<'a> {
    /// What lies fast.
    pub fixed: &'a [Fixed],
    /// What may be moved.
    pub modules: &'a [Module],
    /// In [`Mode::TwoRange`], the low range ends here or above; what lies fast below does not end it.
    pub floor: Gfn,
    /// The firmware writes the e820 below this itself: the plan's begins its RAM here.
    pub e820_from: Gfn,
    /// Whether the firmware adds its own areas to the e820: the plan's has RAM, regions and modules alone.
    pub lists_itself: bool,
}

impl Firmware<'_> {
    /// No firmware.
    pub const NONE: Firmware<'static> = Firmware {
        fixed: &[],
        modules: &[],
        floor: Gfn::new(0),
        e820_from: Gfn::new(0),
        lists_itself: false,
    };
}

/// The guest that is to be laid out.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// How much memory it gets, in frames. In [`Mode::TwoRange`] as libxl counts: what an emulated device
    /// covers below [`Firmware::floor`] (128 KiB of VGA) counts too, and is not populated.
    pub memory: u64,
    /// How RAM may lie.
    pub mode: Mode,
    /// Whether RAM is to lie in runs of 2 MiB where there is room for that.
    pub large_pages: bool,
    /// Where RAM may lie above 4 GiB, and 64-bit BARs: up to what processor, tables and IOMMU all reach.
    pub high: GfnRange,
    /// The hole for BARs below 4 GiB. RAM may lie from frame 0 to where it starts.
    pub hole: GfnRange,
    /// How far down the hole may grow where 32-bit BARs need it. The hole's start: not at all.
    pub hole_lowest: Gfn,
    /// The firmware.
    pub firmware: Firmware<'a>,
    /// What something else put there before: kept, and nothing else lies on it. Backing and `yields` count as
    /// for firmware.
    pub filled: &'a [Fixed],
    /// The reserved regions, in any order, overlapping, nested, or twice.
    pub regions: &'a [Region],
    /// The BARs.
    pub bars: &'a [Bar],
    /// The modules.
    pub modules: &'a [Module],
    /// How many frames are to stay unallocated for grants and foreign mappings; 0: none. In pieces of 64 MiB
    /// or more, in units of 2 MiB.
    pub unallocated: u64,
}

impl Machine<'_> {
    /// A PC of `memory` frames with addresses of `width` bits (at least 33 to have anything above 4 GiB): RAM
    /// below 0xf0000000 and from 4 GiB on, the hole from there to 0xfc000000 (`HVM_BELOW_4G_MMIO_START` of
    /// Xen's `public/hvm/e820.h`, and `PCI_MEM_END` of hvmloader's `config.h`), nothing in it.
    #[must_use]
    pub fn new(memory: u64, width: u32) -> Self {
        let end = 1_u64.checked_shl(width.saturating_sub(p2m::PAGE_SHIFT)).unwrap_or(0);
        Self {
            memory,
            mode: Mode::Ranges,
            large_pages: true,
            high: range(FRAMES_4G, end.min(1 << 52)),
            hole: range(0xf_0000, 0xf_c000),
            hole_lowest: Gfn::new(0xf_0000),
            firmware: Firmware::NONE,
            filled: &[],
            regions: &[],
            bars: &[],
            modules: &[],
            unallocated: 0,
        }
    }

    /// All that lies fast: the firmware's, then what was filled before.
    pub(crate) fn fixed(&self) -> impl Iterator<Item = &Fixed> + Clone {
        self.firmware.fixed.iter().chain(self.filled)
    }

    /// What lies fast and has this index in a [`Cause`](crate::Cause): the firmware's first, then what was
    /// filled before.
    #[must_use]
    pub fn lies_fast(&self, index: usize) -> Option<&Fixed> {
        self.fixed().nth(index)
    }

    /// All modules: the firmware's, then the guest's.
    pub(crate) fn all_modules(&self) -> impl Iterator<Item = &Module> {
        self.firmware.modules.iter().chain(self.modules)
    }

    /// The module of this index.
    pub(crate) fn module(&self, index: usize) -> Option<&Module> {
        let firmware = self.firmware.modules;
        firmware.get(index).or_else(|| self.modules.get(index.checked_sub(firmware.len())?))
    }

    /// The end of the guest's addresses.
    pub(crate) fn end(&self) -> u64 {
        self.high.high()
    }

    /// Looks for what no layout could make good.
    pub(crate) fn check(&self) -> Result<(), InputError> {
        if self.hole.high() > self.high.low() || self.hole_lowest > self.hole.start() {
            return Err(InputError::Hole);
        }
        for (index, bar) in self.bars.iter().enumerate() {
            if !bar.bytes.is_power_of_two() {
                return Err(InputError::Bar { index, bytes: bar.bytes });
            }
        }
        for (index, module) in self.all_modules().enumerate() {
            if module.frames == 0 || !module.align.is_power_of_two() {
                return Err(InputError::Module { index });
            }
            if matches!(module.memory, ModuleMemory::Own(e820::RAM)) {
                return Err(InputError::Module { index });
            }
        }
        for (index, fixed) in self.fixed().enumerate() {
            let clash = self.fixed().take(index).position(|other| other.range().overlaps(&fixed.range()));
            if let Some(other) = clash {
                return Err(InputError::Fixed { index, other });
            }
        }
        Ok(())
    }
}
