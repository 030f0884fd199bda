//! The emptying end of the mailbox: takes, waits, and what wakes it. The protocol is in `mod.rs`.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::sync::PoisonError;
use std::time::Instant;

use super::{FULL, MORE, Shared, Taken, WAIT};
use crate::sync::thread;
use crate::sync::{Arc, mutant, order};

/// The emptying end of a [`mailbox`](super::mailbox()). One; it may move between threads from take to take.
///
/// Contract: [`taken`](Self::taken) must be empty before the next take, because that take gives the buffer back to
/// be filled. What is left in it would be published a second time.
pub struct Taker<B> {
    shared: Arc<Shared<B>>,
    taken: B,
    /// The thread whose handle is in `Shared::waiter`, so that waiting there again takes no lock.
    registered: Option<thread::ThreadId>,
    /// What it leaves behind in a cell that it has emptied: 0, or WAIT if it has a bell.
    rest: u32,
    /// `Send`, not `Sync`, not `Clone`: there is one taker (M1).
    not_sync: PhantomData<Cell<()>>,
}

impl<B> Taker<B> {
    pub(super) const fn new(shared: Arc<Shared<B>>, taken: B) -> Self {
        Self { shared, taken, registered: None, rest: 0, not_sync: PhantomData }
    }

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
    /// afterwards is another batch. See [`mailbox`](super::mailbox()) for an example.
    pub fn try_take(&mut self) -> Taken {
        // Acquire: pairs with the swap in `publish`: the batch is in the cell.
        if self.shared.word.load(order!(MAIL_FULL_LOAD, Acquire)) & FULL == 0 {
            return Taken::Nothing;
        }
        self.shared.exchange(&mut self.taken);
        // Release: pairs with the loads in `publish`: our hands are off the cell. A swap, because MORE may come at
        // any moment, and must be read by the very write that clears it (M3). No acquire half: MORE brings no data.
        let before = self.shared.word.swap(self.rest, order!(MAIL_EMPTY, Release));
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
                return match self.shared.word.compare_exchange(WAIT, self.rest, Relaxed, Relaxed) {
                    Ok(_) => Taken::Nothing,
                    Err(_) => self.try_take(),
                };
            }
        }
    }

    /// Has `bell` called whenever a batch is there to be taken: by the publisher, after each publish that fills the empty
    /// mailbox, from now on; and at once, by this call, if there is a batch already. For a taker that sleeps in a poll of
    /// its own: let the bell write a descriptor. It replaces the bell before it.
    ///
    /// Guaranteed: whoever, after a ring, clears what the bell has set and *then* takes, misses no batch. In the other
    /// order it may clear the ring of a batch that came in between. A ring may find nothing, if the batch was taken
    /// already. Parking is still possible; both are told then.
    ///
    /// Cost: an allocation and a lock, here; for each publish, a short lock and the call, on the publisher's thread.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use gaio::handoff::{Taken, mailbox};
    ///
    /// let (mut publisher, mut taker) = mailbox(7, 0, 0);
    /// let (ring, rings) = mpsc::channel(); // stands for a descriptor
    /// taker.set_bell(move || drop(ring.send(())));
    /// assert!(rings.try_recv().is_err());
    /// let _ = publisher.publish();
    /// assert!(rings.try_recv().is_ok());
    /// assert_eq!(taker.try_take(), Taken::Batch { more: false });
    /// assert_eq!(*taker.taken(), 7);
    /// ```
    pub fn set_bell(&mut self, bell: impl Fn() + Send + Sync + 'static) {
        let bell = std::sync::Arc::new(bell);
        let _before = self.shared.waiter.lock().unwrap_or_else(PoisonError::into_inner).bell.replace(bell.clone());
        if !mutant("bell_forgotten") {
            self.rest = WAIT;
        }
        if !mutant("bell_unannounced") && !self.announce() {
            bell();
        }
    }

    /// Tells the publisher that this thread is about to park. `false`: there is a batch, don't.
    fn announce_wait(&mut self) -> bool {
        let thread = thread::current();
        if self.registered != Some(thread.id()) {
            self.registered = Some(thread.id());
            self.shared.waiter.lock().unwrap_or_else(PoisonError::into_inner).thread = Some(thread);
        }
        self.announce()
    }

    /// Sets WAIT. `false`: there is a batch. Who waits must be registered by now: the publisher that reads our WAIT takes
    /// the lock after us, or its earlier write to the word would have come before the one it has read.
    fn announce(&self) -> bool {
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
