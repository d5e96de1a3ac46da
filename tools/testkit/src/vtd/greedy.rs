//! All that hardware may do, not what it would do: a unit may read an entry anew or use the one it kept, and
//! may keep whatever it reads.

use std::iter;

use p2m::{FrameSource, Mfn};
use xen_iommu::vtd::tables::ContextEntry;

use super::{Context, Map, Model, Page, State, Store};

/// One way that a requester's DMA to a page may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The context entry.
    pub entry: ContextEntry,
    /// Whether that is what memory holds, rather than an older one that was kept.
    pub is_current: bool,
    /// What its table says now.
    pub fresh: Page,
    /// What was kept under its domain id.
    pub kept: Option<Page>,
}

/// Pages of which a walk is remembered for the next requester.
const WALKED: usize = 8;

/// A context entry that a request may meet, and whether it is what memory holds; `None` where there is none,
/// so that the request is blocked.
type Met = Option<(ContextEntry, bool)>;

impl<F: FrameSource, S: Store> Model<F, S> {
    /// Visits every way that the DMA of these requesters to these pages may take now, and has the unit keep
    /// all that it may: in caching mode that something is not there, too. `None` is the way of a request that
    /// finds no context entry and is blocked.
    ///
    /// To be called after each write to a table or to a register, by a test that looks for a moment at which
    /// something is reached that should not be.
    pub fn observe(&self, sources: &[u16], pages: &[u64], visit: &mut impl FnMut(u16, u64, Option<Way>)) {
        self.look(sources, pages, true, visit);
    }

    /// Visits the same ways without having the unit keep anything.
    pub fn ways(&self, sources: &[u16], pages: &[u64], visit: &mut impl FnMut(u16, u64, Option<Way>)) {
        self.look(sources, pages, false, visit);
    }

    fn look(
        &self,
        sources: &[u16],
        pages: &[u64],
        keeps: bool,
        visit: &mut impl FnMut(u16, u64, Option<Way>),
    ) {
        let state = &mut *self.state();
        let negative = state.capability.caching_mode();
        // What the last table that was walked says of the first of the pages; requesters mostly share one.
        let mut walked = (0, [Page::default(); WALKED]);
        for &source in sources {
            if keeps && state.contexts.get(source).is_none() {
                let context = match self.read_context(state, source) {
                    Ok(entry) => Some(Context { entry, domain: entry.high.domain_id(), fault: None }),
                    Err(fault) => negative.then_some(Context {
                        entry: ContextEntry::ABSENT,
                        domain: 0,
                        fault: Some(fault),
                    }),
                };
                if let Some(context) = context {
                    state.contexts.insert(source, context);
                }
            }
            for met in self.met(state, source).into_iter().flatten() {
                if let Some((entry, _)) = met
                    && walked.0 != entry.low.table()
                {
                    let levels = entry.high.width() + 2;
                    walked.0 = entry.low.table();
                    for (place, page) in walked.1.iter_mut().zip(pages) {
                        *place = self.walk(state, walked.0, levels, *page).unwrap_or_default();
                    }
                }
                for (index, &page) in pages.iter().enumerate() {
                    let way = met.map(|(entry, is_current)| match walked.1.get(index) {
                        Some(fresh) => {
                            let kept = state.pages.get((entry.high.domain_id(), page));
                            Way { entry, is_current, fresh: *fresh, kept }
                        }
                        None => self.way(state, (entry, is_current), page),
                    });
                    if let Some(Way { entry, fresh, kept: None, .. }) = way
                        && keeps
                        && (fresh.read || fresh.write || negative)
                    {
                        state.pages.insert((entry.high.domain_id(), page), fresh);
                    }
                    visit(source, page, way);
                }
            }
        }
    }

    /// Whether what is kept under a domain id that one of these requesters has, in memory or kept, was read
    /// through this frame: then the frame may not be used for anything else.
    pub fn is_kept_through(&self, sources: &[u16], pages: &[u64], frame: Mfn) -> bool {
        let state = self.state();
        sources.iter().any(|&source| {
            self.met(&state, source).into_iter().flatten().flatten().any(|(entry, _)| {
                let kept = |page: &u64| state.pages.get((entry.high.domain_id(), *page));
                pages.iter().filter_map(kept).any(|page| page.came_through(frame))
            })
        })
    }

    /// What memory holds, and what was kept where that is something else.
    fn met(&self, state: &State<S>, source: u16) -> [Option<Met>; 2] {
        let current = self.read_context(state, source).ok().map(|entry| (entry, true));
        let kept = state.contexts.get(source).map(|kept| match kept.fault {
            None => Some((kept.entry, false)),
            Some(_) => None,
        });
        let is_other = |kept: &Met| kept.map(|(entry, _)| entry) != current.map(|(entry, _)| entry);
        [Some(current), kept.filter(is_other)]
    }

    fn way(&self, state: &State<S>, (entry, is_current): (ContextEntry, bool), page: u64) -> Way {
        let levels = entry.high.width() + 2;
        let fresh = self.walk(state, entry.low.table(), levels, page).unwrap_or_default();
        let kept = state.pages.get((entry.high.domain_id(), page));
        Way { entry, is_current, fresh, kept }
    }
}

impl Page {
    /// The tables that it was read through, topmost first.
    pub fn tables(&self) -> impl Iterator<Item = Mfn> + '_ {
        self.through.iter().copied().take_while(|frame| *frame != 0).map(Mfn::new)
    }

    fn came_through(&self, frame: Mfn) -> bool {
        self.tables().any(|table| table == frame)
    }

    /// Where both reads and writes go.
    #[must_use]
    pub fn both_ways(&self) -> Option<Mfn> {
        (self.read && self.write).then(|| Mfn::new(self.frame))
    }
}

impl Way {
    /// Where reads and writes may go: by what the table says now, and by what was kept.
    pub fn targets(&self) -> impl Iterator<Item = Mfn> {
        iter::once(self.fresh).chain(self.kept).filter_map(|page| page.both_ways())
    }
}
