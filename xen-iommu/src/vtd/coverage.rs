//! Which unit translates which function (§8.3.1, "device scope").

use bitvec::{BitArr, array::BitArray};

use crate::platform::Sbdf;

/// What a unit's DRHD structure names, resolved to addresses on this machine's buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Coverage {
    /// One function: an endpoint scope. A bridge scope gives one of these for the bridge itself, which some
    /// bridges use as the requester of what is behind them, beside its [`Buses`](Self::Buses).
    Endpoint(Sbdf),
    /// Everything on these buses: what is below a bridge scope.
    Buses {
        /// The PCI segment.
        segment: u16,
        /// The bridge's secondary bus.
        first: u8,
        /// The bridge's subordinate bus, inclusive.
        last: u8,
    },
    /// Everything of the segment that no other unit names (INCLUDE_PCI_ALL).
    All {
        /// The PCI segment.
        segment: u16,
    },
}

/// How closely a unit's coverage names a requester; the greatest wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Closeness {
    /// By being in the segment.
    Segment,
    /// By a bridge, with so many fewer than 256 buses below it: of two bridges the inner one has fewer.
    Bridge(u8),
    /// By itself.
    Endpoint,
}

/// A unit's coverage, ready for look-up.
#[derive(Debug)]
pub(crate) struct Coverages<'m> {
    segment: u16,
    /// Sorted, so that the endpoints come first, in order.
    sorted: &'m [Coverage],
    endpoints: usize,
    /// The buses of all bridge scopes.
    buses: BitArr!(for 256, in u64),
    all: bool,
}

impl<'m> Coverages<'m> {
    /// Sorts `coverage`. All of it is in `segment`, as a DRHD structure has one; what is not is left aside.
    pub(crate) fn new(segment: u16, coverage: &'m mut [Coverage]) -> Self {
        coverage.sort_unstable();
        let mut this = Self { segment, sorted: &[], endpoints: 0, buses: BitArray::ZERO, all: false };
        this.endpoints = coverage.partition_point(|one| matches!(one, Coverage::Endpoint(_)));
        for one in coverage.iter() {
            match *one {
                Coverage::Buses { segment: its, first, last } if its == segment => {
                    if let Some(buses) = this.buses.get_mut(usize::from(first)..=usize::from(last)) {
                        buses.fill(true);
                    }
                }
                Coverage::All { segment: its } if its == segment => this.all = true,
                _ => {}
            }
        }
        this.sorted = coverage;
        this
    }

    /// The segment.
    pub(crate) fn segment(&self) -> u16 {
        self.segment
    }

    /// How closely this names `source`, if at all.
    pub(crate) fn closeness(&self, source: Sbdf) -> Option<Closeness> {
        if source.segment() != self.segment {
            return None;
        }
        let endpoints = self.sorted.get(..self.endpoints).unwrap_or_default();
        if endpoints.binary_search(&Coverage::Endpoint(source)).is_ok() {
            return Some(Closeness::Endpoint);
        }
        if self.buses.get(usize::from(source.bus())).is_some_and(|bit| *bit) {
            return self.bridge(source.bus()).map(Closeness::Bridge);
        }
        self.all.then_some(Closeness::Segment)
    }

    fn bridge(&self, bus: u8) -> Option<u8> {
        let others = self.sorted.get(self.endpoints..).unwrap_or_default();
        let buses = others.iter().filter_map(|one| match *one {
            Coverage::Buses { segment, first, last } if segment == self.segment => {
                (first..=last).contains(&bus).then(|| u8::MAX.saturating_sub(last.saturating_sub(first)))
            }
            _ => None,
        });
        buses.max()
    }
}
