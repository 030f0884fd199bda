//! The end of a connection: graceful close, release, and what becomes of the pending operations.
//!
//! A graceful close goes through three phases under one deadline:
//!
//! | phase    | waits for                             | then                                             |
//! |----------|---------------------------------------|--------------------------------------------------|
//! | flushing | the queued writes                     | the sending side is shut down                    |
//! | draining | the peer's end of stream, input thrown away | the descriptor is closed                   |
//! | gone     |                                       | the close completes: the descriptor is gone (I1) |
//!
//! Draining is why the tail of a response survives: closing with unread input makes the kernel send a reset, and the
//! peer may lose what it had not read yet. A torn message is never followed by a clean end: if a write went out in
//! part, or one before failed, the connection is reset instead (I11). Datagrams have no end to send or to wait for: with
//! all of them written the descriptor is closed.

use bytes::Bytes;

use crate::error::OpError;
use crate::event_loop::Step;
use crate::event_loop::counters::count;
use crate::event_loop::inbox::nanos;
use crate::event_loop::session::{DRAINS_PER_STEP, Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::{Armed, Timer};
use crate::sys::{self, Errno};
use crate::watcher::body::Body;
use crate::watcher::outcome::{Detached, Outcome};
use crate::watcher::pool::Class;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::{Pending, Queues};
use crate::watcher::submission::Operation;

impl<C> Proactor<C> {
    /// A close or release has come out of the ring.
    pub(crate) fn start_ending(&mut self, core: &mut Core, key: Key, op: Operation<C>) {
        let Some(session) = core.sessions.get_mut(key) else { return self.fail_new(op, OpError::Closed) };
        if matches!(op.body, Body::Release | Body::Abort) {
            if matches!(op.body, Body::Abort) {
                sys::reset_on_close(&session.socket);
            }
            self.end_session(core, key, |_| OpError::Released);
            return self.complete(op.conn, op.context, Outcome::Closed);
        }
        if matches!(op.body, Body::IntoFd) && session.has(Flags::CLOSING) {
            return self.fail_new(op, OpError::Closed);
        }
        // It waits behind the writes it must not overtake, and completes when the session ends.
        let until = op.bounds.deadline();
        self.writes += 1;
        self.ops.push(&mut session.state.write, op);
        self.begin_close(core, key, until);
    }

    /// Begins the graceful close, unless it has begun. Also what happens when the last handle is dropped.
    ///
    /// `until`: its time bound, if it has one of its own. Of several closes the earliest bound that was asked for counts.
    pub(crate) fn begin_close(&mut self, core: &mut Core, key: Key, until: Option<u64>) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        let begun = session.has(Flags::CLOSING);
        session.set(Flags::CLOSING);
        let linger = session.state.linger;
        if !begun {
            self.closing.insert(key.token(), (u64::MAX, Armed::NONE));
            while let Some(op) = self.ops.pop(&mut session.state.read, &mut core.timers) {
                self.fail(op, OpError::Released);
            }
        }
        if self.advance_close(core, key) == Step::Again {
            core.enqueue(key);
        }
        let Some((bound, armed)) = self.closing.get_mut(&key.token()) else { return };
        let usual = || match linger {
            0 => nanos(core.limits.close_within),
            seconds => u64::from(seconds) * 1_000_000_000,
        };
        let until = match until {
            Some(until) => until,
            None if begun => return,
            None => sys::now().saturating_add(usual()),
        };
        if until < *bound {
            core.timers.disarm(armed);
            *bound = until;
            *armed = core.timers.arm(until, Timer::Close(key.token()));
        }
    }

    /// Does the next thing in the write queue end the session?
    pub(crate) fn head_is_ending(&mut self, session: &Session<Queues>) -> bool {
        self.ops.head(&session.state.write).is_some_and(|pending| pending.body.is_ending())
    }

    /// Moves a graceful close on as far as it goes.
    pub(crate) fn advance_close(&mut self, core: &mut Core, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        if !session.state.write.is_empty() && !self.head_is_ending(session) {
            // Flushing. With the budget spent there may be more to send at once.
            return if session.moves_writes() { Step::Again } else { Step::Idle };
        }
        if self.ops.head(&session.state.write).is_some_and(|pending| matches!(pending.body, Body::IntoFd)) {
            self.detach(core, key);
            return Step::Idle;
        }
        let mut over = session.has(Flags::OVER);
        if !over && !session.has(Flags::SHUT) {
            session.set(Flags::SHUT);
            // Even if the peer has ended: where a child has a duplicate, the close alone would not tell it of our end.
            over = sys::shutdown_write(&session.socket).is_err();
        }
        if over || session.has(Flags::EOF) {
            // Nothing more will come, or nothing that belongs to what was sent.
            self.end_session(core, key, |_| OpError::Released);
            return Step::Idle;
        }
        self.drain_input(core, key)
    }

    /// Throws input away until the peer's end, the bound, or EAGAIN.
    fn drain_input(&mut self, core: &mut Core, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        for _ in 0..DRAINS_PER_STEP {
            if !session.readable() {
                return Step::Idle;
            }
            let mut sink = self.stash.draw(Class::Small);
            let verb = session.recv_append(sink.vec());
            self.stash.give(sink);
            match verb {
                Verb::Moved(n) => {
                    let kib = u16::try_from(n.div_ceil(1024)).unwrap_or(u16::MAX);
                    session.state.drained = session.state.drained.saturating_add(kib);
                }
                Verb::Pending => return Step::Idle,
                Verb::Eof | Verb::Failed(_) => {
                    self.end_session(core, key, |_| OpError::Released);
                    return Step::Idle;
                }
            }
            if usize::from(session.state.drained) * 1024 > core.limits.close_drain {
                count(&self.shared.counters.closed_hard);
                self.end_session(core, key, |_| OpError::Released);
                return Step::Idle;
            }
        }
        Step::Again
    }

    /// Takes in, once, what lies unread at a session that is about to be closed without more ado: a close on top of it
    /// would be a reset, and the peer might lose the tail of what was sent.
    pub(crate) fn spare_the_tail(&mut self, core: &mut Core, key: Key) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        let mut left = core.limits.close_drain;
        while left > 0 && session.readable() && !session.has(Flags::BROKEN) {
            let mut sink = self.stash.draw(Class::Small);
            let verb = session.recv_append(sink.vec());
            self.stash.give(sink);
            let Verb::Moved(n) = verb else { return };
            left = left.saturating_sub(n);
        }
    }

    /// The time of a graceful close is over.
    pub(crate) fn close_overdue(&mut self, core: &mut Core, key: Key) {
        if let Some((_, armed)) = self.closing.get_mut(&key.token()) {
            *armed = Armed::NONE;
            count(&self.shared.counters.closed_hard);
            self.end_session(core, key, |body| {
                if matches!(body, Body::IntoFd) { OpError::TimedOut } else { OpError::Released }
            });
        }
    }

    /// Gives the connection back to the caller: all its writes are out.
    fn detach(&mut self, core: &mut Core, key: Key) {
        if core.sessions.get_mut(key).is_some_and(|session| session.has(Flags::BROKEN)) {
            return self.end_session(core, key, |_| OpError::Broken);
        }
        if core.sessions.get_mut(key).is_some_and(|session| session.has(Flags::RESET)) {
            // The system tells an error once, and that was us: whoever read on would take what follows for a clean end.
            return self.end_session(core, key, |_| OpError::Os(Errno::CONNRESET.into()));
        }
        let Some(session) = core.retire(key) else { return };
        let Session { socket, state: Queues { mut write, .. }, .. } = session;
        let leftover = self.left(core, key);
        if let Some(Pending { conn, context, .. }) = self.ops.pop(&mut write, &mut core.timers) {
            self.writes -= 1;
            self.complete(conn, context, Outcome::Detached(Box::new(Detached { socket, leftover })));
        }
        while let Some(pending) = self.ops.pop(&mut write, &mut core.timers) {
            self.writes -= 1;
            self.fail_or_close(pending, OpError::Closed);
        }
    }

    /// A session is no more: forgets what is kept beside it. Says what of its leftover was not read.
    fn left(&mut self, core: &mut Core, key: Key) -> Bytes {
        self.shared.left();
        if let Some((_, mut armed)) = self.closing.remove(&key.token()) {
            core.timers.disarm(&mut armed);
        }
        self.leftovers.remove(&key.token()).unwrap_or_default()
    }

    fn fail_or_close(&mut self, pending: Pending<C>, error: OpError) {
        if pending.body.is_ending() && !matches!(pending.body, Body::IntoFd) {
            return self.complete(pending.conn, pending.context, Outcome::Closed);
        }
        self.fail(pending, error);
    }

    /// Ends a session now. The descriptor goes first, then its operations complete: closes as done, the rest failed.
    pub(crate) fn end_session(&mut self, core: &mut Core, key: Key, error: impl Fn(&Body) -> OpError) {
        let Some(session) = core.retire(key) else { return };
        let closing = session.has(Flags::CLOSING);
        let unsent = !session.state.write.is_empty() && !self.head_is_ending(&session);
        let torn = self.ops.head(&session.state.write).is_some_and(|pending| pending.done > 0);
        // A graceful close that could not send everything has failed its promise, and says so to the peer.
        if torn || session.has(Flags::BROKEN) || (closing && unsent) {
            sys::reset_on_close(&session.socket);
        }
        let Session { socket, state: Queues { mut read, mut write, .. }, .. } = session;
        drop(socket);
        let leftover = self.left(core, key);
        if !leftover.is_empty() {
            self.spent.push(leftover);
        }
        while let Some(pending) = self.ops.pop(&mut read, &mut core.timers) {
            let error = error(&pending.body);
            self.fail(pending, error);
        }
        while let Some(pending) = self.ops.pop(&mut write, &mut core.timers) {
            self.writes -= 1;
            let error = error(&pending.body);
            self.fail_or_close(pending, error);
        }
    }
}
