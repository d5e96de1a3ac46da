//! A table on trial, and what all steps share.

use alloc::string::String;
use alloc::vec::Vec;

use p2m::{Access, Entry, Flush, Gfn, GfnRange, Mfn, P2m, P2mType, PageSize, Table};

use crate::boot::command_line::Options;
use crate::check::text;
use crate::host::TableFrames;
use crate::inventory::Inventory;
use crate::memory::{FRAME, FrameCounts, Shared, frames};
use crate::scenario::step::Context;
use crate::walker::{HOME, Walker};

/// Frames of a page of 2 MiB.
pub const LARGE: u64 = PageSize::Size2M.frames();
/// How many such pages the memory that is touched has.
pub const POOL: u64 = 3;

/// What all steps share. Each makes a table of its own.
pub struct World<W> {
    options: Options<'static>,
    pub walker: W,
    /// The memory that is touched, somewhere in it [`POOL`] whole pages of 2 MiB.
    pub pool: Shared,
    /// The frames before the first step.
    pub before: FrameCounts,
    /// Every access gets a value that no other had.
    pub fresh: u32,
}

impl<W> Context for World<W> {
    fn options(&self) -> Options<'static> {
        self.options
    }
}

impl<W: Walker> World<W> {
    /// Starts the walker, and takes memory to touch.
    pub fn new(inventory: &'static Inventory) -> Result<Self, String> {
        let walker = W::start(inventory)?;
        log::info!(target: "walk", "{} walks pages of up to {:?}", W::NAME, walker.largest_page());
        let pool = Shared::alloc((POOL + 1) * LARGE).ok_or("no frame is left for what is touched")?;
        let options = inventory.options;
        Ok(Self { options, walker, pool, before: frames().counts(), fresh: 0x1234_5678 })
    }

    /// The first machine frame of the pool, at the start of a page of 2 MiB.
    pub fn pool(&self) -> Mfn {
        Mfn::new((self.pool.start() / FRAME).next_multiple_of(LARGE))
    }

    /// A new table in which there is the walker's home and nothing else.
    pub fn trial(&mut self, step: &'static str) -> Result<Trial<'_, W>, String> {
        let (format, largest) = (self.walker.format(), self.walker.largest_page());
        self.trial_of(step, format, largest)
    }

    /// The same of another format, or with other pages.
    pub fn trial_of(
        &mut self,
        step: &'static str,
        format: W::Format,
        largest: PageSize,
    ) -> Result<Trial<'_, W>, String> {
        let table = Table::new(format, TableFrames, self.walker.levels(), largest).map_err(text)?;
        let (spoilt, (home, count)) = (self.broken(step), self.walker.home());
        self.walker.enter(table.root())?;
        let mut trial = Trial { world: self, table, spoilt, spoils: Vec::new(), reached: 0, stopped: 0 };
        trial.map(HOME, count, home, P2mType::RamRw, Access::all())?;
        Ok(trial)
    }
}

impl<W: Walker> Drop for Trial<'_, W> {
    fn drop(&mut self) {
        // The table's frames are given back after this.
        if let Err(error) = self.world.walker.leave() {
            log::error!(target: "walk", "the table is still in use: {error}");
        }
    }
}

/// A table on trial.
pub struct Trial<'w, W: Walker> {
    pub world: &'w mut World<W>,
    pub table: Table<W::Format, TableFrames>,
    /// Whether the command line asks to spoil the step, and what is then spoilt.
    pub spoilt: bool,
    pub spoils: Vec<(Gfn, u64)>,
    /// Touches that reached memory, and such that were stopped.
    pub reached: usize,
    pub stopped: usize,
}

impl<W: Walker> Trial<'_, W> {
    /// Maps `count` frames.
    pub fn map(
        &mut self,
        gfn: Gfn,
        count: u64,
        mfn: Mfn,
        p2m_type: P2mType,
        access: Access,
    ) -> Result<(), String> {
        let mfn = p2m_type.has_frame().then_some(mfn);
        self.table.map(gfns(gfn, count), Entry { p2m_type, mfn, access }).map_err(text)
    }

    /// Maps `count` frames of RAM with all access.
    pub fn ram(&mut self, gfn: Gfn, count: u64, mfn: Mfn) -> Result<(), String> {
        self.map(gfn, count, mfn, P2mType::RamRw, Access::all())
    }

    /// The pool's frame number `index`.
    pub fn pool(&self, index: u64) -> Mfn {
        Mfn::new(self.world.pool().raw() + index)
    }
}

/// Everything below the end of a table.
pub fn everything(limit: Gfn) -> Flush {
    Flush::new(gfns(Gfn::new(0), limit.raw()), false, 0)
}

/// `count` frames from `gfn` on; the steps' own numbers never overflow.
pub fn gfns(gfn: Gfn, count: u64) -> GfnRange {
    GfnRange::with_len(gfn, count).unwrap_or_default()
}
