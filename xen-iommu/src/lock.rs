//! The locks and their order: the ownership lock, the presence lock, then one table lock (a domain's or a
//! quarantine's), then one remapping unit's, then that of a unit's fault registers; never two of one kind.
//!
//! The feature `lock-order` checks that at every lock taken, and panics where it is broken: tests run with
//! it, hypervisors without.

use core::ops::{Deref, DerefMut};

use spin::mutex::{TicketMutex, TicketMutexGuard};
use spin::relax::RelaxStrategy;
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Which lock it is, in the order in which one thread may take them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Who owns which device.
    Ownership,
    /// Which devices there are.
    Presence,
    /// The tables of a domain or of a quarantine.
    Tables,
    /// A remapping unit.
    Unit,
    /// A remapping unit's fault registers.
    Faults,
}

/// What a processor does while it waits.
struct Wait;

impl RelaxStrategy for Wait {
    fn relax() {
        relax();
    }
}

/// What a processor does while it waits for another. Tests have more threads than processors, so that one
/// that only spins keeps the other from going on.
pub(crate) fn relax() {
    #[cfg(feature = "lock-order")]
    std::thread::yield_now();
    #[cfg(not(feature = "lock-order"))]
    core::hint::spin_loop();
}

/// A fair lock with its place in the order.
pub(crate) struct Lock<T> {
    rank: Rank,
    mutex: TicketMutex<T, Wait>,
}

impl<T> Lock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, mutex: TicketMutex::new(value) }
    }

    /// Waits for the lock.
    pub(crate) fn lock(&self) -> Guard<'_, T> {
        // Checked before waiting: a broken order is told, not waited out.
        let held = Held::take(self.rank);
        Guard { value: self.mutex.lock(), _held: held }
    }

    /// Takes the lock if nobody has it: never waits, so that the order does not matter and an interrupt's
    /// handler may call it.
    pub(crate) fn try_lock(&self) -> Option<Guard<'_, T>> {
        let value = self.mutex.try_lock()?;
        Some(Guard { value, _held: Held::take_free(self.rank) })
    }
}

/// The value, until dropped.
pub(crate) struct Guard<'l, T> {
    value: TicketMutexGuard<'l, T, Wait>,
    _held: Held,
}

/// A lock that many may hold to read, with its place in the order. Who writes does so for a few
/// instructions, and is not kept waiting by readers that come after it. So nobody who reads may read again
/// meanwhile, unless it holds what writers need first: a writer between the two would wait for the first
/// reading, and the second for the writer.
pub(crate) struct SharedLock<T> {
    rank: Rank,
    lock: RwLock<T, Wait>,
}

impl<T> SharedLock<T> {
    pub(crate) const fn new(rank: Rank, value: T) -> Self {
        Self { rank, lock: RwLock::new(value) }
    }

    /// Waits for writers, never for readers.
    pub(crate) fn read(&self) -> ReadGuard<'_, T> {
        let held = Held::take(self.rank);
        ReadGuard { value: self.lock.read(), _held: held }
    }

    /// Reads outside the order, for one look that takes no other lock.
    pub(crate) fn peek<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        Held::check_look(self.rank);
        look(&self.lock.read())
    }

    /// Waits until nobody else has it; who comes to read meanwhile waits for this.
    pub(crate) fn write(&self) -> WriteGuard<'_, T> {
        let held = Held::take(self.rank);
        WriteGuard { value: self.lock.upgradeable_read().upgrade(), _held: held }
    }
}

/// The value to read, until dropped.
pub(crate) struct ReadGuard<'l, T> {
    value: RwLockReadGuard<'l, T, Wait>,
    _held: Held,
}

impl<T> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// The value to change, until dropped.
pub(crate) struct WriteGuard<'l, T> {
    value: RwLockWriteGuard<'l, T, Wait>,
    _held: Held,
}

impl<T> Deref for WriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

#[cfg(not(feature = "lock-order"))]
use unchecked::Held;
#[cfg(not(feature = "lock-order"))]
mod unchecked {
    /// Nothing, where the order is not checked.
    pub(super) struct Held;

    impl Held {
        pub(super) const fn take(_: super::Rank) -> Self {
            Self
        }

        pub(super) const fn take_free(_: super::Rank) -> Self {
            Self
        }

        pub(super) const fn check_look(_: super::Rank) {}
    }
}

#[cfg(feature = "lock-order")]
use checked::Held;
#[cfg(feature = "lock-order")]
mod checked {
    use std::cell::Cell;

    use super::Rank;

    std::thread_local! {
        /// The locks that this thread holds: a bit for each rank.
        static HELD: Cell<u8> = const { Cell::new(0) };
    }

    /// That this thread holds a lock.
    pub(super) struct Held {
        before: u8,
    }

    const fn bit(rank: Rank) -> u8 {
        1 << rank as u8
    }

    impl Held {
        pub(super) fn take(rank: Rank) -> Self {
            let before = HELD.get();
            assert!(before < bit(rank), "lock order: {rank:?} taken while {before:#b} are held");
            Self::take_free(rank)
        }

        /// Of a lock that was not waited for. What is waited for while it is held comes after it all the
        /// same.
        pub(super) fn take_free(rank: Rank) -> Self {
            let before = HELD.get();
            HELD.set(before | bit(rank));
            Self { before }
        }

        /// Of a look at what this thread may be reading already.
        pub(super) fn check_look(rank: Rank) {
            let held = HELD.get();
            let keeps_writers_out = held.trailing_zeros() < bit(rank).trailing_zeros();
            assert!(
                held & bit(rank) == 0 || keeps_writers_out,
                "lock order: {rank:?} looked at while it is read"
            );
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(self.before);
        }
    }
}

#[cfg(all(test, feature = "lock-order"))]
mod tests {
    use std::panic::catch_unwind;

    use super::{Lock, Rank, SharedLock};

    #[test]
    fn a_broken_order_is_told() {
        let tables = Lock::new(Rank::Tables, ());
        let unit = Lock::new(Rank::Unit, ());
        let _before = tables.lock();
        drop(unit.lock());
        let earlier = Lock::new(Rank::Ownership, ());
        let same = Lock::new(Rank::Tables, ());
        assert!(catch_unwind(core::panic::AssertUnwindSafe(|| drop(earlier.lock()))).is_err());
        assert!(catch_unwind(core::panic::AssertUnwindSafe(|| drop(same.lock()))).is_err());
    }

    #[test]
    fn what_is_not_waited_for_has_no_order() {
        let unit = Lock::new(Rank::Unit, 1_u8);
        let ownership = Lock::new(Rank::Ownership, 2_u8);
        let held = unit.lock();
        assert!(unit.try_lock().is_none(), "somebody has it");
        let tried = ownership.try_lock().unwrap();
        assert_eq!((*held, *tried), (1, 2));
        // And what comes after what is held may be waited for as before, nothing else.
        let faults = Lock::new(Rank::Faults, ());
        let tables = Lock::new(Rank::Tables, ());
        drop(faults.lock());
        assert!(catch_unwind(core::panic::AssertUnwindSafe(|| drop(tables.lock()))).is_err());
        drop((tried, held));
        drop((tables.lock(), unit.try_lock().unwrap()));
    }

    #[test]
    fn who_comes_to_read_does_not_keep_a_writer_waiting() {
        let lock = SharedLock::new(Rank::Presence, 1_u8);
        std::thread::scope(|scope| {
            let reading = lock.read();
            let writer = scope.spawn(|| *lock.write() = 2);
            // From some moment on nobody gets in any more, though somebody reads.
            let is_kept_out = || lock.lock.try_read().is_none();
            let kept_out = (0..10_000_000).any(|_| {
                super::relax();
                is_kept_out()
            });
            assert_eq!(*reading, 1);
            drop(reading);
            writer.join().unwrap();
            assert!(kept_out, "readers came in before the writer");
        });
        assert_eq!(lock.peek(|value| *value), 2);
    }

    #[test]
    fn a_look_while_reading_is_told_unless_writers_are_kept_out() {
        let lock = SharedLock::new(Rank::Presence, 1_u8);
        let ownership = Lock::new(Rank::Ownership, ());
        let reading = lock.read();
        assert!(catch_unwind(core::panic::AssertUnwindSafe(|| lock.peek(|value| *value))).is_err());
        drop(reading);
        let _ownership = ownership.lock();
        let _reading = lock.read();
        assert_eq!(lock.peek(|value| *value), 1);
    }
}
