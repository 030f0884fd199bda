//! A cell that only the thread it is bound to may touch: a loop's local queue, an embedded loop itself between its turns.
//!
//! Shared like an `Arc<Mutex<_>>`, but a caller on the right thread pays for no atomic read-modify-write, and one on
//! any other thread is told so, and takes the ring. Threads are told apart by an id in a thread-local: given at the
//! first bind, never reused, and 0 for a thread that never bound anything.
//!
//! | owner | whose the value is                    | who may write the owner       |
//! |-------|---------------------------------------|-------------------------------|
//! | 0     | nobody's                              | whoever binds, with its own id |
//! | `id`  | that thread's, and its `busy` flag too | that thread, back to 0        |
//!
//! - **L1** A thread that reads its own id wrote it itself: no other thread ever writes that id.
//! - **L2** One `&mut` at a time: on the owner's thread the `busy` flag guards against re-entry, and no unbinding
//!   happens while it is set.
//!
//! Model: loom-tests/local.rs. Mutants that must fail: `bind_by_store`, `unbind_while_busy`.

#![expect(unsafe_code, reason = "the owner's id, not the compiler, proves that there is one thread")]

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::AtomicU64 as PlainAtomicU64;

use crate::sync::{AtomicU64, Cell, UnsafeCell, mutant, order, thread_cell};

thread_cell! {
    /// This thread's id; 0 until it binds something.
    static ID: u64 = 0;
}

thread_cell! {
    /// How many cells are bound to this thread.
    static BOUND: usize = 0;
}

/// Of `std` in a model too: ids are compared, not ordered, and a model's atomics cannot live in a static.
static LAST_ID: PlainAtomicU64 = PlainAtomicU64::new(0);

/// This thread's id, or 0. In a thread that is ending it may be 0, which is never an owner.
fn here() -> u64 {
    ID.try_with(Cell::get).unwrap_or(0)
}

/// This thread's id, given at need; never 0, but in a thread that is ending.
#[inline(always)]
pub(crate) fn this_thread() -> u64 {
    match here() {
        0 => name_thread(),
        id => id,
    }
}

#[cold]
fn name_thread() -> u64 {
    let id = LAST_ID.fetch_add(1, Relaxed) + 1;
    if ID.try_with(|cell| cell.set(id)).is_ok() { id } else { 0 }
}

/// Whether a [`ThreadBound`] is bound to this thread: whether a loop runs on it, for whose sake nothing here may wait.
/// Several count together. Cost: one read of a thread-local.
///
/// ```
/// use gaio::handoff::{ThreadBound, on_loop_thread};
///
/// let queue = ThreadBound::new(Vec::<u8>::new());
/// assert!(!on_loop_thread());
/// queue.bind();
/// assert!(on_loop_thread());
/// queue.unbind();
/// assert!(!on_loop_thread());
/// ```
#[must_use]
pub fn on_loop_thread() -> bool {
    BOUND.try_with(Cell::get).unwrap_or(0) > 0
}

/// A value that is used by one thread at a time, named at run time. See [`with`](Self::with).
pub struct ThreadBound<T> {
    owner: AtomicU64,
    /// Whether somebody is [`Inside`]. The owner's alone.
    busy: Cell<bool>,
    value: UnsafeCell<T>,
}

// SAFETY: the value and the flag are touched only by the thread whose id is the owner (L1), one call at a time (L2),
// and move to the next owner by the release of `unbind` and the acquire of `bind`; hence `T: Send` is enough. Breaks
// if an id were given to two threads.
unsafe impl<T: Send> Sync for ThreadBound<T> {}

impl<T> ThreadBound<T> {
    /// A cell that is bound to no thread yet.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { owner: AtomicU64::new(0), busy: Cell::new(false), value: UnsafeCell::new(value) }
    }

    /// Binds the cell to this thread. `false`: it is bound already, here or elsewhere, and stays so.
    ///
    /// What earlier owners did with the value is visible. Unbind it on the same thread; a thread that ends without
    /// leaves the cell unusable. Cost: one compare-exchange.
    ///
    /// ```
    /// let cell = gaio::handoff::ThreadBound::new(1);
    /// assert!(cell.bind());
    /// assert!(!cell.bind());
    /// assert!(cell.is_here());
    /// # cell.unbind();
    /// ```
    pub fn bind(&self) -> bool {
        let id = match here() {
            0 => LAST_ID.fetch_add(1, Relaxed) + 1,
            id => id,
        };
        if mutant("bind_by_store") {
            self.owner.store(id, Relaxed);
        } else if self.owner.compare_exchange(0, id, order!(LOCAL_BIND, Acquire), Relaxed).is_err() {
            // Acquire above: pairs with `unbind`: what the last owner did with the value happens before.
            return false;
        }
        ID.with(|cell| cell.set(id));
        BOUND.with(|bound| bound.set(bound.get() + 1));
        true
    }

    /// Takes the cell from this thread. `false`, and nothing happens, if it is not bound here, or if somebody is
    /// [`Inside`], as while [`with`](Self::with) runs.
    ///
    /// ```
    /// let cell = gaio::handoff::ThreadBound::new(1);
    /// cell.bind();
    /// assert_eq!(cell.with(|_| cell.unbind()), Some(false));
    /// assert!(cell.unbind());
    /// assert!(!cell.unbind());
    /// ```
    pub fn unbind(&self) -> bool {
        if !self.is_here() || (self.busy.get() && !mutant("unbind_while_busy")) {
            return false;
        }
        BOUND.with(|bound| bound.set(bound.get() - 1));
        // Release: pairs with `bind`, of this thread or another.
        self.owner.store(0, order!(LOCAL_UNBIND, Release));
        true
    }

    /// Whether the cell is bound to this thread. Exact: nobody else can change the answer. Cost: one relaxed load and
    /// one read of a thread-local.
    ///
    /// ```
    /// let cell = gaio::handoff::ThreadBound::new(1);
    /// cell.bind();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| assert!(!cell.is_here()));
    /// });
    /// assert!(cell.is_here());
    /// # cell.unbind();
    /// ```
    #[must_use]
    #[inline]
    pub fn is_here(&self) -> bool {
        let id = here();
        // Relaxed: our own id we wrote ourselves (L1), and any other answer opens nothing.
        id != 0 && self.owner.load(Relaxed) == id
    }

    /// Runs `access` on the value, if this thread owns it. `None`: bound elsewhere or nowhere, or called from within
    /// another `with` of this cell. A panic in `access` passes through, and leaves the cell usable.
    ///
    /// Cost: [`is_here`](Self::is_here) and a flag; no read-modify-write.
    ///
    /// ```
    /// let queue = gaio::handoff::ThreadBound::new(vec![]);
    /// assert_eq!(queue.with(|queue| queue.push(1)), None); // not bound
    /// queue.bind();
    /// assert_eq!(queue.with(|queue| queue.push(1)), Some(()));
    /// assert_eq!(queue.with(|_| queue.with(|queue| queue.push(2))), Some(None)); // re-entered
    /// assert_eq!(queue.with(|queue| queue.pop()), Some(Some(1)));
    /// # queue.unbind();
    /// ```
    #[inline]
    pub fn with<R>(&self, access: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.enter().map(|mut inside| access(&mut inside))
    }

    /// As [`with`](Self::with), for who would rather hold the value than pass a closure in: what is moved into the value
    /// need not go through one. `None` under the same conditions.
    ///
    /// Leaked ([`mem::forget`](core::mem::forget)), it locks its own thread out for good, and no other in.
    ///
    /// ```
    /// let queue = gaio::handoff::ThreadBound::new(vec![]);
    /// assert!(queue.enter().is_none()); // not bound
    /// queue.bind();
    /// if let Some(mut inside) = queue.enter() {
    ///     inside.push(1);
    ///     assert!(queue.enter().is_none()); // re-entered
    /// }
    /// assert_eq!(queue.with(|queue| queue.pop()), Some(Some(1)));
    /// # queue.unbind();
    /// ```
    ///
    /// It stays on its thread:
    ///
    /// ```compile_fail,E0277
    /// let cell = gaio::handoff::ThreadBound::new(1);
    /// let inside = cell.enter();
    /// std::thread::scope(|scope| _ = scope.spawn(move || drop(inside)));
    /// ```
    #[inline]
    pub fn enter(&self) -> Option<Inside<'_, T>> {
        if !self.is_here() || self.busy.replace(true) {
            return None;
        }
        Some(Inside { cell: self, stays: PhantomData })
    }
}

/// The value of a [`ThreadBound`], lent to the thread that owns it until this is dropped.
pub struct Inside<'a, T> {
    cell: &'a ThreadBound<T>,
    /// Neither sent nor shared: on another thread the flag would not be the owner's alone.
    stays: PhantomData<*mut T>,
}

impl<T> Deref for Inside<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.cell.value.with(|value| {
            // SAFETY: as for `deref_mut`; shared, since this borrows `self` so.
            unsafe { &*value }
        })
    }
}

impl<T> DerefMut for Inside<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.cell.value.with_mut(|value| {
            // SAFETY: this thread owns the value (L1) and was not inside before (L2); it cannot lose it while this lives,
            // since only it may unbind, and `unbind` refuses. Breaks if this were sent to another thread, or `busy` cleared
            // before its last borrow ends.
            unsafe { &mut *value }
        })
    }
}

impl<T> Drop for Inside<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // For the models, which see no more of a borrow than its beginning: it lasts until here.
        self.cell.value.with_mut(|_| ());
        self.cell.busy.set(false);
    }
}

impl<T> Drop for ThreadBound<T> {
    /// Dropped on its own thread it is unbound first. Elsewhere that thread keeps being taken for a loop's: unbind
    /// before.
    fn drop(&mut self) {
        self.unbind();
    }
}

impl<T: fmt::Debug> fmt::Debug for Inside<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T> fmt::Debug for ThreadBound<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadBound").field("is_here", &self.is_here()).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread;

    const fn assert_send_sync<T: Send + Sync>() {}
    const _: () = assert_send_sync::<ThreadBound<std::cell::Cell<u8>>>();

    #[test]
    fn unbound_it_is_nobodys() {
        let cell = ThreadBound::new(1);
        assert!(!cell.is_here());
        assert_eq!(cell.with(|value| *value), None);
        assert!(!cell.unbind());
    }

    #[test]
    fn another_thread_is_refused_until_the_owner_lets_go() {
        let cell = ThreadBound::new(1);
        assert!(cell.bind());
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(cell.with(|value| *value), None);
                assert!(!cell.bind() && !cell.unbind() && !on_loop_thread());
            });
        });
        assert_eq!(cell.with(|value| *value += 1), Some(()));
        assert!(cell.unbind());
        thread::scope(|scope| {
            scope.spawn(|| {
                assert!(cell.bind());
                assert_eq!(cell.with(|value| *value), Some(2));
                assert!(cell.unbind());
            });
        });
        assert!(!cell.is_here());
    }

    #[test]
    fn two_loops_on_one_thread_count_together() {
        let (one, two) = (ThreadBound::new(1), ThreadBound::new(2));
        assert!(one.bind() && two.bind());
        one.unbind();
        assert!(on_loop_thread() && !one.is_here() && two.is_here());
        drop(two);
        assert!(!on_loop_thread(), "dropping on the owner's thread unbinds");
    }

    #[test]
    fn whoever_uses_it_keeps_it() {
        let cell = ThreadBound::new(1);
        assert!(cell.bind());
        let inside = cell.with(|_| (cell.unbind(), cell.bind(), cell.with(|_| ()), cell.is_here()));
        assert_eq!(inside, Some((false, false, None, true)));
        assert!(cell.unbind() && !cell.unbind());
    }

    #[test]
    fn whoever_leaks_it_locks_itself_out_and_no_other_in() {
        let cell = ThreadBound::new(1);
        assert!(cell.bind());
        core::mem::forget(cell.enter());
        assert!(cell.enter().is_none() && cell.with(|_| ()).is_none() && !cell.unbind());
        thread::scope(|scope| {
            scope.spawn(|| assert!(!cell.bind() && cell.enter().is_none()));
        });
    }

    #[test]
    fn a_panic_inside_leaves_the_cell_usable() {
        let cell = ThreadBound::new(1);
        cell.bind();
        let caught = catch_unwind(AssertUnwindSafe(|| cell.with(|_| panic!("on purpose"))));
        assert!(caught.is_err());
        assert_eq!(cell.with(|value| *value), Some(1));
        assert!(cell.unbind());
    }
}
