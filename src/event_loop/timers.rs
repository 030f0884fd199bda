//! Instants at which the loop has something to do of its own: a close that takes too long, an accept to try again, a
//! send for which no edge will come, the end of a shutdown's grace.
//!
//! A heap, never searched: a timer that has lost its meaning finds its session gone (by generation) when it fires.
//! All of these are rare; none is armed on the path of a read or a write.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// The time of a graceful close is over. The token of the session.
    Close(u64),
    /// Try sending again.
    Retry(u64),
    /// Try accepting again. The index of the listener.
    Accept(usize),
    /// Shutdown: time is up.
    Grace,
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BinaryHeap<Reverse<(u64, Timer)>>);

impl Timers {
    pub(crate) fn arm(&mut self, at: u64, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    /// The earliest instant at which something is due.
    pub(crate) fn next(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// One that is due; call until there is none.
    pub(crate) fn expired(&mut self, now: u64) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        self.0.pop().map(|Reverse((_, timer))| timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_nothing_early() {
        let mut timers = Timers::default();
        timers.arm(20, Timer::Grace);
        timers.arm(10, Timer::Close(1));
        timers.arm(u64::MAX, Timer::Accept(0));
        assert_eq!(timers.next(), Some(10));
        assert_eq!(timers.expired(9), None);
        assert_eq!(timers.expired(20), Some(Timer::Close(1)));
        assert_eq!(timers.expired(20), Some(Timer::Grace));
        assert_eq!(timers.expired(20), None);
    }
}
