//! The general updates: map, unmap, change type.

use core::ops::ControlFlow;

use crate::entry::{Entry, P2mType};
use crate::format::{Format, MACHINE_FRAMES, Raw, Seed};
use crate::frame::{FrameSource, Gfn, GfnRange, Mfn};

use super::{Change, Edit, Refusal, Table};

/// Why a mapping was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MapError {
    /// A 1:1 mapping of a reserved region is there; only
    /// [`unmap_identity`](crate::AddressSpace::unmap_identity) removes it.
    #[error("guest frame {gfn} belongs to a reserved region: {found}")]
    Reserved {
        /// The first such frame.
        gfn: Gfn,
        /// What is there.
        found: Entry,
    },
    /// There are too few frames for the page tables.
    #[error("{needed} page-table frames are needed and not to be had")]
    NoFrames {
        /// How many it takes.
        needed: u64,
    },
    /// The range ends beyond what the tables can express.
    #[error("the page tables end below guest frame {limit}")]
    OutOfRange {
        /// The first frame that cannot be mapped.
        limit: Gfn,
    },
    /// The machine frames end beyond what an entry can express.
    #[error("an entry ends below machine frame {limit}")]
    MachineOutOfRange {
        /// The first frame that cannot be mapped to.
        limit: Mfn,
    },
    /// The type takes a machine frame and there is none, or the other way round.
    #[error("{0} does not go with what is, or is not, behind it")]
    Type(P2mType),
}

impl From<Refusal> for MapError {
    fn from(Refusal { gfn, found }: Refusal) -> Self {
        Self::Reserved { gfn, found }
    }
}

/// Whether `first` and what follows can stand at `gfns`, below `limit`.
pub(crate) fn check_mapping(gfns: GfnRange, first: Entry, limit: Gfn) -> Result<(), MapError> {
    if gfns.end() > limit {
        return Err(MapError::OutOfRange { limit });
    }
    if first.mfn.is_some() != first.p2m_type.has_frame() {
        return Err(MapError::Type(first.p2m_type));
    }
    if let Some(mfn) = first.mfn
        && mfn.checked_add(gfns.len()).is_none_or(|end| end.raw() > MACHINE_FRAMES)
    {
        return Err(MapError::MachineOutOfRange { limit: Mfn::new(MACHINE_FRAMES) });
    }
    Ok(())
}

/// Puts one run in the place of all that is there, but for 1:1 mappings of reserved regions.
pub(crate) struct Put {
    seed: Seed,
    marks: u64,
}

impl Put {
    pub(crate) fn new<F: Format, S: FrameSource>(table: &Table<F, S>, gfns: GfnRange, first: Entry) -> Self {
        let seed = Seed::new(table.format(), gfns.start().raw(), first, table.largest_level());
        Self { seed, marks: F::ACCESSED | F::DIRTY }
    }
}

impl Edit for Put {
    fn marks(&self) -> u64 {
        self.marks
    }

    #[inline]
    fn change(&self, raw: Raw, gfn: u64, level: u32) -> Change {
        if (self.seed.at(gfn, level).0 ^ raw.0) & !self.marks == 0 {
            Change::Keep
        } else {
            Change::To(self.seed)
        }
    }

    #[inline]
    fn inspect(&mut self, raw: Raw, gfn: u64, start: u64, _: u64) -> ControlFlow<Refusal> {
        if raw.is_identity() {
            let found = raw.entry(start.wrapping_sub(gfn));
            return ControlFlow::Break(Refusal { gfn: Gfn::new(start), found });
        }
        ControlFlow::Continue(())
    }

    #[inline]
    fn replacement(&self) -> Option<Seed> {
        Some(self.seed)
    }
}

/// Gives the frames of one type another; machine frame and access stay. What 1:1 mappings installed is left
/// as it is.
pub(crate) struct Retype<F> {
    format: F,
    largest: u32,
    from: P2mType,
    to: P2mType,
    /// Frames that [`inspect`](Edit::inspect) found to change.
    pub(crate) changing: u64,
}

impl<F: Format> Retype<F> {
    pub(crate) fn new<S: FrameSource>(
        table: &Table<F, S>,
        from: P2mType,
        to: P2mType,
    ) -> Result<Self, MapError> {
        for p2m_type in [from, to] {
            if !p2m_type.has_frame() {
                return Err(MapError::Type(p2m_type));
            }
        }
        Ok(Self { format: *table.format(), largest: table.largest_level(), from, to, changing: 0 })
    }

    fn applies(&self, raw: Raw) -> bool {
        raw.p2m_type() == self.from && self.from != self.to && !raw.is_table() && !raw.is_identity()
    }
}

impl<F: Format> Edit for Retype<F> {
    fn marks(&self) -> u64 {
        // They are kept, entry by entry.
        0
    }

    fn change(&self, raw: Raw, gfn: u64, _: u32) -> Change {
        if !self.applies(raw) {
            return Change::Keep;
        }
        let entry = Entry { p2m_type: self.to, ..raw.entry(0) };
        let marks = raw.0 & (F::ACCESSED | F::DIRTY);
        Change::To(Seed::new(&self.format, gfn, entry, self.largest).marked(marks))
    }

    fn inspect(&mut self, raw: Raw, _: u64, start: u64, end: u64) -> ControlFlow<Refusal> {
        if self.applies(raw) {
            self.changing = self.changing.wrapping_add(end.wrapping_sub(start));
        }
        ControlFlow::Continue(())
    }
}
