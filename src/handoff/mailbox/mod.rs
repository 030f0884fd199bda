//! Mailbox: hands whole batches from one publisher to one taker, by swapping buffers.
//!
//! One word, one cell, three buffers: the publisher fills one, the taker empties one, and the third is in the cell.
//!
//! | word          | the cell holds              | who owns it   | meanwhile                                          |
//! |---------------|-----------------------------|---------------|----------------------------------------------------|
//! | `0`           | an empty buffer             | the publisher |                                                    |
//! | `WAIT`        | an empty buffer             | the publisher | the taker is parked, about to be, or has a bell    |
//! | `FULL`        | a batch                     | the taker     |                                                    |
//! | `FULL│MORE`   | a batch                     | the taker     | the publisher has a residue, and may be asleep     |
//!
//! ```text
//!         publish (then wake)                    publish: keep filling
//!   WAIT ────────────────────► FULL ──────────────────────────────────► FULL│MORE
//!    ▲ │ given up               ▲ │ take                                    │ take, then raise the gate
//!    │ ▼         publish        │ ▼                                         │
//!     0 ────────────────────────┘  0 ◄──────────────────────────────────────┘
//! ```
//!
//! A *bell* is how a taker is told that does not park here but in a poll of its own: what the publisher calls beside
//! the unpark. A taker with a bell always waits, so its takes leave WAIT behind, where others leave 0.
//!
//! - **M1** The cell has one owner: only the publisher sets FULL, only the taker clears it, and each touches the cell
//!   only in the states that are its own.
//! - **M2** Each batch is taken once, whole, in the order of publishing.
//! - **M3** A residue is not forgotten: MORE is set only on a full cell, and the take that empties that cell says so.
//!   A publisher whose MORE came too late finds the cell empty instead, and publishes.
//! - **M4** A taker that parks is woken: WAIT is set only on an empty cell, and who fills that cell wakes it after. With a
//!   bell: it rings after each batch that is there to be taken, from the first look at the cell on.
//!
//! Closed is no state here: it is a flag of the last batch, in the caller's own type.
//!
//! Model: loom-tests/mailbox.rs. Mutants that must fail: `or_after_failed_cas`, `wake_before_publish`,
//! `wait_by_store`, `more_forgotten`, `bell_unannounced`, `bell_forgotten`.

#![expect(unsafe_code, reason = "the cell changes hands between two threads; the word says whose it is")]

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::sync::atomic::Ordering::Relaxed;
use std::sync::PoisonError;

use crossbeam_utils::CachePadded;

use crate::sync::thread::Thread;
use crate::sync::{Arc, AtomicU32, Mutex, UnsafeCell, mutant, order};

mod taker;

pub use taker::Taker;

const FULL: u32 = 1;
const MORE: u32 = 2;
const WAIT: u32 = 4;

struct Shared<B> {
    word: CachePadded<AtomicU32>,
    cell: UnsafeCell<B>,
    /// Who waits. Written by a taker that is about to park on another thread than the last time, or that was given a
    /// bell, before it sets WAIT; read by the publisher that found WAIT. Neither holds the lock for more than a copy.
    waiter: Mutex<Waiter>,
}

#[derive(Clone, Default)]
struct Waiter {
    thread: Option<Thread>,
    /// The standard `Arc`: loom's cannot hold what it does not know. It orders nothing here.
    bell: Option<std::sync::Arc<dyn Fn() + Send + Sync>>,
}

// SAFETY: buffers move between two threads through the cell, hence `B: Send`; a `&B` never does, and the word gives
// the cell to one side at a time (M1). Breaks if a method lends a `&B` of the cell.
unsafe impl<B: Send> Sync for Shared<B> {}

impl<B> Shared<B> {
    /// Exchanges the cell's buffer with the caller's own, which must be the side that owns the cell now.
    fn exchange(&self, own: &mut B) {
        self.cell.with_mut(|cell| {
            // SAFETY: both callers own the cell by the word they have just read with acquire (M1), and give it away
            // only after this. Breaks if there are two publishers or two takers (neither is `Clone`).
            mem::swap(own, unsafe { &mut *cell });
        });
    }

    fn wake(&self) {
        // Outside of the lock: a woken taker may want to register at once, and what a bell does is not ours.
        let Waiter { thread, bell } = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(thread) = thread {
            thread.unpark();
        }
        if let Some(bell) = bell {
            bell();
        }
    }
}

/// Makes a mailbox of three empty buffers: for the publisher, for the cell, for the taker.
///
/// Cost: one allocation, here. Each hand-over moves the two values by value, so `B` should be small: a struct of
/// `Vec`s, or a `Box`. The allocations inside go round with them, and are reused.
///
/// ```
/// use gaio::handoff::{Published, Taken, mailbox};
///
/// let (mut publisher, mut taker) = mailbox(Vec::new(), Vec::new(), Vec::new());
/// publisher.filling().extend([1, 2]);
/// assert_eq!(publisher.publish(), Published::Handed);
/// publisher.filling().push(3);
/// assert_eq!(publisher.publish(), Published::Residue); // the first batch is still there: keep filling
///
/// assert_eq!(taker.try_take(), Taken::Batch { more: true }); // the caller raises the gate now
/// assert!(taker.taken().drain(..).eq([1, 2]));
/// assert_eq!(publisher.publish(), Published::Handed);
/// assert_eq!(taker.try_take(), Taken::Batch { more: false });
/// assert!(taker.taken().drain(..).eq([3]));
/// ```
#[must_use]
pub fn mailbox<B>(filling: B, cell: B, taken: B) -> (Publisher<B>, Taker<B>) {
    let shared = Arc::new(Shared {
        word: CachePadded::new(AtomicU32::new(0)),
        cell: UnsafeCell::new(cell),
        waiter: Mutex::new(Waiter::default()),
    });
    let publisher = Publisher { shared: Arc::clone(&shared), filling, epoch: 0, woken: false, not_sync: PhantomData };
    (publisher, Taker::new(shared, taken))
}

/// What became of a batch that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a residue has to be published again"]
#[expect(clippy::exhaustive_enums, reason = "there is no third thing that could become of it")]
pub enum Published {
    /// The mailbox went from empty to full: the batch is the taker's, a taker that waited has been woken, and
    /// [`filling`](Publisher::filling) is the buffer that the taker emptied.
    Handed,
    /// The batch before is still there. Nothing was handed over: keep filling. The take that removes it says `more`,
    /// and whoever takes then raises the gate.
    Residue,
}

/// What a take found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "on `more` the gate must be raised, or the residue stays where it is"]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` keeps `more` from being overlooked")]
pub enum Taken {
    /// No batch.
    Nothing,
    /// A batch, in [`Taker::taken`] now.
    Batch {
        /// The publisher has a residue, and may sleep: the caller must raise its gate.
        more: bool,
    },
}

/// The filling end of a [`mailbox()`]. One; it may move between threads. It never blocks.
///
/// Dropping it wakes nobody: publish a last batch that says so before.
pub struct Publisher<B> {
    shared: Arc<Shared<B>>,
    filling: B,
    epoch: u64,
    woken: bool,
    /// `Send`, not `Sync`, not `Clone`: there is one publisher (M1).
    not_sync: PhantomData<Cell<()>>,
}

impl<B> Publisher<B> {
    /// The buffer to fill: what was there at the last [`Published::Residue`], or the one that the taker emptied. The
    /// taker cannot see it before it is published.
    ///
    /// ```
    /// let (mut publisher, _taker) = gaio::handoff::mailbox(vec![], vec![], vec![]);
    /// publisher.filling().push("completion");
    /// assert_eq!(publisher.peek(), &["completion"]);
    /// ```
    pub fn filling(&mut self) -> &mut B {
        &mut self.filling
    }

    /// [`filling`](Self::filling), to look at.
    #[must_use]
    pub fn peek(&self) -> &B {
        &self.filling
    }

    /// Hands the filled buffer over, if the one before was taken. Publishing an empty buffer is possible, and wakes
    /// the taker for nothing.
    ///
    /// Guaranteed: after [`Handed`](Published::Handed) the next take gets this batch, and a taker that waited has been
    /// woken; after [`Residue`](Published::Residue) a take that is still to come, or to return, says `more`.
    ///
    /// Cost: a load and a swap; with a taker that waits, a short lock and an unpark (or its bell) as well. A residue costs a load
    /// and, the first time, a compare-exchange. The taker may take at any moment meanwhile.
    ///
    /// See [`mailbox()`] for an example.
    pub fn publish(&mut self) -> Published {
        if !self.is_taken() {
            return Published::Residue;
        }
        self.shared.exchange(&mut self.filling);
        let early = mutant("wake_before_publish");
        if early && self.shared.word.load(Relaxed) & WAIT != 0 {
            self.shared.wake();
        }
        // Release: pairs with the load in `try_take`: who reads FULL sees the batch. A swap, because WAIT may come
        // at any moment, and must be read by the very write that replaces it (M4). No acquire half: WAIT brings
        // no data, the waiter's handle comes with the lock's own order.
        let before = self.shared.word.swap(FULL, order!(MAIL_FULL, Release));
        self.epoch += 1;
        self.woken = before & WAIT != 0;
        if self.woken && !early {
            self.shared.wake();
        }
        Published::Handed
    }

    /// Whether the batch before was taken, so that [`publish`](Self::publish) would hand over. If it was not, the
    /// take that is still to come, or to return, says `more`. Cost: as a residue's.
    ///
    /// ```
    /// let (mut publisher, mut taker) = gaio::handoff::mailbox(vec![7], vec![], vec![]);
    /// let _ = publisher.publish();
    /// assert!(!publisher.is_taken());
    /// assert!(taker.take()); // and says `more`
    /// assert!(publisher.is_taken());
    /// ```
    pub fn is_taken(&mut self) -> bool {
        let word = &self.shared.word;
        // Acquire: pairs with the swap in `try_take`: the taker has let go of the cell, and emptied the buffer there.
        let mut now = word.load(order!(MAIL_EMPTY_LOAD, Acquire));
        while now & FULL != 0 {
            if now & MORE != 0 {
                // It may be out of date: then the take that emptied it read our MORE, and the gate is being raised.
                return false;
            }
            // Relaxed: MORE carries no data, the residue is still ours. On failure the taker was faster, and the
            // cell is ours: acquire, as above. An unconditional OR would leave MORE on an empty cell (M3).
            match word.compare_exchange(FULL, FULL | MORE, Relaxed, order!(MAIL_EMPTY_CAS, Acquire)) {
                Ok(_) => return false,
                Err(_) if mutant("or_after_failed_cas") => {
                    word.fetch_or(MORE, Relaxed);
                    return false;
                }
                Err(changed) => now = changed,
            }
        }
        true
    }

    /// Whether the last batch handed over woke a taker that waited for it.
    pub fn has_woken(&self) -> bool {
        self.woken
    }

    /// How many batches were handed over so far. A residue is not counted until it is.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl<B> fmt::Debug for Publisher<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.shared.word.load(Relaxed) & FULL != 0;
        f.debug_struct("Publisher").field("epoch", &self.epoch).field("full", &full).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
