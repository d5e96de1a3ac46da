//! A page table: the tree of frames, look-ups in it, and what is to be flushed.
//!
//! The layout is canonical: a table whose entries say together what one entry above could say does not exist.
//! So there are no empty tables, the frames are exactly those that the layout needs, and what was removed
//! leaves no trace. Leaves that 1:1 mappings installed are the exception, see
//! [`crate::AddressSpace::map_identity`].

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::entry::{Access, Entry, P2mType, Run};
use crate::format::{Format, LARGEST_LEAF_LEVEL, MACHINE_FRAMES, Raw, Seed, level_of, shift_of, span_of};
use crate::frame::{FrameSource, Gfn, GfnRange, Mfn, PageSize, TableFrame};
use crate::space::DeviceRoot;

mod change;
mod edit;
mod frame_list;
mod owed;
mod raw_runs;
mod runs;

pub use change::MapError;
pub(crate) use change::{Put, Retype, check_mapping};
pub(crate) use edit::{Change, Edit, Refusal, tables_below};
pub(crate) use frame_list::Spare;
pub(crate) use owed::Changed;
pub use runs::Runs;

use owed::Owed;

/// A guest-physical to machine table of one format.
///
/// Updates take `&mut self`; [`readers`](Self::reader) and the hardware may walk meanwhile: entries are
/// written whole, and an entry that leads to a new table is written when the table is complete. Frames that
/// leave the tree keep what they held until [`confirm_flush`](crate::AddressSpace::confirm_flush).
///
/// Dropping it gives all frames back: by then no hardware may walk it.
pub struct Table<F: Format, S: FrameSource> {
    format: F,
    source: S,
    root: Mfn,
    /// The table at level 3 for the frames from 0 on, and the frames that walks can begin there for: none
    /// when there is no such table.
    low: Mfn,
    low_frames: u64,
    levels: u32,
    /// The highest level of leaves.
    largest: u32,
    /// Frames in the tree.
    tables: u64,
    owed: Owed,
}

/// Why a table could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The format has no tables of that many levels.
    #[error("{format} has no tables of {levels} levels")]
    Levels {
        /// What was asked for.
        levels: u8,
        /// The format's name.
        format: &'static str,
    },
    /// There is no frame for the top table.
    #[error("no frame for the top table")]
    NoFrames,
}

impl<F: Format, S: FrameSource> Table<F, S> {
    /// An empty table of `levels` levels, whose pages are to be no larger than `largest` (what the hardware
    /// at hand walks).
    ///
    /// # Errors
    /// [`TableError`].
    pub fn new(format: F, source: S, levels: u8, largest: PageSize) -> Result<Self, TableError> {
        if !F::LEVELS.contains(&levels) {
            return Err(TableError::Levels { levels, format: F::NAME });
        }
        let mut spare = frame_list::reserve(&source, 1).ok_or(TableError::NoFrames)?;
        let root = spare.take(&source).ok_or(TableError::NoFrames)?;
        if let Some(table) = source.table(root)
            && format.vacant() != 0
        {
            table.0.iter().for_each(|entry| entry.store(format.vacant(), Ordering::Relaxed));
        }
        source.written(root, 0..512);
        Ok(Self {
            format,
            source,
            root,
            low: root,
            low_frames: if levels == 3 { LOW_FRAMES } else { 0 },
            levels: u32::from(levels),
            largest: level_of(largest).min(LARGEST_LEAF_LEVEL),
            tables: 1,
            owed: Owed::new(root),
        })
    }

    /// What is at `gfn`: one walk, and what the leaf says is decoded when asked for.
    #[inline]
    pub fn translate(&self, gfn: Gfn) -> Translation<F> {
        if gfn.raw() < self.low_frames {
            walk_low(&self.source, self.low, gfn.raw())
        } else {
            walk(&self.source, self.root, self.levels, gfn.raw())
        }
    }

    /// Someone who looks things up while the table is updated.
    pub fn reader(&self) -> Reader<F, S>
    where
        S: Clone,
    {
        Reader { source: self.source.clone(), root: self.root, levels: self.levels, format: PhantomData }
    }

    /// The runs of equal mappings in `gfns`, in order, without a gap; frames that the table cannot express
    /// are left out.
    pub fn runs(&self, gfns: GfnRange) -> Runs<'_, F, S> {
        Runs::new(self, gfns)
    }

    /// The first guest frame that the table cannot express.
    #[must_use]
    pub fn limit(&self) -> Gfn {
        Gfn::new(span_of(self.levels.wrapping_add(1)))
    }

    /// Frames in the table, the top one included, without those that wait for a flush.
    #[must_use]
    pub fn table_frames(&self) -> u64 {
        self.tables
    }

    /// Frames that left the table and wait for [`confirm_flush`](crate::AddressSpace::confirm_flush).
    #[must_use]
    pub fn held_frames(&self) -> u64 {
        self.owed.frames()
    }

    /// The top table and its levels, for a CPU's EPTP or nested CR3, or a device's context entry.
    #[must_use]
    pub fn root(&self) -> DeviceRoot {
        DeviceRoot { root: self.root, levels: self.levels as u8 }
    }

    /// Its format.
    #[must_use]
    pub fn format(&self) -> &F {
        &self.format
    }

    /// The largest pages it uses.
    #[must_use]
    pub fn largest_page(&self) -> PageSize {
        match self.largest {
            3.. => PageSize::Size1G,
            2 => PageSize::Size2M,
            _ => PageSize::Size4K,
        }
    }

    /// Whether nothing is in it: no mapping and no frame beyond the top one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let seed = Seed::new(&self.format, 0, Entry::NOTHING, 1);
        let nothing = seed.at(0, 1).0;
        self.source
            .table(self.root)
            .is_some_and(|root| root.0.iter().all(|entry| entry.load(Ordering::Relaxed) == nothing))
    }

    /// The first guest frame that cannot be mapped 1:1: what the table or an entry's address field cannot
    /// express.
    pub(crate) fn identity_limit(&self) -> Gfn {
        self.limit().min(Gfn::new(MACHINE_FRAMES))
    }

    pub(crate) fn largest_level(&self) -> u32 {
        self.largest
    }

    pub(crate) fn reserve(&self, frames: u64) -> Option<Spare> {
        frame_list::reserve(&self.source, frames)
    }

    pub(crate) fn release(&self, spare: Spare) {
        spare.release(&self.source);
    }

    pub(crate) fn next_stamp(&mut self) -> u64 {
        self.owed.next_stamp()
    }

    /// All that is owed, from now on under this stamp.
    pub(crate) fn take_owed(&mut self, stamp: u64) -> Option<Changed> {
        self.owed.take(stamp, &self.source)
    }

    /// What was taken under this stamp is flushed, unless it has been taken again.
    pub(crate) fn settle(&mut self, stamp: u64) {
        self.owed.settle(stamp, &self.source);
    }

    /// Finds the table that walks begin at after the tree has changed.
    fn find_low(&mut self) {
        let mut frame = self.root;
        for _ in 3..self.levels {
            let first = self.source.table(frame).map_or(Raw::NOTHING, |table| load(slot(table, 0)));
            if !first.is_table() {
                self.low_frames = 0;
                return;
            }
            frame = first.frame();
        }
        self.low = frame;
        self.low_frames = LOW_FRAMES;
    }

    fn free_below(&self, frame: Mfn, level: u32) {
        if level > 1
            && let Some(table) = self.source.table(frame)
        {
            for entry in &table.0 {
                let raw = load(entry);
                if raw.is_table() {
                    self.free_below(raw.frame(), level.wrapping_sub(1));
                }
            }
        }
        self.source.free(frame);
    }
}

impl<F: Format, S: FrameSource> Drop for Table<F, S> {
    fn drop(&mut self) {
        self.owed.release(&self.source);
        self.free_below(self.root, self.levels);
    }
}

impl<F: Format, S: FrameSource> fmt::Debug for Table<F, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("format", &self.format)
            .field("root", &self.root)
            .field("levels", &self.levels)
            .field("frames", &self.tables)
            .finish_non_exhaustive()
    }
}

/// Looks things up in a [`Table`] beside its owner, who may update it meanwhile.
///
/// Each look-up sees every entry as it was before or after an update, never in between; of an update that
/// concerns several entries it may see some. As for a hardware walker, frames that left the tree must outlive
/// the walks that began before: whoever calls [`confirm_flush`](crate::AddressSpace::confirm_flush) has made
/// sure that no look-up is under way that began before the flush, and that readers are gone when the table is
/// dropped. A look-up that breaks this rule answers nonsense; it does no harm beyond that.
#[derive(Clone, Copy, Debug)]
pub struct Reader<F, S> {
    source: S,
    root: Mfn,
    levels: u32,
    format: PhantomData<F>,
}

impl<F: Format, S: FrameSource> Reader<F, S> {
    /// As [`Table::translate`].
    #[inline]
    pub fn translate(&self, gfn: Gfn) -> Translation<F> {
        walk(&self.source, self.root, self.levels, gfn.raw())
    }
}

/// What one walk found.
#[derive(Clone, Copy)]
pub struct Translation<F> {
    /// The entry; in a leaf, the address is that of the very frame.
    raw: Raw,
    order: u32,
    format: PhantomData<F>,
}

impl<F: Format> Translation<F> {
    /// The type.
    #[inline]
    #[must_use]
    pub fn p2m_type(&self) -> P2mType {
        self.raw.p2m_type()
    }

    /// The access.
    #[inline]
    #[must_use]
    pub fn access(&self) -> Access {
        self.raw.access()
    }

    /// The machine frame, where there is one.
    #[inline]
    #[must_use]
    pub fn mfn(&self) -> Option<Mfn> {
        self.raw.has_frame().then(|| self.raw.frame())
    }

    /// Type, frame and access.
    #[must_use]
    pub fn entry(&self) -> Entry {
        self.raw.entry(0)
    }

    /// The power of two of frames that the entry covers: the page order of a mapping.
    #[inline]
    #[must_use]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// Whether a 1:1 mapping installed it.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.raw.is_identity()
    }

    /// Whether hardware has used the leaf, where the format and the hardware keep account of it.
    #[must_use]
    pub fn is_accessed(&self) -> bool {
        self.raw.0 & F::ACCESSED != 0
    }

    /// Whether hardware has written through the leaf, where the format and the hardware keep account of it.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.raw.0 & F::DIRTY != 0
    }
}

impl<F: Format> fmt::Debug for Translation<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, order {}", self.entry(), self.order)
    }
}

/// Frames below 512 GiB, what one table at level 3 covers.
const LOW_FRAMES: u64 = span_of(LOW_LEVEL + 1);
const LOW_LEVEL: u32 = 3;

#[inline]
fn walk<F: Format, S: FrameSource>(source: &S, root: Mfn, levels: u32, gfn: u64) -> Translation<F> {
    let mut frame = root;
    if gfn < span_of(levels.wrapping_add(1)) {
        for level in (1..=levels).rev() {
            let Some(table) = source.table(frame) else { break };
            let raw = load(slot(table, gfn.wrapping_shr(shift_of(level))));
            if !raw.is_table() {
                return found(raw, gfn, level);
            }
            frame = raw.frame();
        }
    }
    found(Raw::NOTHING, gfn, 1)
}

/// The same from a table at level 3 on, without a loop.
#[inline]
fn walk_low<F: Format, S: FrameSource>(source: &S, low: Mfn, gfn: u64) -> Translation<F> {
    let next = |frame: Mfn, level: u32| {
        let table = source.table(frame)?;
        Some(load(slot(table, gfn.wrapping_shr(shift_of(level)))))
    };
    let Some(raw) = next(low, 3) else { return found(Raw::NOTHING, gfn, 1) };
    if !raw.is_table() {
        return found(raw, gfn, 3);
    }
    let Some(raw) = next(raw.frame(), 2) else { return found(Raw::NOTHING, gfn, 1) };
    if !raw.is_table() {
        return found(raw, gfn, 2);
    }
    // Nothing in the lowest table leads on.
    found(next(raw.frame(), 1).unwrap_or(Raw::NOTHING), gfn, 1)
}

#[inline]
fn found<F: Format>(raw: Raw, gfn: u64, level: u32) -> Translation<F> {
    let offset = gfn & span_of(level).wrapping_sub(1);
    Translation { raw: raw.advanced(offset), order: shift_of(level), format: PhantomData }
}

/// Entry number `index` modulo 512.
#[inline]
fn slot(table: &TableFrame, index: u64) -> &AtomicU64 {
    let [first, ..] = &table.0;
    table.0.get((index & 511) as usize).unwrap_or(first)
}

/// Pairs with the release of [`store`]: who sees a pointer sees what it points to.
#[inline]
fn load(entry: &AtomicU64) -> Raw {
    Raw(entry.load(Ordering::Acquire))
}

#[inline]
fn store(entry: &AtomicU64, raw: Raw) {
    entry.store(raw.0, Ordering::Release);
}

/// What is at `gfn`, and how far beyond it the same goes on.
pub(crate) fn run_at<F: Format, S: FrameSource>(table: &Table<F, S>, gfn: Gfn) -> Run {
    let beyond = Run { gfns: GfnRange::clamped(gfn, Gfn::new(u64::MAX)), entry: Entry::NOTHING };
    table.runs(GfnRange::clamped(gfn, table.limit())).next().unwrap_or(beyond)
}
