//! What p2m types and accesses grant.

use alloc::format;
use alloc::string::String;

use p2m::{Access, Gfn, P2m, P2mType};

use crate::check::{counted, ensure, text};
use crate::memory::FRAME;
use crate::scenario::step::Outcome;
use crate::scenario::walk::probe::{ALL_BITS, EACH, READ_BIT, WRITE_BIT};
use crate::scenario::walk::trial::{LARGE, Trial, World, gfns};
use crate::walker::{Touch, Walker};

const HERE: Gfn = Gfn::new(0x1234);

pub fn read_only<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("read-only")?;
    trial.map(HERE, 1, trial.pool(7), P2mType::RamRo, Access::all())?;
    // As a large page too.
    let large = Gfn::new(7 * LARGE);
    trial.map(large, LARGE, trial.pool(LARGE), P2mType::RamRo, Access::all())?;
    trial.spoil(HERE, WRITE_BIT);
    trial.probe(HERE.raw() * FRAME + 0x80, EACH)?;
    trial.probe((large.raw() + 9) * FRAME + 0x80, EACH)?;
    Ok(trial.seen())
}

pub fn no_execute<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("no-execute")?;
    trial.map(HERE, 1, trial.pool(7), P2mType::RamRw, Access::READ_WRITE)?;
    let large = Gfn::new(7 * LARGE);
    trial.map(large, LARGE, trial.pool(LARGE), P2mType::RamRw, Access::READ_WRITE)?;
    trial.spoil(HERE, W::EXECUTE);
    trial.probe(HERE.raw() * FRAME + 0x80, EACH)?;
    trial.probe((large.raw() + 9) * FRAME + 0x80, EACH)?;
    Ok(trial.seen())
}

pub fn accesses<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("accesses")?;
    all_accesses(&mut trial, P2mType::RamRw)?;
    Ok(trial.seen())
}

pub fn formats<W: Walker>(world: &mut World<W>) -> Outcome {
    let formats = world.walker.formats();
    let (count, largest) = (formats.len(), world.walker.largest_page());
    let (mut reached, mut stopped) = (0, 0);
    for format in formats {
        let mut trial = world.trial_of("format-options", format, largest)?;
        for p2m_type in [P2mType::RamRw, P2mType::MmioDirect] {
            all_accesses(&mut trial, p2m_type)?;
        }
        reached += trial.reached;
        stopped += trial.stopped;
    }
    Ok(format!(
        "{}: {reached} accesses reached their memory, {stopped} were stopped",
        counted(count, "choice")
    ))
}

/// A page of this type with each access, and every way to touch it.
fn all_accesses<W: Walker>(trial: &mut Trial<'_, W>, p2m_type: P2mType) -> Result<(), String> {
    let gfns = (0..=Access::all().bits()).map(|bits| (Gfn::new(HERE.raw() + 2 * u64::from(bits)), bits));
    for (gfn, bits) in gfns.clone() {
        trial.map(gfn, 1, trial.pool(bits.into()), p2m_type, Access::from_bits_truncate(bits))?;
    }
    trial.spoils.clear();
    trial.spoil(Gfn::new(HERE.raw() + 2 * u64::from(Access::READ_WRITE.bits())), READ_BIT);
    for (gfn, _) in gfns {
        trial.probe(gfn.raw() * FRAME + 0x80, EACH)?;
    }
    Ok(())
}

pub fn types<W: Walker>(world: &mut World<W>) -> Outcome {
    let types = [
        P2mType::Invalid,
        P2mType::MmioDm,
        P2mType::MmioDirect,
        P2mType::RamRw,
        P2mType::RamRo,
        P2mType::RamLogdirty,
        P2mType::PopulateOnDemand,
        P2mType::Foreign,
        P2mType::Grant,
    ];
    let mut trial = world.trial("types")?;
    let places = (0..).map(|index| Gfn::new(HERE.raw() + 2 * index));
    for ((gfn, p2m_type), index) in places.clone().zip(types).zip(0..) {
        trial.map(gfn, 1, trial.pool(index), p2m_type, Access::all())?;
        // What has no frame becomes a page.
        if !p2m_type.has_frame() {
            trial.spoil(gfn, ALL_BITS);
        }
    }
    for (gfn, p2m_type) in places.zip(types) {
        let found = trial.at(gfn.raw() * FRAME).p2m_type();
        ensure!(found == p2m_type, "{found} where {p2m_type} was mapped");
        trial.probe(gfn.raw() * FRAME + 0x80, EACH)?;
    }
    Ok(trial.seen())
}

pub fn log_dirty<W: Walker>(world: &mut World<W>) -> Outcome {
    let (ram, logged) = (P2mType::RamRw, P2mType::RamLogdirty);
    let mut trial = world.trial("log-dirty")?;
    let large = Gfn::new(7 * LARGE);
    let at = |frame: u64| (large.raw() + frame) * FRAME + 0x80;
    trial.ram(large, LARGE, trial.pool(LARGE))?;
    trial.probe(at(5), EACH)?;

    let changed = trial.table.change_type(gfns(large, LARGE), ram, logged).map_err(text)?;
    ensure!(changed == LARGE, "logging began for {changed} frames instead of {LARGE}");
    trial.of_order(large, 9)?;
    trial.spoil(large, WRITE_BIT);
    trial.probe(at(5), EACH)?;
    trial.probe(at(6), EACH)?;

    // What a hypervisor does at such an exit: note the frame, let it be written.
    let changed = trial.table.change_type(gfns(Gfn::new(large.raw() + 5), 1), logged, ram).map_err(text)?;
    ensure!(changed == 1, "{changed} frames became writable instead of one");
    trial.probe(at(5), EACH)?;
    trial.probe(at(4), &[Touch::Read, Touch::Write])?;
    trial.probe(at(6), &[Touch::Read, Touch::Write])?;

    let changed = trial.table.change_type(gfns(large, LARGE), logged, ram).map_err(text)?;
    ensure!(changed == LARGE - 1, "logging ended for {changed} frames instead of {}", LARGE - 1);
    trial.of_order(large, 9)?;
    trial.probe(at(6), EACH)?;
    Ok(trial.seen())
}
