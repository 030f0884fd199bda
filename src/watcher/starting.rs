//! How an operation begins: tried at once if it is first in line, and kept only if it has to wait.
//!
//! ```text
//!   a write, first in line ──sent──┬── all of it ──────────► completed; linked: as the read, below
//!                                  ├── a part, or nothing ─► the queue, in front: the rest of it waits there
//!                                  └── an error ───────────► completed, as failed
//!   any other ─────────────► the queue ──► tried there, if it is the first, its direction ready, and no one before it
//! ```
//!
//! Most writes are sent whole as they come, and need no place among the pending ones: that is two moves of an operation
//! less per message. What a write in hand may do is what it might at the head of its queue, budget and all (I8, I11).

use std::io::IoSlice;

use crate::error::OpError;
use crate::event_loop::Step;
use crate::event_loop::session::{Flags, Verb};
use crate::event_loop::slab::Key;
use crate::watcher::Conn;
use crate::watcher::body::{Body, Piece, Then};
use crate::watcher::bounds::Bounds;
use crate::watcher::link::Token;
use crate::watcher::outcome::Outcome;
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::sending::{Sent, moved};
use crate::watcher::submission::Operation;
use crate::watcher::turn::Turn;

/// A write in hand, taken apart: so that nothing of it is moved that need not be.
pub(crate) struct Write<C, P> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) bounds: Bounds,
    pub(crate) then: Then,
    pub(crate) payload: P,
}

impl<C, P: Piece> Write<C, P> {
    pub(crate) fn whole(self) -> Operation<C> {
        let Self { conn, context, bounds, then, payload } = self;
        Operation { conn, context, body: payload.into_body(then), bounds }
    }
}

/// Puts a session on the ready list if its step has left something.
#[inline]
fn go_on(core: &mut Core, key: Key, step: Step) {
    if step != Step::Idle {
        core.enqueue(key);
    }
}

impl<C> Proactor<C> {
    /// Takes up a write of one piece: sends it from where it is, if it may be tried at once.
    #[inline(always)]
    pub(crate) fn write<P: Piece>(&mut self, core: &mut Core, write: Write<C, P>) {
        let Token::Session(token) = write.conn.token() else {
            return self.fail_new(write.whole(), OpError::NotRegistered);
        };
        let (key, turn) = (Key::from_token(token), core.turn());
        let Some(session) = core.sessions.get_mut(key).filter(|session| !session.has(Flags::CLOSING)) else {
            return self.fail_new(write.whole(), OpError::Closed);
        };
        let bytes = write.payload.as_ref();
        // None are a datagram, and too many are sent piece by piece.
        let whole = (1..=self.limits.bytes_per_turn).contains(&bytes.len()) && !session.has(Flags::WRITES_APART);
        let next = session.state.write.is_empty() && session.writable();
        if !whole || !next || !session.first_in(turn) || self.outbox.is_full() {
            return self.keep_write(core, key, write.whole());
        }
        let n = match session.send(&[IoSlice::new(bytes)]) {
            Verb::Moved(n) if n == bytes.len() => n,
            verb => return self.sent_in_part(core, key, write.whole(), verb),
        };
        self.outbox.written += n as u64;
        let Write { conn, context, bounds, then, payload } = write;
        let payload = payload.written();
        if then == Then::DONE {
            self.complete(conn, context, Outcome::Wrote(payload));
        } else {
            match then.becomes(payload, &mut self.stash, &mut self.spent) {
                Err(payload) => self.complete(conn, context, Outcome::Wrote(payload)),
                Ok(body) => {
                    let index = self.ops.push(&mut session.state.read, Operation { conn, context, body, bounds });
                    if let Some(at) = bounds.deadline() {
                        self.ops.arm(&session.state, index, at, &mut core.timers);
                    }
                }
            }
        }
        if session.wants_to_read() {
            self.read_behind(core, key, n);
        }
    }

    /// A write of `n` bytes is out: reads that can go on do so with what it has left of the budget.
    #[inline(never)]
    fn read_behind(&mut self, core: &mut Core, key: Key, n: usize) {
        let others_wait = core.others_wait();
        let Some(session) = core.sessions.get_mut(key) else { return };
        let mut step = Step::Again;
        if !others_wait {
            let mut turn = Turn::new(key, session, &mut core.timers, &self.limits);
            turn.budget.moved(n);
            turn.budget.ops = turn.budget.ops.saturating_sub(1);
            if !turn.budget.is_spent() {
                step = self.step_on(&mut turn);
            }
        }
        go_on(core, key, step);
    }

    /// Takes up any other operation.
    #[inline(never)]
    pub(crate) fn start(&mut self, core: &mut Core, op: Operation<C>) {
        let Token::Session(token) = op.conn.token() else {
            return self.fail_new(op, OpError::NotRegistered);
        };
        let key = Key::from_token(token);
        if op.body.is_ending() {
            self.start_ending(core, key, op);
        } else if op.body.goes_out() {
            self.start_write(core, key, op);
        } else {
            self.keep::<false>(core, key, op);
        }
    }

    /// What is rarer than the writes that `take_up_op` knows.
    #[inline(never)]
    fn start_write(&mut self, core: &mut Core, key: Key, op: Operation<C>) {
        match op {
            Operation { conn, context, bounds, body: Body::WriteStatic(then, payload) } => {
                self.write(core, Write { conn, context, bounds, then, payload });
            }
            op => self.keep_write(core, key, op),
        }
    }

    #[inline(never)]
    fn keep_write(&mut self, core: &mut Core, key: Key, op: Operation<C>) {
        self.keep::<true>(core, key, op);
    }

    /// Puts an operation into the queue of those that go out, or come in, and tries it there if it may be tried at once.
    #[inline(always)]
    fn keep<const OUT: bool>(&mut self, core: &mut Core, key: Key, op: Operation<C>) {
        let (others_wait, turn) = (core.others_wait(), core.turn());
        let Some(session) = core.sessions.get_mut(key).filter(|session| !session.has(Flags::CLOSING)) else {
            return self.fail_new(op, OpError::Closed);
        };
        let until = op.bounds.deadline();
        let queue = if OUT { &mut session.state.write } else { &mut session.state.read };
        let first = queue.is_empty();
        let index = self.ops.push(queue, op);
        self.writes += usize::from(OUT);
        let step = if !first || !(if OUT { session.moves_writes() } else { session.readable() }) {
            Step::Idle
        } else if others_wait && !OUT || !session.first_in(turn) || self.outbox.is_full() {
            // A read goes behind those that wait for their turn (G8), and does not go on while the batch has no place for
            // its outcome. A write goes before them: it produces nothing that they wait for, and gives back what it holds.
            Step::Again
        } else if OUT {
            self.write_on(&mut Turn::new(key, session, &mut core.timers, &self.limits), others_wait)
        } else {
            self.step_on(&mut Turn::new(key, session, &mut core.timers, &self.limits))
        };
        if let Some(at) = until {
            self.ops.arm(&session.state, index, at, &mut core.timers);
        }
        go_on(core, key, step);
    }

    /// Not all of a write in hand went out, or nothing: what is left waits in front of its queue.
    #[cold]
    fn sent_in_part(&mut self, core: &mut Core, key: Key, op: Operation<C>, verb: Verb) {
        let others_wait = core.others_wait();
        let Some(session) = core.sessions.get_mut(key) else { unreachable!("it has sent just now") };
        let until = op.bounds.deadline();
        self.writes += 1;
        let index = self.ops.push(&mut session.state.write, op);
        let mut turn = Turn::new(key, session, &mut core.timers, &self.limits);
        match moved(verb, &mut turn) {
            Ok(n) => {
                if let Some(pending) = self.ops.get(index) {
                    pending.done = n;
                }
            }
            Err(Sent::Failed(errno)) => self.break_off(&mut turn, errno),
            Err(_) => {}
        }
        let step = self.write_on(&mut turn, others_wait);
        if let Some(at) = until {
            self.ops.arm(&session.state, index, at, &mut core.timers);
        }
        go_on(core, key, step);
    }
}
