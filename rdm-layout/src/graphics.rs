//! Intel graphics: the memory that firmware took for it, which no BAR names, and the registers in its
//! configuration space by which a driver finds it.
//!
//! Stolen memory holds frame buffers; its size is in GGC, its base in BDSM. The OpRegion holds what firmware
//! tells the driver; ASLS has its address. A guest finds both where these registers say, so either they lie at
//! the host's addresses (where an RMRR covers them, they do), or elsewhere, and the guest reads other values.
//! (The GTT's own stolen memory below BDSM is reached by way of BAR 0 alone, and is not the guest's.)

use p2m::{Gfn, GfnRange, PAGE_SHIFT};

use crate::e820::RESERVED;
use crate::frames::range;
use crate::machine::{Module, ModuleMemory};

/// ASLS: the address of the OpRegion (IGD OpRegion specification 1.0, 2.2).
pub const ASLS: u16 = 0xfc;
/// Bytes of an OpRegion without more VBT than fits it.
pub const OP_REGION_BYTES: u64 = 8 << 10;

const MIB: u64 = 1 << 20;
const FRAME: u64 = 1 << PAGE_SHIFT;

/// How GGC says the size of stolen memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Bits 7:4, an index into [`SIZES`].
    Listed,
    /// Bits 7:3 in units of 32 MiB up to 512 MiB; 0x11 is 1 GiB.
    Five,
    /// Bits 15:8 in units of 32 MiB.
    Eight,
    /// Bits 15:8 in units of 32 MiB up to 0xef, and from 0xf0 on in units of 4 MiB from 4 MiB on.
    EightFine,
}

/// MiB by the number in GGC, as the chipsets' datasheets have them (see below); no chipset takes all.
const SIZES: [u64; 14] = [0, 1, 4, 8, 16, 32, 48, 64, 128, 256, 96, 160, 224, 352];

/// A generation of Intel graphics, as far as its memory goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Names of processors or chipsets that have it.
    pub name: &'static str,
    /// Its number, as drivers count.
    pub number: u8,
    /// Where GGC (16 bits) is in its configuration space.
    pub ggc: u16,
    /// Where BDSM is.
    pub bdsm: u16,
    /// Whether BDSM has 64 bits.
    pub is_bdsm_64bit: bool,
    encoding: Encoding,
    /// The device ids that it has, with the other bits of each masked out.
    ids: &'static [(u16, u16)],
}

const fn generation(
    number: u8,
    name: &'static str,
    encoding: Encoding,
    ids: &'static [(u16, u16)],
) -> Generation {
    Generation {
        name,
        number,
        // MGGC is at 0x52 up to Ironlake.
        ggc: if number < 6 { 0x52 } else { 0x50 },
        bdsm: if number < 11 { 0x5c } else { 0xc0 },
        is_bdsm_64bit: number >= 11,
        encoding,
        ids,
    }
}

/// Those whose processors or chipsets have an IOMMU, each with the Intel documents that have its GGC and BDSM
/// (datasheets, volume 2 where there are several). Device ids are those of Linux' include/drm/intel/pciids.h;
/// its arch/x86/kernel/early-quirks.c reads the same sizes.
const GENERATIONS: [Generation; 11] = [
    // 319970 (9.2.18: the copy of GGC at 0x52) and 320122.
    generation(4, "4 Series", Encoding::Listed, &[(0x2a40, 0xfff0), (0x2e00, 0xff00)]),
    // 322910.
    generation(5, "Ironlake", Encoding::Listed, &[(0x0040, 0xfff0)]),
    // 324642, 2.5.12.
    generation(6, "Sandy Bridge", Encoding::Five, &[(0x0100, 0xffc0)]),
    // 326765.
    generation(7, "Ivy Bridge", Encoding::Five, &[(0x0140, 0xffc0)]),
    // 328898.
    generation(
        7,
        "Haswell",
        Encoding::Five,
        &[(0x0400, 0xff00), (0x0a00, 0xff80), (0x0c00, 0xff00), (0x0d00, 0xff00)],
    ),
    // 330835.
    generation(8, "Broadwell", Encoding::Eight, &[(0x1600, 0xff00)]),
    // 332688.
    generation(
        9,
        "Skylake to Comet Lake",
        Encoding::EightFine,
        &[(0x1900, 0xff00), (0x5900, 0xff00), (0x3e00, 0xff00), (0x8700, 0xff00), (0x9b00, 0xff00)],
    ),
    // Linux alone.
    generation(
        9,
        "Apollo Lake, Gemini Lake",
        Encoding::EightFine,
        &[(0x0a84, 0xffff), (0x1a80, 0xfff0), (0x5a80, 0xfff0), (0x3180, 0xfff0)],
    ),
    // 341078.
    generation(
        11,
        "Ice Lake, Jasper Lake, Elkhart Lake",
        Encoding::EightFine,
        &[(0x8a00, 0xff00), (0x4500, 0xff00), (0x4e00, 0xff00)],
    ),
    // 631122.
    generation(12, "Tiger Lake, Rocket Lake", Encoding::EightFine, &[(0x9a00, 0xff00), (0x4c00, 0xff00)]),
    // 655259.
    generation(12, "Alder Lake, Raptor Lake", Encoding::EightFine, &[(0x4600, 0xff00), (0xa700, 0xff00)]),
];

impl Generation {
    /// That of an Intel display controller with this device id; `None` where it is not known, or its memory
    /// is no part of the host's (graphics cards; from Meteor Lake on it is behind a BAR).
    #[must_use]
    pub fn of(device_id: u16) -> Option<&'static Self> {
        GENERATIONS.iter().find(|known| known.ids.iter().any(|(id, mask)| device_id & mask == *id))
    }

    /// Bytes of stolen memory by GGC; `None` for a number that is reserved.
    #[must_use]
    pub fn stolen_bytes(&self, ggc: u16) -> Option<u64> {
        let (five, eight) = (u64::from(ggc >> 3 & 0x1f), u64::from(ggc >> 8));
        let mib = match (self.encoding, five) {
            (Encoding::Listed, _) => *SIZES.get(usize::from(ggc >> 4 & 0xf))?,
            (Encoding::Five, 0..=0x10) => five.saturating_mul(32),
            (Encoding::Five, 0x11) => 1024,
            (Encoding::Five, _) => return None,
            (Encoding::EightFine, _) if eight >= 0xf0 => match eight {
                0xff => return None,
                _ => eight.saturating_sub(0xef).saturating_mul(4),
            },
            (Encoding::Eight | Encoding::EightFine, _) => eight.saturating_mul(32),
        };
        Some(mib.saturating_mul(MIB))
    }

    /// The bits of GGC that say how much is stolen.
    const fn size_bits(&self) -> u16 {
        match self.encoding {
            Encoding::Listed => 0xf0,
            Encoding::Five => 0xf8,
            Encoding::Eight | Encoding::EightFine => 0xff00,
        }
    }

    /// The frames of stolen memory by GGC and BDSM; `None` where there is none, or a value is reserved.
    #[must_use]
    pub fn stolen(&self, ggc: u16, bdsm: u64) -> Option<GfnRange> {
        // The bits below the megabyte are a lock and reserved ones.
        let base =
            if self.is_bdsm_64bit { bdsm } else { bdsm & u64::from(u32::MAX) } & !(MIB.saturating_sub(1));
        let bytes = self.stolen_bytes(ggc)?;
        (base != 0 && bytes != 0).then(|| range(base >> PAGE_SHIFT, base.saturating_add(bytes) >> PAGE_SHIFT))
    }
}

/// An OpRegion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpRegion {
    /// Its address, which need not be a page's.
    pub address: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Major and minor version.
    pub version: (u8, u8),
    /// Address and bytes of the VBT, where it lies outside.
    pub vbt: Option<(u64, u64)>,
}

/// What is wrong with an OpRegion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpRegionError {
    /// There are too few bytes to tell.
    #[error("{0} bytes, and an OpRegion has its header and mailboxes in 1,024")]
    Short(usize),
    /// It does not begin as one.
    #[error("it does not begin with IntelGraphicsMem")]
    Signature,
    /// It says that it has so many KiB.
    #[error("it says that it has {0} KiB, and an OpRegion has 8 at least")]
    Size(u32),
    /// Its VBT lies in it, or ends beyond all addresses.
    #[error("its VBT is said to be at {0:#x}, in it or beyond all addresses")]
    Vbt(u64),
}

const SIGNATURE: &[u8; 16] = b"IntelGraphicsMem";
/// Offsets (IGD OpRegion specification 1.0, 3.1 and 3.4; Linux' drivers/vfio/pci/vfio_pci_igd.c).
const SIZE: usize = 0x10;
const MINOR: usize = 0x16;
const MAILBOXES: usize = 0x58;
const RVDA: usize = 0x3ba;
const RVDS: usize = 0x3c2;
/// There is a mailbox 3, which has RVDA.
const ASLE: u32 = 1 << 2;

impl OpRegion {
    /// What ASLS leads to where nobody can look at it; `None` where it is 0, as there is none then.
    #[must_use]
    pub fn unread(asls: u32) -> Option<Self> {
        let address = u64::from(asls);
        (asls != 0).then_some(Self { address, bytes: OP_REGION_BYTES, version: (1, 0), vbt: None })
    }

    /// Reads the one at the address in ASLS; `memory` has its first bytes, 1,024 at least.
    ///
    /// # Errors
    /// It is none, or not as one should be.
    pub fn read(asls: u32, memory: &[u8]) -> Result<Self, OpRegionError> {
        let short = OpRegionError::Short(memory.len());
        let word = |at: usize| {
            let bytes = memory.get(at..).and_then(<[u8]>::first_chunk).ok_or(short)?;
            Ok::<u32, OpRegionError>(u32::from_le_bytes(*bytes))
        };
        if memory.first_chunk() != Some(SIGNATURE) {
            return Err(if memory.len() < SIGNATURE.len() { short } else { OpRegionError::Signature });
        }
        let kib = word(SIZE)?;
        let bytes = u64::from(kib) << 10;
        if !(OP_REGION_BYTES..=16 * MIB).contains(&bytes) {
            return Err(OpRegionError::Size(kib));
        }
        let [minor, major, ..] = word(MINOR)?.to_le_bytes();
        let address = u64::from(asls);
        let (low, high, size) = (word(RVDA)?, word(RVDA.saturating_add(4))?, u64::from(word(RVDS)?));
        let rvda = u64::from(high) << 32 | u64::from(low);
        let is_outside = major >= 2 && word(MAILBOXES)? & ASLE != 0 && rvda != 0 && size != 0;
        let vbt = if is_outside {
            let wrong = OpRegionError::Vbt(rvda);
            // Absolute in 2.0, and from the OpRegion's start from 2.1 on.
            let is_relative = (major, minor) >= (2, 1);
            let start = if is_relative { address.checked_add(rvda).ok_or(wrong)? } else { rvda };
            let end = start.checked_add(size).filter(|end| *end <= 1 << 52).ok_or(wrong)?;
            if start < address.saturating_add(bytes) && end > address {
                return Err(wrong);
            }
            Some((start, size))
        } else {
            None
        };
        Ok(Self { address, bytes, version: (major, minor), vbt })
    }

    /// Its frames.
    #[must_use]
    pub fn frames(&self) -> GfnRange {
        covering(self.address, self.bytes)
    }

    /// The VBT's frames, where it lies outside.
    #[must_use]
    pub fn vbt_frames(&self) -> Option<GfnRange> {
        self.vbt.map(|(address, bytes)| covering(address, bytes))
    }
}

/// The frames that have a byte of these.
fn covering(address: u64, bytes: u64) -> GfnRange {
    let end = address.saturating_add(bytes).saturating_add(FRAME.saturating_sub(1));
    range(address >> PAGE_SHIFT, end >> PAGE_SHIFT)
}

/// What a device's registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Graphics {
    /// Its generation.
    pub generation: &'static Generation,
    /// GGC.
    pub ggc: u16,
    /// BDSM.
    pub bdsm: u64,
    /// ASLS, and what it leads to.
    pub op_region: Option<OpRegion>,
}

/// A register of the guest's device, and what the guest reads there. Writes are dropped: what a place is, the
/// plan has said, and the host's own registers are locked or firmware's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestRegister {
    /// Its name.
    pub name: &'static str,
    /// Its offset in configuration space.
    pub offset: u16,
    /// How many bytes it has.
    pub bytes: u8,
    /// What is read.
    pub value: u64,
}

/// What a guest has of a device's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is at the host's addresses: a reserved region covers it.
    Host,
    /// The guest has memory of its own for it, from this frame on.
    Guest(Gfn),
    /// The guest has none.
    Nowhere,
}

/// Where in a guest stolen memory may lie, if not at the host's addresses: BDSM has 32 bits up to generation
/// 10, and there is RAM around it.
const STOLEN_WINDOW: (Gfn, Gfn) = (Gfn::new(0xc_0000), Gfn::new(0xf_c000));
/// Where the OpRegion may lie: where firmware puts its tables.
const OP_REGION_WINDOW: (Gfn, Gfn) = (Gfn::new(0xf_c001), Gfn::new(0xf_ec00));

impl Graphics {
    /// Its stolen memory on the host.
    #[must_use]
    pub fn stolen(&self) -> Option<GfnRange> {
        self.generation.stolen(self.ggc, self.bdsm)
    }

    /// All that it has on the host: stolen memory, OpRegion, and VBT.
    pub fn host_ranges(&self) -> impl Iterator<Item = (&'static str, GfnRange)> {
        let op_region = self.op_region.map(|region| ("OpRegion", region.frames()));
        let vbt = self.op_region.and_then(|region| region.vbt_frames()).map(|frames| ("VBT", frames));
        let stolen = self.stolen().map(|frames| ("stolen memory", frames));
        stolen.into_iter().chain(op_region).chain(vbt)
    }

    /// The module that stands for stolen memory in a guest that does not have the host's: frames of its own,
    /// empty, reserved in the e820. Who counts it as the guest's memory plans with so much less.
    #[must_use]
    pub fn stolen_module(&self) -> Option<Module> {
        let frames = self.stolen()?.len();
        let (from, below) = STOLEN_WINDOW;
        let memory = ModuleMemory::Own(RESERVED);
        Some(Module { name: "stolen memory", frames, align: MIB >> PAGE_SHIFT, from, below, memory })
    }

    /// The module that holds copies of OpRegion and VBT, one behind the other, reserved in the e820.
    #[must_use]
    pub fn op_region_module(&self) -> Option<Module> {
        let region = self.op_region?;
        let frames = region.frames().len().saturating_add(region.vbt_frames().map_or(0, |vbt| vbt.len()));
        let ((from, below), memory) = (OP_REGION_WINDOW, ModuleMemory::Own(RESERVED));
        Some(Module { name: "OpRegion", frames, align: 1, from, below, memory })
    }

    /// What a guest reads in GGC, BDSM and ASLS, whose writes are dropped.
    #[must_use]
    pub fn guest_registers(&self, stolen: Place, op_region: Place) -> [GuestRegister; 3] {
        let generation = self.generation;
        let (ggc, bdsm) = match stolen {
            Place::Host if generation.is_bdsm_64bit => (self.ggc, self.bdsm),
            Place::Host => (self.ggc, self.bdsm & u64::from(u32::MAX)),
            Place::Guest(start) => (self.ggc, start.address().unwrap_or(0)),
            Place::Nowhere => (self.ggc & !generation.size_bits(), 0),
        };
        let asls = match (op_region, self.op_region) {
            (Place::Host, Some(region)) => region.address,
            (Place::Guest(start), Some(region)) => in_page(start, region.address),
            _ => 0,
        };
        let width = if generation.is_bdsm_64bit { 8 } else { 4 };
        [
            GuestRegister { name: "GGC", offset: generation.ggc, bytes: 2, value: ggc.into() },
            GuestRegister { name: "BDSM", offset: generation.bdsm, bytes: width, value: bdsm },
            GuestRegister { name: "ASLS", offset: ASLS, bytes: 4, value: asls },
        ]
    }

    /// What RVDA (64 bits at 0x3ba) has to be in a copy of the OpRegion that is placed at `start` with its VBT
    /// in the frames behind it; `None` where there is no such VBT.
    #[must_use]
    pub fn guest_rvda(&self, start: Gfn) -> Option<u64> {
        let region = self.op_region?;
        let (address, _) = region.vbt?;
        let behind = start.checked_add(region.frames().len())?;
        let vbt = in_page(behind, address);
        match region.version >= (2, 1) {
            true => vbt.checked_sub(in_page(start, region.address)),
            false => Some(vbt),
        }
    }
}

/// The address in the page at `start` that `address` has in its own.
fn in_page(start: Gfn, address: u64) -> u64 {
    start.address().unwrap_or(0) | address & FRAME.saturating_sub(1)
}
