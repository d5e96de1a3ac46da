//! What the DMA of requesters may reach, by memory and by what is cached.

use testkit::vtd::{Page, Way};
use xen_iommu::vtd::tables::ContextEntry;

use super::Machine;
use crate::machine::{PROBES, SOURCES};

/// What a requester may reach at a probed guest frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// By what is in memory.
    pub now: Option<u64>,
    /// By what is cached: with the context entry in memory by what is kept under its domain id, and with the
    /// cached one by its table and likewise.
    others: [Option<Option<u64>>; 3],
    device_tlb: Option<u64>,
}

fn target(page: Page) -> Option<u64> {
    page.both_ways().map(|mfn| mfn.raw())
}

impl Reach {
    /// Where what is cached leads. What is not cached is as memory says.
    #[must_use]
    pub fn others(&self) -> [Option<u64>; 4] {
        let [one, two, three] = self.others.map(|other| other.unwrap_or(self.now));
        [one, two, three, self.device_tlb]
    }

    /// Whether something cached leads elsewhere than memory says.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.others.iter().flatten().any(|other| *other != self.now)
            || self.device_tlb.is_some_and(|frame| Some(frame) != self.now)
    }
}

/// What all requester ids of a machine may reach at one moment.
#[derive(Clone, Default)]
pub struct Sight {
    /// By requester id and probe.
    pub reach: [[Reach; PROBES]; SOURCES],
    /// By requester id: its context entry as the unit would read it.
    pub contexts: [Option<ContextEntry>; SOURCES],
    /// By requester id: the frame of the top table that the context entry leads to, as an index.
    pub roots: [Option<usize>; SOURCES],
    /// By requester id: what is cached of its context entry, where that is another: the frame of the table,
    /// or `None` for none.
    pub stale: [Option<Option<usize>>; SOURCES],
}

impl Machine {
    /// What may be reached now. Changes nothing.
    #[must_use]
    pub fn sight(&self) -> Sight {
        let mut sight = Sight::default();
        let mut seen = [[false; PROBES]; SOURCES];
        let probes = self.board.probes;
        let (mut source, mut probe) = (0, 0);
        self.unit.ways(self.sources(), probes, &mut |id, page, way: Option<Way>| {
            // They come in order.
            if self.sources[source] != id {
                source = self.sources.iter().position(|source| *source == id).unwrap_or(0);
            }
            if probes[probe] != page {
                probe = probes.iter().position(|probe| *probe == page).unwrap_or(0);
            }
            // The first is what memory holds.
            let is_other = std::mem::replace(&mut seen[source][probe], true);
            let reach = &mut sight.reach[source][probe];
            let root = way.as_ref().and_then(|way| self.pool.index(way.entry.low.table()));
            match (is_other, &way) {
                (false, Some(way)) => {
                    sight.contexts[source] = Some(way.entry);
                    sight.roots[source] = root;
                    reach.now = target(way.fresh);
                    reach.others[0] = way.kept.map(target);
                }
                (false, None) => {}
                (true, way) => {
                    sight.stale[source] = Some(root);
                    reach.others[1] = Some(way.as_ref().and_then(|way| target(way.fresh)));
                    reach.others[2] = way.as_ref().and_then(|way| way.kept).map(target);
                }
            }
        });
        for device in self.board.devices.iter().filter(|device| device.ats) {
            let Some(source) = self.board.source_at(device.sbdf) else { continue };
            for (probe, page) in probes.iter().enumerate() {
                let address = self.unit.ats_dma(self.sources[source], page << 12);
                sight.reach[source][probe].device_tlb = address.map(|address| address >> 12);
            }
        }
        sight
    }
}
