//! A lock that is tried, and never waited for: around what usually one thread has, and another has to take over some day.
//!
//! Who finds it taken is told so at once, and goes another way. So there is no queue of waiters to look after, and letting
//! go is a plain store: of the two read-modify-writes that a mutex costs there is one. Whoever needs what is in it for long
//! just keeps it, and wakes by other means whom it knows to wait.
//!
//! | word  | who may do what                                                                    |
//! |-------|------------------------------------------------------------------------------------|
//! | taken | whoever tries makes `true` of `false`; who has done so has it, and stores `false`   |
//!
//! - **K1** One `&mut` at a time: from the compare-exchange that made it `true` until the store that follows, no other can.
//! - **K2** What one holder did is visible to the next.
//!
//! Model: loom-tests/try_lock.rs. Mutants that must fail: `taken_by_load`, `let_go_early`.

#![expect(unsafe_code, reason = "the word, not the compiler, proves that there is one holder")]

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering::Relaxed;

use crate::sync::{AtomicBool, UnsafeCell, mutant, order};

/// A value that one thread at a time may have, and nobody waits for. See [`try_lock`](Self::try_lock).
pub struct TryLock<T> {
    taken: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: the value is touched only by who has taken it, one thread at a time (K1), and moves to the next by the release
// of its store and the acquire of the next try (K2); hence `T: Send` is enough. Breaks if a `Held` were made in another way.
unsafe impl<T: Send> Sync for TryLock<T> {}

impl<T> TryLock<T> {
    /// A lock that nobody has.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { taken: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    /// Takes the value, until what this returns is dropped. `None`: somebody has it at this moment, perhaps this thread.
    ///
    /// What earlier holders did with the value is visible. Leaked ([`mem::forget`](core::mem::forget)), it stays taken for
    /// good; a panic lets go of it, and leaves no trace. Cost: one compare-exchange; to let go, one store.
    ///
    /// ```
    /// use gaio::handoff::TryLock;
    ///
    /// let lock = TryLock::new(1);
    /// {
    ///     let mut held = lock.try_lock().expect("nobody has it");
    ///     *held += 1;
    ///     assert!(lock.try_lock().is_none());
    /// }
    /// assert_eq!(lock.try_lock().as_deref(), Some(&2));
    /// ```
    #[inline]
    pub fn try_lock(&self) -> Option<Held<'_, T>> {
        let free = if mutant("taken_by_load") {
            let free = !self.taken.load(Relaxed);
            self.taken.store(true, Relaxed);
            free
        } else {
            // Acquire: pairs with the release of `Held::drop`. Who fails must write nothing: loom does not know that the
            // holder's store comes behind it.
            self.taken.compare_exchange(false, true, order!(TRY_TAKE, Acquire), Relaxed).is_ok()
        };
        if free { Some(Held { lock: self, value: PhantomData }) } else { None }
    }
}

/// The value of a [`TryLock`], until this is dropped.
pub struct Held<'a, T> {
    lock: &'a TryLock<T>,
    /// Sent and shared as what it stands for.
    value: PhantomData<&'a mut T>,
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.lock.value.with(|value| {
            // SAFETY: as for `deref_mut`; shared, since this borrows `self` so.
            unsafe { &*value }
        })
    }
}

impl<T> DerefMut for Held<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.lock.value.with_mut(|value| {
            // SAFETY: this took the lock, and lets go of it when it is dropped: there is no other `Held` meanwhile (K1), and
            // one borrow of this at a time. Breaks if `taken` were cleared before the last of those ends.
            unsafe { &mut *value }
        })
    }
}

impl<T> Drop for Held<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if mutant("let_go_early") {
            self.lock.taken.store(false, Relaxed);
        }
        // For the models, which see no more of a borrow than its beginning: it lasts until here.
        self.lock.value.with_mut(|_| ());
        // Release: pairs with the acquire of `try_lock`.
        self.lock.taken.store(false, order!(TRY_LET_GO, Release));
    }
}

impl<T: fmt::Debug> fmt::Debug for Held<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for TryLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryLock").field("is_taken", &self.taken.load(Relaxed)).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    #[test]
    fn one_at_a_time_has_it() {
        let lock = TryLock::new(1);
        let held = lock.try_lock();
        thread::scope(|scope| {
            scope.spawn(|| assert!(lock.try_lock().is_none()));
        });
        assert!(lock.try_lock().is_none(), "nor does its holder, once more");
        drop(held);
        thread::scope(|scope| {
            scope.spawn(|| *lock.try_lock().unwrap() += 1);
        });
        assert_eq!(*lock.try_lock().unwrap(), 2);
    }

    #[test]
    fn a_panic_lets_go_of_it() {
        let lock = TryLock::new(1);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _held = lock.try_lock().unwrap();
            panic!("while it is held");
        }));
        assert!(panicked.is_err());
        assert!(lock.try_lock().is_some());
    }

    #[test]
    fn it_says_how_it_is() {
        let lock = TryLock::new(7);
        let held = lock.try_lock().unwrap();
        assert_eq!(format!("{lock:?} {held:?}"), "TryLock { is_taken: true, .. } 7");
    }
}
