//! What the DMA of a requester may reach, by memory and by what is cached.

/// What a requester may reach at a probed guest frame.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// By what is in memory.
    pub now: Option<u64>,
    /// By what is cached.
    others: [Option<u64>; 3],
}

impl Reach {
    pub(super) fn new(now: Option<u64>, others: [Option<u64>; 3]) -> Self {
        Self { now, others }
    }

    /// Where what is cached leads.
    #[must_use]
    pub fn others(&self) -> [Option<u64>; 3] {
        self.others
    }

    /// Whether something cached leads elsewhere than memory says.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.others.iter().any(|other| other.is_some() && *other != self.now)
    }
}
