//! Bounded ring: many producers, one consumer, first in, first out.
//!
//! The algorithm is Dmitry Vyukov's bounded queue with a stamp in each slot, cut down to one consumer, with the close
//! state in the tail word. A position counts for ever (63 bits); slot `position % capacity` belongs to it.
//!
//! | stamp of the slot for position `p` | the slot is                        | who may touch its value          |
//! |------------------------------------|------------------------------------|----------------------------------|
//! | `p`, tail ≤ `p`                    | free                               | nobody                           |
//! | `p`, tail > `p`                    | reserved, not yet published        | the producer that reserved it    |
//! | `p + 1`                            | published                          | the consumer                     |
//! | `p + capacity`                     | free, for the next lap             | as the first row, one lap on     |
//!
//! - **R1** One producer per position: it is reserved by the compare-exchange that moves the tail past it.
//! - **R2** One consumer: only `&mut Consumer` moves the head, and only past published slots.
//! - **R3** No reservation after the close: CLOSED is a bit of the word which that compare-exchange replaces, so the
//!   tail of a closed ring is final.
//! - **R4** The tail orders: of two pushes one of which happens before the other, the first has the lower position.
//! - **R5** A reserved slot is published: between the two a producer runs no code but a move, so it cannot panic.
//!   It can be preempted, though; so the consumer never waits for a slot. Its producer raises the gate afterwards.
//!
//! Model: loom-tests/ring.rs. Mutants that must fail: `publish_before_write`, `close_not_checked`,
//! `close_by_store`, `free_before_read`, `stamp_same_lap`.

#![expect(unsafe_code, reason = "a slot's value changes hands between threads; its stamp says whose it is")]

use core::mem::MaybeUninit;
use core::sync::atomic::Ordering::Relaxed;
use core::{error, fmt};

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicU64, UnsafeCell, mutant, order};

mod consumer;
pub use consumer::{Consumer, Pop, Position};

/// The low bit of the tail word; the position is above it.
const CLOSED: u64 = 1;
const ONE: u64 = 2;

#[repr(C)]
struct Slot<T> {
    stamp: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

struct Shared<T> {
    /// Next position to reserve, and CLOSED. Written by producers, and by whoever closes.
    tail: CachePadded<AtomicU64>,
    /// The consumer's head as others may read it. A hint: nothing is decided by it while the consumer lives.
    head: CachePadded<AtomicU64>,
    mask: u64,
    slots: Box<[Slot<T>]>,
}

// SAFETY: a value is moved in by one thread and out by another, hence `T: Send`; nobody gets a `&T` through the ring,
// and the table above gives each slot's value to one thread at a time (R1, R2). Breaks if a method ever lends a `&T`.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    #[expect(clippy::cast_possible_truncation, reason = "the mask is below the number of slots, which is a usize")]
    fn slot(&self, position: u64) -> &Slot<T> {
        &self.slots[(position & self.mask) as usize]
    }

    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    fn close(&self) {
        if mutant("close_by_store") {
            self.tail.store(self.tail.load(Relaxed) | CLOSED, Relaxed);
            return;
        }
        // Relaxed: R3 needs no more than that all writes to the tail are in one order. Must stay a
        // read-modify-write: a store could take back a reservation made meanwhile.
        self.tail.fetch_or(CLOSED, Relaxed);
    }
}

/// Makes a ring for at least `capacity` values: rounded up to a power of two, and to 2 (with one slot "published" and
/// "free for the next lap" would be the same stamp).
///
/// Cost: one allocation for the slots and one for the rest, here; none later. A slot is 8 bytes plus the value.
///
/// # Panics
///
/// If that many slots do not fit into the address space.
///
/// ```
/// use gaio::handoff::{Pop, PushError, ring};
///
/// let (producer, mut consumer) = ring(2);
/// producer.push(1).unwrap();
/// producer.push(2).unwrap();
/// assert_eq!(producer.push(3), Err(PushError::Full(3)));
/// assert_eq!(consumer.pop(), Pop::Item(1));
/// producer.push(3).unwrap();
/// ```
#[must_use]
pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    // A panic of the caller's making, documented above.
    let capacity = capacity.max(2).checked_next_power_of_two().expect("the ring's capacity overflows") as u64;
    let free = |stamp| Slot { stamp: AtomicU64::new(stamp), value: UnsafeCell::new(MaybeUninit::uninit()) };
    let shared = Arc::new(Shared {
        tail: CachePadded::new(AtomicU64::new(0)),
        head: CachePadded::new(AtomicU64::new(0)),
        mask: capacity - 1,
        slots: (0..capacity).map(free).collect(),
    });
    (Producer { shared: Arc::clone(&shared) }, Consumer::new(shared))
}

/// Why a push was refused. The value comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` keeps a refused value from being dropped unseen")]
pub enum PushError<T> {
    /// No slot was free. Only the consumer can change that.
    Full(T),
    /// The ring was closed, for good.
    Closed(T),
}

impl<T> PushError<T> {
    /// The value that was refused.
    ///
    /// ```
    /// assert_eq!(gaio::handoff::PushError::Full(7).into_inner(), 7);
    /// ```
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) => value,
        }
    }
}

impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Closed(_) => "Closed(..)",
        })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the ring is full",
            Self::Closed(_) => "the ring is closed",
        })
    }
}

impl<T> error::Error for PushError<T> {}

/// The sending end of a [`ring()`]. Any number of clones, on any threads.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Producer<T> {
    /// Puts a value behind all those that were pushed before. Never blocks, and never waits for another thread.
    ///
    /// Guaranteed: pushes ordered by happens-before are popped in that order, and a push that happens after a close is
    /// refused. `Full` is the ring as of some instant during the call: the consumer may have made room meanwhile.
    /// Raise the [`gate()`](crate::handoff::gate()) after a push, or the consumer may sleep on it.
    ///
    /// Cost: one compare-exchange and one store; the compare-exchange is repeated only when another push was first.
    ///
    /// # Errors
    ///
    /// [`PushError::Full`] and [`PushError::Closed`], each with the value.
    ///
    /// ```
    /// use gaio::handoff::{PushError, ring};
    ///
    /// let (producer, consumer) = ring(8);
    /// producer.push("in time").unwrap();
    /// drop(consumer);
    /// assert_eq!(producer.push("too late"), Err(PushError::Closed("too late")));
    /// ```
    pub fn push(&self, value: T) -> Result<(), PushError<T>> {
        let shared = &*self.shared;
        // Relaxed, here and in the compare-exchange: the tail hands out positions and nothing else. Values travel by
        // the stamps, and "popped so far" does as well.
        let mut tail = shared.tail.load(Relaxed);
        loop {
            if tail & CLOSED != 0 && !mutant("close_not_checked") {
                return Err(PushError::Closed(value));
            }
            let position = tail / ONE;
            let slot = shared.slot(position);
            // Acquire: pairs with the consumer's store in `pop_before`. What it read out of the slot, it has read
            // before we write there. It also makes the reload below see past the position that is taken.
            let stamp = slot.stamp.load(order!(RING_FREE_LOAD, Acquire));
            if stamp == position {
                match shared.tail.compare_exchange_weak(tail, tail + ONE, Relaxed, Relaxed) {
                    Ok(_) => {
                        publish(slot, position, value);
                        return Ok(());
                    }
                    Err(now) => tail = now,
                }
            } else if stamp < position {
                return Err(PushError::Full(value));
            } else {
                tail = shared.tail.load(Relaxed);
            }
        }
    }

    /// How far positions have been reserved: behind every push that happens before this call, and not behind any that
    /// happens after it. A stamp for what is ordered with the pushes but travels another way. Cost: one load.
    ///
    /// ```
    /// let (producer, mut consumer) = gaio::handoff::ring(8);
    /// producer.push('a').unwrap();
    /// let stamp = producer.tail();
    /// producer.push('b').unwrap();
    /// assert!(!consumer.has_passed(stamp));
    /// consumer.pop();
    /// assert!(consumer.has_passed(stamp));
    /// ```
    #[must_use]
    pub fn tail(&self) -> Position {
        self.shared.position()
    }

    /// Refuses every push from now on. What was pushed before, and what is being pushed, can still be popped.
    ///
    /// Idempotent. Does not wake the consumer: raise the gate for that. Cost: one fetch-or.
    ///
    /// ```
    /// let (producer, consumer) = gaio::handoff::ring::<u8>(8);
    /// producer.clone().close();
    /// assert!(producer.is_closed() && consumer.is_finished());
    /// ```
    pub fn close(&self) {
        self.shared.close();
    }

    /// Whether the ring was closed, by either end. `true` is final; `false` may be out of date at once.
    ///
    /// ```
    /// let (producer, consumer) = gaio::handoff::ring::<u8>(8);
    /// assert!(!producer.is_closed());
    /// drop(consumer);
    /// assert!(producer.is_closed());
    /// ```
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.shared.tail.load(Relaxed) & CLOSED != 0
    }

    /// How many values fit in.
    ///
    /// ```
    /// assert_eq!(gaio::handoff::ring::<u8>(5).0.capacity(), 8);
    /// ```
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    /// How many slots are taken, roughly: a hint for dispatch and statistics. Producers and the consumer go on
    /// meanwhile, and the two loads are not one instant. Never more than the capacity.
    ///
    /// ```
    /// let (producer, _consumer) = gaio::handoff::ring(8);
    /// producer.push(1).unwrap();
    /// assert_eq!(producer.len_hint(), 1);
    /// ```
    #[must_use]
    pub fn len_hint(&self) -> usize {
        let head = self.shared.head.load(Relaxed);
        let tail = self.shared.tail.load(Relaxed) / ONE;
        usize::try_from(tail.saturating_sub(head)).unwrap_or(usize::MAX).min(self.capacity())
    }
}

/// Writes into the slot that the caller has reserved, and publishes it.
fn publish<T>(slot: &Slot<T>, position: u64, value: T) {
    #[cfg(gaio_sim)]
    crate::sync::stall::here();
    if mutant("publish_before_write") {
        slot.stamp.store(position + 1, order!(RING_PUBLISH, Release));
    }
    slot.value.with_mut(|cell| {
        // SAFETY: the position is ours (R1), its stamp said free, and the consumer stays away until the stamp says
        // `position + 1`. `write` drops nothing: the consumer moved the last lap's value out. Breaks if a position
        // could be reserved twice.
        unsafe { cell.write(MaybeUninit::new(value)) };
    });
    // Release: pairs with the load in `pop_before`: who reads `position + 1` sees the value.
    slot.stamp.store(position + 1, order!(RING_PUBLISH, Release));
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (len, closed) = (self.len_hint(), self.is_closed());
        f.debug_struct("Producer").field("len_hint", &len).field("closed", &closed).finish_non_exhaustive()
    }
}

impl<T> Drop for Shared<T> {
    /// The last endpoint drops what was published after the consumer's end.
    fn drop(&mut self) {
        let tail = self.tail.load(Relaxed) / ONE;
        for position in self.head.load(Relaxed)..tail {
            let slot = self.slot(position);
            // Always so: no endpoint is left, so nobody is between reserving and publishing (R5). A slot that is not
            // published would hold nothing, and be passed over.
            if slot.stamp.load(Relaxed) == position + 1 {
                slot.value.with_mut(|cell| {
                    // SAFETY: `&mut self`: nobody else has the ring, so the cell is ours.
                    let cell = unsafe { &mut *cell };
                    // SAFETY: published and never popped (the head is behind it), so initialised; dropped once,
                    // because the position comes up once.
                    unsafe { cell.assume_init_drop() };
                });
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
