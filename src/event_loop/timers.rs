//! What a loop must do at an instant.
//!
//! A deadline is an entry here, on the timing wheel while it is armed, and says what it is for. Whoever armed it keeps
//! its index, and gives it back by `disarm` unless it expires: an entry has one owner, so its index needs no generation.
//! An operation that is over before it has to wait never comes here.

use crate::event_loop::arena::{Arena, NIL};
use crate::event_loop::wheel::{Node, Nodes, Wheel};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// The deadline of a pending operation. Its index.
    Op(u32),
    /// A timer of the user's. Its index.
    Alarm(u32),
    /// A time limit of a typed session. Its token.
    Limit(u64),
    /// The time of a graceful close is over. The token of the session.
    Close(u64),
    /// Try sending again. The token of the session.
    Retry(u64),
    /// The deadline of a connect. Its id.
    Connect(u64),
    /// A connect's next attempt is due. Its id.
    Attempt(u64),
    /// Try accepting again. The index of the listener.
    Accept(usize),
    /// Shutdown: time is up.
    Grace,
}

/// How long to wait before something is tried again that no edge announces. Each pause is twice as long as the one before,
/// up to the longest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pause(u64);

impl Pause {
    pub(crate) const FIRST: Self = Self(1 << 20);
    const LONGEST: u64 = 64 << 20;

    /// So many nanoseconds; the next one is longer.
    pub(crate) fn take(&mut self) -> u64 {
        let now = self.0;
        self.0 = Self::LONGEST.min(2 * now);
        now
    }
}

#[derive(Debug)]
struct Entry {
    node: Node,
    timer: Timer,
}

#[derive(Debug, Default)]
struct Entries(Arena<Entry>);

impl Nodes for Entries {
    #[inline]
    fn node(&mut self, index: u32) -> &mut Node {
        match self.0.get_mut(index) {
            Some(entry) => &mut entry.node,
            None => unreachable!("an entry leaves the wheel before it is freed"),
        }
    }
}

/// Names an armed timer; `NONE` where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Armed(u32);

impl Armed {
    pub(crate) const NONE: Self = Self(NIL);
}

#[derive(Debug)]
pub(crate) struct Timers {
    wheel: Wheel,
    entries: Entries,
}

impl Timers {
    pub(crate) fn new() -> Self {
        Self { wheel: Wheel::new(), entries: Entries::default() }
    }

    /// Arms a timer for `at`, an instant of the loop's clock. O(1).
    #[inline]
    pub(crate) fn arm(&mut self, at: u64, timer: Timer) -> Armed {
        let index = self.entries.0.insert(|| Entry { node: Node::UNARMED, timer });
        self.wheel.arm(&mut self.entries, index, at);
        Armed(index)
    }

    /// Takes a timer back, and its name; does nothing if there is none. O(1).
    #[inline(always)]
    pub(crate) fn disarm(&mut self, armed: &mut Armed) {
        let Armed(index) = std::mem::replace(armed, Armed::NONE);
        if index != NIL {
            self.cancel(index);
        }
    }

    fn cancel(&mut self, index: u32) {
        self.wheel.cancel(&mut self.entries, index);
        self.entries.0.remove(index);
    }

    /// When it expires; `None` if there is none.
    pub(crate) fn armed_at(&mut self, Armed(index): Armed) -> Option<u64> {
        self.entries.0.get_mut(index).map(|entry| entry.node.instant())
    }

    /// When to look again: at the earliest deadline, or before it.
    pub(crate) fn next(&self) -> Option<u64> {
        self.wheel.next()
    }

    /// One that is due; its name is void. Call until there is none, or the budget is spent.
    pub(crate) fn expired(&mut self, now: u64, budget: &mut u32) -> Option<Timer> {
        let index = self.wheel.expire(&mut self.entries, now, budget)?;
        self.entries.0.remove(index).map(|entry| entry.timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1 << 20;

    #[test]
    fn pauses_grow_and_end_growing() {
        let mut pause = Pause::FIRST;
        let taken: Vec<u64> = (0..9).map(|_| pause.take() / MS).collect();
        assert_eq!(taken, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn what_is_due_comes_in_order_and_nothing_early() {
        let mut timers = Timers::new();
        timers.arm(20 * MS, Timer::Grace);
        timers.arm(10 * MS, Timer::Close(1));
        timers.arm(u64::MAX, Timer::Accept(0));
        let mut taken_back = timers.arm(15 * MS, Timer::Retry(2));
        timers.disarm(&mut taken_back);
        assert_eq!(taken_back, Armed::NONE);
        timers.disarm(&mut taken_back);
        let mut at = |now| timers.expired(now, &mut 9);
        assert_eq!(at(9 * MS), None);
        assert_eq!(at(20 * MS), Some(Timer::Close(1)));
        assert_eq!(at(20 * MS), Some(Timer::Grace));
        assert_eq!(at(20 * MS), None);
        assert!(timers.next().is_some_and(|next| next > 20 * MS));
    }

    #[test]
    fn a_timer_says_when_it_expires_rounded_up() {
        let mut timers = Timers::new();
        let mut armed = timers.arm(5 * MS + 1, Timer::Grace);
        assert_eq!(timers.armed_at(armed), Some(6 * MS));
        let later = timers.arm(u64::MAX, Timer::Accept(0));
        assert_eq!(timers.armed_at(later), Some(u64::MAX));
        let before = armed;
        timers.disarm(&mut armed);
        assert_eq!((timers.armed_at(armed), timers.armed_at(before)), (None, None));
    }
}
