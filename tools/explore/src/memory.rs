//! Memory whose content can be taken down and put back at the same addresses: table frames, and all objects
//! of the code under test. So a state that was reached once is gone on from without replaying the calls that
//! led to it.

#![allow(unsafe_code, reason = "bytes of objects are taken down and put back")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;

use p2m::TableFrame;

/// Frames of the machine.
pub const FRAMES: usize = 128;
/// Words of memory for objects.
const WORDS: usize = 4096;
const FRAME_WORDS: usize = 512;
/// Words that are put back together.
const CHUNK: usize = 128;

#[repr(C, align(4096))]
struct Bytes {
    frames: [TableFrame; FRAMES],
    /// What a unit sees in the frames that does not snoop.
    shadows: [TableFrame; FRAMES],
    objects: [u64; WORDS],
}

/// One block of memory; it is never given back.
#[derive(Clone, Copy)]
pub struct Block {
    start: *mut Bytes,
    /// Whether the shadows are used.
    has_shadows: bool,
}

/// The word beside a word of a frame that says what a unit sees there that does not snoop.
pub(crate) fn shadow(word: usize) -> &'static AtomicU64 {
    let distance = std::mem::offset_of!(Bytes, shadows) - std::mem::offset_of!(Bytes, frames);
    let place: *const AtomicU64 = std::ptr::with_exposed_provenance(word + distance);
    // SAFETY: the caller has the address of a word in a frame of some block, whose address was exposed when
    // it was made; no block is ever given back, and each has a shadow at that distance, made of atomics.
    unsafe { &*place }
}

impl Block {
    /// A block of zeros, with shadows for a unit that does not snoop.
    #[must_use]
    pub fn new(has_shadows: bool) -> Self {
        let layout = Layout::new::<Bytes>();
        // SAFETY: the layout's size is not zero.
        let start: *mut Bytes = unsafe { alloc_zeroed(layout) }.cast();
        if start.is_null() {
            handle_alloc_error(layout);
        }
        start.expose_provenance();
        Self { start, has_shadows }
    }

    /// The frames.
    #[must_use]
    pub fn frames(&self) -> &'static [TableFrame; FRAMES] {
        // SAFETY: the block is never given back, zeros are valid frames, and frames are made of atomics, so
        // they may change behind a shared reference.
        unsafe { &(*self.start).frames }
    }

    /// The memory for objects. To be called once: it belongs to the caller then.
    #[must_use]
    pub fn objects(&self) -> &'static mut [MaybeUninit<u8>] {
        // SAFETY: the block is never given back, and the caller asks once.
        unsafe {
            let first = (&raw mut (*self.start).objects).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(first, WORDS * 8)
        }
    }

    /// How many words of the memory for objects are in use, when so many bytes are left.
    #[must_use]
    pub fn used_words(left: usize) -> usize {
        WORDS - left / 8
    }

    fn words(&self, part: Part) -> (*mut u64, usize) {
        match part {
            // SAFETY: the index is that of a frame.
            Part::Frame(index) => (unsafe { (&raw mut (*self.start).frames[index]).cast() }, FRAME_WORDS),
            // SAFETY: the same.
            Part::Shadow(index) => (unsafe { (&raw mut (*self.start).shadows[index]).cast() }, FRAME_WORDS),
            // SAFETY: a place in the block; nothing is read.
            Part::Objects(words) => (unsafe { (&raw mut (*self.start).objects).cast() }, words),
        }
    }

    /// Copies a part to `to`. No call into the code under test may be under way.
    fn take_down(&self, part: Part, to: &mut [u64]) {
        let (from, count) = self.words(part);
        assert_eq!(to.len(), count, "one part");
        // SAFETY: the part has `count` words; nobody writes meanwhile, since a block belongs to one thread.
        // Padding that was never written is zero from the allocation on or left over from earlier objects:
        // bytes, whatever they are.
        unsafe { std::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), count) };
    }

    /// Copies a part back.
    fn put_back(&self, part: Part, from: &[u64]) {
        let (to, count) = self.words(part);
        assert_eq!(from.len(), count, "one part");
        // Most of it is mostly as it was, and looking is cheaper than writing.
        for (number, from) in from.chunks(CHUNK).enumerate() {
            // SAFETY: as above. The bytes were taken down from here, so all objects in them are as they were
            // then, at the same addresses, and nothing outside the block points to an object that came later.
            // Nobody else has a reference to them while they are compared, for the same reason.
            unsafe {
                let to = to.add(number * CHUNK);
                if std::slice::from_raw_parts(to, from.len()) != from {
                    std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Part {
    Frame(usize),
    Shadow(usize),
    /// The first so many words.
    Objects(usize),
}

/// A block's content.
#[derive(Clone)]
pub struct Image {
    frames: Box<[u64]>,
    shadows: Box<[u64]>,
    objects: Box<[u64]>,
}

fn frame(index: usize) -> std::ops::Range<usize> {
    index * FRAME_WORDS..(index + 1) * FRAME_WORDS
}

impl Image {
    /// What is in the block, so many words of objects among it.
    #[must_use]
    pub fn of(block: &Block, used: usize) -> Self {
        let shadows = if block.has_shadows { FRAMES * FRAME_WORDS } else { 0 };
        let mut image = Self {
            frames: vec![0; FRAMES * FRAME_WORDS].into(),
            shadows: vec![0; shadows].into(),
            objects: vec![0; used].into(),
        };
        image.take_down(block, u128::MAX);
        image
    }

    /// Takes down the objects and these frames.
    pub fn take_down(&mut self, block: &Block, frames: u128) {
        block.take_down(Part::Objects(self.objects.len()), &mut self.objects);
        for index in bits(frames) {
            block.take_down(Part::Frame(index), &mut self.frames[frame(index)]);
            if let Some(shadow) = self.shadows.get_mut(frame(index)) {
                block.take_down(Part::Shadow(index), shadow);
            }
        }
    }

    /// Puts the objects and these frames back.
    pub fn put_back(&self, block: &Block, frames: u128) {
        block.put_back(Part::Objects(self.objects.len()), &self.objects);
        for index in bits(frames) {
            block.put_back(Part::Frame(index), &self.frames[frame(index)]);
            if let Some(shadow) = self.shadows.get(frame(index)) {
                block.put_back(Part::Shadow(index), shadow);
            }
        }
    }

    /// The image in little room: the words that are not as the two before lead one to expect, of the objects
    /// and these frames.
    #[must_use]
    pub fn pack(&self, frames: u128) -> Box<[u64]> {
        let mut packed = vec![frames as u64, (frames >> 64) as u64];
        pack(&self.objects, &mut packed);
        for index in bits(frames) {
            pack(&self.frames[frame(index)], &mut packed);
            if let Some(shadow) = self.shadows.get(frame(index)) {
                pack(shadow, &mut packed);
            }
        }
        packed.into()
    }

    /// The image that was packed. Frames that were not are left as they are. Gives those that were.
    pub fn unpack(&mut self, packed: &[u64]) -> u128 {
        let frames = u128::from(packed[0]) | u128::from(packed[1]) << 64;
        let mut rest = unpack(&packed[2..], &mut self.objects);
        for index in bits(frames) {
            rest = unpack(rest, &mut self.frames[frame(index)]);
            if let Some(shadow) = self.shadows.get_mut(frame(index)) {
                rest = unpack(rest, shadow);
            }
        }
        frames
    }
}

/// The numbers of the bits that are set.
pub fn bits(mut set: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = set.trailing_zeros() as usize;
        (set != 0).then(|| {
            set &= set - 1;
            bit
        })
    })
}

/// Writes, again and again: how many words follow in equal steps, and how many after them do not, and those.
fn pack(words: &[u64], packed: &mut Vec<u64>) {
    let expected = |at: usize| match at {
        0 => 0,
        1 => words[0],
        _ => words[at - 1].wrapping_mul(2).wrapping_sub(words[at - 2]),
    };
    let mut at = 0;
    while at < words.len() {
        let start = at;
        while at < words.len() && words[at] == expected(at) {
            at += 1;
        }
        let run = at - start;
        let other = at;
        while at < words.len() && words[at] != expected(at) {
            at += 1;
        }
        packed.push((run as u64) << 32 | (at - other) as u64);
        packed.extend_from_slice(&words[other..at]);
    }
}

fn unpack<'p>(mut packed: &'p [u64], words: &mut [u64]) -> &'p [u64] {
    let mut at = 0;
    while at < words.len() {
        let (run, other) = ((packed[0] >> 32) as usize, (packed[0] & 0xffff_ffff) as usize);
        for index in at..at + run {
            words[index] = match index {
                0 => 0,
                1 => words[0],
                _ => words[index - 1].wrapping_mul(2).wrapping_sub(words[index - 2]),
            };
        }
        at += run;
        words[at..at + other].copy_from_slice(&packed[1..=other]);
        at += other;
        packed = &packed[other + 1..];
    }
    packed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back() {
        let mut words = vec![0_u64; 512];
        for (index, word) in words.iter_mut().enumerate().skip(100).take(300) {
            *word = 0x8000_0000 + (index as u64) * 4096;
        }
        words[7] = u64::MAX;
        words[511] = 3;
        let mut packed = Vec::new();
        pack(&words, &mut packed);
        assert!(packed.len() < 30, "{}", packed.len());
        let mut back = vec![1; 512];
        assert!(unpack(&packed, &mut back).is_empty());
        assert_eq!(back, words);
    }
}
