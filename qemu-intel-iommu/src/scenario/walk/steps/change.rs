//! Updates of a table in use.

use alloc::format;
use alloc::string::String;

use p2m::{Access, AddressSpace, Gfn, Identity, Mfn, MfnRange, OnConflict, P2m, P2mType, PageSize};

use crate::check::{ensure, text};
use crate::memory::FRAME;
use crate::scenario::step::Outcome;
use crate::scenario::walk::probe::{ALL_BITS, EACH, READ_BIT, WRITE_BIT};
use crate::scenario::walk::trial::{LARGE, POOL, Trial, World, gfns};
use crate::walker::{Touch, Walker};

use Touch::{Execute, Read, ReadByte, Write, WriteByte};

const HERE: Gfn = Gfn::new(0x1234);

pub fn unmap<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("unmap")?;
    let address = HERE.raw() * FRAME + 0x80;
    trial.ram(HERE, 1, trial.pool(7))?;
    trial.probe(address, EACH)?;
    // Another frame in its place, then none.
    trial.ram(HERE, 1, trial.pool(70))?;
    trial.probe(address, EACH)?;
    trial.table.unmap(gfns(HERE, 1)).map_err(text)?;
    trial.spoil(HERE, ALL_BITS);
    trial.probe(address, EACH)?;
    Ok(trial.seen())
}

/// That an invalidation is needed, and that the one which the table asks for does it: for a page of its own,
/// and for one cut out of a large page.
pub fn cached<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("cached")?;
    let large = Gfn::new(7 * LARGE);
    trial.ram(HERE, 1, trial.pool(7))?;
    trial.ram(large, LARGE, trial.pool(LARGE))?;
    for gone in [HERE, Gfn::new(large.raw() + 9)] {
        let address = gone.raw() * FRAME + 0x80;
        trial.probe(address, EACH)?;
        let old = trial.at(gone.raw() * FRAME).mfn().and_then(Mfn::address).unwrap_or_default() + 0x80;
        trial.table.unmap(gfns(gone, 1)).map_err(text)?;
        trial.still_reads(address, old)?;
        if trial.spoilt {
            // The hardware is not told.
            if let Some(owed) = trial.table.take_flush() {
                trial.table.confirm_flush(owed);
            }
        }
        trial.probe(address, EACH)?;
    }
    trial.probe((large.raw() + 8) * FRAME, EACH)?;
    trial.probe((large.raw() + 10) * FRAME, EACH)?;
    // Many pages in one update, each of them cached: the invalidation is to cover the first and the last,
    // however they are aligned.
    for (first, count) in [(0x2000, 8), (0x2103, 13), (0x21fd, 30)] {
        for pool in [40, 100] {
            trial.ram(Gfn::new(first), count, trial.pool(pool))?;
            for frame in first..first + count {
                trial.probe(frame * FRAME, &[Read])?;
            }
        }
    }
    Ok(trial.seen())
}

pub fn split<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("split")?;
    let (size, pool) = (PageSize::Size1G, trial.pool(LARGE));
    // A page of 1 GiB: whole, with a hole, and whole again. The hole is where the pool is.
    let page = Gfn::new(3 * size.frames());
    let hole = Gfn::new(page.raw() + pool.raw() % size.frames());
    trial.ram(page, size.frames(), Mfn::new(pool.raw() / size.frames() * size.frames()))?;
    let around = [hole.raw() - 1, hole.raw(), hole.raw() + 1, hole.raw() + LARGE];
    let probe_all = |trial: &mut Trial<'_, W>| {
        around.iter().try_for_each(|frame| trial.probe(frame * FRAME + 0x80, EACH))
    };
    trial.of_order(hole, size.order())?;
    probe_all(&mut trial)?;

    trial.table.unmap(gfns(hole, 1)).map_err(text)?;
    for (frame, order) in around.into_iter().zip([9, 0, 0, 9]) {
        trial.of_order(Gfn::new(frame), order)?;
    }
    trial.spoil(Gfn::new(hole.raw() + 1), FRAME);
    probe_all(&mut trial)?;
    // Up to the hole's edges.
    let start = hole.raw() * FRAME;
    trial.probe(start - 1, &[ReadByte, WriteByte])?;
    trial.probe(start - 2, EACH)?;
    trial.probe(start + FRAME - 2, EACH)?;
    trial.probe(start + FRAME, &[ReadByte, WriteByte])?;

    trial.ram(hole, 1, pool)?;
    trial.of_order(hole, size.order())?;
    probe_all(&mut trial)?;
    Ok(trial.seen())
}

pub fn identity<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("identity")?;
    // Three small pages, a large one, five small ones: as firmware aligns its regions.
    let count = 3 + LARGE + 5;
    let region = MfnRange::with_len(trial.pool(LARGE - 3), count).ok_or("the pool is too high")?;
    let mapped = trial.table.map_identity(region, Access::READ_WRITE, OnConflict::Refuse, &mut |_| ());
    ensure!(mapped == Ok(Identity::Mapped), "the region was not mapped: {mapped:?}");
    trial.spoil(region.identity().start(), WRITE_BIT);
    let (start, end) = (region.start().raw() * FRAME, region.end().raw() * FRAME);
    let probe_all = |trial: &mut Trial<'_, W>| {
        for address in [start - 1, start, end - 1, end] {
            trial.probe(address, &[ReadByte, WriteByte])?;
        }
        for address in
            [start - 2, start, start + 3 * FRAME, start + 3 * FRAME + 0x1000, end - FRAME, end - 2, end]
        {
            trial.probe(address, EACH)?;
        }
        Ok::<(), String>(())
    };
    probe_all(&mut trial)?;
    let reached = trial.reached;
    trial.table.unmap_identity(region).map_err(text)?;
    probe_all(&mut trial)?;
    ensure!(
        trial.reached == reached && reached != 0,
        "{} accesses reached a region that is gone",
        trial.reached - reached
    );
    Ok(trial.seen())
}

pub fn marks<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("marks")?;
    let large = Gfn::new(7 * LARGE);
    trial.ram(HERE, 1, trial.pool(7))?;
    trial.ram(large, LARGE, trial.pool(LARGE))?;
    trial.map(Gfn::new(HERE.raw() + 1), 1, trial.pool(8), P2mType::RamRo, Access::all())?;
    let accessed = <W::Format as p2m::Format>::ACCESSED;
    trial.spoil(large, accessed);
    for gfn in [HERE, large] {
        let address = gfn.raw() * FRAME + 0x80;
        trial.marked(address, (false, false))?;
        trial.probe(address, &[Read])?;
        trial.marked(address, (true, false))?;
        trial.probe(address, &[Write])?;
        trial.marked(address, (true, true))?;
    }
    // A write that is stopped marks nothing as written.
    let address = (HERE.raw() + 1) * FRAME + 0x80;
    trial.probe(address, &[Execute, Write])?;
    trial.marked(address, (true, false))?;
    Ok(trial.seen())
}

/// Numbers that look random and are the same every time (a linear congruential generator, its upper half).
struct Numbers(u64);

impl Numbers {
    /// One below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % end
    }

    fn one_of<T: Copy>(&mut self, values: &[T], otherwise: T) -> T {
        values.get(self.below(values.len() as u64) as usize).copied().unwrap_or(otherwise)
    }
}

/// Updates in the random step, and touches after each.
const UPDATES: usize = 300;
const TOUCHES: usize = 4;

pub fn random<W: Walker>(world: &mut World<W>) -> Outcome {
    let mut trial = world.trial("random")?;
    let mut numbers = Numbers(1);
    let (mut done, mut refused) = (0, 0);
    // The guest frames of the pool's own numbers and some around them, so that 1:1 mappings take part.
    let (first, frames) = (trial.pool(0).raw(), POOL * LARGE);
    for _ in 0..UPDATES {
        let order = numbers.below(11);
        let count = 1 + numbers.below(1 << order);
        let offset = numbers.below(frames - count);
        let here = Gfn::new(first + offset);
        // The same place in a large page as the guest frames', or any.
        let there = if numbers.below(2) == 0 { offset % LARGE } else { numbers.below(frames - count) };
        let region = MfnRange::with_len(Mfn::new(first + offset), count).unwrap_or_default();
        let p2m_type = numbers.one_of(
            &[
                P2mType::RamRw,
                P2mType::RamRo,
                P2mType::RamLogdirty,
                P2mType::MmioDm,
                P2mType::PopulateOnDemand,
                P2mType::Grant,
            ],
            P2mType::RamRw,
        );
        let access = Access::from_bits_truncate(numbers.below(8) as u8 | numbers.below(8) as u8);
        let updated = match numbers.below(8) {
            0..=2 => trial.map(here, count, trial.pool(there), p2m_type, access),
            3 => trial.table.unmap(gfns(here, count)).map_err(text),
            4 => trial
                .table
                .change_type(gfns(here, count), P2mType::RamRw, P2mType::RamLogdirty)
                .map(|_| ())
                .map_err(text),
            5 => trial
                .table
                .change_type(gfns(here, count), P2mType::RamLogdirty, P2mType::RamRw)
                .map(|_| ())
                .map_err(text),
            6 => {
                let access = if numbers.below(2) == 0 { Access::READ_WRITE } else { Access::READ };
                let mapped = trial.table.map_identity(region, access, OnConflict::Skip, &mut |_| ());
                mapped.map(|_| ()).map_err(text)
            }
            _ => trial.table.unmap_identity(region).map_err(text),
        };
        match updated {
            Ok(()) => done += 1,
            Err(_) => refused += 1,
        }
        for _ in 0..TOUCHES {
            // In the range that was updated, or next to it.
            let frame = here.raw() + numbers.below(count + 2) - 1;
            let offset = numbers.one_of(&[0, 0x123, FRAME - 8, FRAME - 4, FRAME - 3, FRAME - 1], 0);
            let touch = numbers.one_of(&[ReadByte, Read, WriteByte, Write, Execute], Read);
            trial.spoils.clear();
            trial.spoil(Gfn::new(frame), READ_BIT);
            trial.probe(frame * FRAME + offset, &[touch])?;
        }
    }
    Ok(format!("{done} updates, {refused} refused; {}", trial.seen()))
}

impl<W: Walker> Trial<'_, W> {
    /// Whether the entry for `address` is marked accessed and dirty like this.
    fn marked(&self, address: u64, wanted: (bool, bool)) -> Result<(), String> {
        let entry = self.at(address);
        let found = (entry.is_accessed(), entry.is_dirty());
        ensure!(
            found == wanted,
            "{entry:?} at {address:#x} is marked (accessed, dirty) {found:?} instead of {wanted:?}"
        );
        Ok(())
    }
}
