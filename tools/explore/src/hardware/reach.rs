//! What the DMA of a requester may reach, by memory and by what is cached.

use testkit::vtd::{Page, Way};

/// What a requester may reach at a probed guest frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reach {
    /// By what is in memory.
    pub now: Option<u64>,
    /// By what is cached: with the context entry in memory, and with the cached one by its table, and by what is kept under its domain id. What is not
    /// cached is as memory says.
    others: [Option<u64>; 3],
    device_tlb: Option<u64>,
}

fn target(page: Page) -> Option<u64> {
    page.both_ways().map(|mfn| mfn.raw())
}

impl Reach {
    pub(super) fn new(ways: impl Iterator<Item = Option<Way>>, device_tlb: Option<u64>) -> Self {
        let mut reach = Self::default();
        let mut others = [None; 3];
        for (index, way) in ways.enumerate() {
            match way {
                Some(way) if way.is_current => {
                    reach.now = target(way.fresh);
                    others[0] = way.kept.map(target);
                }
                Some(way) => {
                    others[1] = Some(target(way.fresh));
                    others[2] = way.kept.map(target);
                }
                // The first is what memory holds; that nothing is there may be cached, too.
                None if index > 0 => others[1] = Some(None),
                None => {}
            }
        }
        reach.others = others.map(|other| other.unwrap_or(reach.now));
        reach.device_tlb = device_tlb.map(|address| address >> 12);
        reach
    }

    /// Where what is cached leads.
    #[must_use]
    pub fn others(&self) -> [Option<u64>; 4] {
        let [one, two, three] = self.others;
        [one, two, three, self.device_tlb]
    }

    /// Whether something cached leads elsewhere than memory says.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.others.iter().any(|other| *other != self.now)
            || self.device_tlb.is_some_and(|frame| Some(frame) != self.now)
    }
}
