//! Pooled reads that found the arena full: they wait in a line for a fresh one, which comes with a hand-over.
//!
//! While anyone is in the line every other pooled read goes behind it, although there may be room by then: or one busy
//! connection, which is there first each time, would take every arena whole (G8). A fresh arena is for those in front, one
//! step each; whoever got nothing out of it is the first of the next.

use std::collections::VecDeque;

use crate::event_loop::Step;
use crate::event_loop::counters::count;
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::Key;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::Queues;

#[derive(Debug, Default)]
pub(crate) struct Starving {
    line: VecDeque<Key>,
    /// One out of the line has its turn.
    feeding: bool,
}

impl Starving {
    /// Must a pooled read go behind others?
    #[inline]
    pub(crate) fn come_first(&self) -> bool {
        !self.line.is_empty() && !self.feeding
    }
}

impl<C> Proactor<C> {
    /// Puts a session into the line.
    pub(crate) fn starve(&mut self, session: &mut Session<Queues>, key: Key) {
        if !session.has(Flags::STARVED) {
            session.set(Flags::STARVED);
            self.starving.line.push_back(key);
            count(&self.shared.counters.starved);
        }
    }

    /// Is there a fresh arena for those in the line, and a place in the batch?
    pub(crate) fn can_feed(&mut self) -> bool {
        !self.starving.line.is_empty() && self.outbox.filling().arena.is_fresh() && !self.outbox.is_full()
    }

    /// Serves the line until one finds no room again. If others wait for their turn, half of the batch is left to them.
    pub(crate) fn feed(&mut self, core: &mut Core) {
        for served in 0..self.starving.line.len() {
            let shared_out = served > 0 && core.others_wait() && self.outbox.is_half_full();
            if shared_out || self.outbox.is_full() {
                return;
            }
            let Some(key) = self.starving.line.pop_front() else { return };
            // It has ended, or the read was given up.
            let Some(session) = core.sessions.get_mut(key).filter(|session| session.has(Flags::STARVED)) else {
                continue;
            };
            session.clear(Flags::STARVED);
            let used = self.outbox.filling().arena.used();
            self.starving.feeding = true;
            let step = self.step_session(key, session, &mut core.timers);
            self.starving.feeding = false;
            let again = session.has(Flags::STARVED);
            if again && self.outbox.filling().arena.used() == used {
                self.starving.line.rotate_right(1);
            }
            if step != Step::Idle {
                core.enqueue(key);
            }
            if again {
                return;
            }
        }
    }
}
