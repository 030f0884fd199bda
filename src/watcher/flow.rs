//! Bytes in motion: how a pending operation is tried, and what an attempt leaves.
//!
//! ```text
//! write:   Idle ──► Sending ──EAGAIN──► Blocked ──edge──► Sending ──all sent──► completed (or on to the linked read)
//!                      └── error ──► Broken: this one fails with its count, all that follow as `Broken` (I11)
//! read:    Idle ──► Receiving ──bytes──► completed        (an exact read goes round until it has all)
//!                      ├── EAGAIN ──► queued until an edge (I9)
//!                      └── arena full ──► starved until a batch is taken
//! ```
//!
//! One step of a session moves at most its budget; what is left makes it go to the end of the ready list (I8).

use crate::error::OpError;
use crate::event_loop::Step;
use crate::event_loop::session::{Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timer;
use crate::limits::Limits;
use crate::sys::{self, Errno};
use crate::watcher::batch::Stored;
use crate::watcher::lease::{Class, SMALL};
use crate::watcher::op::{Body, Then};
use crate::watcher::proactor::{Core, Proactor};
use crate::watcher::queue::{Pending, Queues};

/// Pause before a send is tried again for which memory was short: no edge announces memory.
const RETRY: u64 = 5_000_000;

/// What one session may still do in this turn.
#[derive(Debug)]
pub(crate) struct Budget {
    ops: u32,
    bytes: usize,
}

impl Budget {
    const fn of(limits: &Limits) -> Self {
        Self { ops: limits.ops_per_turn, bytes: limits.bytes_per_turn }
    }

    const fn is_spent(&self) -> bool {
        self.ops == 0 || self.bytes == 0
    }

    const fn moved(&mut self, n: usize) {
        self.bytes = self.bytes.saturating_sub(n);
    }

    const fn completed(&mut self) {
        self.ops = self.ops.saturating_sub(1);
    }
}

impl Session<Queues> {
    fn wants_to_write(&self) -> bool {
        !self.state.write.is_empty() && (self.writable() || self.has(Flags::BROKEN))
    }

    fn wants_to_read(&self) -> bool {
        !self.state.read.is_empty() && self.readable() && !self.has(Flags::STARVED)
    }
}

impl<C> Proactor<C> {
    /// Moves one session on: writes first, since they free what the peer waits for.
    pub(crate) fn step_session(&mut self, core: &mut Core, key: Key) -> Step {
        let mut budget = Budget::of(&core.limits);
        let write_left = self.run_writes(core, key, &mut budget);
        self.run_reads(core, key, &mut budget);
        let Some(session) = core.sessions.get_mut(key) else { return Step::Idle };
        if session.has(Flags::CLOSING) {
            return self.advance_close(core, key);
        }
        if write_left || session.wants_to_read() { Step::Again } else { Step::Idle }
    }

    /// True: there is more to write, and only the budget stands in the way.
    fn run_writes(&mut self, core: &mut Core, key: Key, budget: &mut Budget) -> bool {
        loop {
            let Some(session) = core.sessions.get_mut(key) else { return false };
            if !session.wants_to_write() || self.head_is_ending(session) {
                return false;
            }
            if budget.is_spent() {
                return true;
            }
            let Some(op) = self.ops.pop_front(&mut session.state.write) else { return false };
            self.writes -= 1;
            if let Some(op) = self.try_write(core, key, op, budget) {
                let Some(session) = core.sessions.get_mut(key) else { return false };
                self.writes += 1;
                self.ops.push_front(&mut session.state.write, op);
            }
        }
    }

    fn run_reads(&mut self, core: &mut Core, key: Key, budget: &mut Budget) {
        loop {
            let Some(session) = core.sessions.get_mut(key) else { return };
            if !session.wants_to_read() || budget.is_spent() {
                return;
            }
            let Some(op) = self.ops.pop_front(&mut session.state.read) else { return };
            if let Some(op) = self.try_read(core, key, op, budget) {
                let Some(session) = core.sessions.get_mut(key) else { return };
                self.ops.push_front(&mut session.state.read, op);
            }
        }
    }

    /// Tries an operation that is not in a queue yet.
    pub(crate) fn attempt(&mut self, core: &mut Core, key: Key, op: Pending<C>) {
        let mut budget = Budget::of(&core.limits);
        let write = op.body.is_write();
        let left =
            if write { self.try_write(core, key, op, &mut budget) } else { self.try_read(core, key, op, &mut budget) };
        let Some(op) = left else { return };
        self.store(core, key, op);
        let ready = core.sessions.get_mut(key).is_some_and(|s| s.wants_to_write() || s.wants_to_read());
        if ready {
            core.enqueue(key);
        }
    }

    /// Sends until all is out, the system takes no more, or the budget is spent. The operation comes back if it waits.
    fn try_write(&mut self, core: &mut Core, key: Key, mut op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let Some(session) = core.sessions.get_mut(key) else {
            self.fail(op, OpError::Closed);
            return None;
        };
        if session.has(Flags::BROKEN) {
            self.fail(op, OpError::Broken);
            return None;
        }
        loop {
            let rest = &op.body.bytes()[op.done..];
            if rest.is_empty() {
                break;
            }
            let chunk = rest.len().min(budget.bytes);
            if chunk == 0 {
                return Some(op);
            }
            match session.send(&rest[..chunk]) {
                Verb::Moved(n) => {
                    op.done += n;
                    budget.moved(n);
                }
                Verb::Pending => return Some(op),
                Verb::Failed(Errno::NOBUFS | Errno::NOMEM) => {
                    session.wait_for_retry();
                    core.timers.arm(sys::now() + RETRY, Timer::Retry(key.token()));
                    return Some(op);
                }
                Verb::Failed(errno) => {
                    session.set(Flags::BROKEN);
                    self.fail(op, OpError::Os(errno.into()));
                    return None;
                }
                Verb::Eof => unreachable!("a send has no end of stream"),
            }
        }
        budget.completed();
        self.written += op.body.bytes().len() as u64;
        self.wrote(core, key, op, budget);
        None
    }

    /// All bytes of a write are out: it completes, or goes on as the read it is linked to.
    fn wrote(&mut self, core: &mut Core, key: Key, mut op: Pending<C>, budget: &mut Budget) {
        let then = op.body.then().unwrap_or(Then::Done);
        op.body = match (then, op.body) {
            (Then::ReadSame, Body::WriteVec(_, mut bytes)) => {
                bytes.clear();
                Body::Read(bytes)
            }
            (Then::ReadPooled, spent) => {
                self.give_back(spent);
                Body::ReadPooled
            }
            (Then::ReadLeased, spent) => {
                self.give_back(spent);
                Body::ReadLeased
            }
            (Then::Done | Then::ReadSame, body) => {
                let Some(payload) = body.into_payload() else { unreachable!("a write has a payload") };
                return self.complete(op.conn, op.context, Stored::Wrote(payload));
            }
        };
        op.done = 0;
        let Some(session) = core.sessions.get_mut(key) else { return self.fail(op, OpError::Closed) };
        let first = session.state.read.is_empty();
        let left = if first && session.readable() { self.try_read(core, key, op, budget) } else { Some(op) };
        if let Some(op) = left {
            self.store(core, key, op);
        }
    }

    fn give_back(&mut self, spent: Body) {
        if let Body::WriteLease(_, lease) = spent {
            self.stash.give(lease);
        }
    }

    /// Receives what the operation asks for. It comes back if it waits.
    fn try_read(&mut self, core: &mut Core, key: Key, op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        match op.body {
            Body::Read(_) => self.read_vec(core, key, op, budget),
            Body::ReadExact(..) => self.read_exact(core, key, op, budget),
            Body::ReadPooled => self.read_pooled(core, key, op, budget),
            Body::ReadLeased => self.read_leased(core, key, op, budget),
            _ => self.read_nothing(core, key, op, budget),
        }
    }

    /// What all reads do with an answer that is not bytes.
    fn not_bytes(&mut self, verb: Verb, op: Pending<C>) -> Option<Pending<C>> {
        match verb {
            Verb::Pending | Verb::Moved(_) => return Some(op),
            Verb::Eof => {
                let buffer = op.body.into_payload().and_then(crate::watcher::Payload::into_vec);
                self.complete(op.conn, op.context, Stored::Eof(buffer));
            }
            Verb::Failed(errno) => self.fail(op, OpError::Os(errno.into())),
        }
        None
    }

    fn read_vec(&mut self, core: &mut Core, key: Key, mut op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let (Some(session), Body::Read(buffer)) = (core.sessions.get_mut(key), &mut op.body) else { return Some(op) };
        let (bytes, verb) = session.recv_vec(std::mem::take(buffer));
        if let Verb::Moved(n) = verb {
            budget.moved(n);
            budget.completed();
            self.complete(op.conn, op.context, Stored::Read(bytes));
            return None;
        }
        *buffer = bytes;
        self.not_bytes(verb, op)
    }

    fn read_exact(&mut self, core: &mut Core, key: Key, mut op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let (Some(session), Body::ReadExact(buffer, n)) = (core.sessions.get_mut(key), &mut op.body) else {
            return Some(op);
        };
        // On until all is there: after a short read with a hang-up seen, the end comes without another edge.
        while op.done < *n && budget.bytes > 0 && session.readable() {
            let most = (*n - op.done).min(budget.bytes);
            let (bytes, verb) = session.recv_exact(std::mem::take(buffer), most);
            *buffer = bytes;
            let Verb::Moved(got) = verb else { return self.not_bytes(verb, op) };
            op.done += got;
            budget.moved(got);
        }
        if op.done < *n {
            return Some(op);
        }
        budget.completed();
        let bytes = std::mem::take(buffer);
        self.complete(op.conn, op.context, Stored::Read(bytes));
        None
    }

    fn read_pooled(&mut self, core: &mut Core, key: Key, op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let Some(session) = core.sessions.get_mut(key) else { return Some(op) };
        let cap = core.limits.read_cap;
        let Some(room) = self.outbox.filling().arena.room(cap) else {
            self.starve(session, key);
            return Some(op);
        };
        let verb = session.recv_slice(room);
        let Verb::Moved(n) = verb else { return self.not_bytes(verb, op) };
        budget.moved(n);
        budget.completed();
        let bytes = self.outbox.filling().arena.keep(n);
        self.complete(op.conn, op.context, bytes);
        None
    }

    fn read_leased(&mut self, core: &mut Core, key: Key, op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let Some(session) = core.sessions.get_mut(key) else { return Some(op) };
        let bulk = session.has(Flags::BULK);
        let mut lease = self.stash.draw(if bulk { Class::Large } else { Class::Small });
        let (bytes, verb) = session.recv_vec(std::mem::take(lease.space()));
        let full = bytes.len() == bytes.capacity();
        *lease.space() = bytes;
        let Verb::Moved(n) = verb else {
            self.stash.give(lease);
            return self.not_bytes(verb, op);
        };
        // Whoever fills a small buffer gets large ones, until one comes back with little in it.
        if full {
            session.set(Flags::BULK);
        } else if n < SMALL {
            session.clear(Flags::BULK);
        }
        budget.moved(n);
        budget.completed();
        self.complete(op.conn, op.context, Stored::Leased(lease));
        None
    }

    /// Is there something? Nothing is taken.
    fn read_nothing(&mut self, core: &mut Core, key: Key, op: Pending<C>, budget: &mut Budget) -> Option<Pending<C>> {
        let Some(session) = core.sessions.get_mut(key) else { return Some(op) };
        match session.peek() {
            Verb::Pending => Some(op),
            // An error is left to the read that follows, as the end of the stream is.
            Verb::Moved(_) | Verb::Eof | Verb::Failed(_) => {
                budget.completed();
                self.complete(op.conn, op.context, Stored::Readable);
                None
            }
        }
    }
}
