//! Bytes in motion: how the pending operations of a session are tried, and what an attempt leaves.
//!
//! ```text
//! write:   Idle ──► Sending ──EAGAIN──► Blocked ──edge──► Sending ──all sent──► completed, or relinked as the read
//!                      └── error ──► Broken: this one fails with its count, all that follow as `Broken` (I11)
//! read:    Idle ──► Receiving ──bytes──► completed        (an exact read goes round until it has all)
//!                      ├── EAGAIN ──► waits for an edge (I9)
//!                      └── arena full ──► starved until a batch is taken, in line with the others
//! ```
//!
//! One step of a session moves at most its budget; what is left makes it go to the end of the ready list (G8).

use crate::error::OpError;
use crate::event_loop::Step;
use crate::event_loop::session::{Flags, Session, Verb};
use crate::event_loop::slab::Key;
use crate::event_loop::timers::Timers;
use crate::sys::{self, Errno};
use crate::watcher::Conn;
use crate::watcher::batch::Stored;
use crate::watcher::body::{Body, Then};
use crate::watcher::outcome::{Outcome, Payload};
use crate::watcher::pool::{Class, SMALL};
use crate::watcher::proactor::Proactor;
use crate::watcher::queue::{Pending, Queues};
use crate::watcher::sending::{Sent, send_pieces, send_rest};
use crate::watcher::turn::{Budget, Turn};

/// What trying the operation at the head of a queue came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tried {
    /// It has left the queue: the next one may be tried.
    Gone,
    /// It waits for an edge, a timer, the arena.
    Waits,
    /// The budget is spent.
    Spent,
}

impl<C> Proactor<C> {
    /// Moves one session on: writes first, since they free what the peer waits for, and may turn into reads.
    #[inline(always)]
    pub(crate) fn step_session(&mut self, key: Key, session: &mut Session<Queues>, timers: &mut Timers) -> Step {
        self.step(&mut Turn::new(key, session, timers, &self.limits))
    }

    /// The same, with what is left of the budget: there is some. Out of line, so that the turn has a copy of its own, inlined:
    /// 25 instructions a message.
    #[inline(never)]
    pub(crate) fn step_on(&mut self, turn: &mut Turn<'_>) -> Step {
        self.step(turn)
    }

    #[inline(always)]
    fn step(&mut self, turn: &mut Turn<'_>) -> Step {
        debug_assert!(!turn.budget.is_spent(), "whoever has used it up looks before");
        let mut tried = Tried::Waits;
        if turn.session.wants_to_write() {
            // A peer that takes all we send must not keep us from reading: half of the budget is for that.
            let kept = if turn.session.wants_to_read() { turn.budget.halve() } else { Budget::NONE };
            tried = self.run_writes(turn);
            turn.budget.add(&kept);
            if turn.budget.is_spent() {
                return Step::Again; // There may be a read that the write was linked to.
            }
        }
        if turn.session.wants_to_read() && self.run_reads(turn) == Tried::Spent {
            tried = Tried::Spent;
        }
        if turn.session.has(Flags::NOT_OPEN) {
            return Step::Ending;
        }
        if tried == Tried::Spent { Step::Again } else { Step::Idle }
    }

    /// Writes, and leaves a read that this brings forth to the ready list if others wait there.
    pub(crate) fn write_on(&mut self, turn: &mut Turn<'_>, others_wait: bool) -> Step {
        if turn.budget.is_spent() {
            return Step::Again;
        }
        if !others_wait {
            return self.step_on(turn);
        }
        let tried = if turn.session.wants_to_write() { self.run_writes(turn) } else { Tried::Waits };
        if tried == Tried::Spent || turn.session.wants_to_read() { Step::Again } else { Step::Idle }
    }

    #[inline(never)]
    fn run_writes(&mut self, turn: &mut Turn<'_>) -> Tried {
        loop {
            let tried = self.try_write(turn);
            if tried != Tried::Gone || !turn.session.wants_to_write() {
                return tried;
            }
        }
    }

    #[inline(always)]
    fn run_reads(&mut self, turn: &mut Turn<'_>) -> Tried {
        loop {
            let tried = self.try_read(turn);
            if tried != Tried::Gone || !turn.session.wants_to_read() {
                return tried;
            }
            if turn.budget.is_spent() {
                return Tried::Spent;
            }
        }
    }

    /// Sends until all is out, the system takes no more, or the budget is spent.
    #[inline]
    pub(crate) fn try_write(&mut self, turn: &mut Turn<'_>) -> Tried {
        if turn.session.has(Flags::WRITES_APART) {
            if let Some(tried) = self.write_apart(turn) {
                return tried;
            }
        }
        let Some(pending) = self.ops.head(&turn.session.state.write) else { return Tried::Waits };
        if !pending.body.is_write() {
            return self.end_output(turn);
        }
        let sent = if let Body::WriteMany { .. } = pending.body {
            send_pieces(pending, turn)
        } else {
            send_rest(pending, turn)
        };
        match sent {
            Sent::All => {}
            Sent::Waits => return Tried::Waits,
            Sent::Spent => return Tried::Spent,
            Sent::Failed(errno) => {
                self.break_off(turn, errno);
                return Tried::Gone;
            }
        }
        self.outbox.written += pending.done as u64;
        turn.budget.ops = turn.budget.ops.saturating_sub(1);
        self.writes -= 1;
        // What is left in its place holds nothing.
        let body = std::mem::replace(&mut pending.body, Body::Readable);
        let then = body.then().unwrap_or(Then::DONE);
        match body.into_payload().map(|payload| then.becomes(payload, &mut self.stash, &mut self.spent)) {
            Some(Ok(read)) => {
                pending.body = read;
                pending.done = 0;
                self.read_on(turn);
            }
            Some(Err(payload)) => {
                if let Some((conn, context)) = self.ops.pop_spent(&mut turn.session.state.write, turn.timers) {
                    self.complete(conn, context, Outcome::Wrote(payload));
                }
            }
            None => unreachable!("a write has a payload"),
        }
        Tried::Gone
    }

    /// The head of the writes has become a read: it goes behind those that are pending.
    #[inline]
    fn read_on(&mut self, turn: &mut Turn<'_>) {
        let queues = &mut turn.session.state;
        self.ops.relink(&mut queues.write, &mut queues.read);
        if turn.session.has(Flags::CLOSING) {
            // It is released as those were that were pending when the end began: it would read bytes behind a gap.
            if let Some(pending) = self.ops.pop(&mut turn.session.state.read, turn.timers) {
                self.fail(pending, OpError::Released);
            }
        }
    }

    /// A datagram, or what is to be refused. `None`: it is out, and to be completed.
    #[cold]
    fn write_apart(&mut self, turn: &mut Turn<'_>) -> Option<Tried> {
        if turn.session.has(Flags::DATAGRAM) { self.send_datagram(turn) } else { Some(self.refuse_write(turn)) }
    }

    /// Nothing may follow what was torn, nor what ended the output.
    fn refuse_write(&mut self, turn: &mut Turn<'_>) -> Tried {
        let ends = self.ops.head(&turn.session.state.write).is_some_and(|pending| pending.body.is_ending());
        if ends {
            return Tried::Waits; // `advance_close` sees to it.
        }
        self.fail_write(turn, OpError::Broken);
        Tried::Gone
    }

    /// What is at the head and no write: the end of the output, or of the session (`advance_close` sees to that one).
    #[cold]
    fn end_output(&mut self, turn: &mut Turn<'_>) -> Tried {
        let is_shutdown = |pending: &mut Pending<C>| matches!(pending.body, Body::ShutdownWrite);
        if !self.ops.head(&turn.session.state.write).is_some_and(is_shutdown) {
            return Tried::Waits;
        }
        if let Err(errno) = sys::shutdown_write(&turn.session.socket) {
            self.fail_write(turn, OpError::Os(errno.into()));
            return Tried::Gone;
        }
        turn.session.set(Flags::SHUT);
        if let Some(pending) = self.ops.pop(&mut turn.session.state.write, turn.timers) {
            self.writes -= 1;
            self.complete(pending.conn, pending.context, Outcome::ShutDown);
        }
        Tried::Gone
    }

    /// The write at the head was answered with an error: nothing may follow it (I11).
    #[cold]
    pub(crate) fn break_off(&mut self, turn: &mut Turn<'_>, errno: Errno) {
        turn.session.set(Flags::BROKEN);
        self.fail_write(turn, OpError::Os(errno.into()));
    }

    #[cold]
    pub(crate) fn fail_write(&mut self, turn: &mut Turn<'_>, error: OpError) {
        if let Some(pending) = self.ops.pop(&mut turn.session.state.write, turn.timers) {
            self.writes -= 1;
            self.fail(pending, error);
        }
    }

    /// Receives what the operation at the head asks for.
    #[inline(always)]
    pub(crate) fn try_read(&mut self, turn: &mut Turn<'_>) -> Tried {
        if turn.session.has(Flags::READS_APART) {
            return self.read_apart(turn);
        }
        match self.ops.head(&turn.session.state.read) {
            Some(Pending { body: Body::ReadLeased, .. }) => self.read_leased(turn),
            Some(Pending { body: Body::ReadPooled, .. }) => self.read_pooled(turn),
            Some(Pending { body: Body::Read(buffer), .. }) => {
                let buffer = std::mem::take(buffer);
                self.read_vec(turn, buffer)
            }
            // Three and a rest: told apart by comparing, and not by a jump through a table.
            _ => self.read_own(turn),
        }
    }

    /// Receives into the vector that came with the operation at the head, once.
    #[inline(always)]
    fn read_vec(&mut self, turn: &mut Turn<'_>, buffer: Vec<u8>) -> Tried {
        let (bytes, verb) = turn.session.recv_vec(buffer);
        let Verb::Moved(n) = verb else {
            // Not what was hoped for: the buffer goes back to where it was.
            if let Some(pending) = self.ops.head(&turn.session.state.read) {
                pending.body = Body::Read(bytes);
            }
            return self.not_bytes(turn, verb);
        };
        if let Some((conn, context)) = self.take_read(turn, n) {
            self.complete(conn, context, Outcome::Read(bytes));
        }
        Tried::Gone
    }

    /// Receives into the vector until it has all that was asked for, or looks whether there is something to receive.
    #[inline(never)]
    fn read_own(&mut self, turn: &mut Turn<'_>) -> Tried {
        let Some(pending) = self.ops.head(&turn.session.state.read) else { return Tried::Waits };
        let (verb, outcome) = match &mut pending.body {
            Body::ReadExact(buffer, n) => {
                let n = *n;
                // On until all is there: after a short read with a hang-up seen, the end comes without another edge.
                let mut verb = Verb::Moved(0);
                while pending.done < n && turn.budget.bytes > 0 && turn.session.readable() {
                    let most = (n - pending.done).min(turn.budget.bytes);
                    (*buffer, verb) = turn.session.recv_exact(std::mem::take(buffer), most);
                    let Verb::Moved(got) = verb else { break };
                    pending.done += got;
                    turn.budget.moved(got);
                }
                match verb {
                    Verb::Moved(_) if pending.done < n && turn.budget.bytes == 0 => return Tried::Spent,
                    Verb::Moved(_) if pending.done < n => return Tried::Waits,
                    _ => (verb, Outcome::Read(std::mem::take(buffer))),
                }
            }
            // An error or the end of the stream is left to the read that follows.
            _ => match turn.session.peek() {
                Verb::Pending => return Tried::Waits,
                _ => (Verb::Moved(0), Outcome::Readable),
            },
        };
        match verb {
            Verb::Moved(n) => self.finish_read(turn, n, outcome),
            verb => {
                // Not what was hoped for: the buffer goes back to where it was.
                if let (Outcome::Read(bytes), Body::ReadExact(buffer, _)) = (outcome, &mut pending.body) {
                    *buffer = bytes;
                }
                self.not_bytes(turn, verb)
            }
        }
    }

    #[cold]
    fn read_apart(&mut self, turn: &mut Turn<'_>) -> Tried {
        if turn.session.has(Flags::DATAGRAM) { self.read_datagram(turn) } else { self.read_leftover(turn) }
    }

    /// `outcome` is all that the operation at the head has to give back.
    pub(crate) fn finish_read(&mut self, turn: &mut Turn<'_>, n: usize, outcome: impl Into<Stored>) -> Tried {
        if let Some((conn, context)) = self.take_read(turn, n) {
            self.complete(conn, context, outcome);
        }
        Tried::Gone
    }

    /// The read at the head has got `n` bytes, and there is nothing left in its body.
    #[inline(always)]
    fn take_read(&mut self, turn: &mut Turn<'_>, n: usize) -> Option<(Conn<C>, C)> {
        turn.budget.moved(n);
        turn.budget.ops = turn.budget.ops.saturating_sub(1);
        self.outbox.filling().bytes += n;
        self.ops.pop_spent(&mut turn.session.state.read, turn.timers)
    }

    /// What all reads do with an answer that is not bytes.
    #[inline(never)]
    pub(crate) fn not_bytes(&mut self, turn: &mut Turn<'_>, verb: Verb) -> Tried {
        if matches!(verb, Verb::Pending | Verb::Moved(_)) {
            return Tried::Waits;
        }
        if let Some(pending) = self.ops.pop(&mut turn.session.state.read, turn.timers) {
            match verb {
                Verb::Failed(errno) => self.fail(pending, OpError::Os(errno.into())),
                _ => {
                    let buffer = pending.body.into_payload().and_then(Payload::into_vec);
                    self.complete(pending.conn, pending.context, Outcome::Eof(buffer));
                }
            }
        }
        Tried::Gone
    }

    #[inline(never)]
    fn read_pooled(&mut self, turn: &mut Turn<'_>) -> Tried {
        let counters = &self.shared.counters;
        let Some(place) = self.starving.comes_up(turn.session, turn.key, counters) else { return Tried::Waits };
        let Some(room) = self.outbox.filling().arena.room(self.limits.read_cap) else {
            self.starving.starve(turn.session, turn.key, place, counters);
            return Tried::Waits;
        };
        match turn.session.recv_slice(room) {
            Verb::Moved(n) => {
                let bytes = self.outbox.filling().arena.keep(n);
                if let Some((conn, context)) = self.take_read(turn, n) {
                    self.complete(conn, context, bytes);
                }
                Tried::Gone
            }
            verb => self.not_bytes(turn, verb),
        }
    }

    #[inline(always)]
    fn read_leased(&mut self, turn: &mut Turn<'_>) -> Tried {
        let class = if turn.session.has(Flags::BULK) { Class::Large } else { Class::Small };
        let mut lease = self.stash.draw(class);
        let verb = turn.session.recv_append(lease.vec());
        let Verb::Moved(n) = verb else {
            self.stash.give(lease);
            return self.not_bytes(turn, verb);
        };
        // Whoever fills a small buffer gets large ones, until one comes back with little in it.
        if n == lease.size() {
            turn.session.set(Flags::BULK);
        } else if n < SMALL {
            turn.session.clear(Flags::BULK);
        }
        if let Some((conn, context)) = self.take_read(turn, n) {
            self.complete(conn, context, Outcome::Leased(lease));
        }
        Tried::Gone
    }
}

impl Session<Queues> {
    /// Can a write be sent, or refused? No edge announces the latter.
    #[inline]
    pub(crate) const fn moves_writes(&self) -> bool {
        self.writable() || self.has(Flags::MUTE)
    }

    #[inline]
    pub(crate) const fn wants_to_write(&self) -> bool {
        !self.state.write.is_empty() && self.moves_writes()
    }

    #[inline]
    pub(crate) const fn wants_to_read(&self) -> bool {
        !self.state.read.is_empty() && self.readable() && !self.has(Flags::STARVED)
    }
}
