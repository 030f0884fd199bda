//! Operations that end before their time: a deadline that passed, a cancel.
//!
//! Both look an operation up, take it out of its queue wherever it stands, and complete it with what did move. An
//! operation that has completed is found by neither: its entry, its name and its deadline go together (G1). A write that
//! was sent in part leaves the sending side broken (I11); the bytes of an exact read go back with it.
//!
//! Models: loom-tests/giving_up.rs. Mutants that must fail: `cancel_overtakes`, `deadline_kept`.

use std::num::NonZeroU32;

use crate::error::OpError;
use crate::event_loop::counters::count;
use crate::event_loop::session::Flags;
use crate::event_loop::slab::Key;
use crate::sys::Bits;
use crate::watcher::Conn;
use crate::watcher::link::Token;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::turn::Turn;

impl<C> Proactor<C> {
    /// The time of an operation is over. It is tried before that is looked at; if it has been waiting for its session's
    /// turn, for a place in the batch, or behind a crowd for its edge, that is now.
    pub(crate) fn overdue(&mut self, core: &mut Core, index: u32) {
        let Some(pending) = self.ops.expired(index) else { return };
        let (Token::Session(token), goes_out) = (pending.conn.token(), pending.body.goes_out()) else { return };
        let key = Key::from_token(token);
        let crowded = core.crowded;
        let Some(session) = core.sessions.get_mut(key).filter(|session| crowded || session.has(Flags::QUEUED)) else {
            return self.give_up(core, index, OpError::TimedOut);
        };
        if crowded {
            session.note(Bits::READABLE);
            session.retry_now();
        }
        if goes_out && session.state.write.starts_with(index) && session.wants_to_write() {
            self.try_write(&mut Turn::new(key, session, &mut core.timers, &self.limits));
        }
        // With a budget of its own: a read that follows its write must not find none left.
        if session.state.read.starts_with(index) && session.wants_to_read() {
            self.try_read(&mut Turn::new(key, session, &mut core.timers, &self.limits));
        }
        // It was there a moment ago, and nothing has been taken up since: if the entry is in use it is still the same.
        self.give_up(core, index, OpError::TimedOut);
    }

    /// Completes a pending operation before its time: its deadline is over, or it was cancelled.
    pub(crate) fn give_up(&mut self, core: &mut Core, index: u32, error: OpError) {
        let Some(pending) = self.ops.get(index) else { return };
        let Token::Session(token) = pending.conn.token() else { return };
        let key = Key::from_token(token);
        let Some(session) = core.sessions.get_mut(key) else { return };
        let Some(pending) = self.ops.remove(&mut session.state, index, &mut core.timers) else { return };
        if pending.body.goes_out() {
            self.writes -= 1;
            if pending.done > 0 {
                session.set(Flags::BROKEN); // Torn: nothing may follow (I11).
            } else {
                session.retry_now(); // The end of the output needs no room, and who sends next learns that there is none.
            }
        } else {
            session.clear(Flags::STARVED); // Who comes next may need no room.
        }
        self.fail(pending, error);
        // What waited behind it may go now.
        core.enqueue(key);
    }

    pub(crate) fn cancel(&mut self, core: &mut Core, conn: &Conn<C>, name: NonZeroU32) {
        let found = match conn.token() {
            Token::Session(token) => core.sessions.get_mut(Key::from_token(token)),
            _ => None,
        }
        .and_then(|session| self.ops.find(&session.state, name));
        match found {
            Some(index) => self.give_up(core, index, OpError::Cancelled),
            None => count(&self.shared.counters.cancels_missed),
        }
    }
}
