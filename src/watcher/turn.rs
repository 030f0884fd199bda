//! A session in its step, and how much of the turn is its own (G8).

use crate::event_loop::session::Session;
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timers;
use crate::limits::Limits;
use crate::watcher::queue::Queues;

/// What one session may still do in this turn.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) ops: u32,
    pub(crate) bytes: usize,
}

impl Budget {
    pub(crate) const NONE: Self = Self { ops: 0, bytes: 0 };

    const fn of(limits: &Limits) -> Self {
        Self { ops: limits.ops_per_turn, bytes: limits.bytes_per_turn }
    }

    pub(crate) const fn is_spent(&self) -> bool {
        self.ops == 0 || self.bytes == 0
    }

    pub(crate) const fn moved(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
    }

    /// Cuts it in two; of one operation or byte there is one in each half.
    pub(crate) const fn halve(&mut self) -> Self {
        (self.ops, self.bytes) = (self.ops.div_ceil(2), self.bytes.div_ceil(2));
        Self { ops: self.ops, bytes: self.bytes }
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.ops += other.ops;
        self.bytes += other.bytes;
    }
}

/// One session in its step, and what of the loop it needs.
pub(crate) struct Turn<'l> {
    pub(crate) key: Key,
    pub(crate) session: &'l mut Session<Queues>,
    pub(crate) timers: &'l mut Timers,
    pub(crate) budget: Budget,
}

impl<'l> Turn<'l> {
    pub(crate) const fn new(
        key: Key,
        session: &'l mut Session<Queues>,
        timers: &'l mut Timers,
        limits: &Limits,
    ) -> Self {
        Self { key, session, timers, budget: Budget::of(limits) }
    }
}
