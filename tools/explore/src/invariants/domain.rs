//! What must hold of a domain's tables.

use super::{Breach, broken};
use crate::hardware::child;
use crate::machine::{members, ram};
use crate::rules::Owners;
use crate::world::{Own, World};

impl World {
    /// A domain's tables hold what its toolstack put there, the regions of the devices whose DMA goes there,
    /// and nothing else; and both hold the same.
    pub(super) fn judge_domain(&self, domain: usize, owners: &Owners) -> Result<(), Breach> {
        let Some([cpu, devices]) = self.roots(domain) else { return Ok(()) };
        let (board, own) = (self.board, self.known.own[domain]);
        let holders = self.holders(owners);
        let frames = |region: usize| (board.regions[region].start, board.regions[region].end);
        let is_user =
            |region: usize| members(self.users(region)).any(|device| holders[device] == Some(domain));
        let direct: Vec<(u64, u64)> = (0..board.regions.len())
            .filter(|region| is_user(*region) || self.known.lingers[domain][*region])
            .map(frames)
            .chain((0..).zip(own).filter(|(_, own)| *own == Own::Direct).map(|(place, _)| self.place(place)))
            .collect();
        let places =
            || (0_u8..).zip(own).zip(board.places).map(|((place, own), (gfn, _))| (place, own, *gfn));
        for (table, (root, levels)) in [("CPU", cpu), ("devices", devices)] {
            let mut breach = None;
            self.each_leaf(root, levels, 0, &mut |gfn, len, mfn| {
                let holds = if gfn == mfn {
                    covered(gfn, gfn + len, &direct)
                } else {
                    let mut rams = places().filter(|(_, own, _)| *own == Own::Ram);
                    len == 1 && rams.any(|(place, _, at)| at == gfn && mfn == ram(domain, usize::from(place)))
                };
                if !holds && breach.is_none() {
                    breach = Some(format!(
                        "the {table} table of d{domain} maps frames from {gfn:#x} on, {len}, to {mfn:#x}, which nothing there needs"
                    ));
                }
            });
            if let Some(breach) = breach {
                return Err(breach);
            }
            for (place, what, gfn) in places() {
                let (from, to, first) = match what {
                    Own::Nothing => continue,
                    Own::Ram => (gfn, gfn + 1, ram(domain, usize::from(place))),
                    Own::Direct => {
                        let (start, end) = self.place(place);
                        (start, end, start)
                    }
                };
                for gfn in [from, to - 1] {
                    let found = self.pool.walk(root, levels, gfn);
                    broken(found == Some(first + (gfn - from)), || {
                        format!(
                            "what d{domain} has put at guest frame {gfn:#x} is no longer in the {table} table"
                        )
                    })?;
                }
            }
        }
        for frame in board.probes {
            let [one, other] = [cpu, devices].map(|(root, levels)| self.pool.walk(root, levels, *frame));
            broken(one == other, || {
                format!("the two tables of d{domain} do not agree at guest frame {frame:#x}")
            })?;
        }
        Ok(())
    }

    /// Visits the leaves of a table: guest frame, number of frames, machine frame.
    pub(super) fn each_leaf(
        &self,
        root: usize,
        levels: u32,
        first: u64,
        visit: &mut dyn FnMut(u64, u64, u64),
    ) {
        let span = 1_u64 << (9 * (levels - 1));
        for (index, word) in self.pool.words(root).iter().enumerate() {
            let entry = word.load(std::sync::atomic::Ordering::Relaxed);
            if entry & 7 == 0 {
                continue;
            }
            let gfn = first + index as u64 * span;
            match child(entry).filter(|_| levels > 1) {
                Some(next) => self.each_leaf(next, levels - 1, gfn, visit),
                None => visit(gfn, span, entry >> 12 & 0xff_ffff_ffff),
            }
        }
    }
}

/// Whether `start..end` is within the union of `ranges`.
fn covered(mut start: u64, end: u64, ranges: &[(u64, u64)]) -> bool {
    while start < end {
        let Some((_, to)) = ranges.iter().find(|(from, to)| (*from..*to).contains(&start)) else {
            return false;
        };
        start = *to;
    }
    true
}
