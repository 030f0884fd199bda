//! The receiving end of the ring: one, and the only one to move the head (R2).

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::Relaxed;

use super::{CLOSED, ONE, Shared};
use crate::sync::{Arc, mutant, order};

/// A place in a ring's order, of [`Consumer::tail`] or [`Producer::tail`](super::Producer::tail). Comparable with others of the same ring only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(u64);

impl Position {
    /// In front of all values: what every ring has passed.
    pub(crate) const FIRST: Self = Self(0);
}

/// What a pop found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` keeps a value from being dropped unseen")]
pub enum Pop<T> {
    /// The value at the head.
    Item(T),
    /// The slot at the head is reserved, and its producer has not published it yet. It will, without waiting for
    /// anything, and raise the gate then; others behind it may be published already. Do not spin on it.
    Unpublished,
    /// The head has reached the limit.
    Empty,
}

/// The receiving end of a [`ring()`](super::ring()). One; it may move between threads.
///
/// Dropping it closes the ring and drops what is published. What was reserved before the close and is published after
/// the drop is dropped with the last producer: so a value that itself owns a producer must be waited for (pop until
/// [`is_finished`](Self::is_finished)), or the two keep each other alive.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: u64,
    /// `Send`, not `Sync`: a shared consumer has no use, and its absence keeps R2 visible.
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Shared<T> {
    pub(super) fn position(&self) -> Position {
        // Relaxed: a push that happens before us wrote the tail before us, and we cannot read an older one.
        Position(self.tail.load(Relaxed) / ONE)
    }
}

impl<T> Consumer<T> {
    pub(super) fn new(shared: Arc<Shared<T>>) -> Self {
        Self { shared, head: 0, not_sync: PhantomData }
    }

    /// How far positions have been reserved. Guaranteed to lie behind every push that happens before this call, so
    /// popping up to it leaves none of those; other threads go on pushing behind it. Cost: one load.
    ///
    /// ```
    /// use gaio::handoff::{Pop, ring};
    ///
    /// let (producer, mut consumer) = ring(8);
    /// producer.push(1).unwrap();
    /// let limit = consumer.tail();
    /// producer.push(2).unwrap();
    /// assert_eq!(consumer.pop_before(limit), Pop::Item(1));
    /// assert_eq!(consumer.pop_before(limit), Pop::Empty); // 2 waits for the next drain
    /// ```
    #[must_use]
    pub fn tail(&self) -> Position {
        self.shared.position()
    }

    /// Takes the value at the head, unless the head has reached `limit`. Never blocks. Producers go on meanwhile.
    ///
    /// Cost: one load and two stores; [`Empty`](Pop::Empty) touches nothing shared.
    ///
    /// See [`tail`](Self::tail) for an example.
    #[must_use]
    pub fn pop_before(&mut self, limit: Position) -> Pop<T> {
        if self.head >= limit.0 {
            return Pop::Empty;
        }
        let slot = self.shared.slot(self.head);
        // Acquire: pairs with the producer's store in `publish`: the value is there.
        if slot.stamp.load(order!(RING_PUBLISHED_LOAD, Acquire)) != self.head + 1 {
            return Pop::Unpublished;
        }
        let next_lap = self.head + if mutant("stamp_same_lap") { 0 } else { self.shared.capacity() };
        if mutant("free_before_read") {
            slot.stamp.store(next_lap, order!(RING_FREE, Release));
        }
        let value = slot.value.with_mut(|cell| {
            // SAFETY: the cell is the slot's, which the stamp `head + 1` gives to us (R2), and to nobody else.
            let cell = unsafe { &*cell };
            // SAFETY: `head + 1` was stored after the write, so the cell is initialised, and the head moves on below,
            // so it is read once. Breaks if `Consumer` becomes `Clone`.
            unsafe { cell.assume_init_read() }
        });
        // Release: pairs with the load in `push`: the producer of the next lap writes after our read.
        slot.stamp.store(next_lap, order!(RING_FREE, Release));
        self.head += 1;
        self.shared.head.store(self.head, Relaxed);
        Pop::Item(value)
    }

    /// Takes the value at the head, up to the tail of now. To drain, take [`tail`](Self::tail) once and use
    /// [`pop_before`](Self::pop_before): busy producers would keep this one going for ever.
    ///
    /// ```
    /// use gaio::handoff::{Pop, ring};
    ///
    /// let (producer, mut consumer) = ring(8);
    /// assert_eq!(consumer.pop(), Pop::Empty);
    /// producer.push('a').unwrap();
    /// assert_eq!(consumer.pop(), Pop::Item('a'));
    /// ```
    #[must_use]
    pub fn pop(&mut self) -> Pop<T> {
        self.pop_before(self.tail())
    }

    /// Whether every position before `position` has been popped. Touches nothing shared.
    ///
    /// ```
    /// let (producer, mut consumer) = gaio::handoff::ring(8);
    /// producer.push(1).unwrap();
    /// let seen = consumer.tail();
    /// assert!(!consumer.has_passed(seen));
    /// let _ = consumer.pop();
    /// assert!(consumer.has_passed(seen));
    /// ```
    #[must_use]
    pub fn has_passed(&self, position: Position) -> bool {
        self.head >= position.0
    }

    /// Whether the ring is open and everything was popped that was pushed before, as far as this thread can know: what
    /// it learnt of in any way at all, it sees here. Cost: one load.
    ///
    /// ```
    /// let (producer, mut consumer) = gaio::handoff::ring(8);
    /// assert!(consumer.is_idle());
    /// producer.push(1).unwrap();
    /// assert!(!consumer.is_idle());
    /// let _ = consumer.pop();
    /// assert!(consumer.is_idle());
    /// producer.close();
    /// assert!(!consumer.is_idle());
    /// ```
    #[must_use]
    #[inline]
    pub fn is_idle(&self) -> bool {
        // Relaxed, as for `tail`: of one word the latest value is seen that happens before. A reservation is in it.
        self.shared.tail.load(Relaxed) == self.head * ONE
    }

    /// Refuses every push from now on; see [`Producer::close`](super::Producer::close). What has been reserved is still
    /// to be popped.
    pub fn close(&mut self) {
        self.shared.close();
    }

    /// Whether the ring is closed and everything reserved before the close was popped: nothing will ever come.
    ///
    /// ```
    /// let (producer, mut consumer) = gaio::handoff::ring(8);
    /// producer.push(1).unwrap();
    /// consumer.close();
    /// assert!(!consumer.is_finished());
    /// let _ = consumer.pop();
    /// assert!(consumer.is_finished());
    /// ```
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.shared.tail.load(Relaxed) == (self.head * ONE) | CLOSED
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.close();
        let limit = self.tail();
        while let Pop::Item(value) = self.pop_before(limit) {
            drop(value);
        }
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("head", &self.head).field("tail", &self.tail().0).finish_non_exhaustive()
    }
}
