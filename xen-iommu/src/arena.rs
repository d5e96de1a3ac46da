//! The memory that the hypervisor gives at boot, handed out object by object and never taken back.

#![allow(unsafe_code, reason = "bytes become objects here and nowhere else")]

use core::mem::{MaybeUninit, align_of, size_of};
use core::slice;

/// The memory given at boot is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes are needed and {left} are left of the memory given at boot")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes left.
    pub left: usize,
}

/// A piece of memory from which objects are cut. What is cut lives as long as the memory and is never
/// dropped.
pub struct Arena<'m> {
    free: &'m mut [MaybeUninit<u8>],
}

impl<'m> Arena<'m> {
    /// Cuts objects from `memory`.
    pub fn new(memory: &'m mut [MaybeUninit<u8>]) -> Self {
        Self { free: memory }
    }

    /// Bytes left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.free.len()
    }

    /// A place for `value`.
    ///
    /// # Errors
    /// [`OutOfMemory`] when what is left is too little; `value` is dropped.
    pub fn object<T>(&mut self, value: T) -> Result<&'m mut T, OutOfMemory> {
        let left = self.left();
        match self.uninit::<T>(1)? {
            [place, ..] => Ok(place.write(value)),
            [] => Err(OutOfMemory { wanted: size_of::<T>(), left }),
        }
    }

    /// A slice of `len` objects, each made by `make` from its index.
    ///
    /// # Errors
    /// [`OutOfMemory`] when what is left is too little; `make` was not called then.
    pub fn slice<T>(
        &mut self,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&'m mut [T], OutOfMemory> {
        let places = self.uninit::<T>(len)?;
        for (index, place) in places.iter_mut().enumerate() {
            place.write(make(index));
        }
        let len = places.len();
        // SAFETY: every place was written just above, `MaybeUninit<T>` has the layout of `T`, and the
        // exclusive borrow is passed on.
        Ok(unsafe { slice::from_raw_parts_mut(places.as_mut_ptr().cast::<T>(), len) })
    }

    /// A slice of what `items` yields. They are walked twice, once to count them; should the second walk end
    /// early, the slice is as much shorter.
    ///
    /// # Errors
    /// [`OutOfMemory`] when what is left is too little.
    pub fn collect<T>(&mut self, items: impl Iterator<Item = T> + Clone) -> Result<&'m mut [T], OutOfMemory> {
        let places = self.uninit::<T>(items.clone().count())?;
        let mut len = 0_usize;
        for (place, item) in places.iter_mut().zip(items) {
            place.write(item);
            len = len.saturating_add(1);
        }
        // SAFETY: the first `len` places were written just above, `MaybeUninit<T>` has the layout of `T`, and
        // the exclusive borrow is passed on.
        Ok(unsafe { slice::from_raw_parts_mut(places.as_mut_ptr().cast::<T>(), len) })
    }

    fn uninit<T>(&mut self, len: usize) -> Result<&'m mut [MaybeUninit<T>], OutOfMemory> {
        let left = self.free.len();
        let gap = self.free.as_ptr().align_offset(align_of::<T>());
        let bytes = size_of::<T>().checked_mul(len);
        let wanted = bytes.and_then(|bytes| bytes.checked_add(gap));
        let (Some(bytes), Some(wanted)) = (bytes, wanted) else {
            return Err(OutOfMemory { wanted: usize::MAX, left });
        };
        if wanted > left {
            return Err(OutOfMemory { wanted, left });
        }
        let (cut, rest) = core::mem::take(&mut self.free).split_at_mut(wanted);
        self.free = rest;
        let (_, cut) = cut.split_at_mut(gap);
        debug_assert_eq!(cut.len(), bytes);
        // SAFETY: `cut` is exclusively borrowed for 'm, holds `len` times the size of `T`, starts at `T`'s
        // alignment because `gap` was skipped, and `MaybeUninit` asks for no content.
        Ok(unsafe { slice::from_raw_parts_mut(cut.as_mut_ptr().cast::<MaybeUninit<T>>(), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_aligned_objects_until_nothing_is_left() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let mut arena = Arena::new(&mut memory);
        let byte = arena.slice(1, |_| 7_u8).unwrap();
        let words = arena.slice(3, |index| index as u64).unwrap();
        assert_eq!((byte[0], &words[..]), (7, &[0_u64, 1, 2][..]));
        assert_eq!(words.as_ptr().align_offset(8), 0);
        let left = arena.left();
        assert_eq!(
            arena.slice(8, |_| 0_u64),
            Err(OutOfMemory { wanted: 64 + arena.free.as_ptr().align_offset(8), left })
        );
    }

    #[test]
    fn collects_what_an_iterator_yields_and_no_more() {
        let mut memory = [MaybeUninit::uninit(); 64];
        let mut arena = Arena::new(&mut memory);
        assert_eq!(arena.collect((1_u32..6).filter(|n| n % 2 == 1)), Ok(&mut [1, 3, 5][..]));
        assert_eq!(arena.collect(core::iter::empty::<u64>()), Ok(&mut [][..]));
        assert!(arena.collect(0_u64..99).is_err());

        /// Yields less when walked again.
        struct Shrinking<'c>(&'c core::cell::Cell<u8>, u8);

        impl Clone for Shrinking<'_> {
            fn clone(&self) -> Self {
                self.0.set(self.0.get() + 1);
                Self(self.0, 0)
            }
        }

        impl Iterator for Shrinking<'_> {
            type Item = u8;

            fn next(&mut self) -> Option<u8> {
                self.1 += 1;
                // The clone, which is counted, has three; what is left of the original has one.
                (self.1 <= if self.0.get() == 1 { 3 } else { 1 }).then_some(self.1)
            }
        }

        let clones = core::cell::Cell::new(0);
        let items = Shrinking(&clones, 1);
        assert_eq!(arena.collect(items).map(|items| items.len()), Ok(2));
    }

    #[test]
    fn a_refusal_loses_nothing() {
        let mut memory = [MaybeUninit::uninit(); 16];
        let mut arena = Arena::new(&mut memory);
        assert!(arena.slice(usize::MAX, |_| 0_u64).is_err());
        assert_eq!(arena.left(), 16);
        assert!(arena.slice(17, |_| 0_u8).is_err());
        assert_eq!(*arena.object(5_u8).unwrap(), 5);
    }

    #[test]
    fn all_of_it_can_be_used() {
        let mut memory = [MaybeUninit::uninit(); 16];
        let mut arena = Arena::new(&mut memory);
        assert_eq!(arena.collect(0_u8..16).map(|all| all.len()), Ok(16));
        assert_eq!(arena.left(), 0);
        assert_eq!(arena.object(()), Ok(&mut ()), "what takes no room");
        let refused = arena.object(7_u8).unwrap_err();
        assert_eq!(refused, OutOfMemory { wanted: 1, left: 0 });
        let words = std::format!("{refused}");
        assert_eq!(words, "1 bytes are needed and 0 are left of the memory given at boot");
    }
}
