//! What of a state can be observed, as a number: two states with one number are one. Left out are the numbers
//! of frames and domain ids and the order of lists in memory.

use crate::hardware::child;
use crate::machine::DOMAINS;
use crate::memory::FRAMES;
use crate::world::World;

/// Mixes words into 128 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    low: u64,
    high: u64,
}

impl Hash {
    /// Takes a word in.
    pub fn word(&mut self, word: u64) {
        let low = u128::from(self.low ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
        let high =
            u128::from(self.high ^ word.rotate_left(32) ^ 0xa076_1d64_78bd_642f) * 0xe703_7ed1_a0b4_28db;
        self.low = (low as u64) ^ (low >> 64) as u64;
        self.high = (high as u64 ^ (high >> 64) as u64).rotate_left(23).wrapping_add(self.low);
    }

    /// Takes another hash in.
    pub fn hash(&mut self, other: Self) {
        self.word(other.low);
        self.word(other.high);
    }

    /// The number.
    #[must_use]
    pub fn number(self) -> u128 {
        u128::from(self.low) | u128::from(self.high) << 64
    }
}

/// No table above the lowest level has more tables below it.
const CHILDREN: usize = 6;

/// A table frame's content without the numbers of the tables below it, and those.
#[derive(Clone, Copy, Debug, Default)]
pub struct FrameHash {
    known: bool,
    content: Hash,
    children: [u8; CHILDREN],
    count: u8,
}

/// A state as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// Who owns what, whose DMA is off, and what is mapped.
    pub view: Hash,
    /// Where the requester ids' context entries lead.
    pub contexts: Hash,
    /// Caches that are behind.
    pub doubt: Hash,
    /// Frames in use, but for those of the remapping unit and those that wait for a flush.
    pub frames: u64,
    /// Those, by domain.
    pub held: [u64; DOMAINS],
}

impl Keys {
    /// All of it.
    #[must_use]
    pub fn number(&self) -> u128 {
        let mut hash = self.view;
        hash.hash(self.contexts);
        hash.hash(self.doubt);
        hash.word(self.frames);
        // How many wait for a flush makes no difference to anybody until there are no more.
        self.held.iter().for_each(|held| hash.word(u64::from(*held != 0)));
        hash.number()
    }
}

impl World {
    /// The state as numbers.
    pub fn keys(&mut self) -> Keys {
        for frame in crate::memory::bits(self.pool.take_changed()) {
            self.hashes[frame].known = false;
        }
        let mut view = Hash::default();
        for owner in self.owners() {
            view.word(owner.map_or(99, |owner| owner as u64));
        }
        for owner in self.region_owners() {
            view.word(owner.map_or(99, |owner| owner as u64));
        }
        view.word(u64::from(self.machine.quiesced()));
        let known = &self.known;
        let flags = [
            &[known.torn, known.resolved][..],
            &known.lacks,
            &known.running,
            &known.blocked,
            &known.unprovided,
        ]
        .concat();
        let flags = flags.iter().chain(known.lingers.iter().flatten());
        view.word(flags.fold(1, |word, flag| word << 1 | u64::from(*flag)));
        view.word(known.own.iter().flatten().fold(1, |word, own| word << 2 | *own as u64));
        let roots = self.all_roots();
        for roots in roots {
            view.word(u64::from(roots.is_some()));
            if let Some([cpu, devices]) = roots {
                view.hash(self.table(cpu.0, cpu.1));
                if devices != cpu {
                    view.hash(self.table(devices.0, devices.1));
                }
            }
        }

        let mut contexts = Hash::default();
        let mut doubt = Hash::default();
        doubt.word(u64::from(self.machine.in_doubt()));
        for device in self.board.devices {
            contexts.word(u64::from(self.policy.is_suspect(device.sbdf)));
        }
        for source in 0..self.board.sources.len() {
            contexts.word(u64::from(self.known.uncertain[source]));
            let context = self.sight.contexts[source];
            contexts.word(context.map_or(0, |entry| u64::from(entry.low.translation_type()) + 1));
            let levels = context.map_or(0, |entry| u32::from(entry.high.width()) + 2);
            self.hash_root(self.sight.roots[source].map(|root| (root, levels)), &roots, &mut contexts);
            if let Some(stale) = self.sight.stale[source] {
                doubt.word(source as u64);
                // A cached entry may lead to a table whose levels are not looked up again; its domain says
                // enough.
                let domain = stale.map(|root| self.domain_of_root(root).map_or(7, |domain| domain as u64));
                doubt.word(domain.unwrap_or(8));
            }
            for probe in 0..self.board.probes.len() {
                let reach = self.sight.reach[source][probe];
                if reach.is_stale() {
                    doubt.word(1 << 32 | (source << 8 | probe) as u64);
                    reach.others().iter().for_each(|other| doubt.word(other.unwrap_or(0)));
                }
            }
        }
        let mut held = [0; DOMAINS];
        for domain in 0..DOMAINS {
            let waiting = |space: &mut crate::world::Space| space.held_frames();
            held[domain] = self.policy.with_space(xen_iommu::DomId(domain as u16), waiting).unwrap_or(0);
        }
        let frames = self.pool.allocated() & !self.machine.unit_frames();
        let frames = u64::from(frames.count_ones()) - held.iter().sum::<u64>();
        Keys { view, contexts, doubt, frames, held }
    }

    fn hash_root(
        &mut self,
        root: Option<(usize, u32)>,
        roots: &[Option<[(usize, u32); 2]>; DOMAINS],
        into: &mut Hash,
    ) {
        let Some((root, levels)) = root else {
            into.word(0);
            return;
        };
        into.word(1);
        let domain = roots.iter().position(|roots| roots.is_some_and(|[_, devices]| devices.0 == root));
        match domain {
            Some(domain) => into.word(domain as u64),
            // A quarantine's, or one that should not be.
            None => {
                let hash = self.table(root, levels);
                into.hash(hash);
            }
        }
    }

    /// A table with all below it.
    fn table(&mut self, frame: usize, levels: u32) -> Hash {
        debug_assert!(frame < FRAMES);
        if !self.hashes[frame].known {
            self.hashes[frame] = self.frame(frame, levels);
        }
        let FrameHash { content, children, count, .. } = self.hashes[frame];
        let mut hash = content;
        for child in &children[..usize::from(count)] {
            let below = self.table(usize::from(*child), levels.saturating_sub(1));
            hash.hash(below);
        }
        hash
    }

    fn frame(&self, frame: usize, levels: u32) -> FrameHash {
        let mut hash = FrameHash { known: true, ..FrameHash::default() };
        for (index, word) in self.pool.words(frame).iter().enumerate() {
            let word = word.load(std::sync::atomic::Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            hash.content.word(index as u64);
            match child(word).filter(|_| levels > 1) {
                Some(child) if usize::from(hash.count) < CHILDREN => {
                    hash.children[usize::from(hash.count)] = child as u8;
                    hash.count += 1;
                    hash.content.word(word & 0xfff);
                }
                _ => hash.content.word(word),
            }
        }
        hash
    }
}
