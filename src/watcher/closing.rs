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
//! part, or one before failed, the connection is reset instead (I11).

use crate::error::OpError;
use crate::event_loop::Step;
use crate::event_loop::counters::count;
use crate::event_loop::session::{Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::sys;
use crate::watcher::batch::Stored;
use crate::watcher::lease::Class;
use crate::watcher::op::Body;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::{Operation, Queues};
use crate::watcher::shared::nanos;

/// Reads of input to be thrown away, per step.
const DRAINS_PER_STEP: usize = 4;

impl<C> Proactor<C> {
    /// A close or release has come out of the ring.
    pub(crate) fn start_ending(&mut self, core: &mut Core, key: Key, op: Operation<C>) {
        if core.sessions.get_mut(key).is_none() {
            return self.complete(op.conn, op.context, Stored::Closed);
        }
        match op.body {
            Body::Release => {
                self.end_session(core, key, || OpError::Released);
                self.complete(op.conn, op.context, Stored::Closed);
            }
            _ => {
                // It waits behind the writes it must not overtake, and completes when the session ends.
                if let Some(session) = core.sessions.get_mut(key) {
                    self.writes += 1;
                    self.ops.push(&mut session.state.write, op);
                }
                self.begin_close(core, key);
            }
        }
    }

    /// Begins the graceful close, unless it has begun. Also what happens when the last handle is dropped.
    pub(crate) fn begin_close(&mut self, core: &mut Core, key: Key) {
        let Some(session) = core.sessions.get_mut(key) else { return };
        if session.has(Flags::CLOSING) {
            return;
        }
        session.set(Flags::CLOSING);
        self.closing += 1;
        let linger = session.state.linger;
        while let Some(session) = core.sessions.get_mut(key) {
            let Some(op) = self.ops.pop(&mut session.state.read) else { break };
            self.fail(op, OpError::Released);
        }
        if self.advance_close(core, key) == Step::Again {
            core.enqueue(key);
        }
        if core.sessions.get_mut(key).is_some() {
            let bound = if linger > 0 { u64::from(linger) * 1_000_000_000 } else { nanos(core.limits.close_within) };
            core.timers.arm(sys::now().saturating_add(bound), Timer::Close(key.token()));
        }
    }

    /// Does the next thing in the write queue end the session?
    pub(crate) fn head_is_ending(&mut self, session: &Session<Queues>) -> bool {
        self.ops.head(&session.state.write).is_some_and(|pending| pending.op.body.is_ending())
    }

    /// Moves a graceful close on as far as it goes.
    pub(crate) fn advance_close(&mut self, core: &mut Core, key: Key) -> Step {
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        if !session.state.write.is_empty() && !self.head_is_ending(session) {
            // Flushing. With the budget spent there may be more to send at once.
            let more = session.writable() || session.has(Flags::BROKEN);
            return if more { Step::Again } else { Step::Idle };
        }
        let mut over = session.has(Flags::BROKEN) || session.has(Flags::RESET);
        if !over && !session.has(Flags::SHUT) {
            session.set(Flags::SHUT);
            // Even if the peer has ended: where a child has a duplicate, the close alone would not tell it of our end.
            over = sys::shutdown_write(&session.socket).is_err();
        }
        if over || session.has(Flags::EOF) {
            // Nothing more will come.
            self.end_session(core, key, || OpError::Released);
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
            let verb = session.recv_slice(sink.space());
            self.stash.give(sink);
            match verb {
                Verb::Moved(n) => {
                    let kib = u16::try_from(n.div_ceil(1024)).unwrap_or(u16::MAX);
                    session.state.drained = session.state.drained.saturating_add(kib);
                }
                Verb::Pending => return Step::Idle,
                Verb::Eof | Verb::Failed(_) => {
                    self.end_session(core, key, || OpError::Released);
                    return Step::Idle;
                }
            }
            if usize::from(session.state.drained) * 1024 > core.limits.close_drain {
                count(&self.shared.counters.closed_hard);
                self.end_session(core, key, || OpError::Released);
                return Step::Idle;
            }
        }
        Step::Again
    }

    /// The time of a graceful close is over.
    pub(crate) fn close_overdue(&mut self, core: &mut Core, key: Key) {
        if core.sessions.get_mut(key).is_some_and(|session| session.has(Flags::CLOSING)) {
            count(&self.shared.counters.closed_hard);
            self.end_session(core, key, || OpError::Released);
        }
    }

    /// Ends a session now. The descriptor goes first, then its operations complete: closes as done, the rest failed.
    pub(crate) fn end_session(&mut self, core: &mut Core, key: Key, error: impl Fn() -> OpError) {
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
        self.shared.left();
        if closing {
            self.closing -= 1;
        }
        while let Some(op) = self.ops.pop(&mut read) {
            self.fail(op, error());
        }
        while let Some(pending) = self.ops.pop(&mut write) {
            self.writes -= 1;
            if pending.op.body.is_ending() {
                self.complete(pending.op.conn, pending.op.context, Stored::Closed);
            } else {
                self.fail(pending, error());
            }
        }
    }
}
