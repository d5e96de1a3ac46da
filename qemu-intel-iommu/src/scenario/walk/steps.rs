//! The steps, the same for every processor that walks.

use alloc::format;

use p2m::{Access, Gfn, P2mType};

use super::World;
use crate::guest::Walker;
use crate::guest::code::Touch;
use crate::memory::{FRAME, frames};
use crate::scenario::{Context, Outcome, Step, ensure};

use Touch::{Execute, Read, Write};

/// Bits 0 and 1 of a leaf are reads, or present, and writes in every format.
const WRITE_BIT: u64 = 1 << 1;
/// Bits 2:0 make an entry that holds nothing one that grants everything, at machine address 0.
const ALL_BITS: u64 = 7;

/// The steps in order.
pub fn all<W: Walker>() -> [Step<World<W>>; 5] {
    [
        Step { name: "page-4k", title: "a page of 4 KiB leads to its frame", run: page_4k },
        Step { name: "unmapped", title: "where nothing is mapped, every access is stopped", run: unmapped },
        Step {
            name: "read-only",
            title: "read-only memory can be read, and a write is stopped",
            run: read_only,
        },
        Step {
            name: "no-execute",
            title: "memory without execute access can be read and written",
            run: no_execute,
        },
        Step { name: "leaks", title: "every frame that the steps took was given back", run: leaks },
    ]
}

fn page_4k<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("page-4k")?;
    let gfn = Gfn::new(0x1234);
    trial.ram(gfn, 1, trial.pool(7))?;
    trial.spoil(gfn, FRAME);
    trial.probe(gfn.raw() * FRAME + 0x80, &[Read, Write, Execute])?;
    Ok(trial.seen())
}

fn unmapped<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("unmapped")?;
    let gfn = Gfn::new(0x1234);
    trial.spoil(gfn, ALL_BITS);
    trial.probe(gfn.raw() * FRAME + 0x80, &[Read, Write, Execute])?;
    Ok(trial.seen())
}

fn read_only<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("read-only")?;
    let gfn = Gfn::new(0x1234);
    trial.map(gfn, 1, trial.pool(7), P2mType::RamRo, Access::all())?;
    trial.spoil(gfn, WRITE_BIT);
    trial.probe(gfn.raw() * FRAME + 0x80, &[Read, Write, Execute])?;
    Ok(trial.seen())
}

fn no_execute<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("no-execute")?;
    let gfn = Gfn::new(0x1234);
    trial.map(gfn, 1, trial.pool(7), P2mType::RamRw, Access::READ_WRITE)?;
    trial.spoil(gfn, W::EXECUTE);
    trial.probe(gfn.raw() * FRAME + 0x80, &[Read, Write, Execute])?;
    Ok(trial.seen())
}

fn leaks<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut now = frames().counts();
    if world.broken("leaks") {
        now.free -= 1;
    }
    ensure!(now == world.before, "{now}, where there were {}", world.before);
    Ok(format!("{now}"))
}
