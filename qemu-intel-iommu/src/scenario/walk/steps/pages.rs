//! Pages of every size, where they begin and end, and what is beside them.

use alloc::format;

use p2m::{Gfn, Mfn, PageSize};

use crate::check::ensure;
use crate::memory::FRAME;
use crate::scenario::step::Outcome;
use crate::scenario::walk::probe::{ALL_BITS, EACH};
use crate::scenario::walk::trial::{LARGE, Trial, World};
use crate::walker::{Touch, Walker};

use Touch::{Execute, Read, ReadByte, Write, WriteByte};

/// Frames of a page of 1 GiB.
const HUGE: u64 = PageSize::Size1G.frames();

pub fn small<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("page-4k")?;
    let gfn = Gfn::new(0x1234);
    trial.ram(gfn, 1, trial.pool(7))?;
    trial.spoil(gfn, FRAME);
    for offset in [0, 0x7fc, FRAME - 8] {
        trial.probe(gfn.raw() * FRAME + offset, EACH)?;
    }
    Ok(trial.seen())
}

pub fn large<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("page-2m")?;
    let gfn = Gfn::new(5 * LARGE);
    trial.ram(gfn, LARGE, trial.pool(LARGE))?;
    trial.of_order(gfn, PageSize::Size2M.order())?;
    trial.spoil(gfn, LARGE * FRAME);
    for frame in [0, 1, LARGE / 2 + 3, LARGE - 1] {
        trial.probe((gfn.raw() + frame) * FRAME + 0x10, EACH)?;
    }
    Ok(trial.seen())
}

pub fn huge<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("page-1g")?;
    // Above 4 GiB.
    let gfn = Gfn::new(6 * HUGE);
    let pool = trial.pool(0).raw();
    trial.ram(gfn, HUGE, Mfn::new(pool / HUGE * HUGE))?;
    trial.of_order(gfn, PageSize::Size1G.order())?;
    trial.spoil(gfn, HUGE * FRAME);
    for frame in [0, 1, LARGE, 2 * LARGE - 1] {
        trial.probe((gfn.raw() + (pool + frame) % HUGE) * FRAME + 0x10, EACH)?;
    }
    Ok(trial.seen())
}

pub fn addresses<W: Walker>(world: &mut World<W>) -> Outcome {
    let trial = world.trial("addresses")?;
    every_bit(trial)
}

/// The same with five levels, where there are addresses that take them.
pub fn five_levels<W: Walker>(world: &mut World<W>) -> Outcome {
    world.walker.deepen()?;
    let trial = world.trial("five-levels")?;
    ensure!(trial.table.root().levels == 5, "the table has {} levels", trial.table.root().levels);
    every_bit(trial)
}

/// A page at each power of two and one at the end.
fn every_bit<W: Walker>(mut trial: Trial<'_, W>) -> Outcome {
    let bits = 12..trial.address_bits();
    let gfns = bits.clone().map(|bit| Gfn::new(1 << (bit - 12)));
    let last = Gfn::new((1 << (bits.end - 12)) - 1);
    for (index, gfn) in (0..).zip(gfns.clone().chain([last])) {
        trial.ram(gfn, 1, trial.pool(2 * index))?;
        trial.spoil(gfn, FRAME);
    }
    for gfn in gfns.chain([last]) {
        trial.probe(gfn.raw() * FRAME + 0x20, EACH)?;
    }
    if W::DEVICE {
        // Nor is there anything beyond the table's end. A guest has no such addresses.
        let end = trial.table.limit().raw() * FRAME;
        trial.probe(end - 2, EACH)?;
        trial.probe(end, EACH)?;
        trial.probe(end | (last.raw() * FRAME), EACH)?;
    }
    // Two bits at once lead nowhere.
    trial.probe((1 << (bits.end - 1)) | (1 << (bits.end - 2)), EACH)?;
    Ok(format!("{}; {} address bits", trial.seen(), bits.end))
}

pub fn edges<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("edges")?;
    // Three small pages, a large one, five small ones.
    let (start, large, end) = (4 * LARGE - 3, 4 * LARGE, 5 * LARGE + 5);
    trial.ram(Gfn::new(start), end - start, trial.pool(LARGE - 3))?;
    for (frame, order) in [(start, 0), (large - 1, 0), (large, 9), (large + LARGE, 0), (end - 1, 0)] {
        trial.of_order(Gfn::new(frame), order)?;
    }
    trial.spoil(Gfn::new(end), ALL_BITS);
    let [first, large, small, beyond] = [start, large, large + LARGE, end].map(|frame| frame * FRAME);
    trial.probe(first, &[ReadByte, WriteByte, Read, Write, Execute])?;
    trial.probe(first - 1, &[ReadByte, WriteByte, Execute])?;
    // Half in, half out.
    trial.probe(first - 2, EACH)?;
    // From a small page to a large one and on.
    for border in [large, small] {
        trial.probe(border - 1, &[ReadByte, WriteByte])?;
        trial.probe(border - 2, EACH)?;
        trial.probe(border, EACH)?;
    }
    trial.probe(beyond - 1, &[ReadByte, WriteByte])?;
    trial.probe(beyond - 4, &[Read, Write])?;
    trial.probe(beyond - 8, &[Execute])?;
    trial.probe(beyond - 2, EACH)?;
    trial.probe(beyond, &[ReadByte, WriteByte, Execute])?;
    Ok(trial.seen())
}

pub fn holes<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("holes")?;
    let there = Gfn::new(0x1234);
    trial.ram(there, 1, trial.pool(7))?;
    trial.spoil(Gfn::new(there.raw() + 1), ALL_BITS);
    trial.probe(there.raw() * FRAME, EACH)?;
    // The tables that lead to the page have holes at each level; below the next entry for 1 GiB is the
    // walker's home.
    for (order, entries) in [(0, 1), (9, 1), (18, 2), (27, 1)] {
        let gfn = Gfn::new(there.raw() + (entries << order));
        if gfn >= trial.table.limit() {
            continue;
        }
        trial.of_order(gfn, order)?;
        trial.probe(gfn.raw() * FRAME + 0x30, EACH)?;
    }
    Ok(trial.seen())
}

pub fn without_large<W: Walker>(world: &mut World<W>) -> Outcome {
    let format = world.walker.format();
    let mut trial = world.trial_of("small-pages", format, PageSize::Size4K)?;
    let gfn = Gfn::new(6 * LARGE);
    trial.ram(gfn, LARGE, trial.pool(0))?;
    trial.of_order(gfn, 0)?;
    trial.spoil(Gfn::new(gfn.raw() + LARGE - 1), FRAME);
    for frame in [0, 1, LARGE / 2, LARGE - 1] {
        trial.probe((gfn.raw() + frame) * FRAME + 0x40, EACH)?;
    }
    trial.probe((gfn.raw() + LARGE) * FRAME - 1, &[ReadByte, WriteByte])?;
    trial.probe((gfn.raw() + LARGE) * FRAME, EACH)?;
    Ok(trial.seen())
}

impl<W: Walker> Trial<'_, W> {
    /// Bits of the guest-physical addresses that the table can map and the hardware takes.
    fn address_bits(&self) -> u32 {
        self.world.walker.address_bits().min((self.table.limit().raw() * FRAME).trailing_zeros())
    }
}
