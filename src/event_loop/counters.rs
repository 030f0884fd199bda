//! What a loop has done, counted.
//!
//! Each counter but `waker_writes` has one writer, the loop thread: a relaxed load and a relaxed store, no locked
//! instruction. Anyone may read at any time.

use crate::sync::Ordering;
use crate::sync::figures::AtomicU64;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// The counters of one loop at about one moment, since it was built; of `Submitter::counters`.
        ///
        /// Differences of two snapshots tell how a loop is doing: `completed / batches` is how well completions bunch,
        /// `waker_writes / completed` what sleeping costs the submitters, `polls / turns` how often it had to ask.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[$doc])* pub $name: u64,)*
            /// Sessions there are now: connections, and those that are to become some.
            pub sessions: u64,
        }

        impl Counters {
            pub(crate) fn snapshot(&self, sessions: u64) -> Snapshot {
                Snapshot { $($name: self.$name.load(Ordering::Relaxed),)* sessions }
            }
        }
    };
}

counters! {
    /// Turns taken.
    turns,
    /// Calls into the selector, whether they slept or not.
    polls,
    /// Writes to the waker: submissions that found the loop asleep.
    waker_writes,
    /// Completions handed over: operations and posts.
    completed,
    /// Batches handed over (published, or returned by a turn).
    batches,
    /// Turns that ended with completions waiting, since the consumer had not taken the batch before.
    residues,
    /// Connections accepted.
    accepted,
    /// Connections accepted and closed at once: since the limit on sessions was reached, or what makes their sessions
    /// turned them away or panicked, or a lingering close could not be switched off.
    refused,
    /// Connections closed unserved, since descriptors had run out.
    shed,
    /// Accepts that failed otherwise (the peer had gone, memory was short, …).
    accept_errors,
    /// Pooled reads that had to wait for room in the arena.
    starved,
    /// Cancels that found nothing to cancel: it had completed.
    cancels_missed,
    /// Operations and timers whose deadline passed.
    expired,
    /// Messages to sessions that had ended or were closing, counted for each member that a broadcast found so; and what
    /// was left when the loop ended.
    undelivered,
    /// Frames handed to typed sessions.
    frames,
    /// Messages handed to typed sessions.
    messages,
    /// Typed sessions ended by a decision of their own: closed, aborted, left.
    ended_themselves,
    /// Typed sessions ended because of their input: it was no frame, too long a one, or cut short.
    ended_by_input,
    /// Typed sessions ended because the time of a state was over.
    ended_by_time,
    /// Typed sessions ended because the peer did not take their output: too much of it, or for too long.
    ended_by_output,
    /// Typed sessions ended by an error of the system, mostly a reset, or a connect that came to nothing.
    ended_by_system,
    /// Typed sessions ended with their loop.
    ended_by_shutdown,
    /// Typed sessions ended by a panic of their own.
    panics,
    /// Graceful closes that ran out of time, or of patience with the peer's input.
    closed_hard,
}

impl Counters {
    /// Counts a batch with so many completions.
    pub(crate) fn batch(&self, completions: u32) {
        count(&self.batches);
        add(&self.completed, completions.into());
    }
}

/// Counts one. Loop thread only.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Counts several. Loop thread only.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}
