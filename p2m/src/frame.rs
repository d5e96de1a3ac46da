//! Frame numbers, ranges of them, and where page-table frames come from. The vocabulary is Xen's
//! (`xen/include/xen/mm.h`).

use core::fmt;
use core::ops::Range;
use core::sync::atomic::AtomicU64;

/// Bytes in a frame as a power of two: frames are 4 KiB.
pub const PAGE_SHIFT: u32 = 12;

/// A frame number of some address space, in units of 4 KiB.
pub trait Frame: Copy + Ord + fmt::Debug {
    /// Wraps a raw frame number.
    fn new(raw: u64) -> Self;
    /// The raw frame number.
    fn raw(self) -> u64;
}

macro_rules! frame_number {
    ($(#[$doc:meta])* $name:ident, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// Wraps a raw frame number.
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The frame that holds the byte at `address`.
            #[must_use]
            pub const fn containing(address: u64) -> Self {
                Self(address >> PAGE_SHIFT)
            }

            /// The raw frame number.
            #[must_use]
            pub const fn raw(self) -> u64 {
                self.0
            }

            /// The address of the frame's first byte; frames of 2^52 and up have none (`None`).
            #[must_use]
            pub const fn address(self) -> Option<u64> {
                if self.0 >> (u64::BITS - PAGE_SHIFT) == 0 { Some(self.0 << PAGE_SHIFT) } else { None }
            }

            /// The frame `frames` further up, unless that overflows.
            #[must_use]
            pub const fn checked_add(self, frames: u64) -> Option<Self> {
                match self.0.checked_add(frames) {
                    Some(raw) => Some(Self(raw)),
                    None => None,
                }
            }
        }

        impl Frame for $name {
            fn new(raw: u64) -> Self {
                Self(raw)
            }

            fn raw(self) -> u64 {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {:#x}"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

frame_number!(
    /// A frame number as a guest sees it (Xen's `gfn_t`).
    Gfn,
    "gfn"
);
frame_number!(
    /// A frame number of the machine (Xen's `mfn_t`).
    Mfn,
    "mfn"
);

/// Frames from `start` up to, not including, `end`. Never reversed; may be empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct FrameRange<F> {
    start: F,
    end: F,
}

/// A range of guest frames.
pub type GfnRange = FrameRange<Gfn>;
/// A range of machine frames.
pub type MfnRange = FrameRange<Mfn>;

impl<F: Frame> FrameRange<F> {
    /// The frames from `start` up to `end`, exclusive; `None` when `end` lies below `start`.
    pub fn new(start: F, end: F) -> Option<Self> {
        (start <= end).then_some(Self { start, end })
    }

    /// `count` frames from `start` on; `None` when that overflows.
    pub fn with_len(start: F, count: u64) -> Option<Self> {
        let end = start.raw().checked_add(count)?;
        Some(Self { start, end: F::new(end) })
    }

    /// From `start` up to `end`, or empty at `start` when that lies below.
    pub(crate) fn clamped(start: F, end: F) -> Self {
        Self { start, end: end.max(start) }
    }

    /// The first frame.
    pub fn start(&self) -> F {
        self.start
    }

    /// The frame after the last one.
    pub fn end(&self) -> F {
        self.end
    }

    /// How many frames.
    pub fn len(&self) -> u64 {
        self.end.raw().saturating_sub(self.start.raw())
    }

    /// Whether there is no frame in it.
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// Whether `frame` is in it.
    pub fn contains(&self, frame: F) -> bool {
        self.start <= frame && frame < self.end
    }

    /// Whether the two have a frame in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The smallest range that holds both.
    pub fn hull(&self, other: &Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The frames that both have.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (!both.is_empty()).then_some(both)
    }
}

impl MfnRange {
    /// The guest frames of the same numbers: where a 1:1 mapping of this range lies.
    #[must_use]
    pub fn identity(&self) -> GfnRange {
        GfnRange { start: Gfn(self.start.0), end: Gfn(self.end.0) }
    }
}

impl GfnRange {
    /// The machine frames of the same numbers.
    #[must_use]
    pub fn identity(&self) -> MfnRange {
        MfnRange { start: Mfn(self.start.0), end: Mfn(self.end.0) }
    }
}

impl<F: Frame> fmt::Display for FrameRange<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start.raw(), self.end.raw())
    }
}

impl<F: Frame> fmt::Debug for FrameRange<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "frames {self}")
    }
}

/// The sizes of page that the translation formats know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PageSize {
    /// 4 KiB, order 0.
    Size4K,
    /// 2 MiB, order 9.
    Size2M,
    /// 1 GiB, order 18.
    Size1G,
}

impl PageSize {
    /// The power of two of frames in a page (Xen's page order).
    #[must_use]
    pub const fn order(self) -> u32 {
        match self {
            Self::Size4K => 0,
            Self::Size2M => 9,
            Self::Size1G => 18,
        }
    }

    /// Frames in a page.
    #[must_use]
    pub const fn frames(self) -> u64 {
        1 << self.order()
    }
}

/// One page table as hardware walks it: 512 entries of 64 bits, naturally aligned (Intel SDM Vol. 3, 4.5;
/// VT-d 9.8).
#[repr(C, align(4096))]
pub struct TableFrame(pub [AtomicU64; 512]);

/// Gives and takes the frames that page tables are made of.
///
/// # Safety
/// A frame that `allocate` returned belongs to the caller alone until it is given to `free`; all its entries
/// are zero; and `table` returns the memory of just that frame for as long as it is allocated.
#[allow(unsafe_code, reason = "callers rely on the frames being theirs")]
pub unsafe trait FrameSource {
    /// A zeroed frame, or `None` when there is none left.
    fn allocate(&self) -> Option<Mfn>;

    /// Takes back a frame that `allocate` gave. Neither the caller nor any hardware may use it any more.
    fn free(&self, frame: Mfn);

    /// The memory of an allocated frame; `None` for a frame that did not come from here.
    fn table(&self, frame: Mfn) -> Option<&TableFrame>;

    /// These entries of an allocated frame were written; called before anything that leads to them is
    /// written. Where the remapping hardware does not snoop caches on its walks (VT-d 11.4.3, ECAP.C clear)
    /// the source writes the lines back here; elsewhere there is nothing to do.
    #[inline]
    fn written(&self, frame: Mfn, entries: Range<usize>) {
        let _ = (frame, entries);
    }
}

// SAFETY: it passes on what the source behind the reference does.
#[allow(unsafe_code, reason = "forwarding")]
unsafe impl<S: FrameSource + ?Sized> FrameSource for &S {
    fn allocate(&self) -> Option<Mfn> {
        (**self).allocate()
    }

    fn free(&self, frame: Mfn) {
        (**self).free(frame);
    }

    #[inline]
    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        (**self).table(frame)
    }

    #[inline]
    fn written(&self, frame: Mfn, entries: Range<usize>) {
        (**self).written(frame, entries);
    }
}
