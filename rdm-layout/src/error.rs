//! Why there is no layout.

use core::fmt;

use p2m::GfnRange;

use crate::storage::Needs;

/// What a layout may have to go without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Thing {
    /// The memory itself.
    Memory,
    /// The region of this index.
    Region(usize),
    /// The BAR of this index.
    Bar(usize),
    /// The guest's module of this index.
    Module(usize),
    /// The firmware's module of this index.
    FirmwareModule(usize),
    /// The space that is to stay unallocated.
    Unallocated,
}

/// Why something has no place beside all that has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Cause {
    /// A region ends beyond the guest's addresses, which end at `end`.
    BeyondAddresses {
        /// The frame behind the last one that the guest has an address for.
        end: Frame,
    },
    /// A region lies in something that lies fast and does not give way.
    Fixed {
        /// Which: an index into the firmware's, and behind them what was filled before.
        index: usize,
        /// The first frame that both want.
        at: Frame,
    },
    /// RAM does not fit.
    Memory {
        /// Frames that there is room for.
        room: u64,
    },
    /// There is too little memory for the RAM that firmware uses.
    TooLittle {
        /// The end of what it uses.
        end: Frame,
    },
    /// With two ranges, the low one would end below what the firmware needs.
    LowEnd {
        /// Where it would end.
        at: Frame,
        /// Where it has to end at least.
        floor: Frame,
    },
    /// With two ranges, something lies in the high one.
    HighRange {
        /// The first frame of what is there.
        at: Frame,
        /// Where the high range would end.
        end: Frame,
    },
    /// A BAR has no free place of its size and alignment in the windows it may lie in.
    Bar {
        /// Its size in frames.
        frames: u64,
        /// Where the hole would have to start at the latest for the 32-bit BARs so far; `None` if no hole is
        /// large enough.
        hole_start: Option<Frame>,
    },
    /// The modules do not fit.
    Modules,
    /// Less space can stay unallocated than was wanted.
    Unallocated {
        /// How many frames could.
        room: u64,
    },
    /// The e820 would have more entries than the hypercall takes.
    E820 {
        /// How many.
        entries: usize,
    },
}

/// The number of a guest frame (a plain number, so that it can be written and read back).
pub type Frame = u64;

/// Whether a search has looked at everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Certainty {
    /// There is no layout.
    ThereIsNone,
    /// None was found; the search has bounds.
    NoneFound,
}

/// There is no layout, and what would make one: all that the storage's records call [in the
/// way](crate::Verdict::InTheWay), or without a place, is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The first thing that has no place. Without it and those behind it that have none either, there is a
    /// layout.
    pub first: Thing,
    /// Its frames, where it lies fast.
    pub frames: Option<GfnRange>,
    /// Why.
    pub cause: Cause,
    /// What is in its way, where that has a name.
    pub obstacle: Option<&'static str>,
    /// How many more things have none.
    pub more: usize,
    /// Whether all has been tried.
    pub certainty: Certainty,
}

/// A failure's sentence with the caller's name for what has no place.
struct Named<'a>(&'a Failure, &'a dyn fmt::Display);

impl Failure {
    /// The sentence, with a name for [`first`](Self::first) instead of its index and frames.
    pub fn naming<'a>(&'a self, first: &'a dyn fmt::Display) -> impl fmt::Display + 'a {
        Named(self, first)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named(self, &Plain(self)).fmt(f)
    }
}

/// What has no place, by index and frames.
struct Plain<'a>(&'a Failure);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first {
            Thing::Memory => write!(f, "the memory")?,
            Thing::Region(index) => write!(f, "region {index}")?,
            Thing::Bar(index) => write!(f, "BAR {index}")?,
            Thing::Module(index) => write!(f, "module {index}")?,
            Thing::FirmwareModule(index) => write!(f, "the firmware's module {index}")?,
            Thing::Unallocated => write!(f, "the unallocated space")?,
        }
        match self.0.frames {
            Some(frames) => write!(f, " (frames {frames})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(failure, first) = *self;
        let lead = match failure.certainty {
            Certainty::ThereIsNone => "there is no layout",
            Certainty::NoneFound => "no layout was found",
        };
        write!(f, "{lead}: {first} {}", failure.cause)?;
        if let Some(name) = failure.obstacle {
            write!(f, " ({name})")?;
        }
        match (failure.first, failure.cause) {
            (Thing::Memory, Cause::Memory { room }) => write!(f, "; {room} frames of memory would make one"),
            (Thing::Memory, Cause::TooLittle { .. }) => write!(f, "; more of it would make one"),
            (Thing::Memory, Cause::LowEnd { .. } | Cause::HighRange { .. }) => {
                write!(f, "; without what was filled in there before there would be one")
            }
            (Thing::Memory | Thing::Unallocated, _) => write!(f, "; less of it would make one"),
            (_, Cause::Bar { hole_start: Some(start), .. }) if failure.more == 0 => {
                write!(f, "; a hole from frame {start:#x} on, or leaving it out, would make one")
            }
            _ if failure.more > 0 => write!(f, "; leaving out it and {} more would make one", failure.more),
            _ => write!(f, "; leaving it out would make one"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BeyondAddresses { end } => write!(f, "ends beyond the guest's addresses (frame {end:#x})"),
            Self::Fixed { at, .. } => write!(f, "meets what lies fast at frame {at:#x}"),
            Self::Memory { room } => write!(f, "leaves room for {room} frames of RAM"),
            Self::TooLittle { end } => write!(f, "does not reach to frame {end:#x}, where firmware uses it"),
            Self::LowEnd { at, floor } => {
                write!(f, "ends the low range at frame {at:#x}, and the firmware needs it to {floor:#x}")
            }
            Self::HighRange { at, end } => {
                write!(f, "lies at frame {at:#x} in the high range, which would end at {end:#x}")
            }
            Self::Bar { frames, .. } => write!(f, "leaves no aligned place for {frames} frames of BAR"),
            Self::Modules => write!(f, "leaves no place for a module"),
            Self::Unallocated { room } => write!(f, "leaves {room} frames unallocated"),
            Self::E820 { entries } => {
                write!(f, "makes an e820 of {entries} entries, and 128 are taken")
            }
        }
    }
}

/// An input that no layout can make good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// The hole is not below the high window, or may not grow upwards.
    #[error("the hole must end below the high window, and its lowest start lie at its start or below")]
    Hole,
    /// A BAR whose size is no power of two.
    #[error("BAR {index} has {bytes:#x} bytes, which is no power of two")]
    Bar {
        /// Which.
        index: usize,
        /// Its size.
        bytes: u64,
    },
    /// A module without a size, whose alignment is no power of two, or with frames of its own of type RAM.
    /// The firmware's count first.
    #[error("module {index} has no size, an alignment that is no power of two, or RAM of its own")]
    Module {
        /// Which.
        index: usize,
    },
    /// Two things that lie fast overlap. The firmware's count first.
    #[error("areas {other} and {index} overlap")]
    Fixed {
        /// Which.
        index: usize,
        /// The one before that it overlaps.
        other: usize,
    },
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No layout.
    #[error("{0}")]
    NoLayout(Failure),
    /// The input is wrong.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The memory that the caller gave is too short.
    #[error("the planner needs more memory: {0:?}")]
    Storage(Needs),
}
