//! What of a state can be observed, as a number: two states with one number are one. Left out are the numbers of frames and domain ids and the order of
//! lists in memory.

use crate::hardware::child;
use crate::machine::{DEVICES, DOMAINS, REQUESTERS, sbdf};
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
    /// Who owns what, and what is mapped.
    pub view: Hash,
    /// Where the requesters' context entries lead.
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
        self.held.iter().for_each(|held| hash.word(*held));
        hash.number()
    }
}

impl World {
    /// The state as numbers.
    pub fn keys(&mut self) -> Keys {
        for frame in crate::memory::bits(self.machine.take_changed()) {
            self.hashes[frame].known = false;
        }
        let mut view = Hash::default();
        for owner in self.owners() {
            view.word(owner.map_or(99, |owner| owner as u64));
        }
        for owner in self.region_owners() {
            view.word(owner.map_or(99, |owner| owner as u64));
        }
        let known = &self.known;
        let flags = [&[known.torn][..], &known.lacks[..]].concat();
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
        for device in 0..DEVICES {
            contexts.word(u64::from(self.policy.is_uncertain(sbdf(device))));
        }
        for requester in 0..REQUESTERS {
            contexts.word(u64::from(self.known.uncertain[requester]));
            let context = self.machine.context(requester);
            self.hash_context(context, &roots, &mut contexts);
            if let Some(stale) = self.machine.stale_context(requester) {
                doubt.word(requester as u64);
                self.hash_context(stale, &roots, &mut doubt);
            }
            for probe in 0..self.setting.layout.probes().len() {
                let reach = self.machine.reach(requester, probe);
                if reach.is_stale() {
                    doubt.word(1 << 32 | (requester << 8 | probe) as u64);
                    reach.others().iter().for_each(|other| doubt.word(other.unwrap_or(0)));
                }
            }
        }
        let mut held = [0; DOMAINS];
        for domain in 0..DOMAINS {
            let waiting = |space: &mut crate::world::Space| space.held_frames();
            held[domain] = self.policy.with_space(xen_iommu::DomId(domain as u16), waiting).unwrap_or(0);
        }
        let frames = self.machine.allocated() & !self.machine.unit_frames();
        let frames = u64::from(frames.count_ones()) - held.iter().sum::<u64>();
        Keys { view, contexts, doubt, frames, held }
    }

    fn hash_context(
        &mut self,
        context: crate::hardware::Context,
        roots: &[Option<[(usize, u32); 2]>; DOMAINS],
        into: &mut Hash,
    ) {
        let Some(root) = context.root().filter(|_| context.present()) else {
            into.word(0);
            return;
        };
        into.word(1);
        let domain = roots.iter().position(|roots| roots.is_some_and(|[_, devices]| devices.0 == root));
        match domain {
            Some(domain) => into.word(domain as u64),
            // A quarantine's, or one that should not be.
            None => {
                let hash = self.table(root, context.levels());
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
        for (index, word) in self.machine.words(frame).iter().enumerate() {
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
