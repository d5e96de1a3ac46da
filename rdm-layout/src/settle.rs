//! Which regions are given up, or what is in the way.
//!
//! Where not everything can be had, things are added one after the other, and what does not fit with those
//! before it is left out. More things never make a layout easier, so the first that does not fit is found by
//! halving.

use p2m::GfnRange;

use crate::attempt::{Refusal, Stop, Work};
use crate::error::{Cause, Certainty, Failure, Thing};
use crate::list::Full;
use crate::machine::Policy;
use crate::plan::Verdict;

/// A thing that may be left out.
#[derive(Clone, Copy)]
enum Item {
    /// An index into the records.
    Region(usize),
    Bar(usize),
    Module(usize),
    Unallocated,
}

/// Which things are added.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Relaxed,
    Others,
}

impl Work<'_, '_> {
    /// Lays out the machine: with everything, or without some of what is relaxed.
    pub(crate) fn settle(&mut self) -> Result<Result<(), Failure>, Full> {
        let Some(everything) = self.refused()? else { return Ok(Ok(())) };
        let mut refusal = everything;
        if self.regions.iter().any(|region| region.policy == Policy::Relaxed) {
            self.set_from(0, Which::Relaxed, Some(everything.cause));
            match self.refused()? {
                None => {
                    self.add(Which::Relaxed)?;
                    return Ok(Ok(()));
                }
                Some(without) => refusal = without,
            }
        }
        self.set_from(0, Which::Others, Some(refusal.cause));
        if let Some(bare) = self.refused()? {
            self.set_from(0, Which::Others, None);
            let obstacle = self.obstacle(bare.cause);
            let certainty = certainty(bare.certain);
            let (first, frames) = (Thing::Memory, None);
            return Ok(Err(Failure { first, frames, cause: bare.cause, obstacle, more: 0, certainty }));
        }
        let (mut first, mut more) = (None, 0_usize);
        let certain = self.add(Which::Others)? || refusal.certain;
        for index in 0..self.items() {
            let Some((item, cause)) = self.left_out(index, Which::Others) else { continue };
            match first {
                None => first = Some((item, cause)),
                Some(_) => more = more.saturating_add(1),
            }
        }
        let certainty = certainty(certain);
        let failure = match first {
            Some((item, cause)) => {
                let (first, frames) = self.thing(item);
                Failure { first, frames, cause, obstacle: self.obstacle(cause), more, certainty }
            }
            // Something helped that should not have: the search for modules has bounds.
            None => return Ok(Ok(())),
        };
        Ok(Err(failure))
    }

    fn refused(&mut self) -> Result<Option<Refusal>, Full> {
        match self.attempt() {
            Ok(()) => Ok(None),
            Err(Stop::Refused(refusal)) => Ok(Some(refusal)),
            Err(Stop::Full) => Err(Full),
        }
    }

    /// Adds one after the other, from none of them on. At the end what is chosen is laid out. Says whether it
    /// is certain of something that was left out that it cannot be had.
    fn add(&mut self, which: Which) -> Result<bool, Full> {
        let (mut next, mut certain) = (0, false);
        while next < self.items() {
            self.set_from(next, which, None);
            let Some(mut refusal) = self.refused()? else { break };
            // Everything before `low` can be had, and not everything up to `high`.
            let (mut low, mut high) = (next, self.items().saturating_sub(1));
            while low < high {
                let middle = low.midpoint(high);
                self.set_from(next, which, None);
                self.set_from(middle.saturating_add(1), which, Some(refusal.cause));
                match self.refused()? {
                    None => low = middle.saturating_add(1),
                    Some(refused) => {
                        high = middle;
                        refusal = refused;
                    }
                }
            }
            self.set_from(next, which, None);
            self.set_from(low, which, Some(refusal.cause));
            certain |= refusal.certain;
            next = low.saturating_add(1);
        }
        // The records of modules are in another order after an attempt: it is made before they are read.
        self.refused()?;
        self.modules.sort_unstable_by_key(|one| one.input);
        Ok(certain)
    }

    fn items(&self) -> usize {
        let records = self.regions.len().saturating_add(self.bars.len()).saturating_add(self.modules.len());
        records.saturating_add(1)
    }

    fn item(&self, index: usize) -> Item {
        let Some(index) = index.checked_sub(self.regions.len()) else { return Item::Region(index) };
        let Some(index) = index.checked_sub(self.bars.len()) else { return Item::Bar(index) };
        if index < self.modules.len() { Item::Module(index) } else { Item::Unallocated }
    }

    /// Takes in, or leaves out, each of these things from an index on.
    fn set_from(&mut self, from: usize, which: Which, left_out: Option<Cause>) {
        self.modules.sort_unstable_by_key(|one| one.input);
        for index in from..self.items() {
            match self.item(index) {
                Item::Region(index) => self.set_region(index, which, left_out),
                Item::Bar(index) if which == Which::Others => {
                    if let Some(bar) = self.bars.get_mut(index) {
                        (bar.left_out, bar.place) = (left_out, None);
                    }
                }
                Item::Module(index) if which == Which::Others => {
                    if let Some(module) = self.modules.get_mut(index) {
                        (module.left_out, module.place) = (left_out, None);
                    }
                }
                Item::Unallocated if which == Which::Others => self.no_unallocated = left_out,
                _ => {}
            }
        }
    }

    /// The regions that are one go together: the first by address speaks for all.
    fn set_region(&mut self, index: usize, which: Which, left_out: Option<Cause>) {
        let Some(region) = self.regions.get(index).copied() else { return };
        if index.checked_sub(1).and_then(|before| self.regions.get(before)).map(|before| before.one_with)
            == Some(region.one_with)
        {
            return;
        }
        let verdict = match (left_out, region.policy) {
            (None, _) => Verdict::Honoured,
            (Some(cause), Policy::Relaxed) => Verdict::GivenUp(cause),
            (Some(cause), Policy::Strict | Policy::Private) => Verdict::InTheWay(cause),
        };
        if (which == Which::Relaxed) != (region.policy == Policy::Relaxed) {
            return;
        }
        let rest = self.regions.get_mut(index..).unwrap_or_default();
        rest.iter_mut()
            .take_while(|one| one.one_with == region.one_with)
            .for_each(|one| one.verdict = verdict);
    }

    /// The cause, where this thing is left out.
    fn left_out(&self, index: usize, which: Which) -> Option<(Item, Cause)> {
        let item = self.item(index);
        let cause = match item {
            Item::Region(index) => match self.regions.get(index)?.verdict {
                Verdict::InTheWay(cause) if which == Which::Others => Some(cause),
                _ => None,
            },
            Item::Bar(index) => self.bars.get(index)?.left_out,
            Item::Module(index) => self.modules.get(index)?.left_out,
            Item::Unallocated => self.no_unallocated,
        };
        Some((item, cause?))
    }

    fn thing(&self, item: Item) -> (Thing, Option<GfnRange>) {
        match item {
            Item::Region(index) => {
                let region = self.regions.get(index).copied().unwrap_or_default();
                (Thing::Region(region.input), Some(region.frames))
            }
            Item::Bar(index) => (Thing::Bar(self.bars.get(index).map_or(0, |bar| bar.input)), None),
            Item::Module(index) => {
                let input = self.modules.get(index).map_or(0, |module| module.input);
                let firmware = self.machine.firmware.modules.len();
                (input.checked_sub(firmware).map_or(Thing::FirmwareModule(input), Thing::Module), None)
            }
            Item::Unallocated => (Thing::Unallocated, None),
        }
    }

    /// The name of what is in the way.
    fn obstacle(&self, cause: Cause) -> Option<&'static str> {
        match cause {
            Cause::Fixed { index, .. } => self.machine.lies_fast(index).map(|fixed| fixed.name),
            _ => None,
        }
    }
}

fn certainty(certain: bool) -> Certainty {
    if certain { Certainty::ThereIsNone } else { Certainty::NoneFound }
}
