//! Tables walked by hardware: a guest or a device touches memory, and what becomes of that is what the table
//! says.

mod probe;
mod steps;
mod trial;

use alloc::format;

use super::step;
use crate::boot::exit::Exit;
use crate::inventory::Inventory;
use crate::walker::Walker;
use trial::World;

<<<<<<< HEAD
/// `scenario=nested`.
pub fn nested(machine: &'static mut Machine) -> Exit {
    run::<Svm>(machine)
}

/// `scenario=ept`.
pub fn ept(machine: &'static mut Machine) -> Exit {
    run::<Vmx>(machine)
}

/// `scenario=vtd-walk`.
pub fn vtd(machine: &'static mut Machine) -> Exit {
    run::<dma::Dma<dma::ThreeLevels>>(machine)
}

/// `scenario=vtd-walk-4`.
pub fn vtd_of_four_levels(machine: &'static mut Machine) -> Exit {
    run::<dma::Dma<dma::FourLevels>>(machine)
}

/// `scenario=vtd-walk-ept`.
pub fn vtd_on_ept(machine: &'static mut Machine) -> Exit {
    run::<dma::Dma<dma::Shared>>(machine)
}

fn run<W: Walker>(machine: &'static mut Machine) -> Exit {
    let steps = steps::all::<W>();
    if machine.options.list_steps() {
        return super::list(&steps);
    }
    match World::<W>::new(machine) {
        Ok(mut world) => super::run(&steps, &mut world),
        Err(error) => {
            log::error!("nothing can walk: {error}");
            super::done(0, 1)
        }
    }
}

/// Frames of a page of 2 MiB.
const LARGE: u64 = PageSize::Size2M.frames();
/// How many such pages the memory that is touched has.
const POOL: u64 = 3;

/// What all steps share. Each makes a table of its own.
pub struct World<W> {
    machine: &'static Machine,
    walker: W,
    /// The memory that is touched, somewhere in it [`POOL`] whole pages of 2 MiB.
    pool: Shared,
    before: FrameCounts,
    /// Every access gets a value that no other had.
    fresh: u32,
}

impl<W> Context for World<W> {
    fn options(&self) -> Options<'static> {
        self.machine.options
    }
}

impl<W: Walker> World<W> {
    fn new(machine: &'static Machine) -> Result<Self, String> {
        let walker = W::start(machine)?;
        log::info!("{} walks pages of up to {:?}", W::NAME, walker.largest_page());
        let pool = Shared::alloc((POOL + 1) * LARGE).ok_or("no frame is left for what is touched")?;
        Ok(Self { machine, walker, pool, before: frames().counts(), fresh: 0x1234_5678 })
    }

    /// The first machine frame of the pool, at the start of a page of 2 MiB.
    fn pool(&self) -> Mfn {
        Mfn::new((self.pool.start() / FRAME).next_multiple_of(LARGE))
    }

    /// A new table in which there is the walker's home and nothing else.
    fn trial(&mut self, step: &'static str) -> Result<Trial<'_, W>, String> {
        let (format, largest) = (self.walker.format(), self.walker.largest_page());
        self.trial_of(step, format, largest)
    }

    /// The same of another format, or with other pages.
    fn trial_of(
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
            log::error!("the table is still in use: {error}");
        }
    }
}

/// A table on trial.
struct Trial<'w, W: Walker> {
    world: &'w mut World<W>,
    table: Table<W::Format, TableFrames>,
    /// Whether the command line asks to spoil the step, and what is then spoilt.
    spoilt: bool,
    spoils: Vec<(Gfn, u64)>,
    /// Accesses that reached memory, and such that were stopped.
    reached: usize,
    stopped: usize,
}

impl<W: Walker> Trial<'_, W> {
    /// Maps `count` frames.
    fn map(
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
    fn ram(&mut self, gfn: Gfn, count: u64, mfn: Mfn) -> Result<(), String> {
        self.map(gfn, count, mfn, P2mType::RamRw, Access::all())
    }

    /// The pool's frame number `index`.
    fn pool(&self, index: u64) -> Mfn {
        Mfn::new(self.world.pool().raw() + index)
    }
}

/// Everything below the end of a table.
fn everything(limit: Gfn) -> Flush {
    Flush::new(gfns(Gfn::new(0), limit.raw()), false, 0)
}

/// `count` frames from `gfn` on; the steps' own numbers never overflow.
fn gfns(gfn: Gfn, count: u64) -> GfnRange {
    GfnRange::with_len(gfn, count).unwrap_or_default()
=======
/// Runs the steps on tables that `W` walks.
pub fn run<W: Walker>(inventory: &'static Inventory) -> Exit {
    step::run(&steps::all::<W>(), inventory.options, || {
        World::<W>::new(inventory).map_err(|error| format!("nothing can walk: {error}"))
    })
>>>>>>> image
}
