//! Wake gate: decides whether a submission must pay for a syscall.
//!
//! Shared by every submitter (raise) and the loop thread (open, close). No I/O happens here.
//!
//! | word       | the loop is             | must a raise write the waker?           |
//! |------------|-------------------------|-----------------------------------------|
//! | `PARKED`   | blocked, or about to be | yes, exactly one raiser does            |
//! | `AWAKE`    | inside a turn           | no: the turn looks again on its way out |
//! | `NOTIFIED` | owed another turn       | no                                      |
//!
//! ```text
//!   PARKED ── raise (true) ──► NOTIFIED ── open ──► AWAKE ── close (true) ──► PARKED
//!                                 ▲                   │
//!                                 └── raise (false) ──┘   NOTIFIED ── close (false) ──► PARKED
//! ```
//!
//! - **W1**, no lost wake-up: what was published before a `raise` is seen by the turn that follows, and that turn
//!   comes: the raise returned `true`, or the loop is not blocked and its next `close` returns `false`.
//! - **W2**, one write per park: of all raises between two closes at most one returns `true`.
//!
//! Each of the three is one swap, hence a link in one chain of read-modify-writes: each reads the word that the one
//! before it wrote, and a raise's release reaches the next `open` or `close` through any raises in between. Only
//! that direction is ordered. What the loop did before it parked is not published to the raiser that wakes it.
//!
//! Model: loom-tests/gate.rs. Mutants that must fail: `open_by_store`, `raise_by_cas`, `raise_load_first`.

use core::fmt;
use core::sync::atomic::Ordering::Relaxed;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicU32, mutant, order};

const PARKED: u32 = 0;
const AWAKE: u32 = 1;
const NOTIFIED: u32 = 2;

type Word = CachePadded<AtomicU32>;

/// Makes a gate, born parked: the first [`raise`](Raiser::raise) asks for a wake-up.
///
/// ```
/// let (raiser, mut keeper) = gaio::handoff::gate();
/// assert!(raiser.raise()); // the loop is parked: write the waker
/// assert!(!raiser.raise()); // somebody did
/// keeper.open();
/// assert!(!raiser.raise()); // the loop is awake, and owes another turn now
/// assert!(!keeper.close()); // which it learns here
/// ```
#[must_use]
pub fn gate() -> (Raiser, Keeper) {
    let word = Arc::new(CachePadded::new(AtomicU32::new(PARKED)));
    (Raiser { word: Arc::clone(&word) }, Keeper { word })
}

/// The submitters' side of a [`gate()`]. Any number of clones, on any threads.
#[derive(Clone)]
pub struct Raiser {
    word: Arc<Word>,
}

impl Raiser {
    /// Asks for a turn after what the caller has just published. On `true` the caller must write the waker.
    ///
    /// Call it after the publication (a ring's push, say), never before. Guaranteed: the loop sees that publication
    /// in a turn that is still to come. Of all raises that find the loop parked exactly one returns `true`; the
    /// others may return before the waker was written, which is fine, since they ask for the same turn.
    ///
    /// Cost: one swap, always; no loop, no syscall, no allocation.
    ///
    /// ```
    /// let (raiser, _keeper) = gaio::handoff::gate();
    /// let mut eventfd = 0; // stands for the waker
    /// if raiser.raise() {
    ///     eventfd += 1;
    /// }
    /// assert_eq!(eventfd, 1);
    /// ```
    #[must_use = "on `true` the waker must be written, or the loop sleeps on"]
    pub fn raise(&self) -> bool {
        if mutant("raise_by_cas") {
            return self.word.compare_exchange(PARKED, NOTIFIED, Relaxed, Relaxed).is_ok();
        }
        if mutant("raise_load_first") && self.word.load(Relaxed) == NOTIFIED {
            return false;
        }
        // Release: pairs with the swaps in `Keeper::open` and `Keeper::close`, so that a loop which reads our
        // NOTIFIED also sees what we published (W1). Must stay an unconditional read-modify-write: a failed
        // compare-exchange, or a load that finds NOTIFIED, would be only a load, and put nothing behind itself.
        // No acquire half: the caller takes nothing from the loop but the permission to write the waker.
        self.word.swap(NOTIFIED, order!(GATE_RAISE, Release)) == PARKED
    }
}

/// The loop's side of a [`gate()`]. One; it may move between threads, and every method takes it mutably.
pub struct Keeper {
    word: Arc<Word>,
}

impl Keeper {
    /// Begins a turn: from here to [`close`](Self::close) no raise asks for a write to the waker. Whether there was a raise
    /// since the last `close`: if there was none, nor during the turn before it, there is nothing of the raisers' to look at.
    ///
    /// Call it after waking and before looking at what raisers publish. Whatever was published before a raise that
    /// came earlier than this call is visible after it. Cost: one swap.
    ///
    /// ```
    /// let (raiser, mut keeper) = gaio::handoff::gate();
    /// assert!(!keeper.open());
    /// assert!(!raiser.raise());
    /// assert!(!keeper.close()); // raised during the turn
    /// assert!(!keeper.open()); // which is not told twice
    /// # let _ = keeper.close();
    /// assert!(raiser.raise());
    /// assert!(keeper.open());
    /// ```
    pub fn open(&mut self) -> bool {
        if mutant("open_by_store") {
            self.word.store(AWAKE, Relaxed);
            return true;
        }
        // Acquire: this swap eats a NOTIFIED, so it must see what that raiser published: the drain that follows is
        // the turn it was promised (W1). A store would eat it unseen.
        self.word.swap(AWAKE, order!(GATE_OPEN, Acquire)) == NOTIFIED
    }

    /// Ends a turn. On `true` the loop may block until the waker is written; on `false` somebody raised during the
    /// turn, and the loop must take another one first, beginning with [`open`](Self::open). What it published is
    /// visible already.
    ///
    /// The gate is parked afterwards either way. So a raiser that comes between a `close` that returned `false` and
    /// the `open` that follows writes the waker once although the loop does not sleep: the next wait returns at
    /// once, which is harmless. Cost: one swap.
    ///
    /// ```
    /// let (raiser, mut keeper) = gaio::handoff::gate();
    /// keeper.open();
    /// raiser.raise();
    /// assert!(!keeper.close()); // another turn, please
    /// keeper.open();
    /// assert!(keeper.close()); // nothing new: block
    /// ```
    #[must_use = "on `false` the loop owes another turn, and must not block"]
    pub fn close(&mut self) -> bool {
        // Acquire: what a raiser published is visible as soon as `false` is returned. The `open` that follows would
        // bring it too (it reads this write, which continues the raiser's release sequence); the promise is kept
        // here so that a loop may look before it opens.
        // No release half: a raiser takes nothing from the loop.
        self.word.swap(PARKED, order!(GATE_CLOSE, Acquire)) != NOTIFIED
    }
}

fn name(word: &Word) -> &'static str {
    match word.load(Relaxed) {
        PARKED => "parked",
        AWAKE => "awake",
        _ => "notified",
    }
}

impl fmt::Debug for Raiser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Raiser").field(&name(&self.word)).finish()
    }
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keeper").field(&name(&self.word)).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn born_parked_so_the_first_raise_writes() {
        let (raiser, mut keeper) = gate();
        assert!(raiser.raise());
        assert!(!raiser.raise(), "one write per park");
        keeper.open();
        assert!(keeper.close());
        assert!(raiser.raise(), "parked again");
    }

    #[test]
    fn a_raise_during_the_turn_buys_another_turn_and_no_write() {
        let (raiser, mut keeper) = gate();
        keeper.open();
        assert!(!raiser.raise());
        assert!(!raiser.raise());
        assert!(!keeper.close());
        assert!(raiser.raise(), "parked after a close, whatever it returned");
    }

    #[test]
    fn a_keeper_that_only_closes_never_misses_a_raise() {
        let (raiser, mut keeper) = gate();
        assert!(keeper.close());
        assert!(raiser.raise());
        assert!(!keeper.close());
        assert!(keeper.close());
    }

    /// The waker is a channel here: a lost wake-up would leave the loop in `recv` after the last item, and a
    /// second write in a park would leave a token behind.
    #[test]
    fn stress_every_item_is_taken_and_no_write_is_wasted() {
        const EACH: u32 = 20_000;
        let (raiser, mut keeper) = gate();
        let (wake, sleep) = mpsc::channel();
        let (push, items) = mpsc::channel();
        let producers: Vec<_> = (0..2)
            .map(|_| {
                let (raiser, wake, push) = (raiser.clone(), wake.clone(), push.clone());
                thread::spawn(move || {
                    for item in 0..EACH {
                        push.send(item).unwrap();
                        if raiser.raise() {
                            wake.send(()).unwrap();
                        }
                    }
                })
            })
            .collect();
        let mut taken = 0;
        while taken < 2 * EACH {
            keeper.open();
            taken += u32::try_from(items.try_iter().count()).unwrap();
            if keeper.close() && taken < 2 * EACH {
                sleep.recv().unwrap();
            }
        }
        producers.into_iter().for_each(|producer| producer.join().unwrap());
        assert_eq!(taken, 2 * EACH);
    }
}
