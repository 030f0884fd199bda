//! The proactor: the state machine that lives on each connection of the first face, and its output.
//!
//! A session's state is two queues of pending operations, one per direction. An operation in hand is tried at once,
//! and stored only if it must wait: an idle session owns nothing, a pending operation one entry of the slab.
//!
//! ```text
//!   submission ──► tried ──► completion          tried only if its queue is empty, the direction ready, and nobody
//!                    │ pending                    waits on the ready list (I8)
//!                    ▼                 edge
//!                 queue (FIFO) ─────────────────► tried, head first
//! ```
//!
//! Whatever happens to an operation, `complete` is called exactly once with its handle, context and buffer (I1):
//! an operation is a value that is moved from the ring to the queue to the batch, and there is no other way out.
//!
//! Models: loom-tests/lifecycle.rs. Mutants that must fail: `returns_overlooked`, `ended_early`.

use std::collections::VecDeque;

use crate::error::{OpError, WaitError};
use crate::event_loop::counters::count;
use crate::event_loop::listener::{Listening, Phase};
use crate::event_loop::session::{Flags, Session};
use crate::event_loop::slab::{Key, Slab};
use crate::event_loop::timers::Timer;
use crate::event_loop::{self, Face as _, Step};
use crate::handoff::{Consumer, Pop, Position, Published, Publisher};
use crate::sync::{Arc, Ordering, mutant};
use crate::sys::{self, Errno, Socket};
use crate::watcher::Conn;
use crate::watcher::batch::{Buffer, Item, Stored};
use crate::watcher::conn::{Addresses, Token};
use crate::watcher::lease::Stash;
use crate::watcher::op::{Body, Submission};
use crate::watcher::outcome::{Failure, Half, ListenerId};
use crate::watcher::submitter::{ListenerFlag, Shared};

pub(crate) type Core = event_loop::Core<Queues, ListenerTag>;

const NIL: u32 = u32::MAX;

/// A queue of pending operations, linked through the slab.
#[derive(Debug)]
pub(crate) struct Fifo {
    head: u32,
    tail: u32,
}

impl Fifo {
    const EMPTY: Self = Self { head: NIL, tail: NIL };

    pub(crate) const fn head(&self) -> u32 {
        self.head
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.head == NIL
    }
}

/// The state machine of one connection.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) read: Fifo,
    pub(crate) write: Fifo,
    /// A positive SO_LINGER in seconds: the time bound of the graceful close. 0: the default.
    pub(crate) linger: u16,
    /// Input thrown away by a graceful close, in KiB.
    pub(crate) drained: u16,
}

impl Queues {
    const fn new(linger: u16) -> Self {
        Self { read: Fifo::EMPTY, write: Fifo::EMPTY, linger, drained: 0 }
    }
}

/// An operation that has been taken up by the loop and is not completed yet.
#[derive(Debug)]
pub(crate) struct Pending<C> {
    pub(crate) conn: Conn<C>,
    pub(crate) context: C,
    pub(crate) body: Body,
    /// Bytes moved so far.
    pub(crate) done: usize,
    next: u32,
}

/// What a listener is known by.
#[derive(Debug)]
pub(crate) struct ListenerTag {
    id: ListenerId,
    flag: ListenerFlag,
    /// The local address of what it accepts, unless it listens on all: then each connection is asked.
    address: Option<std::net::SocketAddr>,
}

/// Where completions go: to the mailbox of a spawned loop, or to the turn of an embedded one.
#[derive(Debug)]
pub(crate) enum Outbox<C> {
    Mailbox(Publisher<Buffer<C>>),
    Turn(Buffer<C>),
}

pub(crate) struct Proactor<C> {
    pub(crate) shared: Arc<Shared<C>>,
    ring: Consumer<Submission<C>>,
    /// The ring up to where this turn has looked.
    seen: Position,
    local: VecDeque<Submission<C>>,
    pub(crate) ops: Slab<Pending<C>>,
    pub(crate) outbox: Outbox<C>,
    pub(crate) stash: Stash,
    /// Sessions with a pooled read that found no room.
    starved: Vec<Key>,
    /// Accepted connections in the mailbox's cell: with those in the filling batch, what the credit counts.
    in_cell: usize,
    /// Bytes of payloads dealt with in this turn.
    pub(crate) written: u64,
    /// Sessions whose graceful close is under way.
    pub(crate) closing: usize,
    /// Pending writes, over all sessions.
    pub(crate) writes: usize,
    ending: Ending,
}

/// How far the loop's end has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    No,
    /// Shutdown was asked for; queued writes and closes go on until then.
    Grace(u64),
    /// Everything is completed; the last batch waits to be handed over.
    Last,
    Gone,
}

impl<C> Proactor<C> {
    pub(crate) fn new(shared: Arc<Shared<C>>, ring: Consumer<Submission<C>>, outbox: Outbox<C>) -> Self {
        let stash = Stash::new(shared.pool.clone());
        let local = VecDeque::with_capacity(shared.limits.batch);
        Self {
            shared,
            seen: ring.tail(),
            ring,
            local,
            ops: Slab::new(),
            outbox,
            stash,
            starved: Vec::new(),
            in_cell: 0,
            written: 0,
            closing: 0,
            writes: 0,
            ending: Ending::No,
        }
    }

    pub(crate) fn filling(&mut self) -> &mut Buffer<C> {
        match &mut self.outbox {
            Outbox::Mailbox(publisher) => publisher.filling(),
            Outbox::Turn(buffer) => buffer,
        }
    }

    /// The loop has ended, and its last batch is with the consumer.
    pub(crate) fn is_gone(&self) -> bool {
        self.ending == Ending::Gone
    }

    // --- queues -----------------------------------------------------------------------------------------------

    pub(crate) fn push_back(ops: &mut Slab<Pending<C>>, fifo: &mut Fifo, mut op: Pending<C>) {
        op.next = NIL;
        let index = ops.insert(op).index;
        match ops.at_mut(fifo.tail) {
            Some(last) => last.next = index,
            None => fifo.head = index,
        }
        fifo.tail = index;
    }

    pub(crate) fn push_front(ops: &mut Slab<Pending<C>>, fifo: &mut Fifo, mut op: Pending<C>) {
        op.next = fifo.head;
        let index = ops.insert(op).index;
        fifo.head = index;
        if fifo.tail == NIL {
            fifo.tail = index;
        }
    }

    pub(crate) fn pop_front(ops: &mut Slab<Pending<C>>, fifo: &mut Fifo) -> Option<Pending<C>> {
        let op = ops.remove_at(fifo.head)?;
        fifo.head = op.next;
        if fifo.head == NIL {
            fifo.tail = NIL;
        }
        Some(op)
    }

    // --- completions ------------------------------------------------------------------------------------------

    pub(crate) fn complete(&mut self, conn: Conn<C>, context: C, outcome: Stored) {
        count(&self.shared.counters.completed);
        self.filling().push(Item::Done { conn, context, outcome });
    }

    /// Completes an operation as failed, with what is left of it.
    pub(crate) fn fail(&mut self, op: Pending<C>, error: OpError) {
        let Pending { conn, context, body, done, .. } = op;
        let half = if body.is_write() { Half::Write } else { Half::Read };
        if half == Half::Write {
            self.written += body.bytes().len() as u64;
        }
        let failure = Failure { error, half, transferred: done, buffer: body.into_payload() };
        self.complete(conn, context, Stored::Failed(failure));
    }

    // --- submissions ------------------------------------------------------------------------------------------

    /// Pops what was in the ring when this began. Never less (I8): a submitter parked for room would wait for ever.
    fn drain_ring(&mut self, core: &mut Core) {
        self.seen = self.ring.tail();
        let mut popped = false;
        // A slot that is reserved but not published ends the drain: its producer raises the gate when it is done.
        while let Pop::Item(submission) = self.ring.pop_before(self.seen) {
            popped = true;
            self.take_up(core, submission);
        }
        if popped {
            self.shared.made_room();
        }
    }

    /// Takes up the loop thread's own submissions. They come behind the ring, so that what another thread submitted
    /// before stays before; where an unpublished slot holds the ring up, those that rely on it wait (I2).
    fn drain_local(&mut self, core: &mut Core) {
        if self.local.is_empty() {
            let queue = &mut self.local;
            self.shared.local.with(|theirs| std::mem::swap(theirs, queue));
        }
        while let Some(submission) = self.local.pop_front() {
            if self.must_wait(&submission) {
                self.local.push_front(submission);
                return;
            }
            self.take_up(core, submission);
        }
    }

    fn must_wait(&self, submission: &Submission<C>) -> bool {
        let Submission::Op { conn, body, .. } = submission else { return false };
        let relies = body.is_ending() || conn.token() == Token::Unregistered;
        relies && !self.ring.has_passed(self.seen)
    }

    fn take_up(&mut self, core: &mut Core, submission: Submission<C>) {
        match submission {
            Submission::Op { conn, context, body } => {
                self.start(core, Pending { conn, context, body, done: 0, next: NIL });
            }
            Submission::Delegate { conn, socket, linger, unix } => {
                let linger = linger.map_or(0, |time| u16::try_from(time.as_secs().max(1)).unwrap_or(u16::MAX));
                self.admit(core, &conn, Session::new(socket, unix, Queues::new(linger)));
            }
            Submission::Post(context) => {
                count(&self.shared.counters.completed);
                self.filling().push(Item::Posted(context));
            }
            Submission::Listen { socket, flag, id, unix } => {
                let address = sys::local_addr(&socket).filter(|address| !address.ip().is_unspecified());
                let tag = ListenerTag { id, flag, address };
                let listening = Listening { socket, phase: Phase::Ready, unix, tag };
                if let Err((listening, errno)) = core.add_listener(listening) {
                    self.end_listener(&listening.tag, Some(errno));
                }
            }
        }
    }

    fn admit(&mut self, core: &mut Core, conn: &Conn<C>, session: Session<Queues>) {
        match core.register(session) {
            Ok(key) => conn.set_token(key.token()),
            Err((refused, _)) => {
                drop(refused);
                conn.set_refused();
                self.shared.left();
            }
        }
    }

    fn end_listener(&mut self, tag: &ListenerTag, errno: Option<Errno>) {
        let error = errno.map(std::io::Error::from);
        self.filling().push(Item::ListenerEnded { listener: tag.id, error });
    }

    /// Starts an operation: completes it, or queues it.
    fn start(&mut self, core: &mut Core, op: Pending<C>) {
        let Token::Session(token) = op.conn.token() else {
            return self.start_nowhere(op, OpError::NotRegistered);
        };
        let key = Key::from_token(token);
        if op.body.is_ending() {
            return self.start_ending(core, key, op);
        }
        let others_wait = core.others_wait();
        let Some(session) = core.sessions.get_mut(key) else {
            return self.start_nowhere(op, OpError::Closed);
        };
        if session.has(Flags::CLOSING) {
            return self.fail(op, OpError::Closed);
        }
        let write = op.body.is_write();
        let (ready, idle) = if write {
            (session.writable(), session.state.write.is_empty())
        } else {
            (session.readable(), session.state.read.is_empty())
        };
        // A new operation is not tried while others wait their turn, nor while the batch has no place for its outcome.
        if idle && ready && !others_wait && !self.full() {
            return self.attempt(core, key, op);
        }
        self.store(core, key, op);
        if ready {
            core.enqueue(key);
        }
    }

    /// There is no session: closing it is done already, all else fails.
    fn start_nowhere(&mut self, op: Pending<C>, error: OpError) {
        if op.body.is_ending() {
            return self.complete(op.conn, op.context, Stored::Closed);
        }
        self.fail(op, error);
    }

    /// Queues an operation behind those of its direction.
    pub(crate) fn store(&mut self, core: &mut Core, key: Key, op: Pending<C>) {
        let Some(session) = core.sessions.get_mut(key) else { return self.fail(op, OpError::Closed) };
        if op.body.is_write() || op.body.is_ending() {
            self.writes += 1;
            Self::push_back(&mut self.ops, &mut session.state.write, op);
        } else {
            Self::push_back(&mut self.ops, &mut session.state.read, op);
        }
    }

    // --- waiting for the consumer -----------------------------------------------------------------------------

    /// Remembers a session whose pooled read found the arena full.
    pub(crate) fn starve(&mut self, session: &mut Session<Queues>, key: Key) {
        if !session.has(Flags::STARVED) {
            session.set(Flags::STARVED);
            self.starved.push(key);
            count(&self.shared.counters.starved);
        }
    }

    /// A fresh arena is there: those that waited for one are served with the others.
    fn feed(&mut self, core: &mut Core) {
        for key in std::mem::take(&mut self.starved) {
            if let Some(session) = core.sessions.get_mut(key) {
                session.clear(Flags::STARVED);
                core.enqueue(key);
            }
        }
    }

    /// Hands the filling batch over if the cell is empty. False: it stays, and the next take raises the gate.
    fn hand_over(&mut self) -> bool {
        let Outbox::Mailbox(publisher) = &mut self.outbox else { return false };
        let accepted = publisher.filling().accepted;
        match publisher.publish() {
            Published::Handed => {
                publisher.filling().recycle();
                self.in_cell = accepted;
                count(&self.shared.counters.batches);
                true
            }
            Published::Residue => {
                count(&self.shared.counters.residues);
                false
            }
        }
    }

    // --- the end ----------------------------------------------------------------------------------------------

    /// Moves the loop's end on: begins it when asked to, aborts what is left when the time is up or nothing is written.
    fn advance_ending(&mut self, core: &mut Core) {
        if self.ending == Ending::No {
            let Some(until) = self.shared.shutdown_at() else { return };
            self.ending = Ending::Grace(until);
            core.timers.arm(until, Timer::Grace);
        }
        if let Ending::Grace(until) = self.ending {
            // An earlier deadline may have come since.
            let earliest = self.shared.shutdown_at().map_or(until, |at| at.min(until));
            if earliest < until {
                core.timers.arm(earliest, Timer::Grace);
            }
            let until = earliest;
            // A slot reserved before the close is still owed to us; its producer raises the gate.
            let all_in = (self.ring.is_finished() || mutant("ended_early")) && self.local.is_empty();
            let nothing_to_write = self.writes == 0 && self.closing == 0;
            if all_in && (nothing_to_write || sys::now() >= until) {
                self.abort_all(core, || OpError::Aborted);
                self.finish(WaitError::Closed);
            } else {
                self.ending = Ending::Grace(until);
            }
        }
    }

    /// Ends every session and listener; what is pending completes with that error.
    pub(crate) fn abort_all(&mut self, core: &mut Core, error: impl Fn() -> OpError) {
        for index in 0..core.listeners.len() {
            if let Some(tag) = core.remove_listener(index) {
                self.end_listener(&tag, None);
            }
        }
        for key in core.sessions.keys() {
            self.end_session(core, key, &error);
        }
    }

    fn finish(&mut self, reason: WaitError) {
        // No handle will find anybody here any more: blocks that come home from now on are freed where they are dropped.
        drop(self.shared.returns.close());
        self.filling().end = Some(reason);
        self.ending = Ending::Last;
    }

    /// Ends the loop after a panic: everything that can still be completed is completed as failed.
    pub(crate) fn fail_all(&mut self, core: &mut Core) {
        if matches!(self.ending, Ending::Last | Ending::Gone) {
            return;
        }
        self.shared.shut_down(std::time::Duration::ZERO);
        self.abort_all(core, || OpError::LoopFailed);
        while let Some(submission) = self.next_submission() {
            if let Submission::Op { conn, context, body } = submission {
                self.fail(Pending { conn, context, body, done: 0, next: NIL }, OpError::LoopFailed);
            }
        }
        self.finish(WaitError::LoopFailed);
    }

    fn next_submission(&mut self) -> Option<Submission<C>> {
        match self.ring.pop() {
            Pop::Item(submission) => Some(submission),
            Pop::Unpublished | Pop::Empty => {
                self.local.pop_front().or_else(|| self.shared.local.with(VecDeque::pop_front).flatten())
            }
        }
    }
}

impl<C> event_loop::Face for Proactor<C> {
    type Session = Queues;
    type Tag = ListenerTag;

    fn woken(&mut self) {
        self.shared.drain_waker();
    }

    fn collect(&mut self, core: &mut Core) {
        self.drain_ring(core);
        self.drain_local(core);
        if !self.shared.returns.is_empty() {
            for link in self.shared.clone().returns.drain() {
                if let Token::Session(token) = link.token() {
                    self.begin_close(core, Key::from_token(token));
                }
            }
        }
        for index in 0..core.listeners.len() {
            let dropped = core.listeners[index].as_ref().is_some_and(|l| l.tag.flag.load(Ordering::Acquire));
            if dropped {
                if let Some(tag) = core.remove_listener(index) {
                    self.end_listener(&tag, None);
                }
            }
        }
        if !self.starved.is_empty() && !self.full() && self.filling().arena.is_fresh() {
            self.feed(core);
        }
    }

    fn step(&mut self, core: &mut Core, key: Key) -> Step {
        self.step_session(core, key)
    }

    fn may_accept(&mut self) -> bool {
        if self.ending != Ending::No || self.full() {
            return false;
        }
        let credit = self.shared.limits.listen_credit;
        if self.in_cell + self.filling().accepted < credit {
            return true;
        }
        // What is in the cell may have been taken meanwhile; if not, this asks to be woken when it is.
        self.hand_over() && self.in_cell < credit
    }

    fn accepted(&mut self, core: &mut Core, index: usize, socket: Socket, peer: Option<std::net::SocketAddr>) {
        let Some(Some(listening)) = core.listeners.get(index) else { return };
        let (listener, unix) = (listening.tag.id, listening.unix);
        if !self.shared.admit() {
            return count(&self.shared.counters.refused);
        }
        let address = listening.tag.address.or_else(|| peer.and_then(|_| sys::local_addr(&socket)));
        let conn = Conn::create(self.shared.clone(), Addresses::new(peer, address));
        self.admit(core, &conn, Session::new(socket, unix, Queues::new(0)));
        self.filling().push(Item::Accepted { conn, listener });
    }

    fn listener_dead(&mut self, core: &mut Core, index: usize, errno: Errno) {
        if let Some(tag) = core.remove_listener(index) {
            self.end_listener(&tag, Some(errno));
        }
    }

    fn timer(&mut self, core: &mut Core, timer: Timer) {
        if let Timer::Close(token) = timer {
            self.close_overdue(core, Key::from_token(token));
        }
        // Grace: that a turn was taken is enough, `publish` looks at the clock.
    }

    fn full(&mut self) -> bool {
        let cap = self.shared.limits.batch;
        self.filling().len() >= cap && !self.hand_over()
    }

    fn publish(&mut self, core: &mut Core) {
        self.advance_ending(core);
        self.shared.in_flight.written(std::mem::take(&mut self.written));
        let last = self.ending == Ending::Last;
        let buffer = self.filling();
        if buffer.is_empty() && !last {
            return;
        }
        match &self.outbox {
            Outbox::Mailbox(_) => {
                if self.hand_over() && last {
                    self.ending = Ending::Gone;
                }
            }
            Outbox::Turn(_) => {
                count(&self.shared.counters.batches);
                if last {
                    self.ending = Ending::Gone;
                }
            }
        }
    }

    fn busy(&mut self) -> bool {
        // A fresh arena came with the last hand-over.
        if !self.starved.is_empty() && self.filling().arena.is_fresh() {
            return true;
        }
        // Handles dropped by this thread within the turn raise no gate, nor do its own submissions.
        let dropped = !self.shared.returns.is_empty() && !mutant("returns_overlooked");
        dropped || self.shared.local.with(|queue| !queue.is_empty()).unwrap_or(false)
    }
}
