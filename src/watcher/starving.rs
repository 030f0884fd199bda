//! Pooled reads that found the arena full: they wait in a line for a fresh one, which comes with a hand-over.
//!
//! ```text
//!             no room, or others wait           there is room               its step, on the ready list
//!   (none) ───────────────────────────► in line ─────────────► called ───────────────────────────────► (none)
//!                                          ▲                     │ no room
//!                                          └─── at its front ────┘
//! ```
//!
//! Not all of them are called at once: of ten thousand an arena feeds some, and the others would come in vain, each time.
//! As many as an arena is likely to feed are called, and the next when it has fed those.
//!
//! While anyone is in the line or called, every other pooled read goes into the line, although there may be room: or one
//! busy connection, which is there first each time, would take every arena whole (G8). Those that are called are on the
//! ready list as everybody who has work: so neither they nor the others can fill each batch alone.

use std::collections::VecDeque;

use crate::event_loop::counters::{Counters, count};
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::Key;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::Queues;

/// So many are called at once.
const PORTION: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Starving {
    pub(super) line: VecDeque<Key>,
    /// Somebody found no room in this arena: it feeds nobody more.
    full: bool,
    /// So many in front were called, and got nothing.
    front: usize,
    /// Those that were called last, whether or not they have had their turn since.
    called: Vec<Key>,
    /// How many are in the line, or called and have not had their turn.
    waiting: usize,
}

/// Where a pooled read stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Nobody waits.
    Open,
    /// It was called.
    Called,
}

impl Starving {
    /// Whose turn is it? `None`: others', and the session is in the line now.
    #[inline]
    pub(crate) fn comes_up(&mut self, session: &mut Session<Queues>, key: Key, counters: &Counters) -> Option<Place> {
        if self.waiting == 0 { Some(Place::Open) } else { self.called(session, key, counters) }
    }

    #[cold]
    fn called(&mut self, session: &mut Session<Queues>, key: Key, counters: &Counters) -> Option<Place> {
        if !session.has(Flags::CALLED) {
            self.line_up(session, key, Place::Open, counters);
            return None;
        }
        session.clear(Flags::CALLED);
        self.waiting -= 1;
        Some(Place::Called)
    }

    /// There was no room for it.
    pub(crate) fn starve(&mut self, session: &mut Session<Queues>, key: Key, place: Place, counters: &Counters) {
        self.full = true;
        self.line_up(session, key, place, counters);
    }

    fn line_up(&mut self, session: &mut Session<Queues>, key: Key, place: Place, counters: &Counters) {
        if session.has(Flags::STARVED) {
            return;
        }
        session.set(Flags::STARVED);
        self.waiting += 1;
        count(&counters.starved);
        if place == Place::Called {
            self.line.insert(self.front, key);
            self.front += 1;
        } else {
            self.line.push_back(key);
        }
    }
}

impl<C> Proactor<C> {
    /// May those in the line find room? Not while the batch is full: then nobody has a turn (I10).
    pub(crate) fn can_feed(&mut self) -> bool {
        let Starving { line, full, .. } = &self.starving;
        !line.is_empty() && (!full || self.outbox.filling().arena.is_fresh()) && !self.outbox.is_full()
    }

    /// Calls those in front of the line.
    #[inline(never)]
    pub(crate) fn feed(&mut self, core: &mut Core) {
        let Starving { line, full, front, called, waiting } = &mut self.starving;
        // Who is still on the ready list has not had its turn. Whoever has, or has ended, was called in vain.
        called.retain(|key| {
            let Some(session) = core.sessions.get_mut(*key).filter(|session| session.has(Flags::CALLED)) else {
                return false;
            };
            let still = session.has(Flags::QUEUED);
            if !still {
                session.clear(Flags::CALLED);
            }
            still
        });
        while called.len() < PORTION {
            let Some(key) = line.pop_front() else { break };
            // Or the read was given up.
            if let Some(session) = core.sessions.get_mut(key).filter(|session| session.has(Flags::STARVED)) {
                session.clear(Flags::STARVED);
                session.set(Flags::CALLED);
                called.push(key);
                core.enqueue(key);
            }
        }
        (*full, *front, *waiting) = (false, 0, line.len() + called.len());
    }
}
