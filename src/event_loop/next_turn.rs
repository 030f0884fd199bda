//! A loop inside of another: how long that one may sleep.
//!
//! The selector's descriptor tells of everything but what this loop knows by itself: work that no event announces, a raise
//! that wrote no waker since the gate was open, and the earliest timer.
//!
//! Model: loom-tests/polled.rs. Mutant that must fail: `owed_unsaid`.

use std::time::{Duration, Instant};

use super::{EventLoop, Face};
use crate::sync::mutant;
use crate::sys;

/// When a loop inside of another wants its next turn; of [`EmbeddedWatcher::next_turn`](crate::EmbeddedWatcher::next_turn)
/// and [`SessionLoop::next_turn`](crate::SessionLoop::next_turn).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a match without `_` is what keeps a foreign loop from oversleeping")]
pub enum NextTurn {
    /// There is work that no event announces, or a batch not taken to its end: do not sleep.
    Now,
    /// When the descriptor is readable, but not later than this: there is a deadline.
    At(Instant),
    /// When the descriptor is readable, and not before.
    WhenReadable,
}

impl<F: Face> EventLoop<F> {
    /// When the next turn is due. Whoever asks has taken what the last one has brought.
    pub(crate) fn next_turn(&mut self) -> NextTurn {
        // Raised within the turn, which closed the gate behind it: nobody has written the waker for that.
        let owed = self.owed && !mutant("owed_unsaid");
        if owed || self.is_busy() {
            return NextTurn::Now;
        }
        let Some(due) = self.core.timers.next() else { return NextTurn::WhenReadable };
        match due.saturating_sub(sys::now()) {
            0 => NextTurn::Now,
            ahead => {
                Instant::now().checked_add(Duration::from_nanos(ahead)).map_or(NextTurn::WhenReadable, NextTurn::At)
            }
        }
    }
}
