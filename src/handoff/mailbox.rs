//! Mailbox: hands whole batches from one publisher to one taker, by swapping buffers.
//!
//! One word, one cell, three buffers: the publisher fills one, the taker empties one, and the third is in the cell.
//!
//! | word          | the cell holds              | who owns it   | meanwhile                                          |
//! |---------------|-----------------------------|---------------|----------------------------------------------------|
//! | `0`           | an empty buffer             | the publisher |                                                    |
//! | `WAIT`        | an empty buffer             | the publisher | the taker is parked, or about to be                |
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
//! - **M1** The cell has one owner: only the publisher sets FULL, only the taker clears it, and each touches the cell
//!   only in the states that are its own.
//! - **M2** Each batch is taken once, whole, in the order of publishing.
//! - **M3** A residue is not forgotten: MORE is set only on a full cell, and the take that empties that cell says so.
//!   A publisher whose MORE came too late finds the cell empty instead, and publishes.
//! - **M4** A taker that parks is woken: WAIT is set only on an empty cell, and who fills that cell wakes it after.
//!
//! Closed is no state here: it is a flag of the last batch, in the caller's own type.
//!
//! Model: loom-tests/mailbox.rs. Mutants that must fail: `or_after_failed_cas`, `wake_before_publish`,
//! `wait_by_store`, `more_forgotten`.

#![expect(unsafe_code, reason = "the cell changes hands between two threads; the word says whose it is")]

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::mem;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::sync::PoisonError;
use std::time::Instant;

use crossbeam_utils::CachePadded;

use crate::sync::thread::{self, Thread};
use crate::sync::{Arc, AtomicU32, Mutex, UnsafeCell, mutant, order};

const FULL: u32 = 1;
const MORE: u32 = 2;
const WAIT: u32 = 4;

struct Shared<B> {
    word: CachePadded<AtomicU32>,
    cell: UnsafeCell<B>,
    /// Who waits. Written by a taker that is about to park on another thread than the last time, before it sets WAIT;
    /// read by the publisher that found WAIT. Neither holds the lock for more than a copy.
    waiter: Mutex<Option<Thread>>,
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
        // Outside of the lock: a woken taker may want to register at once.
        let waiter = self.waiter.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(waiter) = waiter {
            waiter.unpark();
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
        waiter: Mutex::new(None),
    });
    let publisher = Publisher { shared: Arc::clone(&shared), filling, epoch: 0, woken: false, not_sync: PhantomData };
    (publisher, Taker { shared, taken, registered: None, not_sync: PhantomData })
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
    /// Cost: a load and a swap; with a taker that waits, a short lock and an unpark as well. A residue costs a load
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

/// The emptying end of a [`mailbox()`]. One; it may move between threads from take to take.
///
/// Contract: [`taken`](Self::taken) must be empty before the next take, because that take gives the buffer back to
/// be filled. What is left in it would be published a second time.
pub struct Taker<B> {
    shared: Arc<Shared<B>>,
    taken: B,
    /// The thread whose handle is in `Shared::waiter`, so that waiting there again takes no lock.
    registered: Option<thread::ThreadId>,
    /// `Send`, not `Sync`, not `Clone`: there is one taker (M1).
    not_sync: PhantomData<Cell<()>>,
}

impl<B> Taker<B> {
    /// The buffer that was taken last. The publisher cannot see it until the next take gives it back.
    ///
    /// ```
    /// let (_publisher, mut taker) = gaio::handoff::mailbox("a", "b", "c");
    /// assert_eq!(*taker.taken(), "c"); // nothing was taken yet
    /// ```
    pub fn taken(&mut self) -> &mut B {
        &mut self.taken
    }

    /// Takes the batch that is there, if one is. Never blocks.
    ///
    /// Cost: a load, and for a batch a swap. The publisher may set `more` up to the last moment; what it publishes
    /// afterwards is another batch. See [`mailbox()`] for an example.
    pub fn try_take(&mut self) -> Taken {
        // Acquire: pairs with the swap in `publish`: the batch is in the cell.
        if self.shared.word.load(order!(MAIL_FULL_LOAD, Acquire)) & FULL == 0 {
            return Taken::Nothing;
        }
        self.shared.exchange(&mut self.taken);
        // Release: pairs with the loads in `publish`: our hands are off the cell. A swap, because MORE may come at
        // any moment, and must be read by the very write that clears it (M3). No acquire half: MORE brings no data.
        let before = self.shared.word.swap(0, order!(MAIL_EMPTY, Release));
        Taken::Batch { more: before & MORE != 0 && !mutant("more_forgotten") }
    }

    /// Takes a batch, parking the thread until there is one. Returns `more`: if `true`, the caller must raise the
    /// publisher's gate.
    ///
    /// Blocks for ever if nothing is ever published. An unpark from elsewhere does no harm. Cost: that of
    /// [`try_take`](Self::try_take), and if it has to wait, a compare-exchange and a park; the first wait on a thread
    /// registers it under a lock.
    ///
    /// ```
    /// let (mut publisher, mut taker) = gaio::handoff::mailbox(vec![], vec![], vec![]);
    /// let publishing = std::thread::spawn(move || {
    ///     publisher.filling().push(7);
    ///     publisher.publish()
    /// });
    /// assert!(!taker.take());
    /// assert_eq!(taker.taken().pop(), Some(7));
    /// # let _ = publishing.join();
    /// ```
    #[must_use = "on `true` the gate must be raised, or the residue stays where it is"]
    pub fn take(&mut self) -> bool {
        loop {
            if let Taken::Batch { more } = self.try_take() {
                return more;
            }
            if self.announce_wait() {
                thread::park();
            }
        }
    }

    /// As [`take`](Self::take), for at most `limit`: then [`Taken::Nothing`]. A batch that arrives with the end of
    /// the time is taken, not left. A limit beyond the clock's range is none.
    ///
    /// ```
    /// use gaio::handoff::{Taken, mailbox};
    ///
    /// let (_publisher, mut taker) = mailbox((), (), ());
    /// assert_eq!(taker.take_timeout(std::time::Duration::from_millis(1)), Taken::Nothing);
    /// ```
    pub fn take_timeout(&mut self, limit: Duration) -> Taken {
        let deadline = Instant::now().checked_add(limit);
        loop {
            let taken = self.try_take();
            if taken != Taken::Nothing {
                return taken;
            }
            if self.announce_wait() && !park_until(deadline) {
                // Relaxed: WAIT brings no data, either way. If it is gone, so is the emptiness: the batch is taken.
                return match self.shared.word.compare_exchange(WAIT, 0, Relaxed, Relaxed) {
                    Ok(_) => Taken::Nothing,
                    Err(_) => self.try_take(),
                };
            }
        }
    }

    /// Tells the publisher that this thread is about to park. `false`: there is a batch, don't.
    fn announce_wait(&mut self) -> bool {
        let thread = thread::current();
        if self.registered != Some(thread.id()) {
            self.registered = Some(thread.id());
            *self.shared.waiter.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        }
        if mutant("wait_by_store") {
            self.shared.word.store(WAIT, Relaxed);
            return true;
        }
        // Relaxed: WAIT brings no data. A compare-exchange from empty only: over a batch it would be a batch lost.
        // WAIT is there already after a wake-up that was not for us.
        match self.shared.word.compare_exchange(0, WAIT, Relaxed, Relaxed) {
            Ok(_) | Err(WAIT) => true,
            Err(_) => false,
        }
    }
}

/// Parks until the deadline. `false`: it has passed.
#[cfg(not(loom))]
fn park_until(deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else {
        thread::park();
        return true;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    thread::park_timeout(left);
    true
}

/// A model knows no time: every deadline has passed as soon as the wait was announced.
#[cfg(loom)]
fn park_until(_deadline: Option<Instant>) -> bool {
    false
}

impl<B> fmt::Debug for Taker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = self.shared.word.load(Relaxed) & FULL != 0;
        f.debug_struct("Taker").field("full", &full).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
#[path = "mailbox_tests.rs"]
mod tests;
